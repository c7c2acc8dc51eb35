//! Places at a provider: so many requests at once, the others wait, the important first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use router::Load;
use stdx::Priority;
use tokio::sync::oneshot;

/// Requests that wait for a place at one provider; a further one is refused.
pub(crate) const WAITING_MAX: usize = 1024;

/// The places of one provider.
#[derive(Debug)]
pub(crate) struct Places {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    max: u32,
    taken: u32,
    /// By priority, the oldest first.
    waiting: [VecDeque<oneshot::Sender<Place>>; Priority::ALL.len()],
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
}

/// As many wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crowded;

impl Places {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        let state = State {
            max: max.max(1),
            taken: 0,
            waiting: Default::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn load(&self) -> Load {
        let state = self.state();
        Load {
            running: state.taken,
            running_max: state.max,
        }
    }

    /// Whoever has a place keeps it, also where there are fewer now.
    pub(crate) fn set_max(self: &Arc<Self>, max: u32) {
        self.state().max = max.max(1);
        self.fill();
    }

    /// A place; waits for one behind those of the same or a higher priority. Dropping the
    /// future gives the turn up.
    pub(crate) async fn take(self: &Arc<Self>, priority: Priority) -> Result<Place, Crowded> {
        let turn = {
            let mut state = self.state();
            let nobody_waits = state.waiting.iter().all(VecDeque::is_empty);
            if nobody_waits && state.taken < state.max {
                state.taken += 1;
                return Ok(self.place());
            }
            state.line_up(priority)?
        };
        // Others may have left since, without a word.
        self.fill();
        // The sender is dropped only with the places themselves.
        turn.await.map_err(|_| Crowded)
    }

    fn place(self: &Arc<Self>) -> Place {
        Place {
            places: Arc::clone(self),
        }
    }

    /// Gives free places to those that wait.
    fn fill(self: &Arc<Self>) {
        let turns = self.state().next_turns();
        for turn in turns {
            // Whoever has left since gives the place back by dropping it.
            let _ = turn.send(self.place());
        }
    }
}

impl State {
    fn line_up(&mut self, priority: Priority) -> Result<oneshot::Receiver<Place>, Crowded> {
        let n_waiting = |state: &Self| state.waiting.iter().map(VecDeque::len).sum::<usize>();
        if n_waiting(self) >= WAITING_MAX {
            for line in &mut self.waiting {
                line.retain(|turn| !turn.is_closed());
            }
            if n_waiting(self) >= WAITING_MAX {
                return Err(Crowded);
            }
        }
        let (turn, receiver) = oneshot::channel();
        self.waiting[priority as usize].push_back(turn);
        Ok(receiver)
    }

    /// Takes as many places as are free for those that come next.
    fn next_turns(&mut self) -> Vec<oneshot::Sender<Place>> {
        let mut turns = Vec::new();
        while self.taken < self.max {
            let lines = self.waiting.iter_mut().rev();
            let Some(turn) = lines.filter_map(VecDeque::pop_front).next() else {
                break;
            };
            if !turn.is_closed() {
                self.taken += 1;
                turns.push(turn);
            }
        }
        turns
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.state().taken -= 1;
        self.places.fill();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_important_go_first_and_the_oldest_among_equals() {
        let places = Places::new(1);
        let held = places.take(Priority::Normal).now_or_never().unwrap();
        let lines = [
            ("low", Priority::Low),
            ("normal", Priority::Normal),
            ("high", Priority::High),
            ("normal too", Priority::Normal),
        ];
        let mut waiting: Vec<_> = lines
            .map(|(name, priority)| {
                let places = Arc::clone(&places);
                (name, async move { places.take(priority).await }.boxed())
            })
            .into();
        for (_, turn) in &mut waiting {
            assert!(turn.now_or_never().is_none());
        }
        let mut held = Some(held.unwrap());
        let mut order = Vec::new();
        while held.take().is_some() {
            let called = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(index, (_, turn))| Some((index, turn.now_or_never()?)));
            let Some((index, place)) = called else { break };
            order.push(waiting.remove(index).0);
            held = Some(place.unwrap());
        }
        assert_eq!(order, ["high", "normal", "normal too", "low"]);
        assert_eq!(places.load().running, 0);
    }

    #[test]
    fn whoever_leaves_takes_no_place_along() {
        let places = Places::new(1);
        let held = places.take(Priority::Normal).now_or_never().unwrap();
        let mut gone = Box::pin(places.take(Priority::High));
        assert!(gone.as_mut().now_or_never().is_none());
        // Called, and gone before it hears of it.
        drop(held);
        assert_eq!(places.load().running, 1);
        drop(gone);
        assert_eq!(places.load().running, 0);
        assert!(places.take(Priority::Low).now_or_never().is_some());
    }

    #[test]
    fn the_line_has_an_end_and_those_who_left_do_not_count() {
        let places = Places::new(1);
        let _held = places.take(Priority::Normal).now_or_never().unwrap();
        let wait = |n: usize| -> Vec<_> {
            let turns = (0..n).map(|_| {
                let places = Arc::clone(&places);
                let mut turn = async move { places.take(Priority::Normal).await }.boxed();
                assert!((&mut turn).now_or_never().is_none());
                turn
            });
            turns.collect()
        };
        let waiting = wait(WAITING_MAX);
        let refused = places.take(Priority::High).now_or_never().unwrap();
        assert_eq!(refused.unwrap_err(), Crowded);
        drop(waiting);
        assert!(places.take(Priority::High).now_or_never().is_none());
    }

    #[test]
    fn more_places_are_filled_at_once() {
        let places = Places::new(1);
        let _held = places.take(Priority::Normal).now_or_never().unwrap();
        let mut turn = Box::pin(places.take(Priority::Normal));
        assert!(turn.as_mut().now_or_never().is_none());
        places.set_max(2);
        assert!(turn.as_mut().now_or_never().is_some());
    }
}

//! Work that goes on after its request was answered.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

/// Travels with a response to the edge, which leaves there what would else end with the
/// response: the request's place, and the account of what it uses. So a request counts as
/// running for as long as its work does.
#[derive(Clone, Default)]
pub(crate) struct Outlives(Arc<Mutex<Slot>>);

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Held(#[expect(dead_code, reason = "held until the end")] Box<dyn Any + Send>),
    Over,
}

impl Outlives {
    /// Holds something until the work is over.
    pub(crate) fn hold<T: Send + 'static>(&self, held: T) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*slot, Slot::Over) {
            *slot = Slot::Held(Box::new(held));
        }
    }

    /// The work's side.
    pub(crate) fn guard(&self) -> OutlivesGuard {
        OutlivesGuard(self.clone())
    }
}

/// Lets go when it is dropped.
pub(crate) struct OutlivesGuard(Outlives);

impl Drop for OutlivesGuard {
    fn drop(&mut self) {
        let slot = self.0.0.lock();
        let mut slot = slot.unwrap_or_else(PoisonError::into_inner);
        let held = std::mem::replace(&mut *slot, Slot::Over);
        drop(slot);
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_goes_with_the_work_whichever_comes_first() {
        let thing = Arc::new(());
        let outlives = Outlives::default();
        let guard = outlives.guard();
        outlives.hold(Arc::clone(&thing));
        assert_eq!(Arc::strong_count(&thing), 2);
        drop(guard);
        assert_eq!(Arc::strong_count(&thing), 1);
        outlives.hold(Arc::clone(&thing));
        assert_eq!(Arc::strong_count(&thing), 1, "the work is over already");
    }
}

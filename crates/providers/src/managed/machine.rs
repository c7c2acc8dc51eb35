//! When a managed engine is started, stopped and given up. Pure: times are milliseconds of
//! whatever clock the driver has.
//!
//! ```text
//! Stopped -> Starting -> Up -> Stopping -> Stopped
//!               |        |        |
//!               v        v        v
//!             Backoff (waits, then Starting again), or Failed after too many crashes
//! ```

use std::collections::VecDeque;

/// The pause after the first crash; each further one doubles it.
const BACKOFF_MS: u64 = 1_000;
const BACKOFF_MS_MAX: u64 = 60_000;
/// Crashes within [`CRASH_WINDOW_MS`] after which it is given up.
pub(crate) const CRASHES_MAX: usize = 5;
const CRASH_WINDOW_MS: u64 = 10 * 60_000;
/// After so long a request may try again what was given up.
const REST_MS: u64 = 10 * 60_000;

/// How it is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) start: Start,
    /// An engine that is started on demand stops after so long without a request.
    pub(crate) idle_ms: Option<u64>,
    /// From its start until it can answer.
    pub(crate) start_ms: u64,
    /// From SIGTERM to SIGKILL.
    pub(crate) grace_ms: u64,
}

/// When a managed engine is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// When the first request comes.
    #[default]
    OnDemand,
    /// At once; it never stops for want of requests.
    Always,
}

impl Start {
    pub const ALL: [Self; 2] = [Self::OnDemand, Self::Always];

    /// What the configuration calls it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Always => "always",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Stopped,
    /// Its process runs and does not answer yet; it must by `until`.
    Starting {
        until: u64,
    },
    /// It answers; without a request since `idle_since`.
    Up {
        idle_since: u64,
    },
    /// It was told to end, and is killed at `kill_at`.
    Stopping {
        kill_at: Option<u64>,
        then: Then,
    },
    /// It crashed and is started again at `until`.
    Backoff {
        until: u64,
    },
    /// It crashed too often. From `rested` on a request may try again.
    Failed {
        rested: u64,
    },
}

/// A phase without its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Stopped,
    Starting,
    Up,
    Stopping,
    Backoff,
    Failed,
}

impl Stage {
    /// What it is called.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Stopping => "stopping",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
        }
    }
}

/// What an engine that was told to end leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    Stopped,
    /// Counts as a crash, for this reason.
    Crashed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The driver is there.
    Begin,
    /// A request wants it; it counts until its `Left`.
    Came,
    Left,
    /// It answers that it can answer.
    Ready,
    /// Its process is gone, or could not be started.
    Exited(String),
    /// Time has passed.
    Tick,
    /// Nobody will send further requests; those that run may finish.
    Retire,
    /// It has to go now.
    Close,
}

/// What the driver has to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Spawn,
    Terminate,
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Leave {
    No,
    WhenIdle,
    Now,
}

#[derive(Debug)]
pub(crate) struct Machine {
    plan: Plan,
    phase: Phase,
    leave: Leave,
    /// Requests that wait for it or are with it.
    n_requests: u32,
    /// Starts after a crash.
    restarts: u32,
    /// When it crashed, within the window.
    crashes: VecDeque<u64>,
    last_error: Option<String>,
}

impl Machine {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            phase: Phase::Stopped,
            leave: Leave::No,
            n_requests: 0,
            restarts: 0,
            crashes: VecDeque::new(),
            last_error: None,
        }
    }

    pub(crate) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.phase {
            Phase::Stopped => Stage::Stopped,
            Phase::Starting { .. } => Stage::Starting,
            Phase::Up { .. } => Stage::Up,
            Phase::Stopping { .. } => Stage::Stopping,
            Phase::Backoff { .. } => Stage::Backoff,
            Phase::Failed { .. } => Stage::Failed,
        }
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Why it last went without being told to.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// It is not started again.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leave != Leave::No
    }

    /// It is gone for good.
    pub(crate) fn is_over(&self) -> bool {
        let idle = self.leave == Leave::Now || self.n_requests == 0;
        self.is_leaving() && idle && self.phase == Phase::Stopped
    }

    /// When it wants its next tick.
    pub(crate) fn wake(&self) -> Option<u64> {
        match &self.phase {
            Phase::Stopped | Phase::Failed { .. } => None,
            Phase::Starting { until } | Phase::Backoff { until } => Some(*until),
            Phase::Up { idle_since } => self.idle_end(*idle_since),
            Phase::Stopping { kill_at, .. } => *kill_at,
        }
    }

    fn idle_end(&self, since: u64) -> Option<u64> {
        let is_kept = self.plan.start == Start::Always || self.n_requests > 0;
        let idle_ms = self.plan.idle_ms.filter(|_| !is_kept)?;
        Some(since.saturating_add(idle_ms))
    }

    pub(crate) fn step(&mut self, event: Event, now: u64) -> Option<Action> {
        match event {
            Event::Begin => match (self.plan.start, &self.phase) {
                (Start::Always, Phase::Stopped) => self.start(now),
                _ => None,
            },
            Event::Came => {
                self.n_requests += 1;
                match &self.phase {
                    Phase::Stopped => self.start(now),
                    Phase::Failed { rested } if now >= *rested => {
                        self.crashes.clear();
                        self.start(now)
                    }
                    _ => None,
                }
            }
            Event::Left => {
                self.n_requests = self.n_requests.saturating_sub(1);
                if let Phase::Up { idle_since } = &mut self.phase {
                    *idle_since = now;
                }
                self.leave_if_due(now)
            }
            Event::Ready => {
                if let Phase::Starting { .. } = self.phase {
                    self.phase = Phase::Up { idle_since: now };
                }
                None
            }
            Event::Exited(cause) => self.exited(cause, now),
            Event::Tick => self.tick(now),
            Event::Retire => {
                self.leave = self.leave.max(Leave::WhenIdle);
                self.leave_if_due(now)
            }
            Event::Close => {
                self.leave = Leave::Now;
                self.leave_if_due(now)
            }
        }
    }

    fn start(&mut self, now: u64) -> Option<Action> {
        if self.is_leaving() {
            return None;
        }
        self.phase = Phase::Starting {
            until: now.saturating_add(self.plan.start_ms),
        };
        Some(Action::Spawn)
    }

    fn stop(&mut self, then: Then, now: u64) -> Option<Action> {
        self.phase = Phase::Stopping {
            kill_at: Some(now.saturating_add(self.plan.grace_ms)),
            then,
        };
        Some(Action::Terminate)
    }

    fn leave_if_due(&mut self, now: u64) -> Option<Action> {
        let is_due = match self.leave {
            Leave::No => false,
            Leave::WhenIdle => self.n_requests == 0,
            Leave::Now => true,
        };
        match self.phase {
            // There is no process, and there will be none.
            Phase::Backoff { .. } | Phase::Failed { .. } if self.is_leaving() => {
                self.phase = Phase::Stopped;
                None
            }
            Phase::Starting { .. } | Phase::Up { .. } if is_due => self.stop(Then::Stopped, now),
            _ => None,
        }
    }

    fn exited(&mut self, cause: String, now: u64) -> Option<Action> {
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Starting { .. } | Phase::Up { .. } => self.crashed(cause, now),
            Phase::Stopping { then, .. } => match then {
                Then::Crashed(cause) => self.crashed(cause, now),
                // Somebody came while it went.
                Then::Stopped if self.n_requests > 0 => self.start(now),
                Then::Stopped => None,
            },
            // There was no process.
            other => {
                self.phase = other;
                None
            }
        }
    }

    fn crashed(&mut self, cause: String, now: u64) -> Option<Action> {
        self.last_error = Some(cause);
        if self.is_leaving() {
            return None;
        }
        let since = now.saturating_sub(CRASH_WINDOW_MS);
        self.crashes.retain(|crash| *crash >= since);
        self.crashes.push_back(now);
        self.phase = match self.crashes.len() {
            n if n >= CRASHES_MAX => Phase::Failed {
                rested: now.saturating_add(REST_MS),
            },
            n => Phase::Backoff {
                until: now.saturating_add((BACKOFF_MS << (n - 1)).min(BACKOFF_MS_MAX)),
            },
        };
        None
    }

    fn tick(&mut self, now: u64) -> Option<Action> {
        if self.wake().is_none_or(|wake| now < wake) {
            return None;
        }
        match &mut self.phase {
            Phase::Starting { .. } => {
                let limit = self.plan.start_ms / 1000;
                let cause = format!(
                    "it could not answer within {limit} s (`start_timeout_secs`) of its start"
                );
                self.stop(Then::Crashed(cause), now)
            }
            Phase::Up { .. } => self.stop(Then::Stopped, now),
            Phase::Backoff { .. } => {
                self.restarts += 1;
                self.start(now)
            }
            Phase::Stopping { kill_at, .. } => {
                *kill_at = None;
                Some(Action::Kill)
            }
            Phase::Stopped | Phase::Failed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAN: Plan = Plan {
        start: Start::OnDemand,
        idle_ms: Some(5_000),
        start_ms: 60_000,
        grace_ms: 10_000,
    };

    fn crash() -> Event {
        Event::Exited("was ended by SIGKILL".into())
    }

    /// Steps with the wanted action and phase after each.
    fn play(machine: &mut Machine, steps: &[(u64, Event, Option<Action>, &str)]) {
        for (index, (now, event, action, phase)) in steps.iter().enumerate() {
            let got = machine.step(event.clone(), *now);
            assert_eq!(got, *action, "step {index}: {event:?}");
            let word = format!("{:?}", machine.phase());
            assert!(word.starts_with(phase), "step {index}: {word}");
        }
    }

    #[test]
    fn on_demand_it_starts_answers_idles_and_stops() {
        use Action::{Spawn, Terminate};
        let mut machine = Machine::new(PLAN);
        play(
            &mut machine,
            &[
                (0, Event::Begin, None, "Stopped"),
                (10, Event::Came, Some(Spawn), "Starting { until: 60010 }"),
                (11, Event::Came, None, "Starting"),
                (500, Event::Ready, None, "Up"),
                (9_000, Event::Left, None, "Up { idle_since: 9000 }"),
                (20_000, Event::Tick, None, "Up"),
                (21_000, Event::Left, None, "Up { idle_since: 21000 }"),
                (25_999, Event::Tick, None, "Up"),
                (26_000, Event::Tick, Some(Terminate), "Stopping"),
                (26_100, Event::Exited(String::new()), None, "Stopped"),
                (30_000, Event::Came, Some(Spawn), "Starting"),
            ],
        );
        assert_eq!((machine.restarts(), machine.last_error()), (0, None));
    }

    #[test]
    fn who_comes_while_it_stops_has_it_started_again() {
        let mut machine = Machine::new(PLAN);
        play(
            &mut machine,
            &[
                (0, Event::Came, Some(Action::Spawn), "Starting"),
                (1, Event::Ready, None, "Up"),
                (2, Event::Left, None, "Up"),
                (5_002, Event::Tick, Some(Action::Terminate), "Stopping"),
                (5_003, Event::Came, None, "Stopping"),
                (
                    5_004,
                    Event::Exited(String::new()),
                    Some(Action::Spawn),
                    "Starting",
                ),
            ],
        );
    }

    #[test]
    fn always_it_starts_at_once_and_never_idles() {
        let plan = Plan {
            start: Start::Always,
            ..PLAN
        };
        let mut machine = Machine::new(plan);
        play(
            &mut machine,
            &[
                (0, Event::Begin, Some(Action::Spawn), "Starting"),
                (1, Event::Ready, None, "Up"),
                (1_000_000, Event::Tick, None, "Up"),
            ],
        );
        assert_eq!(machine.wake(), None);
    }

    #[test]
    fn crashes_are_followed_by_longer_pauses_and_then_by_giving_up() {
        let mut machine = Machine::new(PLAN);
        machine.step(Event::Came, 0);
        let mut now = 0;
        for pause in [1_000, 2_000, 4_000, 8_000] {
            assert_eq!(machine.step(crash(), now), None);
            assert_eq!(machine.wake(), Some(now + pause));
            now += pause;
            assert_eq!(machine.step(Event::Tick, now), Some(Action::Spawn));
        }
        machine.step(crash(), now);
        assert_eq!(
            machine.phase(),
            &Phase::Failed {
                rested: now + REST_MS
            }
        );
        assert_eq!((machine.restarts(), machine.wake()), (4, None));
        assert_eq!(machine.last_error(), Some("was ended by SIGKILL"));
        assert_eq!(machine.step(Event::Came, now + 1), None);
        let again = machine.step(Event::Came, now + REST_MS);
        assert_eq!(again, Some(Action::Spawn));
    }

    #[test]
    fn one_that_does_not_become_ready_is_killed_and_counts_as_crashed() {
        let mut machine = Machine::new(PLAN);
        play(
            &mut machine,
            &[
                (0, Event::Came, Some(Action::Spawn), "Starting"),
                (60_000, Event::Tick, Some(Action::Terminate), "Stopping"),
                (69_999, Event::Tick, None, "Stopping"),
                (70_000, Event::Tick, Some(Action::Kill), "Stopping"),
                (80_000, Event::Tick, None, "Stopping"),
                (80_001, crash(), None, "Backoff { until: 81001 }"),
            ],
        );
        let told = machine.last_error().unwrap();
        assert!(told.contains("60 s (`start_timeout_secs`)"), "{told}");
    }

    #[test]
    fn retired_it_finishes_what_runs_and_closed_it_goes_at_once() {
        let running = || {
            let mut machine = Machine::new(PLAN);
            machine.step(Event::Came, 0);
            machine.step(Event::Ready, 1);
            machine
        };
        let mut machine = running();
        play(
            &mut machine,
            &[
                (2, Event::Retire, None, "Up"),
                (3, Event::Left, Some(Action::Terminate), "Stopping"),
                (4, Event::Came, None, "Stopping"),
                (5, Event::Left, None, "Stopping"),
                (6, crash(), None, "Stopped"),
            ],
        );
        assert!(machine.is_over());
        let mut machine = running();
        play(
            &mut machine,
            &[
                (2, Event::Close, Some(Action::Terminate), "Stopping"),
                (3, crash(), None, "Stopped"),
            ],
        );
        assert!(machine.is_over());
    }

    /// What the world may do at a moment.
    #[derive(Debug, Clone, Copy)]
    enum Move {
        Came,
        Left,
        Ready,
        Dies,
        Wait(u64),
        Retire,
        Close,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            4 => Just(Move::Came),
            4 => Just(Move::Left),
            3 => Just(Move::Ready),
            2 => Just(Move::Dies),
            6 => (1_u64..20_000).prop_map(Move::Wait),
            1 => (60_000_u64..700_000).prop_map(Move::Wait),
        ];
        let end = prop::option::of(prop_oneof![Just(Move::Retire), Just(Move::Close)]);
        let story = prop::collection::vec(one, 0..120);
        (story.clone(), end, story)
            .prop_map(|(before, end, after)| before.into_iter().chain(end).chain(after).collect())
    }

    /// A process that does what it is told, and keeps count.
    #[derive(Debug, Default)]
    struct World {
        now: u64,
        lives: bool,
        n_requests: u32,
        leaves: bool,
        /// When it was started.
        spawns: Vec<u64>,
    }

    impl World {
        fn step(&mut self, machine: &mut Machine, event: Event) {
            match machine.step(event.clone(), self.now) {
                None => {}
                Some(Action::Spawn) => {
                    assert!(!self.lives, "two at once, at {event:?}");
                    assert!(!self.leaves, "a start after the end");
                    self.lives = true;
                    self.spawns.push(self.now);
                }
                Some(Action::Terminate) => {
                    assert!(self.lives);
                    let idle = event == Event::Tick
                        && matches!(
                            machine.phase(),
                            Phase::Stopping {
                                then: Then::Stopped,
                                ..
                            }
                        );
                    assert!(!idle || self.n_requests == 0, "stopped under a request");
                }
                Some(Action::Kill) => {
                    assert!(self.lives);
                }
            }
            let has_process = matches!(
                machine.phase(),
                Phase::Starting { .. } | Phase::Up { .. } | Phase::Stopping { .. }
            );
            assert_eq!(has_process, self.lives, "{:?}", machine.phase());
        }

        fn dies(&mut self, machine: &mut Machine) {
            if std::mem::replace(&mut self.lives, false) {
                self.step(machine, Event::Exited("died".into()));
            }
        }

        fn wait(&mut self, machine: &mut Machine, ms: u64) {
            let end = self.now + ms;
            while let Some(wake) = machine.wake().filter(|wake| *wake <= end) {
                self.now = self.now.max(wake);
                self.step(machine, Event::Tick);
                assert_ne!(machine.wake(), Some(wake), "it wakes for nothing");
            }
            self.now = end;
            self.step(machine, Event::Tick);
        }

        fn make(&mut self, machine: &mut Machine, what: Move) {
            match what {
                Move::Came => {
                    self.n_requests += 1;
                    self.step(machine, Event::Came);
                }
                Move::Left if self.n_requests > 0 => {
                    self.n_requests -= 1;
                    self.step(machine, Event::Left);
                }
                Move::Left => {}
                Move::Ready if self.lives => self.step(machine, Event::Ready),
                Move::Ready => {}
                Move::Dies => self.dies(machine),
                Move::Wait(ms) => self.wait(machine, ms),
                Move::Retire | Move::Close => {
                    self.leaves = true;
                    let event = match what {
                        Move::Close => Event::Close,
                        _ => Event::Retire,
                    };
                    self.step(machine, event);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn there_is_one_process_at_most_and_none_after_the_end(
            moves in moves(),
            always in any::<bool>(),
        ) {
            let start = if always { Start::Always } else { Start::OnDemand };
            let mut machine = Machine::new(Plan { start, ..PLAN });
            let mut world = World::default();
            world.step(&mut machine, Event::Begin);
            for one in moves {
                world.make(&mut machine, one);
            }
            world.leaves = true;
            world.step(&mut machine, Event::Close);
            world.wait(&mut machine, PLAN.grace_ms);
            world.dies(&mut machine);
            prop_assert!(machine.is_over(), "{:?}", machine);
        }

        /// One that only crashes is started a bounded number of times.
        #[test]
        fn a_hopeless_one_is_left_alone(times in prop::collection::vec(1_u64..5_000, 1..200)) {
            let mut machine = Machine::new(PLAN);
            let mut world = World::default();
            for ms in times {
                world.make(&mut machine, Move::Came);
                world.make(&mut machine, Move::Dies);
                world.make(&mut machine, Move::Left);
                world.make(&mut machine, Move::Wait(ms));
            }
            for (index, spawn) in world.spawns.iter().enumerate() {
                let near = world.spawns[index..].iter().take_while(|one| **one < spawn + REST_MS);
                prop_assert!(near.count() <= CRASHES_MAX);
            }
        }
    }
}

//! Waiting for a hot machine to cool down before it is measured.

/// Below this distance from where clocks are lowered nothing is measured, degrees.
const MARGIN_MIN: f64 = 5.0;
/// A machine that was too hot must cool down to this distance: what is measured right at
/// the limit is measured on the way back to it.
const MARGIN_AGAIN: f64 = 12.0;
const LOOK_SECONDS: f64 = 1.0;

/// Decides before each run. After `waits_seconds_max` of waiting in all it lets runs pass,
/// and says that they were hot.
#[derive(Debug, Clone)]
pub struct Gate {
    waits_seconds_max: f64,
    waited_seconds: f64,
    is_waiting: bool,
    was_hot: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wait {
    Go,
    /// Look again after so long.
    For {
        seconds: f64,
    },
}

impl Gate {
    #[must_use]
    pub fn new(waits_seconds_max: f64) -> Self {
        Self {
            waits_seconds_max,
            waited_seconds: 0.0,
            is_waiting: false,
            was_hot: false,
        }
    }

    /// `margin_celsius` is the least distance of any zone from where its clocks are lowered;
    /// `None` where there is no sensor.
    pub fn look(&mut self, margin_celsius: Option<f64>) -> Wait {
        let Some(margin) = margin_celsius else {
            return Wait::Go;
        };
        let limit = if self.is_waiting {
            MARGIN_AGAIN
        } else {
            MARGIN_MIN
        };
        if margin >= limit {
            self.is_waiting = false;
            return Wait::Go;
        }
        if self.waited_seconds >= self.waits_seconds_max {
            self.was_hot = true;
            return Wait::Go;
        }
        self.is_waiting = true;
        self.waited_seconds += LOOK_SECONDS;
        Wait::For {
            seconds: LOOK_SECONDS,
        }
    }

    /// How long it has made runs wait.
    #[must_use]
    pub fn waited_seconds(&self) -> f64 {
        self.waited_seconds
    }

    /// Whether a run had to be made hot.
    #[must_use]
    pub fn was_hot(&self) -> bool {
        self.was_hot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hot_machine_cools_down_past_the_limit_and_not_for_ever() {
        let mut gate = Gate::new(3.0);
        let wait = Wait::For {
            seconds: LOOK_SECONDS,
        };
        assert_eq!(gate.look(None), Wait::Go);
        assert_eq!(gate.look(Some(6.0)), Wait::Go);
        assert_eq!(gate.look(Some(4.0)), wait);
        assert_eq!(gate.look(Some(6.0)), wait, "it must cool down further");
        assert_eq!(gate.look(Some(12.0)), Wait::Go);
        assert_eq!(gate.look(Some(4.0)), wait);
        assert!(!gate.was_hot());
        assert_eq!(gate.look(Some(-1.0)), Wait::Go, "its patience is over");
        assert!(gate.was_hot());
        assert!((gate.waited_seconds() - 3.0).abs() < 1e-9);
    }
}

//! Making a run again that a host has disturbed.

/// Of the time that a run wanted, what a host may have taken before the run is disturbed. The
/// kernel counts hundredths of a second: in the shortest runs that is two of them.
pub const STOLEN_PERCENT_MAX: f64 = 5.0;
/// A run is made at most so often.
const ATTEMPTS_MAX: usize = 3;
/// And at most so many of all that were made are made again: where the host takes something
/// all the time, that is how the machine is.
const AGAIN_SHARE: f64 = 0.25;

/// Decides after each attempt at a run. It is the same for every run, whatever is compared.
#[derive(Debug, Clone, Default)]
pub struct Again {
    n_made: usize,
    n_again: usize,
    n_disturbed: usize,
}

impl Again {
    /// Whether to make the run once more. `attempts` are those so far, one or more, and
    /// `stolen_percent` is what the host took in the last one; `None` where nobody knows.
    pub fn wants(&mut self, attempts: usize, stolen_percent: Option<f64>) -> bool {
        self.n_made += 1;
        if stolen_percent.is_none_or(|percent| percent <= STOLEN_PERCENT_MAX) {
            return false;
        }
        let may = (self.n_again + 1) as f64 <= AGAIN_SHARE * self.n_made as f64;
        if attempts < ATTEMPTS_MAX && may {
            self.n_again += 1;
            return true;
        }
        self.n_disturbed += 1;
        false
    }

    /// Runs that were made again.
    #[must_use]
    pub fn n_again(&self) -> usize {
        self.n_again
    }

    /// Runs that count although they were disturbed.
    #[must_use]
    pub fn n_disturbed(&self) -> usize {
        self.n_disturbed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_run_is_made_again_and_a_disturbed_machine_is_taken_as_it_is() {
        let mut again = Again::default();
        for _ in 0..20 {
            assert!(!again.wants(1, Some(STOLEN_PERCENT_MAX)));
            assert!(!again.wants(1, None));
        }
        assert!(again.wants(1, Some(30.0)) && again.wants(2, Some(30.0)));
        assert!(!again.wants(3, Some(30.0)), "three are enough");
        assert_eq!((again.n_again(), again.n_disturbed()), (2, 1));

        let mut again = Again::default();
        let mut attempts = 1;
        for _ in 0..400 {
            attempts = match again.wants(attempts, Some(30.0)) {
                true => attempts + 1,
                false => 1,
            };
        }
        assert!((90..=100).contains(&again.n_again()), "{again:?}");
    }
}

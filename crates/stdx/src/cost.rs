//! Money, in whole billionths of whatever currency the operator counts in.

use std::fmt;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

/// An amount of money. The unit is a billionth, so that a single token of a cheap model is
/// still a whole number of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost(pub u64);

/// Decimal places of an amount.
const PLACES: usize = 9;

impl Cost {
    /// One of the currency's unit.
    pub const ONE: Self = Self(1_000_000_000);

    /// The price of `n` tokens where `self` is the price of a million of them, rounded up.
    #[must_use]
    pub fn of_tokens(self, n: u64) -> Self {
        let billionths = u128::from(self.0) * u128::from(n);
        Self(u64::try_from(billionths.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// As a number of the currency's unit, for a person or JSON.
    #[must_use]
    pub fn amount(self) -> f64 {
        self.0 as f64 / Self::ONE.0 as f64
    }

    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Cost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / Self::ONE.0, self.0 % Self::ONE.0);
        let digits = format!("{rest:09}");
        // Two places as money is written, more where there is more to say.
        let shown = digits.trim_end_matches('0').len().max(2);
        write!(f, "{whole}.{}", &digits[..shown])
    }
}

/// A text that is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAmount;

impl fmt::Display for NoAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it must be an amount such as 20 or 0.15, with at most {PLACES} decimal places"
        )
    }
}

impl std::error::Error for NoAmount {}

/// Digits with at most one point among them.
impl FromStr for Cost {
    type Err = NoAmount;

    fn from_str(text: &str) -> Result<Self, NoAmount> {
        let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |part: &str| {
            !part.is_empty() && part.len() <= PLACES && part.bytes().all(|b| b.is_ascii_digit())
        };
        if !is_digits(whole) || !is_digits(rest) {
            return Err(NoAmount);
        }
        let number = |part: &str| part.parse::<u64>().map_err(|_| NoAmount);
        let billionths = number(&format!("{rest:0<PLACES$}"))?;
        Ok(Self(number(whole)? * Self::ONE.0 + billionths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written_exactly() {
        for (text, billionths, shown) in [
            ("20", 20_000_000_000, "20.00"),
            ("0.15", 150_000_000, "0.15"),
            ("0.000000001", 1, "0.000000001"),
            (
                "999999999.999999999",
                999_999_999_999_999_999,
                "999999999.999999999",
            ),
        ] {
            let cost: Cost = text.parse().unwrap();
            assert_eq!(cost, Cost(billionths));
            assert_eq!(cost.to_string(), shown);
        }
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "1e3",
            "1,5",
            "0.0000000001",
            "NaN",
        ] {
            assert_eq!(text.parse::<Cost>(), Err(NoAmount), "{text}");
        }
    }

    #[test]
    fn a_token_costs_its_share_of_a_million_rounded_up() {
        let price: Cost = "0.15".parse().unwrap();
        assert_eq!(price.of_tokens(1), Cost(150));
        assert_eq!(price.of_tokens(1_000_000), price);
        assert_eq!(Cost(1).of_tokens(1), Cost(1));
        assert_eq!(Cost(0).of_tokens(u64::MAX), Cost(0));
        assert_eq!(Cost(u64::MAX).of_tokens(u64::MAX), Cost(u64::MAX));
    }
}

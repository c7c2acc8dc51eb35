//! Bytes in the two memories that models share.

use std::iter::Sum;

/// Bytes of the host and of a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) host: u64,
    pub(crate) device: u64,
}

impl Space {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            host: self.host.saturating_add(other.host),
            device: self.device.saturating_add(other.device),
        }
    }

    /// What is left of each, down to nothing.
    pub(super) const fn less(self, other: Self) -> Self {
        Self {
            host: self.host.saturating_sub(other.host),
            device: self.device.saturating_sub(other.device),
        }
    }

    pub(super) const fn fits_in(self, room: Self) -> bool {
        self.host <= room.host && self.device <= room.device
    }

    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }

    pub(super) fn at_most(self, other: Self) -> Self {
        Self {
            host: self.host.min(other.host),
            device: self.device.min(other.device),
        }
    }

    /// One number to compare by.
    pub(super) const fn bytes(self) -> u64 {
        self.host.saturating_add(self.device)
    }
}

impl Sum for Space {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::default(), Self::plus)
    }
}

//! Sets of logical CPUs, as the kernel writes them: `0-3,7`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The highest number a CPU may have, and one more.
pub const CPUS_MAX: u32 = 4096;

/// Numbers of logical CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// The numbers, the least first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    pub fn insert(&mut self, cpu: u32) {
        if cpu < CPUS_MAX {
            self.0.insert(cpu);
        }
    }

    /// Those in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Those in this and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// The first `n`.
    #[must_use]
    pub fn first_n(&self, n: usize) -> Self {
        self.iter().take(n).collect()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().filter(|cpu| *cpu < CPUS_MAX).collect())
    }
}

/// A text that is no list of CPUs below [`CPUS_MAX`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a list of CPUs such as `0-3,7`, each below {CPUS_MAX}")]
pub struct NoCpuSet;

impl FromStr for CpuSet {
    type Err = NoCpuSet;

    /// Ranges and numbers with commas or blanks between them; an empty text is no CPU.
    fn from_str(text: &str) -> Result<Self, NoCpuSet> {
        let mut cpus = BTreeSet::new();
        let parts = text.split([',', ' ', '\t', '\n']);
        for part in parts.filter(|part| !part.is_empty()) {
            let number = |text: &str| {
                let number: u32 = text.parse().map_err(|_| NoCpuSet)?;
                (number < CPUS_MAX).then_some(number).ok_or(NoCpuSet)
            };
            match part.split_once('-') {
                None => {
                    cpus.insert(number(part)?);
                }
                Some((first, last)) => cpus.extend(number(first)?..=number(last)?),
            }
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        for (index, (first, last)) in ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, written) in [
            ("0-3,7\n", "0-3,7"),
            ("0 1 2 3", "0-3"),
            ("", ""),
            ("5,4,9-9", "4-5,9"),
            ("3-1", ""),
        ] {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!(set.to_string(), written);
        }
        for text in ["a", "0-", "-1", "0-4294967295", "4096"] {
            assert_eq!(text.parse::<CpuSet>(), Err(NoCpuSet), "{text}");
        }
    }
}

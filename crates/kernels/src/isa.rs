//! Instruction sets: found once, named in logs, forcible.

use std::fmt;

/// A set of instructions that this machine has. A value can only be had by detection,
/// so kernels may use the set's instructions wherever they are given one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(Level);

/// The sets that have kernels, from the plainest to the fastest of each architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust; the specification of every kernel.
    Scalar,
    /// aarch64 with NEON, which is every aarch64 that Linux runs on.
    Neon,
    /// NEON with the dot product of Armv8.2: Cortex-A55, A75 and later.
    NeonDotprod,
    /// NEON with the dot product and the 8-bit matrix product of Armv8.6.
    NeonI8mm,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni,
}

impl Level {
    /// Every level, the plainest first.
    pub const ALL: [Self; 6] = [
        Self::Scalar,
        Self::Neon,
        Self::NeonDotprod,
        Self::NeonI8mm,
        Self::Avx2,
        Self::Avx512Vnni,
    ];

    /// The name used in settings and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }

    /// The level of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

impl Isa {
    /// Plain Rust, which every machine has.
    pub const SCALAR: Self = Self(Level::Scalar);

    /// The set of that level, where this machine has it.
    #[must_use]
    pub fn detect(level: Level) -> Option<Self> {
        has(level).then_some(Self(level))
    }

    /// The fastest set of this machine.
    #[must_use]
    pub fn best() -> Self {
        let mut levels = Level::ALL.into_iter().rev();
        levels.find_map(Self::detect).unwrap_or(Self::SCALAR)
    }

    /// Every set of this machine, the plainest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Level::ALL.into_iter().filter_map(Self::detect)
    }

    #[must_use]
    pub fn level(self) -> Level {
        self.0
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn has(level: Level) -> bool {
    let avx2 = || {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    };
    match level {
        Level::Scalar => true,
        Level::Neon | Level::NeonDotprod | Level::NeonI8mm => false,
        Level::Avx2 => avx2(),
        Level::Avx512Vnni => {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
        }
    }
}

#[cfg(target_arch = "aarch64")]
fn has(level: Level) -> bool {
    use std::arch::is_aarch64_feature_detected;
    let dotprod =
        || is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod");
    match level {
        Level::Scalar => true,
        Level::Neon => is_aarch64_feature_detected!("neon"),
        Level::NeonDotprod => dotprod(),
        Level::NeonI8mm => dotprod() && is_aarch64_feature_detected!("i8mm"),
        Level::Avx2 | Level::Avx512Vnni => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has(level: Level) -> bool {
    level == Level::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_the_best_is_available() {
        for level in Level::ALL {
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
        assert_eq!(Level::from_name("mmx"), None);
        assert!(Isa::available().any(|isa| isa == Isa::best()));
        assert_eq!(Isa::available().next(), Some(Isa::SCALAR));
    }

    /// Every test of a kernel runs it with the sets that are available. Whoever knows which
    /// those must be says so, and then none of them is left out unseen.
    #[test]
    fn the_sets_that_must_be_there_are_there() {
        let found: Vec<_> = Isa::available().map(|isa| isa.level().name()).collect();
        let found = found.join(",");
        println!("instruction sets: {found}");
        if let Ok(expected) = std::env::var("KERNELS_EXPECTED_ISAS") {
            assert_eq!(found, expected);
        }
    }
}

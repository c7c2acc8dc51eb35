//! The designs of Arm cores by their numbers in the main identification register.

/// Who designed a core and which one it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    pub implementer: u32,
    pub part: u32,
}

const ARM: u32 = 0x41;
const QUALCOMM: u32 = 0x51;
const APPLE: u32 = 0x61;
const AMPERE: u32 = 0xc0;

/// As the technical reference manuals and the Linux kernel (`cputype.h`) have them.
const PARTS: &[(u32, u32, &str)] = &[
    (ARM, 0xc07, "Cortex-A7"),
    (ARM, 0xd03, "Cortex-A53"),
    (ARM, 0xd04, "Cortex-A35"),
    (ARM, 0xd05, "Cortex-A55"),
    (ARM, 0xd07, "Cortex-A57"),
    (ARM, 0xd08, "Cortex-A72"),
    (ARM, 0xd09, "Cortex-A73"),
    (ARM, 0xd0a, "Cortex-A75"),
    (ARM, 0xd0b, "Cortex-A76"),
    (ARM, 0xd0c, "Neoverse-N1"),
    (ARM, 0xd0d, "Cortex-A77"),
    (ARM, 0xd40, "Neoverse-V1"),
    (ARM, 0xd41, "Cortex-A78"),
    (ARM, 0xd42, "Cortex-A78AE"),
    (ARM, 0xd44, "Cortex-X1"),
    (ARM, 0xd46, "Cortex-A510"),
    (ARM, 0xd47, "Cortex-A710"),
    (ARM, 0xd48, "Cortex-X2"),
    (ARM, 0xd49, "Neoverse-N2"),
    (ARM, 0xd4b, "Cortex-A78C"),
    (ARM, 0xd4d, "Cortex-A715"),
    (ARM, 0xd4e, "Cortex-X3"),
    (ARM, 0xd4f, "Neoverse-V2"),
    (ARM, 0xd80, "Cortex-A520"),
    (ARM, 0xd81, "Cortex-A720"),
    (ARM, 0xd82, "Cortex-X4"),
    (ARM, 0xd84, "Neoverse-V3"),
    (ARM, 0xd85, "Cortex-X925"),
    (ARM, 0xd87, "Cortex-A725"),
    (ARM, 0xd8e, "Neoverse-N3"),
    (QUALCOMM, 0x001, "Oryon"),
    (QUALCOMM, 0x803, "Kryo-3xx-Silver"),
    (QUALCOMM, 0x802, "Kryo-3xx-Gold"),
    (QUALCOMM, 0x805, "Kryo-4xx-Silver"),
    (QUALCOMM, 0x804, "Kryo-4xx-Gold"),
    (APPLE, 0x022, "Icestorm-M1"),
    (APPLE, 0x023, "Firestorm-M1"),
    (AMPERE, 0xac3, "Ampere-1"),
    (AMPERE, 0xac4, "Ampere-1a"),
];

impl Part {
    /// From a value of MIDR_EL1: the implementer in bits 31 to 24, the part in 15 to 4.
    #[must_use]
    pub fn of_midr(midr: u64) -> Self {
        Self {
            implementer: (midr >> 24 & 0xff) as u32,
            part: (midr >> 4 & 0xfff) as u32,
        }
    }

    /// The name, or the numbers where it is unknown.
    #[must_use]
    pub fn name(self) -> String {
        let known = PARTS
            .iter()
            .find(|(implementer, part, _)| (*implementer, *part) == (self.implementer, self.part));
        known.map_or_else(
            || format!("core {:#04x}/{:#05x}", self.implementer, self.part),
            |(_, _, name)| (*name).to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_read() {
        let part = Part::of_midr(0x0000_0000_414f_d0b1);
        assert_eq!(part.name(), "Cortex-A76");
        let unknown = Part::of_midr(0xffff_ffff_ffff_ffff);
        assert_eq!(unknown.name(), "core 0xff/0xfff");
    }
}

//! What a process holds of the memory.

use stdx::Bytes;

use crate::Root;
use crate::memory::kib_of;

/// Of `/proc/PID/smaps_rollup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Pages of it that are in memory.
    pub resident: Bytes,
    /// The same, where pages that others hold too count in part.
    pub proportional: Bytes,
}

impl Held {
    /// `None` where the process is gone or somebody else's.
    #[must_use]
    pub fn of(root: &Root, pid: u32) -> Option<Self> {
        let text = root.text(&format!("/proc/{pid}/smaps_rollup"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            kib_of(line)
        };
        Some(Self {
            resident: field("Rss:")?,
            proportional: field("Pss:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recording;

    #[test]
    fn both_figures_are_read() {
        let text = "5581c000-7ffd [rollup]\nRss:  334860 kB\nPss:  331148 kB\nPss_Dirty: 4 kB\n";
        let recording = Recording::of(&[("/proc/7/smaps_rollup", text)]);
        let root = Root::recorded(recording);
        let held = Held::of(&root, 7).unwrap();
        assert_eq!(held.resident, Bytes(334_860 << 10));
        assert_eq!(held.proportional, Bytes(331_148 << 10));
        assert_eq!(Held::of(&root, 8), None);
        let own = Held::of(&Root::live(), std::process::id()).unwrap();
        assert!(own.proportional <= own.resident);
    }
}

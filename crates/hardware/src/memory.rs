//! Memory, swap and what is set aside of it.
//!
//! From `/proc/meminfo`, `/proc/swaps`, `/sys/kernel/mm/transparent_hugepage/enabled`, and
//! `/sys/devices/system/edac/mc` where memory with error correction tells its modules.

use std::collections::BTreeSet;

use stdx::Bytes;

use crate::Root;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    pub total: Option<Bytes>,
    /// What the kernel could give without swapping.
    pub available: Option<Bytes>,
    pub swap_total: Option<Bytes>,
    pub swap_free: Option<Bytes>,
    pub swaps: Vec<Swap>,
    pub huge_pages: HugePages,
    /// Memory that drivers can have in one piece.
    pub cma_total: Option<Bytes>,
    pub cma_free: Option<Bytes>,
    /// When the kernel makes huge pages by itself: `always`, `madvise` or `never`.
    pub transparent_huge_pages: Option<String>,
    /// Channels with a module in them, where anybody says so without being root.
    pub channels: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    pub device: String,
    pub kind: SwapKind,
    pub used: Bytes,
    pub total: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapKind {
    /// In memory, packed (zram).
    Compressed,
    Disk,
}

/// Pages that are set aside for programs that ask for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugePages {
    pub total: u64,
    pub free: u64,
    pub bytes_each: Bytes,
}

impl Memory {
    /// Reads the memory's state. Blocking, some small files.
    #[must_use]
    pub fn read(root: &Root) -> Self {
        let text = root.text("/proc/meminfo").unwrap_or_default();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(':')
        };
        let bytes = |name: &str| kib_of(value(name)?);
        let count = |name: &str| value(name).and_then(|text| text.trim().parse().ok());
        Self {
            total: bytes("MemTotal"),
            available: bytes("MemAvailable"),
            swap_total: bytes("SwapTotal"),
            swap_free: bytes("SwapFree"),
            swaps: swaps(root),
            huge_pages: HugePages {
                total: count("HugePages_Total").unwrap_or(0),
                free: count("HugePages_Free").unwrap_or(0),
                bytes_each: bytes("Hugepagesize").unwrap_or_default(),
            },
            cma_total: bytes("CmaTotal"),
            cma_free: bytes("CmaFree"),
            transparent_huge_pages: chosen(root, "/sys/kernel/mm/transparent_hugepage/enabled"),
            channels: channels(root),
        }
    }

    /// What of the swap is in use.
    #[must_use]
    pub fn swap_used(&self) -> Bytes {
        match (self.swap_total, self.swap_free) {
            (Some(total), Some(free)) => total.saturating_sub(free),
            _ => Bytes(0),
        }
    }
}

/// `   24684092 kB`; `None` when it is no such number, or one beyond 64 bits.
pub(crate) fn kib_of(text: &str) -> Option<Bytes> {
    let kib: u64 = text.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024).map(Bytes)
}

/// The word in brackets of `always [madvise] never`.
pub(crate) fn chosen(root: &Root, path: &str) -> Option<String> {
    let text = root.line(path)?;
    let (_, behind) = text.split_once('[')?;
    Some(behind.split_once(']')?.0.to_owned())
}

fn swaps(root: &Root) -> Vec<Swap> {
    let text = root.text("/proc/swaps").unwrap_or_default();
    let swaps = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let device = fields.next()?;
        let mut kib = fields.skip(1).map(|field| {
            let kib: u64 = field.parse().ok()?;
            kib.checked_mul(1024).map(Bytes)
        });
        let (total, used) = (kib.next()??, kib.next()??);
        let kind = if device.starts_with("/dev/zram") {
            SwapKind::Compressed
        } else {
            SwapKind::Disk
        };
        Some(Swap {
            device: device.to_owned(),
            kind,
            used,
            total,
        })
    });
    swaps.collect()
}

/// Channels that have a module, as memory controllers with error correction tell: a
/// module's place is `channel 0 slot 1` or `csrow 0 channel 1`. Where the firmware tells
/// (`ghes_edac`) it is `memory 3`, which says nothing of channels.
fn channels(root: &Root) -> Option<usize> {
    let mut channels = BTreeSet::new();
    for (controller, folder) in root.numbered("/sys/devices/system/edac/mc", "mc") {
        for name in root.names(&folder) {
            if !name.starts_with("dimm") && !name.starts_with("rank") {
                continue;
            }
            let module = format!("{folder}/{name}");
            let size: u64 = root.number(&format!("{module}/size")).unwrap_or(0);
            let Some(place) = root.line(&format!("{module}/dimm_location")) else {
                continue;
            };
            if size == 0 {
                continue;
            }
            let mut words = place.split_whitespace();
            let channel = words.find(|word| *word == "channel").and(words.next())?;
            channels.insert((controller, channel.to_owned()));
        }
    }
    (!channels.is_empty()).then_some(channels.len())
}

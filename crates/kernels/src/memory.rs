//! Memory that is read from end to end: weights, caches.

use std::alloc::{Layout, alloc, dealloc};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

/// A cache line, and a vector of AVX-512.
const ALIGNMENT: usize = 64;

/// A page of the second size. Weights are read from end to end for every token, and with small
/// pages a core waits for their addresses: one Zen 5 core read 32 GB/s of Q4_0 with huge pages
/// and 28 without; a cache of 6,000 tokens made decoding 10 % faster.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Pages for large memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    AsTheSystemDoes,
    Ask,
}

/// Room for bytes, aligned to a cache line at least; in huge pages where it is large, they
/// are asked for and the system has such pages. Nothing is written to it yet.
#[derive(Debug)]
pub struct HugeMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its bytes and lets nobody at them but through raw pointers.
unsafe impl Send for HugeMemory {}
// SAFETY: as above.
unsafe impl Sync for HugeMemory {}

impl HugeMemory {
    /// That many bytes; `None` where there is no memory for them.
    #[must_use]
    pub fn new(len: usize, pages: HugePages) -> Option<Self> {
        let layout = layout(len)?;
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        if pages == HugePages::Ask && layout.align() == HUGE_PAGE_BYTES {
            ask_for_huge_pages(start, layout.size());
        }
        Some(Self { start, layout })
    }

    /// The first byte. Whoever calls this frees the memory with [`Self::from_raw`].
    #[must_use]
    pub fn into_raw(self) -> *mut u8 {
        ManuallyDrop::new(self).start.as_ptr()
    }

    /// What [`Self::into_raw`] gave away.
    ///
    /// # Safety
    /// `start` is of a call of `into_raw` on memory of `len` bytes, and nobody uses it.
    #[must_use]
    pub unsafe fn from_raw(start: *mut u8, len: usize) -> Option<Self> {
        Some(Self {
            start: NonNull::new(start)?,
            layout: layout(len)?,
        })
    }
}

impl Drop for HugeMemory {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and nobody else frees it.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

fn layout(len: usize) -> Option<Layout> {
    let alignment = if len < HUGE_PAGE_BYTES {
        ALIGNMENT
    } else {
        HUGE_PAGE_BYTES
    };
    Layout::from_size_align(len.max(ALIGNMENT), alignment).ok()
}

/// Without effect where the system has none.
fn ask_for_huge_pages(start: NonNull<u8>, len: usize) {
    let whole = len / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};
        // SAFETY: the memory is there, and the advice changes nothing of what it holds.
        let _ = unsafe { madvise(start.as_ptr().cast(), whole, Advice::LinuxHugepage) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, whole);
}

/// Copies of one panel, one after the other: what a measurement of reading weights reads.
#[derive(Debug)]
pub struct RepeatedPanel {
    memory: HugeMemory,
    len: usize,
}

impl RepeatedPanel {
    /// So many copies.
    ///
    /// # Panics
    /// Where there is no memory for them, as a `Vec` does.
    #[must_use]
    pub fn new(panel: &[u8], times: usize) -> Self {
        let len = panel.len().saturating_mul(times);
        let Some(memory) = HugeMemory::new(len, HugePages::Ask) else {
            std::alloc::handle_alloc_error(Layout::for_value(panel))
        };
        for index in 0..times {
            // SAFETY: the memory has room for so many copies and is nobody else's.
            unsafe {
                let place = memory.start.as_ptr().add(index * panel.len());
                place.copy_from_nonoverlapping(panel.as_ptr(), panel.len());
            }
        }
        Self { memory, len }
    }
}

impl Deref for RepeatedPanel {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: all these bytes were written when it was made.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_is_aligned_to_huge_pages_and_goes_back() {
        for (len, alignment) in [(0, ALIGNMENT), (100, ALIGNMENT), (5 << 20, HUGE_PAGE_BYTES)] {
            let start = HugeMemory::new(len, HugePages::Ask).unwrap().into_raw();
            assert_eq!(start.align_offset(alignment), 0, "{len}");
            // SAFETY: it was just given away.
            drop(unsafe { HugeMemory::from_raw(start, len) });
        }
        assert!(HugeMemory::new(usize::MAX, HugePages::AsTheSystemDoes).is_none());
    }

    #[test]
    fn a_repeated_panel_is_there_as_often_as_asked_for() {
        let bytes: Vec<u8> = (0..200).collect();
        let repeated = RepeatedPanel::new(&bytes, 3);
        assert_eq!(*repeated, *bytes.repeat(3));
        assert!(RepeatedPanel::new(&bytes, 0).is_empty());
    }
}

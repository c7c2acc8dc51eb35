//! Memory that is read from end to end: weights, caches.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A page of the second size. Weights are read from end to end for every token, and with small
/// pages a core waits for their addresses: one Zen 5 core read 32 GB/s of Q4_0 with huge pages
/// and 28 without; a cache of 6,000 tokens made decoding 10 % faster.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The largest usual page of any system: Arm's.
const SMALL_PAGE_BYTES_MAX: usize = 64 << 10;

/// Pages for large memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    AsTheSystemDoes,
    Ask,
}

/// Room for bytes, aligned to a page at least; in huge pages where it is large, they are asked
/// for and the system has such pages. It holds zeros first.
///
/// It is mapped by itself, past the allocator, which would keep the memory of a cache that was
/// freed: caches are freed because memory is short.
#[derive(Debug)]
pub struct HugeMemory {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its bytes and lets nobody at them but through raw pointers.
unsafe impl Send for HugeMemory {}
// SAFETY: as above.
unsafe impl Sync for HugeMemory {}

impl HugeMemory {
    /// That many bytes; `None` where there is no memory for them.
    #[must_use]
    pub fn new(len: usize, pages: HugePages) -> Option<Self> {
        if pages == HugePages::AsTheSystemDoes || len < HUGE_PAGE_BYTES {
            return Self::map(len);
        }
        let memory = Self::map(len.checked_add(HUGE_PAGE_BYTES)?)?.cut_to_huge_pages(len);
        let whole = len / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        // SAFETY: the memory is there, and the advice changes nothing of what it holds.
        let _ = unsafe { madvise(memory.place(0), whole, Advice::LinuxHugepage) };
        Some(memory)
    }

    fn map(len: usize) -> Option<Self> {
        // Of no bytes no mapping can be.
        let len = len.max(1);
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the system's choice touches no other memory.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, rights, MapFlags::PRIVATE) };
        let start = NonNull::new(start.ok()?.cast())?;
        Some(Self { start, len })
    }

    /// Gives back what lies before the first huge page and behind so many bytes from there.
    fn cut_to_huge_pages(self, len: usize) -> Self {
        let before = self.start.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let end = (before + len).next_multiple_of(SMALL_PAGE_BYTES_MAX);
        let this = ManuallyDrop::new(self);
        let ends = [(0, before), (end, this.len.saturating_sub(end))];
        for (offset, len) in ends.into_iter().filter(|(_, len)| *len > 0) {
            // SAFETY: these pages are of this mapping, and nobody has seen them.
            let _ = unsafe { munmap(this.place(offset), len) };
        }
        Self {
            // SAFETY: the mapping is a huge page longer than `len`.
            start: unsafe { this.start.add(before) },
            len,
        }
    }

    fn place(&self, offset: usize) -> *mut c_void {
        self.start.as_ptr().wrapping_add(offset).cast()
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
            len: len.max(1),
        })
    }
}

impl Drop for HugeMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone. Where the system does not take it back, it stays
        // unused.
        let _ = unsafe { munmap(self.place(0), self.len) };
    }
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
            std::alloc::handle_alloc_error(std::alloc::Layout::for_value(panel))
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
        for (len, alignment) in [(0, 4096), (100, 4096), ((5 << 20) + 3, HUGE_PAGE_BYTES)] {
            for _ in 0..3 {
                let memory = HugeMemory::new(len, HugePages::Ask).unwrap();
                let start = memory.into_raw();
                assert_eq!(start.align_offset(alignment), 0, "{len}");
                if len > 0 {
                    // SAFETY: it has so many bytes, and nobody else has them.
                    unsafe {
                        assert_eq!((*start, *start.add(len - 1)), (0, 0));
                        *start.add(len - 1) = 7;
                    }
                }
                // SAFETY: it was just given away.
                drop(unsafe { HugeMemory::from_raw(start, len) });
            }
        }
        assert!(HugeMemory::new(usize::MAX / 2, HugePages::AsTheSystemDoes).is_none());
    }

    #[test]
    fn a_repeated_panel_is_there_as_often_as_asked_for() {
        let bytes: Vec<u8> = (0..200).collect();
        let repeated = RepeatedPanel::new(&bytes, 3);
        assert_eq!(*repeated, *bytes.repeat(3));
        assert!(RepeatedPanel::new(&bytes, 0).is_empty());
    }
}

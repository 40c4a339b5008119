//! The registry of device memory. It lives on the host's heap, and device pointers are host pointers.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Alignment of every allocation, and the space around it that belongs to nobody.
const ALIGN: usize = 512;
/// What fresh memory holds: NaN as a float, never zero by luck.
const GARBAGE: u8 = 0xff;

struct Entry {
    end: u64,
    /// Allocated here (and not merely registered).
    owned: Option<Layout>,
}

/// Live allocations of the device, and host memory that it may access.
#[derive(Default)]
pub struct Memory {
    entries: Mutex<BTreeMap<u64, Entry>>,
}

impl Memory {
    /// No allocations.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Allocates `size` bytes of garbage; `None` when the host has no memory left.
    pub fn alloc(&self, size: usize) -> Option<u64> {
        let layout = Layout::from_size_align(size.max(1).next_multiple_of(ALIGN) + 2 * ALIGN, ALIGN).ok()?;
        // SAFETY: the layout has a size above zero.
        let block = unsafe { alloc(layout) };
        if block.is_null() {
            return None;
        }
        // SAFETY: the block is as long as its layout.
        unsafe { block.write_bytes(GARBAGE, layout.size()) };
        let start = block as u64 + ALIGN as u64;
        self.lock().insert(start, Entry { end: start + size as u64, owned: Some(layout) });
        Some(start)
    }

    /// Frees what [`Memory::alloc`] gave; `false` when `start` isn't such a pointer.
    pub fn free(&self, start: u64) -> bool {
        let mut entries = self.lock();
        let Some(Entry { owned: Some(layout), .. }) = entries.get(&start) else { return false };
        let layout = *layout;
        entries.remove(&start);
        // SAFETY: `alloc` made the block with this layout, and the entry is gone: nobody frees it twice.
        unsafe { dealloc((start - ALIGN as u64) as *mut u8, layout) };
        true
    }

    /// Lets kernels access host memory that somebody else owns and keeps alive.
    pub fn register(&self, start: u64, size: usize) {
        self.lock().insert(start, Entry { end: start + size as u64, owned: None });
    }

    /// Ends [`Memory::register`]; `false` when `start` wasn't registered.
    pub fn unregister(&self, start: u64) -> bool {
        let mut entries = self.lock();
        match entries.get(&start) {
            Some(Entry { owned: None, .. }) => entries.remove(&start).is_some(),
            _ => false,
        }
    }

    /// Begin and end of the live range that holds `address`.
    pub fn find(&self, address: u64) -> Option<(u64, u64)> {
        let entries = self.lock();
        let (start, entry) = entries.range(..=address).next_back()?;
        (address < entry.end).then_some((*start, entry.end))
    }

    /// Whether `size` bytes from `start` lie in one live range.
    pub fn holds(&self, start: u64, size: usize) -> bool {
        size == 0 || self.find(start).is_some_and(|(_, end)| start + size as u64 <= end)
    }

    /// Bytes that are allocated now.
    pub fn allocated(&self) -> u64 {
        self.lock().iter().filter(|(_, e)| e.owned.is_some()).map(|(s, e)| e.end - s).sum()
    }

    /// All live ranges in order.
    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        self.lock().iter().map(|(s, e)| (*s, e.end)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let owned: Vec<u64> = self.lock().iter().filter(|(_, e)| e.owned.is_some()).map(|(s, _)| *s).collect();
        for start in owned {
            self.free(start);
        }
    }
}

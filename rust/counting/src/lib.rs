//! The system's allocator, counting what is asked of it. For tests: what a message costs is
//! asserted by numbers that do not depend on the machine.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

/// Counts for all threads. Use it as the `#[global_allocator]` of a test.
#[derive(Debug, Default)]
pub struct Counting {
    allocations: AtomicUsize,
    live: AtomicIsize,
    bytes: AtomicIsize,
}

impl Counting {
    /// Nothing counted yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            allocations: AtomicUsize::new(0),
            live: AtomicIsize::new(0),
            bytes: AtomicIsize::new(0),
        }
    }

    /// Blocks that were ever asked for; one that grows or shrinks counts again.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::SeqCst)
    }

    /// Blocks that are held now.
    #[must_use]
    pub fn live(&self) -> isize {
        self.live.load(Ordering::SeqCst)
    }

    /// Bytes that are held now, as they were asked for.
    #[must_use]
    pub fn bytes(&self) -> isize {
        self.bytes.load(Ordering::SeqCst)
    }

    fn grown(&self, blocks: isize, bytes: isize) {
        self.live.fetch_add(blocks, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[allow(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of its
// own and does not allocate. A layout's size is at most `isize::MAX`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        self.grown(1, layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        self.grown(1, layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.grown(-1, -(layout.size() as isize));
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        self.grown(0, size as isize - layout.size() as isize);
        unsafe { System.realloc(block, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static COUNTING: Counting = Counting::new();

    #[test]
    fn a_block_counts_while_it_is_held() {
        let before = (COUNTING.allocations(), COUNTING.live(), COUNTING.bytes());
        let mut block: Vec<u8> = Vec::with_capacity(100_000);
        assert!(COUNTING.allocations() > before.0);
        assert!(COUNTING.live() > before.1);
        assert!(COUNTING.bytes() >= before.2 + 100_000);
        block.reserve_exact(200_000);
        assert!(COUNTING.bytes() >= before.2 + 200_000);
        drop(block);
        assert!(COUNTING.bytes() < before.2 + 100_000);
    }
}

//! How much memory something takes: an allocator that counts, thread by thread.
//!
//! What libzstd allocates doesn't come by here; the soak limits that by libFuzzer's own
//! `-malloc_limit_mb`.
#![allow(unsafe_code, reason = "an allocator can't be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that are in use now, and the most there were, since [`within`] began.
    static USED: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: isize) {
    let (now, most) = USED.get();
    USED.set((now + bytes, most.max(now + bytes)));
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old piece and the new one may lie side by side for a moment.
        count(size as isize);
        let at = unsafe { System.realloc(at, layout, size) };
        count(-(layout.size() as isize));
        at
    }
}

/// Does `work` and stops if more than `bound` bytes were in use at any moment of it,
/// beyond those that were in use before.
pub fn within<T>(bound: usize, work: impl FnOnce() -> T) -> T {
    USED.set((0, 0));
    let done = work();
    let (_, most) = USED.get();
    assert!(
        most <= bound as isize,
        "{most} bytes were in use, {bound} are allowed"
    );
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_at_once_counts() {
        let twice = || {
            drop(vec![0_u8; 1000]);
            drop(Vec::<u8>::with_capacity(1000));
        };
        within(1000, twice);
        let grown = || {
            let mut bytes = vec![0_u8; 600];
            bytes.reserve_exact(400);
            bytes
        };
        within(1600, grown);
        assert!(std::panic::catch_unwind(|| within(1599, grown)).is_err());
    }
}

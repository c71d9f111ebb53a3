//! Memory that connections have given up goes back to the system.
//!
//! The allocator (docs/decisions/0004) looks at what it could give back once in ten thousand of the blocks that it has to
//! search for. A worker that has something to do asks for so many in a tenth of a second; one whose clients all wait asks
//! for none, and its process stays as large as it was at its busiest. So it asks, a few at each look, and gives them up:
//! ten thousand in a second, which are less than half a millisecond.

use std::hint::black_box;

/// Blocks at each of twenty looks in a second.
const BLOCKS: usize = 500;
/// Too large for the lists that are looked at first, in bytes.
const SIZE: usize = 2 * 1024;

/// Has the allocator look at what it could give back, a little at a time.
pub(super) fn give_back() {
    for _ in 0..BLOCKS {
        drop(black_box(Vec::<u8>::with_capacity(SIZE)));
    }
}

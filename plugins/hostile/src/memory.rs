//! Memory that another instance may have used before.

use serde_json::{Value, json};

/// Fills the unused stack and new memory, and leaves it.
pub fn fill(marker: u32, bytes: usize) -> Value {
    let (stack, grown) = (raw::unused_stack(), raw::grow(bytes));
    raw::fill(stack.clone(), pattern(marker));
    raw::fill(grown.clone(), pattern(marker));
    json!({ "filled": stack.len() + grown.len() })
}

/// Looks for what another instance left.
#[must_use]
pub fn scan(marker: u32, bytes: usize, after_filling: bool) -> Value {
    if after_filling {
        fill(marker, bytes);
    }
    let before = raw::all();
    let mut found = raw::runs(before.clone(), pattern(marker));
    let grown = raw::grow(bytes);
    found += raw::runs(grown.clone(), pattern(marker));
    json!({ "found": found, "scanned": before.len() + grown.len() })
}

/// The input carries the marker and not the pattern, so that the pattern is nowhere but where
/// somebody wrote it.
const fn pattern(marker: u32) -> u64 {
    (marker as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(target_family = "wasm")]
#[allow(unsafe_code, reason = "the whole linear memory is what this is about")]
mod raw {
    use core::arch::wasm32::{memory_grow, memory_size};
    use std::{hint::black_box, ops::Range};

    const PAGE: usize = 64 << 10;
    const WORD: usize = 8;

    /// Words that follow each other before they count as found: one alone may be chance, or our own
    /// on its way through the stack.
    const RUN: u32 = 16;

    pub(super) fn all() -> Range<usize> {
        WORD..memory_size::<0>() * PAGE
    }

    /// Empty when the host refuses.
    pub(super) fn grow(bytes: usize) -> Range<usize> {
        let pages = bytes.div_ceil(PAGE);
        match memory_grow::<0>(pages) {
            usize::MAX => 0..0,
            first => first * PAGE..(first + pages) * PAGE,
        }
    }

    /// The stack lies below everything else and grows down; some of it stays for the calls to come.
    pub(super) fn unused_stack() -> Range<usize> {
        let here = 0_u64;
        let top = (&raw const *black_box(&here)) as usize;
        PAGE..(top.saturating_sub(PAGE) & !(WORD - 1)).max(PAGE)
    }

    pub(super) fn fill(range: Range<usize>, word: u64) {
        for address in range.step_by(WORD) {
            // SAFETY: the range is unused stack or memory that nobody else has asked for.
            unsafe { (address as *mut u64).write_volatile(word) };
        }
    }

    pub(super) fn runs(range: Range<usize>, word: u64) -> u32 {
        let (mut found, mut run) = (0, 0);
        for address in range.step_by(WORD) {
            // SAFETY: reading linear memory below its size never faults, whatever lies there.
            let is_ours = unsafe { (address as *const u64).read_volatile() } == word;
            run = if is_ours { run + 1 } else { 0 };
            found += u32::from(run == RUN);
        }
        found
    }
}

/// There is no linear memory to look through.
#[cfg(not(target_family = "wasm"))]
mod raw {
    use std::ops::Range;

    pub(super) const fn all() -> Range<usize> {
        0..0
    }

    pub(super) const fn grow(_: usize) -> Range<usize> {
        0..0
    }

    pub(super) const fn unused_stack() -> Range<usize> {
        0..0
    }

    pub(super) fn fill(_: Range<usize>, _: u64) {}

    pub(super) const fn runs(_: Range<usize>, _: u64) -> u32 {
        0
    }
}

//! The meter of HTTP/2's frames: wherever the bytes are cut, it comes to the same.
#![no_main]

use bearward::accept::http2::meter::{Credit, Meter, PREFACE};
use bearward::clock;
use libfuzzer_sys::fuzz_target;

fn count(pieces: &[&[u8]]) -> (bool, bool) {
    let credit = Credit::new(clock::monotonic());
    let mut meter = Meter::default();
    let is_calm = pieces.iter().all(|piece| meter.count(piece, &credit).is_ok());
    (is_calm, meter.is_in_block())
}

fuzz_target!(|input: (usize, &[u8])| {
    let (cut, bytes) = input;
    // Time brings credit as well, and would make a difference at its very end.
    if bytes.len() > 9 * 1_000 {
        return;
    }
    let (first, second) = bytes.split_at(cut % (bytes.len() + 1));
    let (whole, cut) = (count(&[PREFACE, bytes]), count(&[PREFACE, first, second]));
    assert!(whole == cut || !whole.0, "{whole:?} {cut:?}");
});

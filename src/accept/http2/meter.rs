//! Meters the frames of one connection: those that cost us and bring nothing are paid from a credit.
//!
//! 1. Every frame has a price: none for one with a piece of a body, one for most others, more for a
//!    reset, whose request was work for nothing.
//! 2. Credit comes with what a client is there for: requests that are answered, bytes that it takes;
//!    and, slowly, with time. No client that reads its answers comes near the end of it.
//! 3. Who has no credit left floods: pings, settings, priorities, window updates, empty pieces, header
//!    blocks without an end, or requests that are taken back at once.
//!
//! Only the nine bytes before each frame are read here; what is in it is the parser's affair.
//!
//! Sources: RFC 9113 §§ 4.1, 6, 10.5; CVE-2023-44487, CVE-2019-9511 to 9518.

use std::cell::Cell;
use std::time::Instant;

use crate::clock;

/// What a client of HTTP/2 begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Before each frame (RFC 9113 §4.1).
const HEADER: usize = 9;

/// The credit of a new connection.
const AT_FIRST: i64 = 1_000;
/// The most that is saved up: a client may have this many bytes on the way, in KiB, and acknowledge
/// each piece of them later.
const MOST: i64 = 50_000;
/// What comes with every second.
const A_SECOND: i64 = 50;
/// The price of a reset, beside that of its request.
const RESET: i64 = 7;
/// What comes with a request that was answered, or was not taken back at once.
pub(super) const ANSWERED: i64 = 12;
/// What comes with a piece of an answer, beside what its bytes bring.
const PIECE: i64 = 4;

// Types and flags (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// What a connection may still spend.
#[derive(Debug)]
pub struct Credit {
    left: Cell<i64>,
    /// Since when time has brought nothing yet.
    since: Cell<Instant>,
}

impl Credit {
    /// The credit of a new connection.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { left: Cell::new(AT_FIRST), since: Cell::new(now) }
    }

    /// Adds what a client has earned.
    pub fn earn(&self, earned: i64) {
        self.left.set((self.left.get() + earned).min(MOST));
    }

    /// Adds what comes with so many bytes of an answer.
    pub fn send(&self, bytes: usize) {
        self.earn(PIECE + i64::try_from(bytes / 1024).unwrap_or(MOST));
    }

    /// Takes a price; whether it could be paid.
    fn pay(&self, price: i64) -> bool {
        let left = self.left.get() - price;
        self.left.set(left);
        if left >= 0 {
            return true;
        }
        // The clock is looked at only now.
        let now = clock::monotonic();
        let passed = now.saturating_duration_since(self.since.replace(now));
        let come = i64::try_from(passed.as_millis()).unwrap_or(MOST) * A_SECOND / 1000;
        self.earn(come.min(AT_FIRST));
        self.left.get() >= 0
    }
}

/// Follows the frames of one connection.
#[derive(Debug)]
pub struct Meter {
    at: At,
    /// Whether a header block has begun and not ended.
    is_in_block: bool,
}

/// Where the next byte is.
#[derive(Debug)]
enum At {
    /// In the preface, of which so many bytes are left.
    Preface(usize),
    /// Before a frame, of whose header so many bytes are here.
    Header([u8; HEADER], usize),
    /// In a frame of which so many bytes are left; whether a header block ends with it.
    Payload(usize, bool),
}

/// The client floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood;

impl Default for Meter {
    fn default() -> Self {
        Self { at: At::Preface(PREFACE.len()), is_in_block: false }
    }
}

impl Meter {
    /// Whether all of the preface has come.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        !matches!(self.at, At::Preface(_))
    }

    /// Whether a header block has begun and not ended.
    #[must_use]
    pub const fn is_in_block(&self) -> bool {
        self.is_in_block
    }

    /// Counts what has come.
    ///
    /// # Errors
    /// [`Flood`] when the credit is used up.
    pub fn count(&mut self, mut bytes: &[u8], credit: &Credit) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let taken = match &mut self.at {
                At::Preface(left) => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.at = At::Header([0; HEADER], 0);
                    }
                    taken
                }
                At::Header(header, here) => {
                    let taken = bytes.len().min(HEADER - *here);
                    for (place, byte) in header.iter_mut().skip(*here).zip(bytes) {
                        *place = *byte;
                    }
                    *here += taken;
                    if *here == HEADER {
                        let header = *header;
                        self.frame(header, credit)?;
                    }
                    taken
                }
                At::Payload(left, ends_block) => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.is_in_block &= !*ends_block;
                        self.at = At::Header([0; HEADER], 0);
                    }
                    taken
                }
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Takes the price of the frame with this header.
    fn frame(&mut self, header: [u8; HEADER], credit: &Credit) -> Result<(), Flood> {
        let [high, middle, low, kind, flags, ..] = header;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let is_block = matches!(kind, HEADERS | CONTINUATION);
        let ends_block = is_block && flags & END_HEADERS != 0;
        if is_block {
            self.is_in_block = !(ends_block && length == 0);
        }
        self.at = if length == 0 { At::Header([0; HEADER], 0) } else { At::Payload(length, ends_block) };
        if credit.pay(price(kind, flags, length)) { Ok(()) } else { Err(Flood) }
    }
}

fn price(kind: u8, flags: u8, length: usize) -> i64 {
    match kind {
        DATA if length == 0 && flags & END_STREAM == 0 => 1,
        // It may be padding and nothing else (RFC 9113 §6.1).
        DATA if flags & PADDED != 0 && length <= 256 => 1,
        DATA => 0,
        RST_STREAM => RESET,
        // Six bytes for each of them (RFC 9113 §6.5.1).
        SETTINGS => 1 + i64::try_from(length / 60).unwrap_or(MOST),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
        let [_, header @ ..] = length;
        [&header[..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn count(bytes: &[u8]) -> Result<i64, Flood> {
        let credit = Credit::new(clock::monotonic());
        let mut meter = Meter::default();
        meter.count(PREFACE, &credit)?;
        meter.count(bytes, &credit)?;
        Ok(AT_FIRST - credit.left.get())
    }

    #[test]
    fn a_frame_has_its_price() {
        for (bytes, price) in [
            (frame(DATA, 0, b"body"), 0),
            (frame(DATA, END_STREAM, b""), 0),
            (frame(DATA, 0, b""), 1),
            (frame(DATA, PADDED, &[255; 256]), 1),
            (frame(DATA, PADDED, &[255; 257]), 0),
            (frame(HEADERS, END_HEADERS, b"x"), 1),
            (frame(CONTINUATION, 0, b""), 1),
            (frame(RST_STREAM, 0, &[0; 4]), RESET),
            (frame(SETTINGS, 0, &[0; 60]), 2),
            (frame(6, 0, &[0; 8]), 1),
            (frame(8, 0, &[0; 4]), 1),
            (frame(0xfa, 0, b"grease"), 1),
        ] {
            assert_eq!(count(&bytes), Ok(price), "{bytes:?}");
        }
    }

    #[test]
    fn cuts_between_any_two_bytes_change_nothing() {
        let bytes = [
            PREFACE,
            &frame(SETTINGS, 0, &[0; 6]),
            &frame(HEADERS, 0, b"begins"),
            &frame(CONTINUATION, END_HEADERS, b"ends"),
            &frame(DATA, 0, b""),
            &frame(DATA, 0, &[7; 300]),
            &frame(RST_STREAM, 0, &[0; 4]),
        ]
        .concat();
        let whole = Credit::new(clock::monotonic());
        Meter::default().count(&bytes, &whole).expect("no flood");
        for cut in 0..=bytes.len() {
            let credit = Credit::new(clock::monotonic());
            let mut meter = Meter::default();
            let (first, second) = bytes.split_at(cut);
            meter.count(first, &credit).expect("no flood");
            meter.count(second, &credit).expect("no flood");
            assert_eq!(credit.left.get(), whole.left.get(), "cut at {cut}");
            assert!(!meter.is_in_block() && meter.has_begun());
        }
    }

    #[test]
    fn a_block_lasts_from_its_first_frame_to_the_last_byte_of_the_one_that_ends_it() {
        let credit = Credit::new(clock::monotonic());
        let mut meter = Meter::default();
        meter.count(PREFACE, &credit).expect("no flood");
        for (bytes, is_in_block) in [
            (&frame(SETTINGS, 0, b"")[..], false),
            (&frame(HEADERS, 0, b"abc"), true),
            (&frame(CONTINUATION, 0, b""), true),
            (&frame(CONTINUATION, END_HEADERS, b"abc")[..10], true),
            (b"bc", false),
            (&frame(HEADERS, END_HEADERS, b""), false),
        ] {
            meter.count(bytes, &credit).expect("no flood");
            assert_eq!(meter.is_in_block(), is_in_block);
        }
    }

    #[test]
    fn a_flood_ends_where_the_credit_does_and_a_client_that_takes_answers_never_sees_its_end() {
        let ping = frame(6, 0, &[0; 8]);
        let (credit, mut meter) = (Credit::new(clock::monotonic()), Meter::default());
        meter.count(PREFACE, &credit).expect("no flood");
        let most = (0..100_000).take_while(|_| meter.count(&ping, &credit).is_ok()).count();
        assert!((1_000..2_000).contains(&most), "{most}");

        let request = [frame(HEADERS, END_HEADERS | END_STREAM, b"x"), frame(8, 0, &[0; 4]), ping].concat();
        let (credit, mut meter) = (Credit::new(clock::monotonic()), Meter::default());
        meter.count(PREFACE, &credit).expect("no flood");
        for _ in 0..100_000 {
            meter.count(&request, &credit).expect("no flood");
            credit.send(100);
            credit.earn(ANSWERED);
        }
        // A megabyte, of which every 16 KiB are acknowledged twice.
        for _ in 0..1_000 {
            (0..16).for_each(|_| credit.send(64 * 1024));
            meter.count(&frame(8, 0, &[0; 4]).repeat(128), &credit).expect("no flood");
        }
    }
}

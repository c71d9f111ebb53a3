//! Request ids and W3C trace context.
//!
//! A well-formed `traceparent` goes on as it came, another or none is made new (Trace Context §3.2):
//! sampled, so that services which follow the parent's decision record at all. `X-Request-Id` of a
//! trusted proxy goes on, any other is made new: it names lines in the log.

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// `X-Request-Id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest request id that is taken over.
const MAX_ID: usize = 128;

/// What names a request, in the log, to its service and in its answer: 1 to 128 visible ASCII characters.
///
/// Why not a `HeaderValue`: every copy of one is counted, up and down again, by atomics.
#[derive(Debug)]
pub struct RequestId(SmallVec<[u8; 32]>);

impl Clone for RequestId {
    fn clone(&self) -> Self {
        // All at once; a derived one copies byte by byte.
        Self(SmallVec::from_slice(&self.0))
    }
}

impl RequestId {
    /// It, as it stands in a head.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// It, as it stands in a line of the log.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The field of an answer.
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }
}

/// A request id of 128 random bits: 32 hex digits.
#[must_use]
pub fn new_id() -> RequestId {
    let mut text = [0; 32];
    write_hex(&drawn(), &mut text);
    RequestId(SmallVec::from_buf(text))
}

/// The request id that a trusted proxy sent, if it is fit to stand in a log line.
#[must_use]
pub fn given_id(headers: &HeaderMap) -> Option<RequestId> {
    let mut fields = headers.get_all(REQUEST_ID).iter();
    let (Some(id), None) = (fields.next(), fields.next()) else { return None };
    let fits = (1..=MAX_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    fits.then(|| RequestId(SmallVec::from_slice(id.as_bytes())))
}

/// The well-formed `traceparent` of the client, of all that it sent, else a new one.
#[must_use]
pub fn traceparent(sent: &[&HeaderValue]) -> SmallVec<[u8; 64]> {
    if let [field] = sent
        && is_traceparent(field.as_bytes())
    {
        return SmallVec::from_slice(field.as_bytes());
    }
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    if let Some(trace) = text.get_mut(3..35) {
        write_hex(&drawn(), trace);
    }
    if let Some(span) = text.get_mut(36..52) {
        write_hex(&[fastrand::u64(1..)], span);
    }
    SmallVec::from_slice(&text)
}

/// 128 random bits, never all zero.
fn drawn() -> [u64; 2] {
    [fastrand::u64(..), fastrand::u64(1..)]
}

/// Writes sixteen digits of each number.
fn write_hex(numbers: &[u64], text: &mut [u8]) {
    for (digits, number) in text.as_chunks_mut::<16>().0.iter_mut().zip(numbers) {
        let (high, low) = digits.split_at_mut(8);
        high.copy_from_slice(&hex(number >> 32));
        low.copy_from_slice(&hex(number & 0xffff_ffff));
    }
}

/// The eight digits of a number of 32 bits, all of them at once: each has a byte of a word.
const fn hex(number: u64) -> [u8; 8] {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let halves = (number | number << 16) & 0x0000_ffff_0000_ffff;
    let quarters = (halves | halves << 8) & 0x00ff_00ff_00ff_00ff;
    let digits = (quarters | quarters << 4) & (ONES * 0x0f);
    // One in each byte that is past 9: six more are a carry into its upper half.
    let letters = (digits + ONES * 6) >> 4 & ONES;
    (digits + ONES * b'0' as u64 + letters * (b'a' - b'9' - 1) as u64).to_be_bytes()
}

/// `version "-" trace-id "-" parent-id "-" flags`, version 00 to fe, ids not all zero.
fn is_traceparent(text: &[u8]) -> bool {
    let mut parts = text.split(|&byte| byte == b'-');
    let mut part = |length: usize| {
        parts.next().filter(|part| part.len() == length && part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let (version, trace, parent, flags) = (part(2), part(32), part(16), part(2));
    let is_zero = |part: Option<&[u8]>| part.is_some_and(|part| part.iter().all(|&b| b == b'0'));
    let is_whole = trace.is_some() && parent.is_some() && flags.is_some() && !is_zero(trace) && !is_zero(parent);
    match version {
        Some(b"00") => is_whole && parts.next().is_none(),
        Some(b"ff") | None => false,
        Some(_) => is_whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_hex_digits_are() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x9999_aaaa_9a9a_a9a9, u64::MAX] {
            let mut text = [0; 16];
            write_hex(&[number], &mut text);
            assert_eq!(std::str::from_utf8(&text), Ok(&*format!("{number:016x}")));
        }
    }

    #[test]
    fn only_a_well_formed_traceparent_goes_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for (text, stays) in [
            (good, true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-00", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-00", false),
            ("x", false),
        ] {
            let sent = HeaderValue::from_static(text);
            let made = traceparent(&[&sent]);
            assert_eq!(&*made == text.as_bytes(), stays, "{text}");
            assert!(is_traceparent(&made) && is_traceparent(&traceparent(&[&sent, &sent])));
            assert_ne!(&*traceparent(&[&sent, &sent]), text.as_bytes(), "two of them are none");
        }
        assert_eq!(new_id().as_str().len(), 32);
        assert_eq!(new_id().value().len(), 32);
    }
}

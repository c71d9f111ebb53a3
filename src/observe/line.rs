//! One line of the log: JSON for machines, a short form for people.
//!
//! Fields go straight into one reused buffer: an access line is written for every request. A line is exactly one line:
//! whatever a field holds, control characters are escaped.

#![allow(
    clippy::inline_always,
    reason = "a name is copied in place, its length being known, and not by a call for each of a dozen"
)]

use std::cell::{Cell, RefCell};
use std::time::SystemTime;

use super::sink;
use crate::clock;

/// The name of a field in both forms, with what is around it; see `field_name`.
#[derive(Clone, Copy)]
pub struct Name {
    json: &'static str,
    pretty: &'static str,
}

impl Name {
    /// Made by `field_name`.
    #[must_use]
    pub const fn new(json: &'static str, pretty: &'static str) -> Self {
        Self { json, pretty }
    }
}

/// The name of a field, put together when it is compiled.
macro_rules! field_name {
    ($name:literal) => {
        $crate::observe::line::Name::new(concat!(",\"", $name, "\":"), concat!(" ", $name, "="))
    };
}
pub(super) use field_name;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One request.
    Access,
    /// Anything else.
    Event,
}

/// A line that is being written.
pub struct Line<'b> {
    buffer: &'b mut Vec<u8>,
    is_json: bool,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The second that was last written, and how.
    static SECOND: Cell<Option<(u64, [u8; 20])>> = const { Cell::new(None) };
}

/// Writes one line of this time, and hands it over.
pub fn write(is_json: bool, (kind, level): (Kind, &str), at: SystemTime, fields: impl FnOnce(&mut Line<'_>)) {
    let write = |buffer: &mut Vec<u8>| {
        buffer.clear();
        let mut line = Line { buffer, is_json };
        line.begin(kind, level, at);
        fields(&mut line);
        line.raw(if is_json { b"}\n" } else { b"\n" });
        sink::push(buffer);
    };
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => write(&mut buffer),
        // An event inside an event: a field's own formatting logged something.
        Err(_) => write(&mut Vec::new()),
    });
}

impl Line<'_> {
    fn begin(&mut self, kind: Kind, level: &str, at: SystemTime) {
        if self.is_json {
            self.raw(b"{\"time\":\"");
            self.time(at);
            self.raw(b"\",\"level\":\"");
            self.raw(level.as_bytes());
            self.raw(match kind {
                Kind::Access => b"\",\"kind\":\"access\"",
                Kind::Event => b"\",\"kind\":\"event\"",
            });
        } else {
            self.time(at);
            self.raw(b" ");
            self.raw(level.as_bytes());
        }
    }

    /// A field with a text.
    #[inline(always)]
    pub fn text(&mut self, name: Name, text: &str) {
        self.bytes(name, text.as_bytes());
    }

    /// A field with a text that nobody has looked at; what is not UTF-8 of it is shown as such.
    #[inline(always)]
    pub fn bytes(&mut self, name: Name, text: &[u8]) {
        self.name(name);
        self.quoted(text);
    }

    /// A field with a text, where there is one.
    #[inline(always)]
    pub fn text_if(&mut self, name: Name, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// A field with a number.
    #[inline(always)]
    pub fn number(&mut self, name: Name, number: u64) {
        self.name(name);
        self.decimal(number);
    }

    /// A field that is there because it is so.
    pub fn is_true(&mut self, name: Name) {
        self.name(name);
        self.raw(b"true");
    }

    #[inline(always)]
    fn name(&mut self, name: Name) {
        if self.is_json {
            self.buffer.extend_from_slice(name.json.as_bytes());
        } else {
            self.buffer.extend_from_slice(name.pretty.as_bytes());
        }
    }

    /// A field whose name is known only now; `message` is what the short form says without a name.
    pub fn named(&mut self, name: &str, value: Value<'_>) {
        let is_bare = !self.is_json && name == "message";
        if self.is_json {
            self.raw(b",\"");
            self.raw(name.as_bytes());
            self.raw(b"\":");
        } else {
            self.raw(b" ");
            if !is_bare {
                self.raw(name.as_bytes());
                self.raw(b"=");
            }
        }
        match value {
            Value::Text(text) if is_bare => self.escaped(text.as_bytes()),
            Value::Text(text) => self.quoted(text.as_bytes()),
            Value::Number(number) => {
                if number < 0 {
                    self.raw(b"-");
                }
                self.decimal(u64::try_from(number.unsigned_abs()).unwrap_or(u64::MAX));
            }
            Value::Bool(value) => self.raw(if value { b"true" } else { b"false" }),
        }
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn decimal(&mut self, number: u64) {
        let mut digits = [0_u8; 20];
        let mut rest = number;
        let mut start = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            start -= 1;
            if rest == 0 {
                break;
            }
        }
        self.raw(digits.get(start..).unwrap_or_default());
    }

    fn quoted(&mut self, text: &[u8]) {
        let is_quoted = self.is_json || text.is_empty() || text.iter().any(|b| matches!(b, b' ' | b'=' | b'"'));
        if is_quoted {
            self.raw(b"\"");
        }
        self.escaped(text);
        if is_quoted {
            self.raw(b"\"");
        }
    }

    /// JSON string contents (RFC 8259 §7); the short form escapes the same.
    fn escaped(&mut self, text: &[u8]) {
        if is_plain(text) {
            self.raw(text);
            return;
        }
        for c in String::from_utf8_lossy(text).chars() {
            match c {
                '"' => self.raw(b"\\\""),
                '\\' => self.raw(b"\\\\"),
                '\n' => self.raw(b"\\n"),
                // SECURITY: also C1 and the line separators, which terminals and viewers act on.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    self.raw(format!("\\u{:04x}", u32::from(c)).as_bytes());
                }
                c => self.raw(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    /// `2026-11-23T07:09:46.123Z` (RFC 3339).
    fn time(&mut self, at: SystemTime) {
        let millis = clock::unix_millis(at);
        let (second, rest) = (millis / 1000, millis % 1000);
        // Thousands of lines have the same second.
        let (_, text) = SECOND.get().filter(|(known, _)| *known == second).unwrap_or_else(|| {
            let written = (second, to_the_second(second));
            SECOND.set(Some(written));
            written
        });
        self.raw(&text);
        self.raw(&digits::<3>(rest));
        self.raw(b"Z");
    }
}

/// The value of a field whose name is known only when it is written.
#[derive(Clone, Copy)]
pub enum Value<'v> {
    /// A text.
    Text(&'v str),
    /// A whole number.
    Number(i128),
    /// Whether it is so.
    Bool(bool),
}

/// Whether all of it stands in a line as it is: visible ASCII and blanks, without `"` and `\`.
fn is_plain(text: &[u8]) -> bool {
    // Eight bytes at a time.
    let (words, rest) = text.as_chunks::<8>();
    words.iter().all(|word| are_plain(u64::from_le_bytes(*word)))
        && rest.iter().all(|byte| matches!(byte, 0x20..0x7f) && !matches!(byte, b'"' | b'\\'))
}

/// The same of the eight bytes of a word: in each the highest bit says whether it is one of those looked for. A byte after
/// one that is may be taken for one as well, which makes no difference.
const fn are_plain(word: u64) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    const fn has(word: u64, byte: u8) -> u64 {
        let zero_where = word ^ u64::from_ne_bytes([byte; 8]);
        zero_where.wrapping_sub(ONES) & !zero_where
    }
    let below_blank = word.wrapping_sub(ONES << 5) & !word;
    (word | below_blank | has(word, b'"') | has(word, b'\\') | has(word, 0x7f)) & HIGH == 0
}

/// `2026-11-23T07:09:46.`: what times of one second have in common.
fn to_the_second(second: u64) -> [u8; 20] {
    let mut text = *b"0000-00-00T00:00:00.";
    let (year, month, day) = civil(second / 86_400);
    let parts = [month, day, second / 3600 % 24, second / 60 % 60, second % 60];
    let (start, rest) = text.split_at_mut("0000-".len());
    start.iter_mut().zip(digits::<4>(year)).for_each(|(place, digit)| *place = digit);
    // After the year each part is two digits and a sign.
    for (part, number) in rest.chunks_mut(3).zip(parts) {
        part.iter_mut().zip(digits::<2>(number)).for_each(|(place, digit)| *place = digit);
    }
    text
}

/// The last decimal digits of a number.
fn digits<const COUNT: usize>(number: u64) -> [u8; COUNT] {
    let mut digits = [b'0'; COUNT];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    digits
}

/// Year, month and day of a day since 1970 in the proleptic Gregorian calendar.
const fn civil(days: u64) -> (u64, u64, u64) {
    // Days are counted from 0000-03-01, in eras of 400 years of 146,097 days, so that a leap day is
    // always the last of a year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + if month <= 2 { 1 } else { 0 }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn written(is_json: bool, fields: impl FnOnce(&mut Line<'_>)) -> String {
        let mut buffer = Vec::new();
        fields(&mut Line { buffer: &mut buffer, is_json });
        String::from_utf8(buffer).expect("text")
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (1_795_417_786, "2026-11-23T07:09:46.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(written(true, |line| line.time(UNIX_EPOCH + Duration::from_secs(seconds))), text);
        }
    }

    // Row 51: whatever a field holds, it stays on its line.
    #[test]
    fn control_characters_are_escaped() {
        let text = "a\r\n\"b\\\u{1b}[31m\u{2028}\u{85}홍";
        let escaped = "\"a\\u000d\\n\\\"b\\\\\\u001b[31m\\u2028\\u0085홍\"";
        assert_eq!(written(true, |line| line.quoted(text.as_bytes())), escaped);
    }

    #[test]
    fn both_forms_say_the_same() {
        let fields = |line: &mut Line<'_>| {
            line.text(field_name!("path"), "/a b");
            line.text_if(field_name!("route"), None);
            line.number(field_name!("bytes"), 1207);
            line.is_true(field_name!("cut"));
            line.named("message", Value::Text("it is so"));
            line.named("limit", Value::Number(-3));
            line.named("late", Value::Bool(false));
        };
        assert_eq!(
            written(true, fields),
            r#","path":"/a b","bytes":1207,"cut":true,"message":"it is so","limit":-3,"late":false"#
        );
        assert_eq!(written(false, fields), r#" path="/a b" bytes=1207 cut=true it is so limit=-3 late=false"#);
    }

    proptest! {
        #[test]
        fn eight_bytes_at_a_time_see_what_one_at_a_time_sees(text in proptest::collection::vec(any::<u8>(), 0..40), at in 0_usize..40) {
            let is_one_plain = |byte: &u8| (0x20..0x7f).contains(byte) && !b"\"\\".contains(byte);
            prop_assert_eq!(is_plain(&text), text.iter().all(is_one_plain));
            // Nearly plain ones, which would hardly come by chance.
            let mut nearly: Vec<u8> = text.iter().map(|byte| b'a' + byte % 26).collect();
            prop_assert!(is_plain(&nearly));
            if let (Some(place), Some(odd)) = (nearly.get_mut(at), text.first()) {
                *place = *odd;
                prop_assert_eq!(is_plain(&nearly), is_one_plain(odd));
            }
        }

        #[test]
        fn a_json_line_reads_back_as_it_was_given(text in ".{0,60}") {
            let line = written(true, |line| line.text(field_name!("x"), &text));
            let read: serde_json::Value = serde_json::from_str(&(line.replacen(',', "{", 1) + "}")).expect("JSON");
            prop_assert_eq!(read["x"].as_str(), Some(&*text));
        }
    }
}

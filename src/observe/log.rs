//! Events become lines: JSON for machines, a short form for people.
//!
//! A layer of our own under `tracing`, because an access line is written for every request: it
//! writes fields straight into one reused buffer, where the formatter that comes with
//! `tracing-subscriber` builds maps and strings. One event is always exactly one line: whatever a
//! field holds, control characters are escaped.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::IsTerminal;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::exchange::ACCESS;
use super::sink;
use crate::clock;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `pretty` on a terminal, `json` elsewhere.
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Starts logging to the standard output, filtered as `RUST_LOG` says (default `info`).
///
/// # Errors
/// When `RUST_LOG` is no filter.
pub fn start(format: Format) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => text
            .parse::<Targets>()
            .map_err(|_| format!("RUST_LOG: `{text}` is no filter such as `info` or `bearward=debug`"))?,
        _ => Targets::new().with_default(Level::INFO),
    };
    let is_json = match format {
        Format::Json => true,
        Format::Pretty => false,
        Format::Auto => !std::io::stdout().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(Lines { is_json }.with_filter(filter));
    // A second start, in tests, keeps the first.
    drop(registry.try_init());
    Ok(())
}

struct Lines {
    is_json: bool,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The second that was last written, and how.
    static SECOND: Cell<Option<(u64, [u8; 20])>> = const { Cell::new(None) };
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let write = |buffer: &mut Vec<u8>| {
            buffer.clear();
            let mut line = Line { buffer, is_json: self.is_json };
            line.begin(event.metadata(), clock::wall());
            event.record(&mut line);
            line.end();
            sink::push(buffer);
        };
        BUFFER.with(|buffer| match buffer.try_borrow_mut() {
            Ok(mut buffer) => write(&mut buffer),
            // An event inside an event: a field's own formatting logged something.
            Err(_) => write(&mut Vec::new()),
        });
    }
}

struct Line<'b> {
    buffer: &'b mut Vec<u8>,
    is_json: bool,
}

impl Line<'_> {
    fn begin(&mut self, event: &Metadata<'_>, now: SystemTime) {
        let level = event.level().as_str();
        if self.is_json {
            self.raw(b"{\"time\":\"");
            self.time(now);
            self.raw(b"\",\"level\":\"");
            self.raw(level.as_bytes());
            self.raw(if event.target() == ACCESS { b"\",\"kind\":\"access\"" } else { b"\",\"kind\":\"event\"" });
        } else {
            self.time(now);
            self.raw(b" ");
            self.raw(level.as_bytes());
        }
    }

    fn end(&mut self) {
        self.raw(if self.is_json { b"}\n" } else { b"\n" });
    }

    fn name(&mut self, field: &Field) {
        if self.is_json {
            self.raw(b",\"");
            self.raw(field.name().as_bytes());
            self.raw(b"\":");
        } else {
            self.raw(b" ");
            if field.name() != "message" {
                self.raw(field.name().as_bytes());
                self.raw(b"=");
            }
        }
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u64) {
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

    /// JSON string contents (RFC 8259 §7); the short form escapes the same.
    fn escaped(&mut self, text: &str) {
        // Looked at to the end, whatever comes: so it is done many bytes at a time.
        let is_plain = |b: u8| b >= 0x20 && b != b'"' && b != b'\\' && b < 0x7f;
        if text.bytes().fold(true, |so_far, b| so_far & is_plain(b)) {
            self.raw(text.as_bytes());
            return;
        }
        for c in text.chars() {
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

    fn text(&mut self, text: &str) {
        let is_quoted = self.is_json || text.is_empty() || text.bytes().any(|b| b == b' ' || b == b'=' || b == b'"');
        if is_quoted {
            self.raw(b"\"");
        }
        self.escaped(text);
        if is_quoted {
            self.raw(b"\"");
        }
    }

    /// `2026-11-23T07:09:46.123Z` (RFC 3339).
    fn time(&mut self, now: SystemTime) {
        let millis = clock::unix_millis(now);
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

impl Visit for Line<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        self.number(value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field);
        if value < 0 {
            self.raw(b"-");
        }
        self.number(value.unsigned_abs());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field);
        self.raw(if value { b"true" } else { b"false" });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        if !self.is_json && field.name() == "message" {
            self.escaped(value);
        } else {
            self.text(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

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
            let mut buffer = Vec::new();
            Line { buffer: &mut buffer, is_json: true }.time(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(String::from_utf8_lossy(&buffer), text);
        }
    }

    // Row 51: whatever a field holds, it stays on its line.
    #[test]
    fn control_characters_are_escaped() {
        let mut buffer = Vec::new();
        Line { buffer: &mut buffer, is_json: true }.text("a\r\n\"b\\\u{1b}[31m\u{2028}\u{85}홍");
        assert_eq!(String::from_utf8_lossy(&buffer), "\"a\\u000d\\n\\\"b\\\\\\u001b[31m\\u2028\\u0085홍\"");
    }
}

//! The byte guard: what comes from a client is looked at before the parser sees it.
//!
//! The parser is lenient where RFC 9112 lets it be, and it keeps no trace of what it made good. Two
//! readers that make good in different ways read two different requests, which is how one is smuggled
//! past a check. What only one reading is possible of goes on; all else ends the connection:
//!
//! 1. Every line ends in CRLF, none begins with a blank (a folded field), and at most one empty line
//!    comes before a head.
//! 2. A request line is `method SP target SP HTTP/1.0` or `HTTP/1.1`; the target has no `#`, which the
//!    parser would drop.
//! 3. One `Content-Length` of digits, or one `Transfer-Encoding` of exactly `chunked` and that in
//!    HTTP/1.1, never both.
//! 4. A chunked body is chunks ([`crate::chunked`]).
//! 5. The bytes of a message's end are its end: what follows is held back until it was answered, so
//!    that nothing runs ahead of a request that may change the protocol.
//!
//! What it leaves to the parser, which is strict there: names of fields, bytes of values, methods.
//!
//! Sources: RFC 9112 §§ 2.2, 3, 5, 6, 7.1; DESIGN §4.

use crate::chunked::Chunks;

/// What the bytes that come next are.
#[derive(Debug)]
enum State {
    /// Of a head, of which so much was looked at.
    Head(Scan),
    /// Of a body of which so many bytes are left.
    Length(u64),
    /// Of a chunked body.
    Chunked(Chunks),
    /// Nothing that could be told.
    Broken(Fault),
}

/// How much of a head was looked at, and what it said of the body.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    /// Where the first line begins that has not ended.
    line: usize,
    /// Where no end of it was found up to.
    searched: usize,
    is_past_first_line: bool,
    had_empty_line: bool,
    is_http_10: bool,
    length: Option<u64>,
    is_chunked: bool,
}

/// Why there is no request in these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A line does not end in CRLF.
    LineEnd,
    /// A line begins with a blank: it continues the one before (obs-fold), or there is none before it.
    Folded,
    /// More than one empty line before a head.
    EmptyLines,
    /// The first line is no request line of HTTP/1.0 or HTTP/1.1.
    RequestLine,
    /// The target has a `#`.
    Fragment,
    /// `Content-Length` is not one number, or stands twice.
    Length,
    /// `Transfer-Encoding` is not exactly `chunked`, stands twice, or stands in HTTP/1.0.
    Coding,
    /// Both of them.
    TwoFramings,
    /// The body is not chunks.
    Chunk,
    /// The first line is longer than is taken.
    LongTarget,
    /// The head is longer than is taken.
    LongHead,
}

impl Fault {
    /// What the log says.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::LineEnd => "a line does not end in CRLF",
            Self::Folded => "a line begins with a blank",
            Self::EmptyLines => "more than one empty line before the head",
            Self::RequestLine => "no request line of HTTP/1.0 or HTTP/1.1",
            Self::Fragment => "a fragment in the target",
            Self::Length => "a Content-Length that is not one number",
            Self::Coding => "a Transfer-Encoding that is not `chunked` alone, or in HTTP/1.0",
            Self::TwoFramings => "Content-Length and Transfer-Encoding",
            Self::Chunk => "a malformed chunk",
            Self::LongTarget => "the request line is longer than is taken",
            Self::LongHead => "the head is longer than is taken",
        }
    }
}

/// Follows the bytes of one connection.
#[derive(Debug)]
pub struct Guard {
    state: State,
    longest: usize,
}

impl Guard {
    /// A guard that takes heads of at most `longest` bytes.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        Self { state: State::Head(Scan::default()), longest }
    }

    /// Whether the next byte is the first of a head, or is inside of one.
    #[must_use]
    pub const fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// How many of these bytes may go on: a head as a whole, a body as it comes, and nothing beyond the
    /// end of one message. What may not is given again, with what came after it.
    ///
    /// # Errors
    /// [`Fault`], then and ever after.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let taken = self.judge(bytes);
        if let Err(fault) = taken {
            self.state = State::Broken(fault);
        }
        taken
    }

    fn judge(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let (head, next) = match &mut self.state {
            State::Broken(fault) => return Err(*fault),
            State::Length(_) | State::Chunked(_) => return self.body(bytes),
            State::Head(scan) => match scan.read(bytes)? {
                Some(end) if end > self.longest => return Err(Fault::LongHead),
                Some(end) => (end, scan.body()),
                None if !scan.may_become_head(bytes) => return Err(Fault::RequestLine),
                None if bytes.len() <= self.longest => return Ok(0),
                None if scan.is_past_first_line => return Err(Fault::LongHead),
                None => return Err(Fault::LongTarget),
            },
        };
        self.state = next;
        if self.is_in_head() {
            return Ok(head);
        }
        match self.body(bytes.get(head..).unwrap_or_default()) {
            Ok(body) => Ok(head + body),
            // The head is a request all the same, and gets its answer.
            Err(fault) => {
                self.state = State::Broken(fault);
                Ok(head)
            }
        }
    }

    fn body(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let (taken, is_over) = match &mut self.state {
            State::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                (here, *left == 0)
            }
            State::Chunked(chunks) => (pass_over(chunks, bytes)?, chunks.is_over()),
            State::Head(_) | State::Broken(_) => (0, false),
        };
        if is_over {
            self.state = State::Head(Scan::default());
        }
        Ok(taken)
    }
}

/// How many of these bytes are of a chunked body.
fn pass_over(chunks: &mut Chunks, bytes: &[u8]) -> Result<usize, Fault> {
    let mut rest = bytes;
    while !rest.is_empty() && !chunks.is_over() {
        let read = chunks.framing(rest).map_err(|_| Fault::Chunk)?;
        rest = rest.get(read..).unwrap_or_default();
        rest = rest.get(chunks.data(rest.len())..).unwrap_or_default();
    }
    Ok(bytes.len() - rest.len())
}

impl Scan {
    /// Where the head ends, if it does.
    fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let searched = self.searched;
        for at in memchr::memchr_iter(b'\n', bytes.get(searched..).unwrap_or_default()) {
            let end = searched + at;
            let line = bytes.get(self.line..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Fault::LineEnd)?;
            self.line = end + 1;
            match line.first() {
                Some(b' ' | b'\t') => return Err(Fault::Folded),
                Some(_) if self.is_past_first_line => self.field(line)?,
                Some(_) => self.request_line(line)?,
                None if self.is_past_first_line => return Ok(Some(self.line)),
                None if self.had_empty_line => return Err(Fault::EmptyLines),
                None => self.had_empty_line = true,
            }
        }
        self.searched = bytes.len();
        Ok(None)
    }

    /// Whether what has come of a first line can be one: its method is a token (RFC 9110 §5.6.2). What
    /// cannot is not waited for.
    fn may_become_head(&self, bytes: &[u8]) -> bool {
        let line = bytes.get(self.line..).unwrap_or_default();
        let end = line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len());
        let next = line.get(end);
        self.is_past_first_line
            || next.is_none_or(|&byte| (byte == b' ' && end > 0) || (byte == b'\r' && line.len() == 1))
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (rest, version) = line.split_last_chunk::<9>().ok_or(Fault::RequestLine)?;
        self.is_http_10 = match version {
            b" HTTP/1.1" => false,
            b" HTTP/1.0" => true,
            _ => return Err(Fault::RequestLine),
        };
        let space = memchr::memchr(b' ', rest).ok_or(Fault::RequestLine)?;
        let target = rest.get(space + 1..).unwrap_or_default();
        if space == 0 || target.is_empty() || memchr::memchr(b' ', target).is_some() {
            return Err(Fault::RequestLine);
        }
        if memchr::memchr(b'#', target).is_some() {
            return Err(Fault::Fragment);
        }
        self.is_past_first_line = true;
        Ok(())
    }

    /// Takes what a field says of the body.
    fn field(&mut self, line: &[u8]) -> Result<(), Fault> {
        // Most fields are told apart by their first letter alone.
        match line.first() {
            Some(b'c' | b'C') => match value(line, b"content-length:") {
                None => return Ok(()),
                Some(_) if self.length.is_some() => return Err(Fault::Length),
                Some(value) => self.length = Some(number(value).ok_or(Fault::Length)?),
            },
            Some(b't' | b'T') => match value(line, b"transfer-encoding:") {
                None => return Ok(()),
                Some(coding) if self.is_chunked || self.is_http_10 || !coding.eq_ignore_ascii_case(b"chunked") => {
                    return Err(Fault::Coding);
                }
                Some(_) => self.is_chunked = true,
            },
            Some(_) | None => return Ok(()),
        }
        if self.is_chunked && self.length.is_some() { Err(Fault::TwoFramings) } else { Ok(()) }
    }

    fn body(&self) -> State {
        match (self.is_chunked, self.length) {
            (true, _) => State::Chunked(Chunks::default()),
            (false, None | Some(0)) => State::Head(Self::default()),
            (false, Some(length)) => State::Length(length),
        }
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// The value of the field with this name, without blanks at its ends.
fn value<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (known, value) = line.split_at_checked(name.len())?;
    // Not `trim_ascii`: it takes away more than blanks.
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let from = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let to = value.iter().rposition(|byte| !is_blank(byte)).map_or(from, |last| last + 1);
    known.eq_ignore_ascii_case(name).then(|| value.get(from..to)).flatten()
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes on of `bytes` when they come in pieces of `size`: the lengths of the messages.
    fn cut(bytes: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
        let mut guard = Guard::new(1000);
        let (mut held, mut passed) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            held.extend_from_slice(piece);
            while !held.is_empty() {
                let taken = guard.take(&held)?;
                passed.extend(held.drain(..taken));
                if taken == 0 {
                    break;
                }
            }
        }
        Ok(passed)
    }

    #[test]
    fn what_only_one_reading_is_possible_of_goes_on_however_it_is_cut() {
        for bytes in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\r\nGET / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: \t 5 \r\n\r\nhelloGET / HTTP/1.1\r\nx: y\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\na: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nt: transfer-encoding: x\r\ncontent-lengths: x\r\nx:\r\n\r\n",
        ] {
            for size in 1..=bytes.len() {
                assert_eq!(cut(bytes.as_bytes(), size), Ok(bytes.as_bytes().to_vec()), "{bytes:?} in {size}");
            }
        }
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused_however_it_is_cut() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1000));
        let wide = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(1000));
        for (bytes, fault) in [
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", Fault::LineEnd),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n", Fault::LineEnd),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", Fault::LineEnd),
            ("\nGET / HTTP/1.1\r\n\r\n", Fault::LineEnd),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Fault::EmptyLines),
            ("GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n", Fault::Folded),
            ("GET / HTTP/1.1\r\n\thost: a\r\n\r\n", Fault::Folded),
            (" GET / HTTP/1.1\r\n\r\n", Fault::Folded),
            ("GET / HTTP/1.2\r\n\r\n", Fault::RequestLine),
            ("GET / HTTP/1.1 \r\n\r\n", Fault::RequestLine),
            ("GET  / HTTP/1.1\r\n\r\n", Fault::RequestLine),
            ("GET / x HTTP/1.1\r\n\r\n", Fault::RequestLine),
            ("GET HTTP/1.1\r\n\r\n", Fault::RequestLine),
            ("GET /\r\n\r\n", Fault::RequestLine),
            ("x\r\n\r\n", Fault::RequestLine),
            ("GET /a#b HTTP/1.1\r\n\r\n", Fault::Fragment),
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello", Fault::Length),
            ("POST / HTTP/1.1\r\ncontent-length: 5,5\r\n\r\nhello", Fault::Length),
            ("POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\nhello", Fault::Length),
            ("POST / HTTP/1.1\r\ncontent-length:\r\n\r\n", Fault::Length),
            ("POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n", Fault::Length),
            ("POST / HTTP/1.1\r\ncontent-length: 5\x0b\r\n\r\n", Fault::Length),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Fault::Coding),
            ("POST / HTTP/1.1\r\ntransfer-encoding: \x0bchunked\r\n\r\n", Fault::Coding),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", Fault::Coding),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", Fault::Coding),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", Fault::TwoFramings),
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", Fault::TwoFramings),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", Fault::Chunk),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n", Fault::Chunk),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", Fault::Chunk),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n", Fault::Chunk),
            (&long, Fault::LongTarget),
            (&wide, Fault::LongHead),
        ] {
            for size in 1..=bytes.len() {
                let found = cut(bytes.as_bytes(), size);
                // What can be no first line is refused before its end shows why.
                let is_same = matches!(
                    (fault, &found),
                    (Fault::LongTarget, Err(Fault::LongHead)) | (Fault::Folded, Err(Fault::RequestLine))
                ) || found == Err(fault);
                assert!(is_same, "{bytes:?} in {size}: {found:?}");
            }
        }
    }

    #[test]
    fn nothing_goes_on_beyond_the_end_of_a_message() {
        let mut guard = Guard::new(1000);
        let first = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nab";
        let both = [first.as_slice(), b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(guard.take(&both), Ok(first.len()));
        assert!(guard.is_in_head());
        assert_eq!(guard.take(both.get(first.len()..).unwrap_or_default()), Ok(18));
    }
}

//! Bytes from an upstream become an answer: its head, and where its body ends.
//!
//! An upstream is believed in what it says, not in how it frames it: what two readers could read in
//! two ways is no answer (RFC 9112 §6.3, stricter than it where said).
//!
//! 1. Heads of 1xx are passed over. 101 is an answer where it was asked for, and to what was asked for.
//! 2. No body after HEAD, 204 and 304, whatever the fields say.
//! 3. `Transfer-Encoding` is exactly `chunked`, in HTTP/1.1, and without `Content-Length`. Stricter:
//!    the RFC lets a reader drop `Content-Length`.
//! 4. `Content-Length` is digits; said twice it is said alike.
//! 5. Else the body ends with the connection.
//! 6. Lines of a head end in CRLF, and nothing comes before the first one. Stricter: the RFC lets a
//!    reader take a bare LF.

mod names;
mod spare;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, StatusCode};
use smallvec::SmallVec;

pub use self::spare::keep_map;
use super::headers::{is_hop_by_hop, named_by, says};
use crate::chunked::Chunks;
pub use crate::chunked::Malformed;
use crate::route::Protocol;

/// Most fields of an answer.
const MAX_FIELDS: usize = 100;
/// Most heads of 1xx before the answer.
const MAX_INFORMATIONAL: u8 = 16;

/// The head of an answer, without the fields of its one hop.
#[derive(Debug)]
pub struct Head {
    /// Its status, of 1xx only 101.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Where its body ends.
    pub framing: Framing,
    /// Whether the connection goes on after it.
    pub is_persistent: bool,
}

/// Where a body ends.
#[derive(Debug)]
pub enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// With the last chunk.
    Chunked(Chunks),
    /// With the connection.
    Close,
}

/// What the next bytes of a body are.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Content.
    Data(Bytes),
    /// Not here yet.
    More,
    /// The body has ended.
    End,
}

/// Reads heads for one exchange.
#[derive(Debug, Default)]
pub struct HeadReader {
    passed: u8,
    upgrade: Option<Protocol>,
}

impl HeadReader {
    /// A reader of the answer to a request that asks to change the protocol, or does not.
    #[must_use]
    pub const fn new(upgrade: Option<Protocol>) -> Self {
        Self { passed: 0, upgrade }
    }

    /// Takes the head of the answer to a `method` request off the buffer, if it is all there.
    ///
    /// # Errors
    /// [`Malformed`] for what is no answer.
    pub fn read(&mut self, buffer: &mut BytesMut, method: &Method) -> Result<Option<Head>, Malformed> {
        loop {
            let Some(parsed) = parse(buffer)? else { return Ok(None) };
            match parsed.status {
                StatusCode::SWITCHING_PROTOCOLS => {
                    return parsed.switched(self.upgrade.ok_or(Malformed)?).map(Some);
                }
                status if status.is_informational() => {
                    self.passed += 1;
                    if self.passed > MAX_INFORMATIONAL {
                        return Err(Malformed);
                    }
                }
                _ => return parsed.judge(method).map(Some),
            }
        }
    }
}

impl Framing {
    /// Takes what there is of the body off the buffer.
    ///
    /// # Errors
    /// [`Malformed`] for chunks that are none.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
        match self {
            Self::Length(0) => Ok(Piece::End),
            Self::Length(_) | Self::Close if buffer.is_empty() => Ok(Piece::More),
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= here as u64;
                Ok(Piece::Data(buffer.split_to(here).freeze()))
            }
            Self::Close => Ok(Piece::Data(buffer.split().freeze())),
            Self::Chunked(chunks) => next_of(chunks, buffer),
        }
    }

    /// How many bytes are still to come, at least or at a guess.
    #[must_use]
    pub const fn still_to_come(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(chunks) => chunks.left_of_chunk(),
            Self::Close => u64::MAX,
        }
    }

    /// Whether the body has ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_over(),
            Self::Close => false,
        }
    }
}

/// Takes what there is of a chunked body off the buffer.
fn next_of(chunks: &mut Chunks, buffer: &mut BytesMut) -> Result<Piece, Malformed> {
    let read = chunks.framing(buffer)?;
    buffer.advance(read);
    if chunks.is_over() {
        return Ok(Piece::End);
    }
    let data = buffer.split_to(chunks.data(buffer.len())).freeze();
    if data.is_empty() {
        return Ok(Piece::More);
    }
    // What ends the chunk, and perhaps the body, is read with it where it is there.
    let read = chunks.framing(buffer)?;
    buffer.advance(read);
    Ok(Piece::Data(data))
}

/// A head as it was written.
struct Parsed {
    status: StatusCode,
    is_http_11: bool,
    headers: HeaderMap,
    /// The values of the fields that say where the body ends, and whether the connection goes on.
    lengths: SmallVec<[HeaderValue; 1]>,
    codings: SmallVec<[HeaderValue; 1]>,
    connection: SmallVec<[HeaderValue; 1]>,
    protocols: SmallVec<[HeaderValue; 1]>,
}

fn parse(buffer: &mut BytesMut) -> Result<Option<Parsed>, Malformed> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let Some(length) = length_of_head(buffer)? else {
        // What can be no head is not waited for.
        let begun = config.parse_response_with_uninit_headers(&mut response, buffer, &mut fields);
        return if matches!(begun, Ok(httparse::Status::Partial)) { Ok(None) } else { Err(Malformed) };
    };
    let head = buffer.split_to(length).freeze();
    let read = config.parse_response_with_uninit_headers(&mut response, &head, &mut fields);
    if read != Ok(httparse::Status::Complete(length)) {
        return Err(Malformed);
    }
    let mut parsed = Parsed {
        status: response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed)?,
        is_http_11: response.version == Some(1),
        headers: spare::take(response.headers.len() + 2),
        lengths: SmallVec::new(),
        codings: SmallVec::new(),
        connection: SmallVec::new(),
        protocols: SmallVec::new(),
    };
    for field in response.headers.iter() {
        let name = names::name(field.name.as_bytes())?;
        // A value shares the buffer that it came in.
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| Malformed)?;
        parsed.take(name, value);
    }
    Ok(Some(parsed))
}

/// Where a head ends, if it does: with its first empty line. Nothing comes before its first line.
///
/// # Errors
/// [`Malformed`], when a line does not end in CRLF.
fn length_of_head(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut line = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        match bytes.get(line..end) {
            Some(b"\r") if line > 0 => return Ok(Some(end + 1)),
            Some([_, .., b'\r']) => line = end + 1,
            Some(_) | None => return Err(Malformed),
        }
    }
    Ok(None)
}

impl Parsed {
    fn take(&mut self, name: HeaderName, value: HeaderValue) {
        match name.as_str() {
            "content-length" => self.lengths.push(value),
            "transfer-encoding" => self.codings.push(value),
            "connection" => self.connection.push(value),
            "upgrade" => self.protocols.push(value),
            name if is_hop_by_hop(name) => {}
            _ => drop(self.headers.append(name, value)),
        }
    }

    /// The head of a 101 that changes to what was asked for (RFC 9110 §15.2.2).
    fn switched(mut self, asked: Protocol) -> Result<Head, Malformed> {
        let [protocol] = self.protocols.as_slice() else { return Err(Malformed) };
        let is_asked = Protocol::of(protocol.as_bytes()) == Some(asked);
        let is_named = self.connection.iter().any(|field| says(field, "upgrade"));
        if !is_asked || !is_named || !self.is_http_11 || !self.lengths.is_empty() || !self.codings.is_empty() {
            return Err(Malformed);
        }
        for name in self.connection.iter().flat_map(named_by) {
            self.headers.remove(name);
        }
        self.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        self.headers.insert(UPGRADE, HeaderValue::from_static(asked.token()));
        Ok(Head { status: self.status, headers: self.headers, framing: Framing::Length(0), is_persistent: false })
    }

    fn judge(mut self, method: &Method) -> Result<Head, Malformed> {
        let length = self.length()?;
        let is_chunked = self.is_chunked()?;
        let has_body = *method != Method::HEAD && !matches!(self.status.as_u16(), 204 | 304);
        let framing = match (has_body, is_chunked, length) {
            (_, true, Some(_)) => return Err(Malformed),
            (false, _, _) => Framing::Length(0),
            (true, true, None) => Framing::Chunked(Chunks::default()),
            (true, false, Some(length)) => Framing::Length(length),
            (true, false, None) => Framing::Close,
        };
        // SECURITY: a server that sends a body where there is none would have it read as the answer to
        // the next request. Of HEAD the fields cannot tell.
        let may_have_more = !has_body && (*method == Method::HEAD || is_chunked || self.has_odd_length(length));
        let is_persistent = self.is_persistent() && !matches!(framing, Framing::Close) && !may_have_more;
        for name in self.connection.iter().flat_map(named_by) {
            self.headers.remove(name);
        }
        // 204 has no length (RFC 9110 §8.6); of HEAD and 304 it says what there would have been.
        if let (Some(value), true) = (self.lengths.pop(), self.status != StatusCode::NO_CONTENT) {
            self.headers.insert(CONTENT_LENGTH, value);
        }
        Ok(Head { status: self.status, headers: self.headers, framing, is_persistent })
    }

    /// A length where there is no body: 204 has none; of 304 it is what there would have been.
    fn has_odd_length(&self, length: Option<u64>) -> bool {
        self.status == StatusCode::NO_CONTENT && length.is_some_and(|length| length > 0)
    }

    fn length(&self) -> Result<Option<u64>, Malformed> {
        let Some(first) = self.lengths.first() else { return Ok(None) };
        let is_digits = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
        if !is_digits || self.lengths.iter().any(|other| other != first) {
            return Err(Malformed);
        }
        first.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or(Malformed)
    }

    fn is_chunked(&self) -> Result<bool, Malformed> {
        match self.codings.as_slice() {
            [] => Ok(false),
            [coding] if self.is_http_11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn is_persistent(&self) -> bool {
        let says = |option: &str| self.connection.iter().any(|field| says(field, option));
        if self.connection.is_empty() {
            return self.is_http_11;
        }
        !says("close") && (self.is_http_11 || says("keep-alive"))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

//! A client of HTTP/2 that writes frames by hand, so that it can write wrong ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use loona_hpack::Decoder;
use rustls::ClientConfig;

use super::client::Answer;
use super::tls::TlsClient;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block without compression (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            // A length in seven bits, and more where it needs more (RFC 7541 §5.1).
            if text.len() < 127 {
                out.push(text.len() as u8);
            } else {
                out.push(127);
                let mut left = text.len() - 127;
                while left >= 128 {
                    out.push((left % 128) as u8 | 128);
                    left /= 128;
                }
                out.push(left as u8);
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// The fields of a request, with those that are given after the pseudo-header fields.
pub fn request<'f>(method: &'f str, path: &'f str, more: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    [&[(":method", method), (":scheme", "http"), (":path", path), (":authority", "gw.test")], more].concat()
}

/// A settings frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    Answered(Answer, Vec<(String, String)>),
    Reset(u32),
    /// GOAWAY with this code, or the end of the connection without one.
    Gone(Option<u32>),
}

pub trait Socket: Read + Write {}
impl<T: Read + Write> Socket for T {}

/// One connection.
pub struct H2 {
    pub socket: Box<dyn Socket>,
    decoder: Decoder<'static>,
    /// Frames of other streams that came while one was waited for.
    pub waiting: Vec<Frame>,
    /// Whether pings are answered, and a farewell noticed.
    pub is_polite: bool,
    /// Whether the server has said that it ends.
    pub is_ending: bool,
    /// How much of each body the server takes before it says more (RFC 9113 §6.5.2).
    pub window: usize,
    next: u32,
}

impl H2 {
    /// A connection on which nothing has been said.
    pub fn raw(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway takes connections");
        stream.set_read_timeout(Some(super::DEADLINE)).expect("a time limit");
        stream.set_nodelay(true).expect("no delay");
        Self::on(Box::new(stream))
    }

    fn on(socket: Box<dyn Socket>) -> Self {
        Self {
            socket,
            decoder: Decoder::new(),
            waiting: Vec::new(),
            is_polite: false,
            is_ending: false,
            window: 65_535,
            next: 1,
        }
    }

    /// A connection that has begun, with prior knowledge.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &[])
    }

    /// The same with settings.
    pub fn connect_with(address: SocketAddr, values: &[(u16, u32)]) -> Self {
        let mut client = Self::raw(address);
        client.begin(values);
        client
    }

    /// A connection that has begun, over TLS.
    pub fn over_tls(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        let mut config = (**config).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let client = TlsClient::connect(address, &Arc::new(config), name).expect("a handshake");
        assert_eq!(client.0.conn.alpn_protocol(), Some(&b"h2"[..]));
        let mut client = Self::on(Box::new(client.0));
        client.begin(&[]);
        client
    }

    fn begin(&mut self, values: &[(u16, u32)]) {
        self.write(&[PREFACE, &settings(values)].concat());
        let first = self.frame().expect("settings");
        assert_eq!((first.kind, first.flags), (SETTINGS, 0), "the server's settings come first");
        if let Some(window) = first.payload.chunks(6).find_map(|setting| setting.strip_prefix(&[0, 4])) {
            self.window = u32::from_be_bytes(window.try_into().expect("four bytes")) as usize;
        }
        self.write(&frame(SETTINGS, ACK, 0, &[]));
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).and_then(|()| self.socket.flush()).expect("the connection is open");
    }

    /// `None` when the connection is gone.
    pub fn try_write(&mut self, bytes: &[u8]) -> Option<()> {
        self.socket.write_all(bytes).and_then(|()| self.socket.flush()).ok()
    }

    /// The next frame; `None` at the end of the connection.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.socket.read_exact(&mut header).ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let stream = u32::from_be_bytes(header[5..9].try_into().expect("four bytes"));
        let mut payload = vec![0; length];
        self.socket.read_exact(&mut payload).ok()?;
        Some(Frame { kind: header[3], flags: header[4], stream, payload })
    }

    /// The next frame that is wanted, those before it passed over; `None` at the end of the connection.
    pub fn frame_until(&mut self, is_wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.frame()?;
            if is_wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// The next frame of one kind; those before it are passed over.
    pub fn frame_of(&mut self, kind: u8) -> Frame {
        self.frame_until(|frame| frame.kind == kind).expect("the connection goes on")
    }

    /// A stream that was not used yet.
    pub fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Sends the head of a request, and its body if it has one; returns the stream.
    pub fn ask(&mut self, fields: &[(&str, &str)], body: Option<&[u8]>) -> u32 {
        let stream = self.stream();
        let end = if body.is_some() { 0 } else { END_STREAM };
        let mut bytes = frame(HEADERS, END_HEADERS | end, stream, &block(fields));
        if let Some(body) = body {
            let mut pieces = body.chunks(16 * 1024).peekable();
            while let Some(piece) = pieces.next() {
                bytes.extend(frame(DATA, if pieces.peek().is_none() { END_STREAM } else { 0 }, stream, piece));
            }
            if body.is_empty() {
                bytes.extend(frame(DATA, END_STREAM, stream, &[]));
            }
        }
        self.write(&bytes);
        stream
    }

    /// Sends a request and reads its answer.
    pub fn send(&mut self, fields: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
        let stream = self.ask(fields, body);
        self.answer(stream)
    }

    /// `GET path`, with a token if there is one.
    pub fn get(&mut self, path: &str, token: Option<&str>) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let more: Vec<_> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
        self.send(&request("GET", path, &more), None)
    }

    #[track_caller]
    pub fn answer(&mut self, stream: u32) -> Answer {
        match self.outcome(stream) {
            Outcome::Answered(answer, _) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }

    fn take(&mut self, stream: u32) -> Option<Frame> {
        let is_ours = |frame: &Frame| frame.stream == stream || frame.kind == GOAWAY;
        match self.waiting.iter().position(is_ours) {
            Some(place) => Some(self.waiting.remove(place)),
            None => loop {
                let frame = self.frame()?;
                if self.is_polite && frame.kind == PING && frame.flags & ACK == 0 {
                    self.try_write(&super::h2::frame(PING, ACK, 0, &frame.payload))?;
                }
                self.is_ending |= frame.kind == GOAWAY;
                if is_ours(&frame) {
                    return Some(frame);
                }
                if frame.stream != 0 {
                    self.waiting.push(frame);
                }
            },
        }
    }

    /// Reads until it is known what became of a request. Header blocks are read in the order in which
    /// they come only where one request is under way.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let mut answer = Answer { status: 0, headers: Vec::new(), body: Vec::new() };
        let mut trailers = Vec::new();
        loop {
            let Some(frame) = self.take(stream) else { return Outcome::Gone(None) };
            match frame.kind {
                HEADERS => {
                    assert!(frame.flags & END_HEADERS != 0, "answers' heads are short here");
                    let fields = self.decode(&frame.payload);
                    if answer.status >= 200 {
                        trailers = fields;
                    } else {
                        let status = fields.iter().find(|(name, _)| name == ":status").expect("a status");
                        answer.status = status.1.parse().expect("a number");
                        answer.headers = fields;
                    }
                }
                DATA => {
                    answer.body.extend_from_slice(&frame.payload);
                    if !frame.payload.is_empty() {
                        let more = u32::try_from(frame.payload.len()).expect("a length").to_be_bytes();
                        let updates =
                            [0, stream].map(|stream| super::h2::frame(WINDOW_UPDATE, 0, stream, &more)).concat();
                        let _gone = self.try_write(&updates);
                    }
                }
                RST_STREAM if answer.status == 0 || frame.code() != 0 => return Outcome::Reset(frame.code()),
                GOAWAY if frame.code() != 0 => return Outcome::Gone(Some(frame.code())),
                _ => {}
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return Outcome::Answered(answer, trailers);
            }
        }
    }

    /// Must be called for every header block, in the order in which they came.
    pub fn decode(&mut self, block: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let fields = self.decoder.decode(block).expect("a header block");
        fields.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// Reads to the end of the connection: the code of its last GOAWAY.
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.frame() {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }

    /// Whether the connection answers a ping.
    pub fn is_alive(&mut self) -> bool {
        if self.try_write(&frame(PING, 0, 0, b"is alive")).is_none() {
            return false;
        }
        loop {
            match self.frame() {
                None => return false,
                Some(frame) if frame.kind == PING && frame.payload == b"is alive" => return frame.flags == ACK,
                Some(frame) => self.waiting.push(frame),
            }
        }
    }
}

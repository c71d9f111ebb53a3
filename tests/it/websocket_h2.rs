//! WebSockets on streams of HTTP/2 (RFC 8441): another library's messages, on frames by hand.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::support::gateway::{config, customer, token};
use crate::support::h2::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, H2, HEADERS, Outcome, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame, request, settings,
};
use crate::support::{Gateway, Upstream, until};
use crate::websocket::{ROUTES, SWITCH, agree_late, closed_with, service};

const SAID: &[(&str, &str)] = &[("sec-websocket-version", "13"), ("origin", "https://shop.test")];

/// The fields that ask for a protocol.
fn asks<'f>(protocol: &'f str, path: &'f str, more: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    let fields = [(":method", "CONNECT"), (":protocol", protocol), (":scheme", "http"), (":path", path)];
    [&fields[..], &[(":authority", "gw.test")], more].concat()
}

/// Asks for a protocol on a stream of its own; its head does not end the stream.
fn ask(client: &mut H2, fields: &[(&str, &str)]) -> u32 {
    let stream = client.stream();
    client.write(&frame(HEADERS, END_HEADERS, stream, &block(fields)));
    stream
}

/// What became of it: the status, and the fields.
fn answered(client: &mut H2, stream: u32) -> (u16, Vec<(String, String)>) {
    let head = loop {
        let frame = client.frame().expect("a frame");
        match frame.kind {
            HEADERS if frame.stream == stream => break frame,
            RST_STREAM if frame.stream == stream => panic!("reset: {}", frame.code()),
            _ => client.waiting.push(frame),
        }
    };
    let fields = client.decode(&head.payload);
    let status = fields.iter().find(|(name, _)| name == ":status").expect("a status").1.parse().expect("a number");
    (status, fields)
}

/// A stream's bytes, as one connection of its own would carry them.
struct Wire {
    client: H2,
    stream: u32,
    come: Vec<u8>,
    /// What may be sent on the connection and on the stream.
    windows: [usize; 2],
    is_over: bool,
    reset: Option<u32>,
    is_going_away: bool,
}

impl Wire {
    fn new(client: H2, stream: u32) -> Self {
        let windows = [65_535, client.window];
        let (come, is_over, reset, is_going_away) = (Vec::new(), false, None, false);
        let mut wire = Self { client, stream, come, windows, is_over, reset, is_going_away };
        for frame in std::mem::take(&mut wire.client.waiting) {
            wire.see(&frame);
        }
        wire
    }

    fn see(&mut self, frame: &Frame) {
        let is_ours = frame.stream == self.stream;
        match frame.kind {
            DATA if is_ours => {
                self.come.extend_from_slice(&frame.payload);
                if !frame.payload.is_empty() {
                    let more = u32::try_from(frame.payload.len()).expect("a length").to_be_bytes();
                    let updates = [0, self.stream].map(|stream| self::frame(WINDOW_UPDATE, 0, stream, &more)).concat();
                    let _gone = self.client.try_write(&updates);
                }
                self.is_over |= frame.flags & END_STREAM != 0;
            }
            RST_STREAM if is_ours => self.reset = Some(frame.code()),
            WINDOW_UPDATE if is_ours || frame.stream == 0 => {
                let more = u32::from_be_bytes(frame.payload[..4].try_into().expect("four bytes"));
                self.windows[usize::from(is_ours)] += more as usize;
            }
            PING if frame.flags & ACK == 0 => {
                let _gone = self.client.try_write(&self::frame(PING, ACK, 0, &frame.payload));
            }
            GOAWAY => self.is_going_away = true,
            _ => {}
        }
    }

    /// Reads one frame more.
    fn go_on(&mut self) -> io::Result<()> {
        if let Some(code) = self.reset {
            return Err(io::Error::other(format!("reset: {code}")));
        }
        let frame = self.client.frame().ok_or(io::ErrorKind::ConnectionReset)?;
        self.see(&frame);
        Ok(())
    }
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.come.is_empty() && !self.is_over {
            self.go_on()?;
        }
        let here = room.len().min(self.come.len());
        room[..here].copy_from_slice(&self.come[..here]);
        self.come.drain(..here);
        Ok(here)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.windows.contains(&0) {
            self.go_on()?;
        }
        let here = bytes.len().min(16 * 1024).min(self.windows[0]).min(self.windows[1]);
        self.windows.iter_mut().for_each(|window| *window -= here);
        let sent = self.client.try_write(&frame(DATA, 0, self.stream, &bytes[..here]));
        sent.map(|()| here).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start() -> Gateway {
    Gateway::start(&config(service(), ROUTES))
}

/// A WebSocket on a stream of a new connection.
fn connect(gateway: &Gateway, path: &str, token: Option<&str>) -> WebSocket<Wire> {
    let mut client = H2::connect(gateway.address);
    let bearer = token.map(|token| format!("Bearer {token}"));
    let bearer: Vec<_> = bearer.iter().map(|value| ("authorization", value.as_str())).collect();
    let stream = ask(&mut client, &asks("websocket", path, &[SAID, &bearer].concat()));
    let (status, fields) = answered(&mut client, stream);
    assert_eq!(status, 200, "{fields:?}");
    WebSocket::from_raw_socket(Wire::new(client, stream), Role::Client, None)
}

#[test]
fn clients_of_http_2_are_told_that_they_may_ask() {
    let gateway = start();
    let mut client = H2::raw(gateway.address);
    client.write(&[PREFACE, &settings(&[])].concat());
    let first = client.frame_of(SETTINGS);
    assert!(first.payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "{:?}", first.payload);
}

/// What ends a connection has its line, though the parser says nothing of it.
#[test]
fn a_connect_that_ends_its_connection_is_counted_and_logged() {
    let gateway = start();
    let mut socket = connect(&gateway, "/chat", Some(&customer()));
    socket.read().expect("the head");
    let before = gateway.metric("heads_refused_total{reason=\"malformed_head\"}");
    let client = &mut socket.get_mut().client;
    let _stream = ask(client, &asks("websocket", "/chat", &[SAID, &[("content-length", "5")]].concat()));
    until("its connection is given up", || !client.is_alive());
    until("it is counted", || gateway.metric("heads_refused_total{reason=\"malformed_head\"}") == before + 1.0);
    until("it is logged", || gateway.lines().iter().any(|line| line.contains("a head was refused")));
}

#[test]
fn messages_go_both_ways_beside_other_requests() {
    let gateway = start();
    let mut socket = connect(&gateway, "/chat?x=1", Some(&customer()));
    let seen = socket.read().expect("a message").into_text().expect("text");
    assert!(seen.starts_with("/chat?x=1 "), "{seen}");
    for field in [
        "\"x-user-roles\": \"customer\"",
        "\"host\": \"gw.test\"",
        "\"upgrade\": \"websocket\"",
        "\"connection\": \"upgrade\"",
        "\"sec-websocket-version\": \"13\"",
        "\"origin\": \"https://shop.test\"",
    ] {
        assert!(seen.contains(field), "{field}: {seen}");
    }
    assert!(!seen.contains("authorization") && !seen.contains("protocol"), "{seen}");
    for size in [0, 1, 125, 126, 65_535, 65_536, 3_000_000] {
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).expect("sent");
        assert_eq!(socket.read().expect("a message"), message, "{size}");
    }
    // The connection has other streams.
    let client = &mut socket.get_mut().client;
    assert_eq!(client.get("/nowhere", None).status, 404);
    socket.send(Message::text("still here")).expect("sent");
    assert_eq!(socket.read().expect("a message"), Message::text("still here"));
    socket.close(None).expect("closed");
    while socket.read().is_ok() {}
    assert!(socket.get_ref().is_over, "the stream has ended");
    until("the line is written", || gateway.access_lines().iter().any(|line| line["route"] == "chat"));
    let line = gateway.access_lines().into_iter().find(|line| line["route"] == "chat").expect("a line");
    assert_eq!((line["outcome"].as_str(), line["status"].as_u64()), (Some("ok"), Some(200)));
    assert_eq!(line["method"], "GET", "{line}");
    assert!(line["bytes"].as_u64().expect("a number") > 3_000_000, "{line}");
    assert_eq!(socket.get_mut().client.get("/nowhere", None).status, 404);
}

#[test]
fn a_stream_that_asks_is_decided_on_like_every_request() {
    let gateway = start();
    let (good, poor) = (customer(), token(&json!({ "roles": ["admin"] })));
    let bearer = |token: &str| format!("Bearer {token}");
    let (good, poor, spoilt) = (bearer(&good), bearer(&poor), bearer(&format!("{good}AAAA")));
    let mut client = H2::connect(gateway.address);
    for (protocol, path, token, status, outcome) in [
        ("websocket", "/chat", None, 401, "missing_token"),
        ("websocket", "/chat", Some(&poor), 403, "missing_role"),
        ("websocket", "/chat", Some(&spoilt), 401, "bad_signature"),
        ("websocket", "/none", Some(&good), 404, "no_route"),
        ("websocket", "/chat/%2e%2e", Some(&good), 400, "ambiguous_path"),
        // As a plain GET it would be answered 200, and the client would take that for its WebSocket.
        ("websocket", "/open/x", None, 501, "protocol_not_offered"),
        ("connect-udp", "/chat", Some(&good), 501, "protocol_not_offered"),
        ("h2c", "/chat", Some(&good), 501, "protocol_not_offered"),
        ("", "/chat", Some(&good), 501, "protocol_not_offered"),
    ] {
        let bearer: Vec<_> = token.iter().map(|value| ("authorization", value.as_str())).collect();
        let stream = ask(&mut client, &asks(protocol, path, &[SAID, &bearer].concat()));
        let answer = client.answer(stream);
        assert_eq!(answer.status, status, "{protocol} {path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(gateway.line_of(&answer)["outcome"], outcome);
    }
    // What is told to callers of gRPC has the status 200.
    let stream = ask(&mut client, &asks("websocket", "/chat", &[("content-type", "application/grpc")]));
    assert_eq!(client.answer(stream).status, 401);
    // A protocol with another method is no request at all (RFC 8441 §4).
    let stream = ask(&mut client, &request("GET", "/chat", &[(":protocol", "websocket")]));
    assert!(matches!(client.outcome(stream), Outcome::Reset(1)));
    assert!(client.is_alive());
}

#[test]
fn a_stream_whose_token_is_taken_back_is_closed_with_1008_and_the_others_go_on() {
    let gateway = start();
    let mut gone = connect(&gateway, "/chat", Some(&token(&json!({ "roles": ["customer"], "jti": "gone" }))));
    let mut good = connect(&gateway, "/chat", Some(&token(&json!({ "roles": ["customer"], "jti": "good" }))));
    let revoked = Instant::now();
    assert_eq!(gateway.admin("POST", "/revocations", &json!({ "jti": "gone" }).to_string()).status, 200);
    assert_eq!(closed_with(&mut gone), Some(CloseCode::Policy));
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
    assert_eq!(gone.get_mut().client.get("/nowhere", None).status, 404);
    good.read().expect("the head");
    good.send(Message::text("still here")).expect("sent");
    assert_eq!(good.read().expect("a message"), Message::text("still here"));
    until("it is logged", || gateway.access_lines().iter().any(|line| line["outcome"] == "taken_back"));
}

#[test]
fn a_stream_outlives_a_reload_and_a_drain_says_1001() {
    let upstream = service();
    let mut gateway = Gateway::start_with(&config(upstream, ROUTES), &["--no-watch"]);
    let mut socket = connect(&gateway, "/chat", Some(&customer()));
    socket.read().expect("the head");
    assert!(gateway.reload(&config(upstream, "")));
    socket.send(Message::text("one")).expect("sent");
    assert_eq!(socket.read().expect("a message"), Message::text("one"));
    gateway.signal("TERM");
    assert_eq!(closed_with(&mut socket), Some(CloseCode::Away));
    assert!(socket.get_ref().is_going_away, "no new stream is taken");
    drop(socket);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_silent_stream_ends_after_its_time_and_the_connection_goes_on() {
    let gateway = start();
    let mut socket = connect(&gateway, "/quiet", None);
    socket.read().expect("the head");
    let fell_silent = Instant::now();
    assert_eq!(closed_with(&mut socket), Some(CloseCode::Away));
    assert!(fell_silent.elapsed() >= Duration::from_millis(300) && fell_silent.elapsed() < Duration::from_secs(5));
    assert_eq!(socket.get_mut().client.get("/nowhere", None).status, 404);
}

// What a client gives back for what it reads is no flood: it is paid by what is sent to it.
#[test]
fn much_in_small_pieces_floods_nobody() {
    let gateway = start();
    let mut socket = connect(&gateway, "/chat", Some(&customer()));
    socket.read().expect("the head");
    for number in 0..2_000 {
        socket.send(Message::text("x")).expect("sent");
        assert_eq!(socket.read().expect("a message"), Message::text("x"), "{number}");
    }
}

#[test]
fn threat_68_only_a_service_that_has_agreed_to_this_very_handshake_is_200() {
    let upstream = Upstream::scripted(|seen, stream| {
        let accept = seen.value("sec-websocket-key").map(|key| derive_accept_key(key.as_bytes())).unwrap_or_default();
        let accept = format!("sec-websocket-accept: {accept}\r\n");
        let answer = match seen.line().split(' ').nth(1).unwrap_or_default() {
            "/raw/good" => return agree_late(stream, &format!("{accept}sec-websocket-protocol: chat\r\n")),
            "/raw/unaccepted" => format!("{SWITCH}\r\n"),
            "/raw/other" => format!("{SWITCH}sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
            "/raw/twice" => format!("{SWITCH}{accept}{accept}\r\n"),
            "/raw/unnamed" => format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n{accept}\r\n"),
            "/raw/200" => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            "/raw/204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "/raw/302" => "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 2\r\n\r\nno".to_owned(),
            _ => "HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nno".to_owned(),
        };
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ROUTES));
    let mut client = H2::connect(gateway.address);
    // Sent together with the request, it is held until the service has agreed; the strict reader at the service
    // would have taken it for a request. What the client says of the handshake itself goes no further.
    let forged = [("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];
    let stream = ask(&mut client, &asks("websocket", "/raw/good", &[SAID, &forged].concat()));
    client.write(&frame(DATA, 0, stream, b"early"));
    let (status, fields) = answered(&mut client, stream);
    assert_eq!(status, 200);
    for name in ["connection", "upgrade", "sec-websocket-accept", "content-length", "transfer-encoding"] {
        assert!(fields.iter().all(|(field, _)| field != name), "{fields:?}");
    }
    assert!(fields.contains(&("sec-websocket-protocol".to_owned(), "chat".to_owned())), "{fields:?}");
    let mut wire = Wire::new(client, stream);
    let mut heard = String::new();
    wire.read_to_string(&mut heard).expect("text");
    assert_eq!(heard, "firstearly");
    let head = upstream.seen().remove(0).head;
    assert!(head.starts_with("GET /raw/good HTTP/1.1\r\n"), "{head}");
    assert_eq!(head.matches("sec-websocket-key: ").count(), 1, "{head}");
    assert!(!head.contains("dGhlIHNhbXBsZSBub25jZQ==") && !head.contains("protocol"), "{head}");
    let mut client = wire.client;
    for (path, expected) in [
        ("/raw/unaccepted", 502),
        ("/raw/other", 502),
        ("/raw/twice", 502),
        ("/raw/unnamed", 502),
        ("/raw/200", 502),
        ("/raw/204", 502),
        ("/raw/302", 302),
        ("/raw/426", 426),
    ] {
        let stream = ask(&mut client, &asks("websocket", path, SAID));
        let answer = client.answer(stream);
        assert_eq!(answer.status, expected, "{path}");
        assert_eq!(client.get("/raw/next", None).status, 426, "another's answer is its own: {path}");
    }
    let keys: Vec<String> =
        upstream.seen().iter().filter_map(|seen| seen.value("sec-websocket-key").map(str::to_owned)).collect();
    let mut others = keys.clone();
    others.sort_unstable();
    others.dedup();
    assert_eq!((keys.len(), others.len()), (9, 9), "each has a key of its own");
}

#[test]
fn a_client_that_leaves_takes_the_service_s_connection_with_it() {
    for leave in [RST_STREAM, GOAWAY, DATA] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let gateway = Gateway::start(&config(listener.local_addr().expect("an address"), ROUTES));
        let mut client = H2::connect(gateway.address);
        let stream = ask(&mut client, &asks("websocket", "/raw/x", SAID));
        let (mut service, _) = listener.accept().expect("a connection");
        let mut head = [0; 4096];
        let read = service.read(&mut head).expect("the head");
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
        let accept = derive_accept_key(key.as_bytes());
        service.write_all(format!("{SWITCH}sec-websocket-accept: {accept}\r\n\r\n").as_bytes()).expect("written");
        assert_eq!(answered(&mut client, stream).0, 200);
        match leave {
            RST_STREAM => client.write(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())),
            DATA => client.write(&frame(DATA, END_STREAM, stream, b"")),
            _ => drop(client.socket.flush()),
        }
        let client = (leave != GOAWAY).then_some(client);
        service.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        assert_eq!(service.read(&mut [0]).expect("the end"), 0, "{leave}");
        if let Some(mut client) = client {
            drop(service);
            assert!(client.is_alive());
        }
    }
}

/// A service that agrees and sends back what it hears, to its end and beyond; others get twenty bytes.
fn stubborn() -> Upstream {
    Upstream::scripted(|seen, stream| {
        let Some(key) = seen.value("sec-websocket-key") else {
            return stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}", "x".repeat(20)).as_bytes())
                .is_ok();
        };
        drop(stream.write_all(
            format!("{SWITCH}sec-websocket-accept: {}\r\n\r\n", derive_accept_key(key.as_bytes())).as_bytes(),
        ));
        let mut heard = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut heard) {
            drop(stream.write_all(&heard[..read]));
        }
        std::thread::park();
        false
    })
}

// After the end of its half a stream may be reset, and nobody is told.
#[test]
fn a_service_that_does_not_end_holds_no_stream_whose_client_has_ended() {
    let upstream = stubborn();
    let gateway = Gateway::start(&config(upstream.address, ROUTES));
    let mut client = H2::connect(gateway.address);
    let stream = ask(&mut client, &asks("websocket", "/raw/x", SAID));
    assert_eq!(answered(&mut client, stream).0, 200);
    client.write(&frame(DATA, END_STREAM, stream, b""));
    assert!(client.is_alive());
    client.write(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    until("it is let go", || gateway.access_lines().iter().any(|line| line["route"] == "raw"));
    assert!(client.is_alive());
}

#[test]
fn an_answer_that_is_not_taken_ends_no_websocket_beside_it() {
    let upstream = stubborn();
    let yaml =
        config(upstream.address, ROUTES).replace("realm: test }", "realm: test, limits: { send_timeout: 300ms } }");
    let mut gateway = Gateway::start(&yaml);
    // Of each answer ten bytes are taken.
    let mut client = H2::connect_with(gateway.address, &[(4, 10)]);
    let stream = ask(&mut client, &asks("websocket", "/raw/x", SAID));
    assert_eq!(answered(&mut client, stream).0, 200);
    client.write(&frame(WINDOW_UPDATE, 0, stream, &60_000_u32.to_be_bytes()));
    client.ask(&request("GET", "/open/x", &[]), None);
    // It cannot be reset any more: the connection is told to end, when the rest of it has.
    let ending = client.frame_of(GOAWAY);
    assert_eq!(ending.code(), 0);
    let mut wire = Wire::new(client, stream);
    let mut heard = [0; 5];
    for _ in 0..3 {
        wire.write_all(b"\x81\x03yes").expect("sent");
        wire.read_exact(&mut heard).expect("heard");
        assert_eq!(&heard, b"\x81\x03yes");
        std::thread::sleep(Duration::from_millis(300));
    }
    gateway.signal("TERM");
    let mut farewell = Vec::new();
    wire.read_to_end(&mut farewell).expect("the end");
    assert_eq!(farewell, [0x88, 2, 3, 0xe9], "going away");
    drop(wire);
    assert_eq!(gateway.wait().code(), Some(0));
}

//! Frames of HTTP/2 that are wrong, one after another by the chapters of RFC 9113, and frames that are
//! right and too many. After each of them another client gets its own answer.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::gateway::token;
use crate::support::h2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, Outcome, PADDED, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, request, settings,
};
use crate::support::{Gateway, Upstream, config, until};

// RFC 9113 §7. Of header compression the parser says PROTOCOL where COMPRESSION is the name for it; the
// connection ends all the same. So of streams that it has forgotten, where STREAM_CLOSED is the name, and of
// what is wrong in a frame by itself, where FRAME_SIZE or FLOW_CONTROL is.
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const CANCEL: u32 = 8;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;
const WRONG_SIZE: &[u32] = &[FRAME_SIZE, PROTOCOL];

/// What is right after some frames.
enum Right {
    /// The connection ends with one of these codes.
    Connection(&'static [u32]),
    /// Stream 1 is reset with one of these codes, or the connection ends with it.
    Stream(&'static [u32]),
    /// Stream 1 is reset, or its request answered with 400 (RFC 9113 §8.1.1).
    Malformed,
    /// It goes on.
    GoesOn,
}
use Right::{Connection, GoesOn, Malformed, Stream};

/// The head of a request on a stream, without its flags.
fn head(flags: u8, stream: u32) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(&request("POST", "/open/x", &[])))
}

/// A request that has begun and waits for its body.
fn open() -> Vec<u8> {
    head(END_HEADERS, 1)
}

/// A request that is whole.
fn whole() -> Vec<u8> {
    head(END_HEADERS | END_STREAM, 1)
}

#[track_caller]
fn check(gateway: &Gateway, section: &str, frames: &[Vec<u8>], right: &Right) {
    let mut client = H2::connect(gateway.address);
    // It may have ended before all of it is written.
    let _gone = client.try_write(&frames.concat());
    match right {
        GoesOn => assert!(client.is_alive(), "{section}: it goes on"),
        Malformed => match client.outcome(1) {
            Outcome::Reset(code) => assert_eq!(code, PROTOCOL, "{section}"),
            Outcome::Answered(answer, _) => assert_eq!(answer.status, 400, "{section}"),
            Outcome::Gone(code) => panic!("{section}: {code:?}"),
        },
        Connection(codes) => {
            let code = client.end();
            assert!(code.is_some_and(|code| codes.contains(&code)), "{section}: {code:?}, and not {codes:?}");
        }
        Stream(codes) => {
            // A ping is answered before what else is to be said; after the second one all of it has been.
            let mut pings = 0;
            let ended = loop {
                let ping = [&b"number "[..], &[b'0' + pings]].concat();
                let _gone = client.try_write(&frame(PING, 0, 0, &ping));
                match client.frame_until(|it| matches!(it.kind, PING | RST_STREAM | GOAWAY)) {
                    Some(it) if it.kind == PING && pings < 2 => pings += 1,
                    Some(it) if it.kind != PING => break Some(it.code()),
                    Some(_) | None => break None,
                }
            };
            assert!(ended.is_some_and(|code| codes.contains(&code)), "{section}: {ended:?}, and not {codes:?}");
        }
    }
    assert_eq!(gateway.get("/open/canary", None).status, 200, "{section}: others are served");
}

#[test]
fn threat_75_wrong_frames_end_what_they_belong_to_by_every_chapter_of_rfc_9113() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let update = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let reset = |stream| frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    let priority = |stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16]);
    let field = block(&[("x", "y")]);
    let late = |flags| frame(HEADERS, flags, 1, &field);
    let of = |fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
    let cases: Vec<(&str, Vec<Vec<u8>>, Right)> = vec![
        ("4.1 an unknown type", vec![frame(0xfa, 0xff, 0, b"x"), frame(0xfa, 0, 1, b"x")], GoesOn),
        ("4.1 unknown flags", vec![frame(PING, 0xf6, 0, b"12345678")], GoesOn),
        ("4.1 the reserved bit", vec![frame(PING, 0, 0x8000_0000, b"12345678")], GoesOn),
        ("4.2 a piece that is too large", vec![open(), frame(DATA, 0, 1, &[0; 16_385])], Stream(WRONG_SIZE)),
        ("4.2 a head that is too large", vec![frame(HEADERS, 4, 1, &[0; 16_385])], Connection(WRONG_SIZE)),
        ("4.2 settings that are too large", vec![frame(SETTINGS, 0, 0, &[0; 16_386])], Connection(WRONG_SIZE)),
        ("4.3 no header block", vec![frame(HEADERS, 5, 1, &[0x40, 1])], Connection(&[COMPRESSION, PROTOCOL])),
        ("4.3 an index of nothing", vec![frame(HEADERS, 5, 1, &[0xff, 0xff, 1])], Connection(&[COMPRESSION, PROTOCOL])),
        (
            "4.3 a table that is too large",
            vec![frame(HEADERS, 5, 1, &[0x3f, 0xff, 0xff, 1])],
            Connection(&[COMPRESSION, PROTOCOL]),
        ),
        (
            "4.3 bad Huffman",
            vec![frame(HEADERS, 5, 1, &[0, 0x81, 0xff, 0x81, 0xff])],
            Connection(&[COMPRESSION, PROTOCOL]),
        ),
        ("4.3 priority in a block", vec![head(0, 1), priority(1)], Connection(&[PROTOCOL])),
        ("4.3 another head in a block", vec![head(0, 1), head(5, 3)], Connection(&[PROTOCOL])),
        ("5.1 idle: a piece", vec![frame(DATA, 1, 1, b"x")], Connection(&[PROTOCOL])),
        ("5.1 idle: a reset", vec![reset(1)], Connection(&[PROTOCOL])),
        ("5.1 idle: a window", vec![update(1, 100)], Connection(&[PROTOCOL])),
        ("5.1 idle: a continuation", vec![frame(CONTINUATION, 4, 1, &field)], Connection(&[PROTOCOL])),
        ("5.1 half-closed: a piece", vec![whole(), frame(DATA, 1, 1, b"x")], Stream(&[STREAM_CLOSED, PROTOCOL])),
        ("5.1 half-closed: a head", vec![whole(), head(5, 1)], Stream(&[STREAM_CLOSED, PROTOCOL])),
        ("5.1 half-closed: a window and a priority", vec![whole(), update(1, 1), priority(1)], GoesOn),
        ("5.1 closed: a piece", vec![open(), reset(1), frame(DATA, 1, 1, b"x")], Stream(&[STREAM_CLOSED, PROTOCOL])),
        ("5.1 closed: a head", vec![open(), reset(1), head(5, 1)], Stream(&[STREAM_CLOSED, PROTOCOL])),
        (
            "5.1 closed: a window, a reset, a priority",
            vec![open(), reset(1), update(1, 1), reset(1), priority(1)],
            GoesOn,
        ),
        ("5.1.1 an even number", vec![head(5, 2)], Connection(&[PROTOCOL])),
        ("5.1.1 a number that was passed", vec![head(5, 5), head(5, 3)], Connection(&[PROTOCOL, STREAM_CLOSED])),
        ("5.5 an unknown type in a block", vec![head(0, 1), frame(0xfa, 0, 1, b"x")], Connection(&[PROTOCOL])),
        ("6.1 a piece of no stream", vec![frame(DATA, 1, 0, b"x")], Connection(&[PROTOCOL])),
        (
            "6.1 more padding than there is",
            vec![open(), frame(DATA, PADDED | 1, 1, &[5, 0, 0])],
            Connection(&[PROTOCOL]),
        ),
        ("6.1 padding without a length", vec![open(), frame(DATA, PADDED | 1, 1, &[])], Connection(WRONG_SIZE)),
        ("6.2 a head of no stream", vec![head(5, 0)], Connection(&[PROTOCOL])),
        ("6.2 more padding than there is", vec![frame(HEADERS, PADDED | 5, 1, &[9, 0, 1])], Connection(&[PROTOCOL])),
        ("6.2 a piece in a block", vec![head(0, 1), frame(DATA, 1, 1, b"x")], Connection(&[PROTOCOL])),
        ("6.3 a priority of no stream", vec![priority(0)], Connection(&[PROTOCOL])),
        ("6.3 a short priority", vec![open(), frame(PRIORITY, 0, 1, &[0; 4])], Stream(WRONG_SIZE)),
        ("6.4 a reset of no stream", vec![reset(0)], Connection(&[PROTOCOL])),
        ("6.4 a short reset", vec![open(), frame(RST_STREAM, 0, 1, &[0; 3])], Connection(WRONG_SIZE)),
        ("6.5 an answer with settings", vec![frame(SETTINGS, ACK, 0, &[0; 6])], Connection(WRONG_SIZE)),
        ("6.5 settings of a stream", vec![frame(SETTINGS, 0, 1, &[0; 6])], Connection(&[PROTOCOL])),
        ("6.5 half a setting", vec![frame(SETTINGS, 0, 0, &[0; 3])], Connection(WRONG_SIZE)),
        ("6.5.2 ENABLE_PUSH 2", vec![settings(&[(2, 2)])], Connection(&[PROTOCOL])),
        ("6.5.2 INITIAL_WINDOW_SIZE 2^31", vec![settings(&[(4, 1 << 31)])], Connection(&[FLOW_CONTROL, PROTOCOL])),
        ("6.5.2 MAX_FRAME_SIZE 16383", vec![settings(&[(5, 16_383)])], Connection(&[PROTOCOL])),
        ("6.5.2 MAX_FRAME_SIZE 2^24", vec![settings(&[(5, 1 << 24)])], Connection(&[PROTOCOL])),
        ("6.5.2 an unknown setting", vec![settings(&[(0xfafa, 7)])], GoesOn),
        ("6.6 a promise of a client", vec![frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82])], Connection(&[PROTOCOL])),
        ("6.7 a ping of a stream", vec![frame(PING, 0, 1, b"12345678")], Connection(&[PROTOCOL])),
        ("6.7 a short ping", vec![frame(PING, 0, 0, b"123456")], Connection(WRONG_SIZE)),
        ("6.7 an answer to no ping", vec![frame(PING, ACK, 0, b"12345678")], GoesOn),
        ("6.8 a farewell of a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], Connection(&[PROTOCOL])),
        ("6.9 a window by nothing", vec![update(0, 0)], Connection(&[PROTOCOL])),
        ("6.9 a stream's window by nothing", vec![open(), update(1, 0)], Stream(&[PROTOCOL])),
        ("6.9 a short window", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], Connection(WRONG_SIZE)),
        (
            "6.9.1 a window that overflows",
            vec![update(0, 0x7fff_ffff), update(0, 0x7fff_ffff)],
            Connection(&[FLOW_CONTROL]),
        ),
        ("6.9.1 a stream's window that overflows", vec![open(), update(1, 0x7fff_ffff)], Stream(&[FLOW_CONTROL])),
        (
            "6.10 two continuations",
            vec![head(0, 1), frame(CONTINUATION, 0, 1, &field), frame(CONTINUATION, 4, 1, &field)],
            GoesOn,
        ),
        (
            "6.10 one after the end",
            vec![whole(), frame(CONTINUATION, 4, 1, &field)],
            Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        ("6.10 one of no stream", vec![head(0, 1), frame(CONTINUATION, 4, 0, &field)], Connection(&[PROTOCOL])),
        ("6.10 one of another stream", vec![head(0, 1), frame(CONTINUATION, 4, 3, &field)], Connection(&[PROTOCOL])),
        ("7 a reset with an unknown code", vec![open(), frame(RST_STREAM, 0, 1, &[0xff; 4])], GoesOn),
        ("8.1 trailers that are not the end", vec![open(), late(END_HEADERS)], Stream(&[PROTOCOL])),
        // Not refused by the parser as it should be; trailers are dropped, whatever is in them.
        ("8.1 pseudo-header fields in trailers", vec![open(), of(&[(":path", "/")])], GoesOn),
        (
            "8.1.1 a body that is too short",
            vec![
                frame(HEADERS, 4, 1, &block(&request("POST", "/open/x", &[("content-length", "2")]))),
                frame(DATA, 1, 1, b"x"),
            ],
            Stream(&[PROTOCOL]),
        ),
        (
            "8.1.1 a body that is too long",
            vec![
                frame(HEADERS, 4, 1, &block(&request("POST", "/open/x", &[("content-length", "1")]))),
                frame(DATA, 1, 1, b"xy"),
            ],
            Stream(&[PROTOCOL]),
        ),
        ("8.2.1 upper case", vec![of(&request("GET", "/open/x", &[("X", "y")]))], Stream(&[PROTOCOL])),
        (
            "8.2.2 fields of a connection",
            vec![of(&request("GET", "/open/x", &[("connection", "close")]))],
            Stream(&[PROTOCOL]),
        ),
        ("8.2.2 TE of another kind", vec![of(&request("GET", "/open/x", &[("te", "gzip")]))], Stream(&[PROTOCOL])),
        (
            "8.3 an unknown pseudo-header field",
            vec![of(&request("GET", "/open/x", &[(":x", "y")]))],
            Stream(&[PROTOCOL]),
        ),
        (
            "8.3 a pseudo-header field of answers",
            vec![of(&request("GET", "/open/x", &[(":status", "200")]))],
            Stream(&[PROTOCOL]),
        ),
        (
            "8.3 a late pseudo-header field",
            vec![of(&[("x", "y"), (":method", "GET"), (":scheme", "http"), (":path", "/open/x")])],
            Stream(&[PROTOCOL]),
        ),
        ("8.3.1 no method", vec![of(&[(":scheme", "http"), (":path", "/open/x")])], Malformed),
        ("8.3.1 no scheme", vec![of(&[(":method", "GET"), (":path", "/open/x")])], Malformed),
        ("8.3.1 no path", vec![of(&[(":method", "GET"), (":scheme", "http")])], Malformed),
        ("8.3.1 an empty path", vec![of(&[(":method", "GET"), (":scheme", "http"), (":path", "")])], Malformed),
        (
            "8.3.1 two methods",
            vec![of(&[(":method", "GET"), (":method", "GET"), (":scheme", "http"), (":path", "/open/x")])],
            Malformed,
        ),
    ];
    for (section, frames, right) in &cases {
        check(&gateway, section, frames, right);
    }
}

#[test]
fn settings_and_pings_are_answered_and_a_farewell_ends_after_the_answers() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = H2::connect(gateway.address);
    client.write(&[settings(&[(4, 100)]), frame(PING, 0, 0, b"01234567")].concat());
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let frame = client.frame().expect("an answer");
        if frame.flags == ACK && matches!(frame.kind, SETTINGS | PING) {
            seen.push((frame.kind, frame.payload));
        }
    }
    seen.sort();
    assert_eq!(seen[2], (PING, b"01234567".to_vec()));
    // The client leaves; what it has asked for is answered.
    let mut client = H2::connect(gateway.address);
    let stream = client.ask(&request("GET", "/open/x", &[]), None);
    client.write(&frame(GOAWAY, 0, 0, &[0; 8]));
    assert_eq!(client.answer(stream).status, 200);
    client.end();
}

#[test]
fn the_windows_of_the_client_are_kept_to() {
    let upstream = Upstream::scripted(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789").is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    // One byte, none, then fewer than none, then all.
    let mut client = H2::connect_with(gateway.address, &[(4, 1)]);
    client.ask(&request("GET", "/open/x", &[]), None);
    assert_eq!(client.frame_of(DATA).payload, b"0");
    client.write(&settings(&[(4, 0)]));
    client.write(&frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()));
    assert!(client.is_alive());
    assert!(client.waiting.iter().all(|frame| frame.kind != DATA), "{:?}", client.waiting);
    client.write(&frame(WINDOW_UPDATE, 0, 1, &2_u32.to_be_bytes()));
    assert_eq!(client.frame_of(DATA).payload, b"12");
    client.write(&settings(&[(4, 100)]));
    let last = client.frame_of(DATA);
    assert_eq!((last.payload.as_slice(), last.flags), (&b"3456789"[..], END_STREAM));
}

#[test]
fn more_streams_than_are_allowed_are_refused_so_that_they_can_be_repeated() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = H2::raw(gateway.address);
    client.write(&[PREFACE, &settings(&[])].concat());
    let first = client.frame_of(SETTINGS);
    let most = first.payload.chunks(6).find(|one| one[..2] == [0, 3]).expect("a limit");
    assert_eq!(most[2..], 100_u32.to_be_bytes());
    let streams: Vec<u32> = (0..101).map(|_| client.stream()).collect();
    let heads: Vec<Vec<u8>> = streams.iter().map(|stream| head(END_HEADERS, *stream)).collect();
    client.write(&heads.concat());
    let refused = client.frame_of(RST_STREAM);
    assert_eq!((refused.stream, refused.code()), (*streams.last().expect("streams"), REFUSED));
    client.write(&frame(DATA, END_STREAM, 1, b"x"));
    assert_eq!(client.answer(1).status, 200);
}

/// Sends the same again and again until the connection ends, reading what comes: the code of its end, and
/// how long it took.
fn flood(
    gateway: &Gateway,
    most: usize,
    prepare: impl Fn(&mut H2),
    mut next: impl FnMut(usize) -> Vec<u8>,
) -> (Option<u32>, Duration) {
    let mut client = H2::raw(gateway.address);
    client.write(&[PREFACE, &settings(&[])].concat());
    prepare(&mut client);
    let (mut sent, begun) = (0, Instant::now());
    while sent < most {
        let batch: Vec<u8> = (0..100).flat_map(|number| next(sent + number)).collect();
        if client.try_write(&batch).is_none() {
            break;
        }
        sent += 100;
    }
    (client.end(), begun.elapsed())
}

/// Rows 79, 80, 81, 84, 85.
#[test]
fn threats_79_to_81_and_84_to_85_floods_of_frames_end_their_connection_and_nobody_elses() {
    let upstream = Upstream::scripted(|seen, stream| {
        if seen.line().contains("/slow") {
            std::thread::sleep(Duration::from_secs(5));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    let before = gateway.resident();
    let slow = |flags| frame(HEADERS, flags, 1, &block(&request("POST", "/open/slow", &[])));
    let nothing = |_: &mut H2| {};
    let opened = move |client: &mut H2| client.write(&slow(END_HEADERS));
    let number = |number: usize| 3 + 2 * number as u32;
    let get = block(&request("GET", "/open/slow", &[]));
    let reset = |stream| frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    let rapid = |at: usize| [frame(HEADERS, 5, number(at), &get), reset(number(at))].concat();
    let update = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let mut good = H2::connect(gateway.address);
    let mut ends = Vec::new();
    ends.push(("rapid reset", flood(&gateway, 100_000, nothing, rapid)));
    // A client that has its streams reset: by a window of nothing, one that overflows, a body after the end.
    let made =
        |wrong: &dyn Fn(u32) -> Vec<u8>, at: usize| [frame(HEADERS, 5, number(at), &get), wrong(number(at))].concat();
    ends.push(("window by nothing", flood(&gateway, 100_000, nothing, |at| made(&|stream| update(stream, 0), at))));
    ends.push(("window overflow", flood(&gateway, 100_000, nothing, |at| made(&|it| update(it, 0x7fff_ffff), at))));
    ends.push(("body after the end", flood(&gateway, 100_000, nothing, |at| made(&|it| frame(DATA, 0, it, b"x"), at))));
    ends.push((
        "bad heads",
        flood(&gateway, 100_000, nothing, |at| frame(HEADERS, 5, number(at), &block(&[("X", "y")]))),
    ));
    ends.push(("pings", flood(&gateway, 100_000, nothing, |_| frame(PING, 0, 0, b"12345678"))));
    ends.push(("settings", flood(&gateway, 100_000, nothing, |_| settings(&[(4, 70_000)]))));
    ends.push(("priorities", flood(&gateway, 100_000, nothing, |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]))));
    ends.push(("windows", flood(&gateway, 100_000, nothing, |_| update(0, 1))));
    ends.push(("unknown", flood(&gateway, 100_000, nothing, |_| frame(0xfa, 0, 0, b""))));
    ends.push(("empty pieces", flood(&gateway, 100_000, opened, |_| frame(DATA, 0, 1, b""))));
    ends.push(("padding", flood(&gateway, 100_000, opened, |_| frame(DATA, PADDED, 1, &[9; 10]))));
    let begun = |client: &mut H2| client.write(&frame(HEADERS, 0, 1, &block(&request("GET", "/open/x", &[]))));
    ends.push(("continuations", flood(&gateway, 100_000, begun, |_| frame(CONTINUATION, 0, 1, b""))));
    let fields = block(&[("x", "y")]).repeat(100);
    ends.push(("fields", flood(&gateway, 100_000, begun, |_| frame(CONTINUATION, 0, 1, &fields))));
    for (what, (code, took)) in &ends {
        assert!(*took < Duration::from_secs(20), "{what}: {took:?}");
        assert!(code.is_none_or(|code| [PROTOCOL, CALM, COMPRESSION].contains(&code)), "{what}: {code:?}");
    }
    assert!(ends.iter().any(|(_, (code, _))| *code == Some(CALM)), "{ends:?}");
    assert!(gateway.access_lines().len() < 3_000, "{} requests began", gateway.access_lines().len());
    assert_eq!(good.get("/open/x", None).status, 200);
    assert_eq!(gateway.get("/open/x", None).status, 200);
    assert!(gateway.metric("heads_refused_total{reason=\"flood\"}") >= 5.0);
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more");
}

/// A client that works is far from the end of its credit.
#[test]
fn a_client_that_cancels_now_and_then_and_pings_all_the_time_is_no_flood() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = H2::connect(gateway.address);
    for _ in 0..3_000 {
        let stream = client.ask(&request("GET", "/open/x", &[]), None);
        client.write(&[frame(PING, 0, 0, b"12345678"), frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())].concat());
        assert_eq!(client.answer(stream).status, 200);
        client.waiting.clear();
    }
    for _ in 0..500 {
        let stream = client.ask(&request("GET", "/open/x", &[]), None);
        client.write(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
        assert!(client.is_alive());
    }
}

/// Rows 82, 83: a few bytes on the wire that are many in memory.
#[test]
fn threats_82_to_83_a_head_that_grows_in_the_parser_is_refused_before_it_takes_memory() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let before = gateway.resident();
    // One field into the table, then one byte for each time that it comes again.
    let value = "v".repeat(3_000);
    let mut bomb = block(&request("GET", "/open/x", &[]));
    let mut entry = block(&[("cookie", &value)]);
    entry[0] = 0x40;
    bomb.extend(entry);
    bomb.resize(16_000, 0x80 | 62);
    let mut crumbs = block(&request("GET", "/open/x", &[]));
    let mut entry = block(&[("cookie", "a")]);
    entry[0] = 0x40;
    crumbs.extend(entry);
    crumbs.resize(16_000, 0x80 | 62);
    let many: Vec<u8> = (0..30_000).flat_map(|number| block(&[(&format!("x-{number}"), "")])).collect();
    for (what, head) in [("a bomb", bomb), ("crumbs", crumbs), ("many names", many)] {
        for _ in 0..20 {
            let mut client = H2::connect(gateway.address);
            let stream = client.stream();
            let mut pieces = head.chunks(16_000).peekable();
            let mut kind = HEADERS;
            while let Some(piece) = pieces.next() {
                let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
                let flags = if kind == HEADERS { END_STREAM | end } else { end };
                if client.try_write(&frame(kind, flags, stream, piece)).is_none() {
                    break;
                }
                kind = CONTINUATION;
            }
            match client.outcome(stream) {
                Outcome::Answered(answer, _) => assert_eq!(answer.status, 431, "{what}"),
                Outcome::Reset(code) => assert_eq!(code, PROTOCOL, "{what}"),
                Outcome::Gone(code) => {
                    assert!(matches!(code, None | Some(PROTOCOL | CALM | COMPRESSION)), "{what}: {code:?}")
                }
            }
        }
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(gateway.get("/open/x", None).status, 200);
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more");
}

/// Row 82: windows that stay shut.
#[test]
fn threat_82_an_answer_that_is_not_taken_is_reset_and_others_on_the_connection_go_on() {
    let upstream = Upstream::scripted(|seen, stream| {
        let large = seen.line().contains("/large");
        let body = vec![b'x'; if large { 10_000_000 } else { 10 }];
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes()).is_ok()
            && stream.write_all(&body).is_ok()
    });
    let limits = "send_timeout: 1s";
    let yaml =
        config(upstream.address, "").replace("realm: test }", &format!("realm: test, limits: {{ {limits} }} }}"));
    let gateway = Gateway::start(&yaml);
    let before = gateway.resident();
    let mut client = H2::connect_with(gateway.address, &[(4, 1_000)]);
    client.write(&frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes()));
    let streams: Vec<u32> = (0..50).map(|_| client.ask(&request("GET", "/open/large", &[]), None)).collect();
    let begun = Instant::now();
    let mut resets = Vec::new();
    while resets.len() < streams.len() {
        let stream = client.ask(&request("GET", "/open/x", &[]), None);
        let is_answered = loop {
            let frame = client.frame().expect("the connection goes on");
            if frame.kind == RST_STREAM {
                assert_eq!(frame.code(), CANCEL);
                resets.push(frame.stream);
            }
            if frame.stream == stream && frame.flags & END_STREAM != 0 && frame.kind == DATA {
                break true;
            }
        };
        assert!(is_answered);
        assert!(begun.elapsed() < Duration::from_secs(30), "{resets:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    resets.sort_unstable();
    assert_eq!(resets, streams);
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more");

    let mut client = H2::connect_with(gateway.address, &[(4, 0)]);
    let streams: Vec<u32> = (0..100).map(|_| client.ask(&request("GET", "/open/x", &[]), None)).collect();
    for _ in streams {
        assert_eq!(client.frame_of(RST_STREAM).code(), CANCEL);
    }
    // A last piece that has begun cannot be taken back: then the connection ends, also if nobody answers its
    // farewell.
    let mut client = H2::connect_with(gateway.address, &[(4, 1)]);
    client.ask(&request("GET", "/open/x", &[]), None);
    assert_eq!(client.end(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(40));
}

#[test]
fn a_token_that_is_taken_back_cuts_its_streams_and_no_others() {
    let upstream = Upstream::scripted(|_, stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"));
        while stream.write_all(b"9\r\ndata: 1\n\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = H2::connect(gateway.address);
    let tokens = ["one", "two"].map(|jti| token(&serde_json::json!({ "jti": jti, "sub": jti })));
    let streams = tokens.map(|token| {
        let bearer = format!("Bearer {token}");
        client.ask(&request("GET", "/me/events", &[("authorization", &bearer)]), None)
    });
    for _ in 0..4 {
        client.frame_of(DATA);
    }
    let revoked = gateway.admin("POST", "/revocations", r#"{"jti":"one"}"#);
    assert!((200..300).contains(&revoked.status), "{}", revoked.text());
    let reset = client.frame_of(RST_STREAM);
    assert_eq!(reset.stream, streams[0]);
    for _ in 0..20 {
        assert_eq!(client.frame_of(DATA).stream, streams[1]);
    }
    until("it is told", || gateway.access_lines().iter().any(|line| line["outcome"] == "taken_back"));
}

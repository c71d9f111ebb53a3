//! The byte guard, from outside: what could be read in two ways is read in none (THREATS §2.4).
//!
//! The upstream's reader is strict of its own: two framing fields, a bare LF or an odd chunk there fail
//! every test here. Another client, whose requests share the pool, has to get its own answers.

use crate::support::gateway::{config, get};
use crate::support::{Client, Gateway, Upstream, until};

const SMUGGLED: &str = "GET /open/smuggled HTTP/1.1\r\nhost: gw.test\r\n\r\n";

struct Edge {
    upstream: Upstream,
    gateway: Gateway,
    canary: Client,
    turn: usize,
}

impl Edge {
    fn start() -> Self {
        let upstream = Upstream::echo();
        let gateway = Gateway::start(&config(upstream.address, ""));
        let canary = gateway.client();
        Self { upstream, gateway, canary, turn: 0 }
    }

    /// Another client's request gets its own answer, and nothing was smuggled.
    #[track_caller]
    fn is_sound(&mut self, gadget: &str) {
        self.turn += 1;
        let path = format!("/open/canary-{}", self.turn);
        let answer = self.canary.send(get(&path, None));
        assert!(answer.text().starts_with(&format!("GET {path} HTTP/1.1")), "{gadget:?}: {}", answer.text());
        let smuggled = self.upstream.seen().into_iter().find(|seen| seen.line().contains("smuggled"));
        assert!(smuggled.is_none(), "{gadget:?}: {smuggled:?}");
    }

    /// These bytes are 400, the connection is closed, and what is in them never gets anywhere.
    #[track_caller]
    fn refuses(&mut self, gadget: &str) {
        let mut client = self.gateway.client();
        client.try_write(gadget);
        let answer = client.try_read(false).unwrap_or_else(|| panic!("{gadget:?}: no answer"));
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{gadget:?}");
        assert!(client.try_read(false).is_none(), "{gadget:?}: closed");
        self.is_sound(gadget);
    }

    /// The head alone is refused: nothing at all reaches the upstream.
    #[track_caller]
    fn refuses_head(&mut self, gadget: &str) {
        let before = self.upstream.seen().len();
        self.refuses(gadget);
        // The canary's.
        assert_eq!(self.upstream.seen().len(), before + 1, "{gadget:?}");
    }
}

fn post(version: &str, fields: &str, body: &str) -> String {
    format!("POST /open/x HTTP/{version}\r\nhost: gw.test\r\n{fields}\r\n{body}{SMUGGLED}")
}

#[test]
fn threats_66_69_77_every_odd_framing_is_400_and_nothing_goes_upstream() {
    let mut edge = Edge::start();
    let lengths = [
        "+5",
        "-5",
        "5,5",
        "5, 5",
        "5 5",
        "5;",
        "5.0",
        "5e0",
        "0x5",
        "0b1",
        "5_0",
        "\"5\"",
        "",
        " ",
        "x",
        "\x0b5",
        "5\x0b",
        "\u{665}",
        "18446744073709551616",
        "99999999999999999999999",
        "5\r\ncontent-length: 5",
        "5\r\ncontent-length: 6",
        "6\r\ncontent-length: 5",
        "5\r\nContent-Length:",
        "5\r\nCONTENT-LENGTH: 05",
        "5\r\nx: y\r\ncontent-length: 0",
    ];
    let codings = [
        "",
        "xchunked",
        "chunkedx",
        "chunked,",
        ",chunked",
        "chunked;q=1",
        "chunked, chunked",
        "chunked,identity",
        "identity",
        "identity, chunked",
        "gzip",
        "gzip, chunked",
        "chunked gzip",
        "\"chunked\"",
        "chu nked",
        "'chunked'",
        "\x0bchunked",
        "chunked\x0b",
        "\u{ff43}hunked",
        "chunKed\r\ntransfer-encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
        "identity\r\ntransfer-encoding: chunked",
        "chunked\r\ntransfer-encoding:",
        "\r\ntransfer-encoding: chunked",
        "chunked\r\nx: y\r\ntransfer-encoding: gzip",
    ];
    for value in lengths {
        for name in ["content-length:", "Content-Length: ", "CONTENT-LENGTH:\t"] {
            edge.refuses_head(&post("1.1", &format!("{name}{value}\r\n"), "hello"));
            edge.refuses_head(&post("1.0", &format!("connection: keep-alive\r\n{name}{value}\r\n"), "hello"));
        }
    }
    for value in codings {
        for name in ["transfer-encoding:", "Transfer-Encoding: ", "TRANSFER-ENCODING:\t"] {
            edge.refuses_head(&post("1.1", &format!("{name}{value}\r\n"), "0\r\n\r\n"));
        }
    }
    // Both, in each order, and any coding at all in HTTP/1.0.
    for value in ["chunked", "Chunked ", "identity", "xchunked", ""] {
        let (coding, length) = (format!("transfer-encoding: {value}\r\n"), "content-length: 5\r\n");
        edge.refuses_head(&post("1.1", &format!("{coding}{length}"), "0\r\n\r\n"));
        edge.refuses_head(&post("1.1", &format!("{length}{coding}"), "0\r\n\r\n"));
        edge.refuses_head(&post("1.1", &format!("{length}x: y\r\n{coding}"), "0\r\n\r\n"));
        edge.refuses_head(&post("1.0", &coding, "0\r\n\r\n"));
        edge.refuses_head(&post("1.0", &format!("connection: keep-alive\r\n{coding}{length}"), "0\r\n\r\n"));
    }
}

#[test]
fn a_framing_of_one_meaning_is_taken_in_every_spelling() {
    let edge = Edge::start();
    for (fields, body) in [
        ("content-length: 5\r\n", "hello"),
        ("CONTENT-LENGTH:5\r\n", "hello"),
        ("Content-Length: \t 05 \t\r\n", "hello"),
        ("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding:\tCHUNKED \r\n", "2;a=\"b\"\r\nhe\r\n0003\r\nllo\r\n00\r\nx: y\r\n\r\n"),
        ("content-lengths: 7\r\ntransfer_encoding: x\r\nx-content-length: 9\r\ncontent-length: 5\r\n", "hello"),
    ] {
        let mut client = edge.gateway.client();
        client.write(post("1.1", fields, body).replace("smuggled", "next"));
        assert_eq!(client.read().status, 200, "{fields:?}");
        assert!(client.read().text().starts_with("GET /open/next HTTP/1.1"), "{fields:?}");
        let seen = edge.upstream.seen();
        assert_eq!(seen[seen.len() - 2].body, b"hello", "{fields:?}");
    }
}

#[test]
fn threats_71_72_every_malformed_chunk_ends_the_request() {
    let mut edge = Edge::start();
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhel\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "\n0\r\n\r\n",
        ";x\r\n0\r\n\r\n",
        "g\r\n\r\n",
        "zz\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "5\u{b}\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\nx",
        "ffffffffffffffffff\r\nx",
        "00000000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\nx: y\rz\r\n\r\n",
        "0\r\n\rx\r\n",
        "5\r\nhello\r\r\n0\r\n\r\n",
    ] {
        edge.refuses(&post("1.1", "transfer-encoding: chunked\r\n", body));
    }
}

#[test]
fn threats_73_74_every_odd_line_of_a_head_is_400() {
    let mut edge = Edge::start();
    let long = "x".repeat(10_000);
    for fields in [
        "x: y\n",
        "x: y\r",
        "\n",
        "x: y\r\r\n",
        "x: a\rb\r\n",
        "x: a\0b\r\n",
        "x: \x01\r\n",
        "x: \x7f\r\n",
        "x : y\r\n",
        "x\t: y\r\n",
        " x: y\r\n",
        "\tx: y\r\n",
        ": y\r\n",
        "x\r\n",
        "x y: z\r\n",
        "x\0: y\r\n",
        "x\x0b: y\r\n",
        "x(y): z\r\n",
        "\u{e9}: y\r\n",
        "content-length : 5\r\n",
        "content-length\t: 5\r\n",
        "\x0bcontent-length: 5\r\n",
        " content-length: 5\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding\x0b: chunked\r\n",
        "\ttransfer-encoding: chunked\r\n",
        "x: y\r\n transfer-encoding: chunked\r\n",
        "x: y\r\n\tz\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "content-length: 5\r\n 0\r\n",
        "expect: 100-continue\r\ncontent-length: 5\r\n 6\r\n",
        "content-length: 5\n",
    ] {
        edge.refuses_head(&post("1.1", fields, "hello"));
        edge.refuses_head(&post("1.1", &format!("a: b\r\n{fields}"), "hello"));
        edge.refuses_head(&post("1.1", fields, "hello").replacen("POST", "OPTIONS", 1));
    }
    for line in [
        "GET /open/x HTTP/1.1\n",
        "GET /open/x  HTTP/1.1\r\n",
        "GET  /open/x HTTP/1.1\r\n",
        "GET\t/open/x HTTP/1.1\r\n",
        "GET /open/x\tHTTP/1.1\r\n",
        "GET /open/x HTTP/1.1 \r\n",
        " GET /open/x HTTP/1.1\r\n",
        "GET /open/x\r\n",
        "GET\r\n",
        "GET /open/x HTTP/2.0\r\n",
        "GET /open/x HTTP/1.2\r\n",
        "GET /open/x HTTP/01.1\r\n",
        "GET /open/x HTTP/1.1.1\r\n",
        "GET /open/x http/1.1\r\n",
        "GET /open/x HTTP/0.9\r\n",
        "GET /open/x#y HTTP/1.1\r\n",
        "GET /open/x?#y HTTP/1.1\r\n",
        "GET /open/x y HTTP/1.1\r\n",
        "GET /open/\0 HTTP/1.1\r\n",
        "G(T /open/x HTTP/1.1\r\n",
        "\0GET /open/x HTTP/1.1\r\n",
        "\r\n\r\nGET /open/x HTTP/1.1\r\n",
        "\nGET /open/x HTTP/1.1\r\n",
        "\rGET /open/x HTTP/1.1\r\n",
    ] {
        edge.refuses_head(&format!("{line}host: gw.test\r\n\r\n{SMUGGLED}"));
    }
    // A name that is too long for a counter of 8 or 16 bits.
    for length in [255, 256, 65_535, 65_536] {
        let mut client = edge.gateway.client();
        let name = "x".repeat(length);
        client
            .try_write(format!("GET /open/x HTTP/1.1\r\nhost: gw.test\r\n{name}: y\r\ncontent-length: 5\r\n\r\nhello"));
        let status = client.try_read(false).map(|answer| answer.status);
        assert!(matches!(status, Some(200 | 431)), "{length}: {status:?}");
        edge.is_sound(&long);
    }
}

#[test]
fn a_head_may_come_in_any_pieces_and_one_empty_line_may_come_before_it() {
    let edge = Edge::start();
    let mut client = edge.gateway.client();
    let request = format!("\r\n{}", get("/open/pieces", None));
    for at in 1..request.len() {
        let (first, second) = request.split_at(at);
        client.write(first);
        let answer = client.send(second);
        assert!(answer.text().starts_with("GET /open/pieces HTTP/1.1"), "{at}: {}", answer.text());
    }
}

#[test]
fn what_follows_a_request_is_judged_after_its_answer() {
    let upstream = Upstream::scripted(|seen, stream| {
        use std::io::Write;
        if seen.line().contains("/slow") {
            std::thread::sleep(std::time::Duration::from_millis(150));
        }
        let size = if seen.line().contains("/large") { 4_000_000 } else { 3 };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).is_ok() && stream.write_all(&vec![b'x'; size]).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    for path in ["/open/x", "/open/slow", "/open/large", "/open/large/slow"] {
        for bad in ["GET /open/y HTTP/1.1\nhost: gw.test\r\n\r\n", "nonsense\r\n\r\n", "\r\n\r\n\r\n"] {
            let mut client = gateway.client();
            client.write(format!("{}{bad}{SMUGGLED}", get(path, None)));
            let answer = client.read();
            let size = if path.contains("large") { 4_000_000 } else { 3 };
            assert_eq!((answer.status, answer.body.len()), (200, size), "{path} {bad:?}");
            assert_eq!(client.read().status, 400, "{path} {bad:?}");
            assert!(client.try_read(false).is_none(), "closed");
        }
        // What is good is answered in its turn, however it is cut.
        let mut client = gateway.client();
        let (first, second) = (get(path, None), get("/open/z", None));
        client.write(format!("{first}{}", &second[..20]));
        assert_eq!(client.read().status, 200);
        assert_eq!(client.send(&second[20..]).status, 200);
    }
    assert!(upstream.seen().iter().all(|seen| !seen.line().contains("smuggled") && !seen.line().contains("/y")));
}

#[test]
fn what_the_guard_refuses_is_logged_with_its_reason_and_counted() {
    let edge = Edge::start();
    for (gadget, status, reason) in [
        (
            post("1.1", "content-length: 5\r\ntransfer-encoding: chunked\r\n", ""),
            400,
            "Content-Length and Transfer-Encoding",
        ),
        ("GET / HTTP/1.1\n\n".to_owned(), 400, "a line does not end in CRLF"),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(100_000)), 414, "the request line is longer than is taken"),
        (format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(100_000)), 431, "the head is longer than is taken"),
    ] {
        let mut client = edge.gateway.client();
        client.try_write(&gadget);
        assert_eq!(client.read().status, status, "{reason}");
        until(reason, || edge.gateway.lines().iter().any(|line| line.contains(reason)));
    }
    let page = edge.gateway.admin("GET", "/metrics", "").text();
    assert!(page.contains("bearward_heads_refused_total{reason=\"malformed_head\"} 2\n"), "{page}");
    assert!(page.contains("bearward_heads_refused_total{reason=\"head_too_large\"} 2\n"), "{page}");
}

/// A client whose kernel takes little at once.
fn narrow(gateway: &Gateway) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(&gateway.address.into()).expect("a connection");
    Client::on(socket.into())
}

// The parser takes a fault for the end of the connection, and throws away what it has not written yet.
#[test]
fn a_fault_behind_an_answer_that_is_not_read_yet_takes_nothing_of_it() {
    let upstream = Upstream::scripted(|seen, stream| {
        use std::io::Write;
        let size: usize = seen.line().split(['/', ' ']).find_map(|part| part.parse().ok()).expect("a size");
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).is_ok() && stream.write_all(&vec![b'x'; size]).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    // Of some of these the last piece is with the parser, and not with the kernel.
    let sizes: Vec<usize> = (1..=40).map(|step| step * 100_000).collect();
    let mut clients: Vec<(usize, Client)> = sizes
        .into_iter()
        .map(|size| {
            let mut client = narrow(&gateway);
            client.write(format!("{}\r\n\r\n", get(&format!("/open/{size}"), None)));
            (size, client)
        })
        .collect();
    until("all are under way", || upstream.seen().len() == clients.len());
    // Until nothing moves any more; a longer time only makes it surer.
    std::thread::sleep(std::time::Duration::from_millis(500));
    for (size, client) in &mut clients {
        let answer = client.try_read(false).unwrap_or_else(|| panic!("{size}: cut off"));
        assert_eq!((answer.status, answer.body.len()), (200, *size));
        assert_eq!(client.try_read(false).map(|answer| answer.status), Some(400), "{size}");
    }
}

#[test]
fn what_cannot_be_a_request_is_refused_before_its_line_ends() {
    let edge = Edge::start();
    for bytes in ["\0\0\0", "\x16\x03\x01", "\u{e9}", "GET/", "(", "\r\n\0", "\r\r", " "] {
        let mut client = edge.gateway.client();
        client.write(bytes);
        let started = std::time::Instant::now();
        assert_eq!(client.read().status, 400, "{bytes:?}");
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{bytes:?}: not after the time for a head");
    }
}

#[test]
fn an_empty_line_after_a_request_is_no_head_that_takes_too_long() {
    let upstream = Upstream::echo();
    let limits = "realm: test, limits: { header_timeout: 300ms } }";
    let gateway = Gateway::start(&config(upstream.address, "").replace("realm: test }", limits));
    for wait in [600, 1600] {
        let mut client = gateway.client();
        let post = "POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 5\r\n\r\nhello\r\n";
        assert_eq!(client.send(post).status, 200);
        std::thread::sleep(std::time::Duration::from_millis(wait));
        assert!(client.send(get("/open/next", None)).text().starts_with("GET /open/next"), "after {wait}");
    }
}

#[test]
fn whoever_still_sends_can_read_why_its_head_was_refused() {
    let edge = Edge::start();
    let fields: String = (0..300).map(|n| format!("x-{n}: 1\r\n")).collect();
    for head in ["bad name: x\r\n", &fields, "x: y\n", "content-length: 1\r\n"] {
        let mut client = edge.gateway.client();
        client.write(format!("POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 30000\r\n{head}\r\n"));
        for _ in 0..30 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert!(client.try_write([b'x'; 1000]).is_some(), "{head:?}: the connection was reset");
        }
        assert!(client.try_read(false).is_some(), "{head:?}");
    }
}

#[test]
fn a_connection_that_asked_for_another_protocol_in_vain_ends_at_once() {
    let edge = Edge::start();
    let mut client = edge.gateway.client();
    let started = std::time::Instant::now();
    client.write(
        "POST /open/x HTTP/1.1\r\nhost: gw.test\r\nconnection: close, upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n\r\nhello",
    );
    assert_eq!(client.read().status, 200);
    assert!(client.is_closed());
    assert!(started.elapsed() < std::time::Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn a_client_that_does_not_read_is_closed_after_its_time() {
    let upstream = Upstream::scripted(|_, stream| {
        use std::io::Write;
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n"));
        stream.write_all(&vec![b'x'; 50_000_000]).is_ok()
    });
    let limits = "realm: test, limits: { send_timeout: 500ms } }";
    let gateway = Gateway::start(&config(upstream.address, "").replace("realm: test }", limits));
    let mut client = narrow(&gateway);
    client.write(get("/open/x", None));
    until("it is open", || gateway.metric("connections") > 0.5);
    until("it is closed", || gateway.metric("connections") < 0.5);
    until("it is logged", || gateway.lines().iter().any(|line| line.contains("a client does not read")));
}

//! Bodies stream in both directions, within their limits, and never desynchronise a connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::gateway::{customer, get};
use crate::support::{Client, Gateway, Upstream, config, until};

const GIB: usize = 1 << 30;
const CHUNK: usize = 64 * 1024;

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    (upstream, gateway)
}

/// A service that takes bodies without keeping them, and sends `length` bytes back.
fn sink(length: usize) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    head.push(byte[0]);
                }
                let text = String::from_utf8_lossy(&head).to_lowercase();
                let expected = text
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |n| n.parse().expect("a length"));
                let mut buffer = vec![0; CHUNK];
                let mut got: usize = 0;
                while got < expected {
                    match stream.read(&mut buffer) {
                        Ok(read) if read > 0 => got += read,
                        _ => return,
                    }
                }
                drop(write!(stream, "HTTP/1.1 200 OK\r\nx-got: {got}\r\ncontent-length: {length}\r\n\r\n"));
                let mut left = length;
                while left > 0 {
                    let part = left.min(CHUNK);
                    if stream.write_all(&buffer[..part]).is_err() {
                        return;
                    }
                    left -= part;
                }
            });
        }
    });
    address
}

#[test]
fn a_gibibyte_streams_through_in_both_directions_in_constant_memory() {
    let routes =
        "  - { id: big, match: { path: \"/big\" }, upstream: echo, access: authenticated, limits: { body: 2GiB } }";
    let gateway = Gateway::start(&config(sink(GIB), routes));
    let token = customer();
    // Warm: the connection, the token, the allocator.
    for _ in 0..2 {
        let mut client = gateway.client();
        client.write(get("/big", Some(&token)));
        discard(&mut client.stream, CHUNK * 100);
    }
    let before = gateway.resident();
    let mut client = gateway.client();
    client.write(format!(
        "POST /big HTTP/1.1\r\nhost: gw.test\r\nauthorization: Bearer {token}\r\ncontent-length: {GIB}\r\n\r\n"
    ));
    let block = vec![b'x'; CHUNK];
    let mut peak = 0;
    for number in 0..GIB / CHUNK {
        client.stream.write_all(&block).expect("the gateway reads on");
        if number % 1024 == 0 {
            peak = peak.max(gateway.resident());
        }
    }
    let answer = client.read_to_head();
    assert_eq!((answer.status, answer.header("x-got")), (200, Some(GIB.to_string().as_str())));
    let mut left = GIB - CHUNK;
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let read = client.stream.read(&mut buffer).expect("the answer goes on");
        assert!(read > 0);
        left = left.saturating_sub(read);
        if left % 1024 < 64 {
            peak = peak.max(gateway.resident());
        }
    }
    peak = peak.max(gateway.resident());
    let grown = peak.saturating_sub(before);
    assert!(grown < 16 * 1024, "grown by {grown} KiB from {before} KiB");
}

fn discard(stream: &mut TcpStream, mut left: usize) {
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let read = stream.read(&mut buffer).expect("an answer");
        assert!(read > 0);
        left = left.saturating_sub(read);
    }
}

#[test]
fn a_slow_reader_slows_the_upstream_down_and_fills_no_memory() {
    let routes = "  - { id: big, match: { path: \"/big\" }, upstream: echo, access: public }";
    let gateway = Gateway::start(&config(sink(GIB), routes));
    let before = gateway.resident();
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.write(get("/big", None));
        assert_eq!(client.read_to_head().status, 200);
    }
    let mut last = 0;
    until("the flow has come to rest", || {
        std::thread::sleep(Duration::from_millis(100));
        let now = gateway.resident();
        let rests = now == last;
        last = now;
        rests
    });
    assert!(last.saturating_sub(before) < 20 * 1024, "{last} KiB from {before} KiB for 20 streams");
}

#[test]
fn a_body_over_the_limit_is_413_announced_or_not() {
    let upstream = Upstream::echo();
    let routes =
        "  - { id: small, match: { path: \"/small\" }, upstream: echo, access: public, limits: { body: 1KiB } }";
    let gateway = Gateway::start(&config(upstream.address, routes));
    let post = |framing: &str, body: &str| format!("POST /small HTTP/1.1\r\nhost: gw.test\r\n{framing}\r\n\r\n{body}");
    assert_eq!(gateway.send(post("content-length: 1024", &"x".repeat(1024))).status, 200);
    assert_eq!(upstream.last().body.len(), 1024);
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    assert_eq!(gateway.send(post("transfer-encoding: chunked", &format!("{chunk}0\r\n\r\n"))).status, 200);
    assert_eq!(upstream.last().body.len(), 1024);
    let announced = gateway.send(post("content-length: 1025", ""));
    assert_eq!((announced.status, announced.header("connection")), (413, Some("close")));
    let mut client = gateway.client();
    let answer = client.send(post("transfer-encoding: chunked", &format!("{chunk}1\r\nx\r\n0\r\n\r\n")));
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    assert_eq!(gateway.line_of(&answer)["outcome"], "body_too_large");
    assert!(client.is_closed());
}

// Row 67: what is left of a refused request's body is never taken for the next request.
#[test]
fn threat_67_an_unread_body_never_becomes_a_request() {
    let (upstream, gateway) = start();
    let smuggled = "GET /open/smuggled HTTP/1.1\r\nhost: gw.test\r\n\r\n";
    for (path, status) in [("/me/x", 401), ("/nowhere", 404), ("/orders/1", 405), ("/open/../x", 400)] {
        for early in [true, false] {
            let mut client = gateway.client();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: gw.test\r\ncontent-length: {}\r\n\r\n",
                smuggled.len() + 100_000
            );
            client.write(if early { head.clone() } else { format!("{head}{smuggled}") });
            assert_eq!(client.read().status, status, "{path}");
            // What comes afterwards is the rest of the body, whatever it looks like.
            drop(client.stream.write_all(smuggled.as_bytes()));
            drop(client.stream.write_all(&vec![b'x'; 50_000]));
            assert!(client.try_read(false).is_none(), "{path}: no second answer");
        }
        // A body that is all there is passed over, and the next request is the next request.
        let mut client = gateway.client();
        let whole =
            format!("POST {path} HTTP/1.1\r\nhost: gw.test\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len());
        client.write(format!("{whole}{}", get("/open/next", None)));
        assert_eq!(client.read().status, status);
        let next = client.read();
        assert!(next.text().starts_with("GET /open/next"), "{}", next.text());
    }
    assert!(upstream.seen().iter().all(|seen| !seen.line().contains("smuggled")), "{:?}", upstream.seen());
}

// What its client sends on a connection that ends is lost, and it cannot know of a POST whether it was carried out (RFC 9112 §9.6).
#[test]
fn whoever_is_answered_before_its_body_is_read_is_told_where_its_next_request_would_be_lost() {
    let upstream = Upstream::echo();
    let early = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let down = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let echo = format!("echo: {{ targets: [\"http://{}\"] }}", upstream.address);
    let more = [("early", early.local_addr().expect("an address")), ("down", down)];
    let mut routes = crate::support::gateway::ROUTES.to_owned();
    let mut upstreams = echo.clone();
    for (name, address) in more {
        routes += &format!("  - {{ id: {name}, match: {{ path: /{name} }}, upstream: {name}, access: public }}\n");
        upstreams += &format!(", {name}: {{ targets: [\"http://{address}\"] }}");
    }
    let gateway = Gateway::start(&config(upstream.address, &routes).replace(&echo, &upstreams));
    let length = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 4\r\n\r\n");
    let chunked = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: gw.test\r\ntransfer-encoding: chunked\r\n\r\n");
    for (path, status) in [("/me/x", 401), ("/nowhere", 404), ("/orders/1", 405), ("/down", 502)] {
        for (head, body, is_read) in [(length(path), "body", true), (chunked(path), "4\r\nbody\r\n0\r\n\r\n", false)] {
            // It is all there: it is passed over where the parser can, and else the client is told.
            let mut client = gateway.client();
            let answer = client.send(format!("{head}{body}"));
            assert_eq!((answer.status, answer.header("connection")), (status, (!is_read).then_some("close")), "{head}");
            if is_read {
                assert_eq!(client.send(get("/open/ok", None)).status, 200, "{head}");
            } else {
                assert!(client.is_closed(), "{head}");
            }
            // It is still to come.
            let mut client = gateway.client();
            let answer = client.send(&head);
            assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{head}");
            drop(client.stream.write_all(body.as_bytes()));
            assert!(client.is_closed(), "{head}");
        }
    }
    // A service that does not want the rest: it says so, and closes; with all of its answer or with the beginning.
    std::thread::spawn(move || {
        for (mut stream, answer) in early.incoming().map_while(Result::ok).zip(["no", "n"]) {
            let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
            while !head.ends_with(b"\r\n\r\nbo") {
                let read = stream.read(&mut buffer).expect("a head");
                head.extend_from_slice(&buffer[..read]);
            }
            let head = "HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 2";
            write!(stream, "{head}\r\n\r\n{answer}").expect("written");
            // The end of the answer is that of the connection.
            let came = stream.read(&mut buffer).expect("the rest of the body");
            assert_eq!(buffer.get(..came), Some(&b"dy"[..answer.len() % 2 * 2]));
            drop(stream.write_all(&b"no"[answer.len()..]));
        }
    });
    for _ in 0..2 {
        let mut client = gateway.client();
        client.write(format!("{}bo", length("/early")));
        let answer = client.read_to_head();
        assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
        client.write("dy");
        client.hear("no");
        assert!(client.is_closed());
    }
}

#[test]
fn threat_86_a_body_that_comes_too_slowly_is_408() {
    let upstream = Upstream::echo();
    let routes =
        "  - { id: slow, match: { path: \"/slow\" }, upstream: echo, access: public, limits: { body_timeout: 200ms } }";
    let gateway = Gateway::start(&config(upstream.address, routes));
    let mut client = gateway.client();
    let started = Instant::now();
    let answer = client.send("POST /slow HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 10\r\n\r\nhello");
    assert_eq!((answer.status, gateway.line_of(&answer)["outcome"].as_str()), (408, Some("body_timeout")));
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(client.is_closed());
}

#[test]
fn expect_continue_is_answered_when_the_body_is_wanted_and_not_before() {
    let (upstream, gateway) = start();
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: gw.test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
    };
    let mut client = gateway.client();
    assert_eq!(client.send(head("/me/x")).status, 401);
    let mut client = gateway.client();
    assert_eq!(client.send(head("/open/x")).status, 100);
    assert_eq!(client.send("hello").status, 200);
    assert!(upstream.last().values("expect").is_empty());
}

#[test]
fn an_answer_that_breaks_off_is_never_a_clean_end() {
    let upstream = Upstream::scripted(|seen, stream| {
        let answer: &[u8] = if seen.line().contains("chunked") {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello"
        };
        drop(stream.write_all(answer));
        false
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    for path in ["/open/chunked", "/open/length"] {
        let mut client = gateway.client();
        client.write(get(path, None));
        assert!(client.try_read(false).is_none(), "{path}");
        until("the line says so", || {
            gateway.access_lines().iter().any(|line| line["path"] == path && line["cut"] == true)
        });
    }
}

// To a client of HTTP/1.0 nothing but the connection's end is the end of a body whose length is not known.
#[test]
fn to_a_client_of_http_1_0_what_breaks_off_is_a_reset() {
    let (says, told) = channel::<()>();
    let told = Mutex::new(told);
    let upstream = Upstream::scripted(move |seen, stream| {
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        let begun = stream.write_all(chunked).and_then(|()| stream.flush());
        drop(begun.map(|()| told.lock().map(|told| told.recv())));
        // Where it does not break off, that is the end.
        if seen.line().contains("whole") {
            drop(stream.write_all(b"0\r\n\r\n"));
        }
        false
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    for (path, end) in [("/open/whole", Ok(0)), ("/open/half", Err(std::io::ErrorKind::ConnectionReset))] {
        let mut client = gateway.client();
        client.write(format!("GET {path} HTTP/1.0\r\nhost: gw.test\r\n\r\n"));
        let mut come = Vec::new();
        while !come.ends_with(b"\r\n\r\nhello") {
            let mut byte = [0];
            client.stream.read_exact(&mut byte).expect("the beginning");
            come.extend(byte);
        }
        says.send(()).expect("the service waits");
        assert_eq!(client.stream.read(&mut [0; 10]).map_err(|error| error.kind()), end, "{path}");
    }
}

// The same where it is the gateway that ends it, or the client says that it sends no more.
#[test]
fn to_a_client_of_http_1_0_half_an_answer_never_ends_cleanly() {
    let upstream = Upstream::scripted(|_, stream| {
        let mut goes_on = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_ok();
        while goes_on {
            goes_on = stream.write_all(b"5\r\nhello\r\n").is_ok();
            std::thread::park_timeout(Duration::from_millis(20));
        }
        false
    });
    let yaml = config(upstream.address, "").replace("realm: test }", "realm: test, limits: { drain_timeout: 1s } }");
    let gateway = Gateway::start(&yaml);
    let ask = |path: &str| {
        let mut client = gateway.client();
        client.write(format!("GET {path} HTTP/1.0\r\nhost: gw.test\r\n\r\n"));
        assert_eq!(client.read_to_head().status, 200);
        client
    };
    let end = |client: &mut Client| loop {
        match client.stream.read(&mut [0; 1000]) {
            Ok(1..) => {}
            Ok(0) => return None,
            Err(error) => return Some(error.kind()),
        }
    };
    let was_cut = |path: &str| gateway.access_lines().iter().any(|line| line["path"] == path && line["cut"] == true);
    let mut client = ask("/open/half-closed");
    client.stream.shutdown(std::net::Shutdown::Write).expect("said");
    assert_eq!(end(&mut client), Some(std::io::ErrorKind::ConnectionReset));
    until("the line says so", || was_cut("/open/half-closed"));
    let mut client = ask("/open/drained");
    gateway.signal("TERM");
    assert_eq!(end(&mut client), Some(std::io::ErrorKind::ConnectionReset));
    until("the line says so", || was_cut("/open/drained"));
}

#[test]
fn request_trailers_go_no_further_and_head_has_no_body() {
    let (upstream, gateway) = start();
    let sent = "POST /open/x HTTP/1.1\r\nhost: gw.test\r\ntransfer-encoding: chunked\r\ntrailer: x-user-id\r\n\r\n5\r\nhello\r\n0\r\nx-user-id: admin\r\n\r\n";
    assert_eq!(gateway.send(sent).status, 200);
    assert_eq!(upstream.last().body, b"hello");
    let mut client = gateway.client();
    client.write("HEAD /open/x HTTP/1.1\r\nhost: gw.test\r\n\r\n");
    let head = client.read_to_head();
    assert_eq!((head.status, head.header("content-length").is_some()), (200, true));
    assert_eq!(client.send(get("/open/next", None)).status, 200);
}

#[test]
fn a_body_of_a_get_reaches_the_upstream_whole() {
    let (upstream, gateway) = start();
    let chunked = "GET /open/x HTTP/1.1\r\nhost: gw.test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(gateway.send(chunked).status, 200);
    assert_eq!(upstream.last().body, b"hello");
    assert_eq!(gateway.send("GET /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 5\r\n\r\nhello").status, 200);
    assert_eq!(upstream.last().body, b"hello");
}

// An upload that goes on after an early answer is no slow head: no 408 is written into the stream.
#[test]
fn an_upload_after_an_early_answer_is_not_taken_for_a_head() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut buffer = vec![0; CHUNK];
                drop(stream.read(&mut buffer));
                drop(stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok"));
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
            });
        }
    });
    let yaml = config(address, "").replace("realm: test }", "realm: test, limits: { header_timeout: 300ms } }");
    let gateway = Gateway::start(&yaml);
    let mut client = gateway.client();
    client.write("POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 20\r\n\r\n");
    assert_eq!(client.read().status, 202);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(60));
        if std::io::Write::write_all(&mut client.stream, b"x").is_err() {
            break;
        }
    }
    assert!(client.try_read(false).is_none_or(|answer| answer.status != 408), "no 408 after a complete answer");
}

/// An upstream that answers before the body is there and goes on as it is told; keeps the raw bytes
/// of each connection.
struct Early {
    address: std::net::SocketAddr,
    say: Sender<&'static [u8]>,
    raw: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Early {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (say, words) = channel::<&[u8]>();
        let words = Arc::new(Mutex::new(words));
        let raw = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
        let record = Arc::clone(&raw);
        std::thread::spawn(move || {
            for (number, mut stream) in listener.incoming().map_while(Result::ok).enumerate() {
                record.lock().expect("the record").push(Vec::new());
                let (words, record) = (Arc::clone(&words), Arc::clone(&record));
                let mut writer = stream.try_clone().expect("a second handle");
                std::thread::spawn(move || {
                    let mut buffer = vec![0; CHUNK];
                    let mut has_answered = false;
                    while let Ok(read @ 1..) = stream.read(&mut buffer) {
                        let mut record = record.lock().expect("the record");
                        record[number].extend_from_slice(&buffer[..read]);
                        let is_head = record[number].windows(4).any(|four| four == b"\r\n\r\n");
                        if is_head && !record[number].starts_with(b"POST /open/first") {
                            drop(writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
                            continue;
                        }
                        if !is_head || std::mem::replace(&mut has_answered, true) {
                            continue;
                        }
                        let (words, mut writer) = (Arc::clone(&words), writer.try_clone().expect("a handle"));
                        std::thread::spawn(move || {
                            drop(writer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"));
                            while let Ok(word) = words.lock().expect("the words").recv() {
                                drop(writer.write_all(word));
                            }
                        });
                    }
                });
            }
        });
        Self { address, say, raw }
    }
}

/// A fault of the client's body after its answer has begun: the answer goes on to its end, and the
/// connection that holds half a request serves nobody else.
#[track_caller]
fn broken_upload_poisons_nothing(framing: &str, fault: impl Fn(&mut Client)) {
    let upstream = Early::start();
    let gateway = Gateway::start_with(&config(upstream.address, ""), &["--workers", "1"]);
    let mut client = gateway.client();
    client.write(format!("POST /open/first HTTP/1.1\r\nhost: gw.test\r\n{framing}"));
    assert_eq!(client.read_to_head().status, 200);
    client.hear("1\r\na\r\n");
    fault(&mut client);
    for _ in 0..5 {
        upstream.say.send(b"1\r\nb\r\n").expect("it listens");
        client.hear("1\r\nb\r\n");
    }
    upstream.say.send(b"0\r\n\r\n").expect("it listens");
    client.hear("0\r\n\r\n");
    for _ in 0..3 {
        assert_eq!(gateway.get("/open/second", None).status, 200);
    }
    let raw = upstream.raw.lock().expect("the record");
    let first = raw.iter().find(|raw| raw.starts_with(b"POST /open/first")).expect("the first connection");
    let first = String::from_utf8_lossy(first);
    assert!(!first.contains("second"), "half a request is followed by somebody else's: {first}");
    assert!(!first.ends_with("0\r\n\r\n"), "a cut body looks like a whole one: {first}");
}

#[test]
fn a_body_that_ends_early_after_its_answer_began_poisons_no_connection() {
    broken_upload_poisons_nothing("content-length: 500\r\n\r\nbegun", |client| {
        client.stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    });
}

#[test]
fn a_bad_chunk_after_its_answer_began_poisons_no_connection() {
    broken_upload_poisons_nothing("transfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n", |client| {
        client.write("zz\r\n");
    });
}

#[test]
fn a_body_over_the_limit_after_its_answer_began_poisons_no_connection() {
    broken_upload_poisons_nothing("transfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n", |client| {
        // The default limit is 1 MiB.
        let chunk = format!("40000\r\n{}\r\n", "x".repeat(0x40000));
        for _ in 0..5 {
            client.write(&chunk);
        }
        client.write("0\r\n\r\n");
    });
}

/// An answer that trickles is no reason to be there for ever, in either protocol.
#[test]
fn an_answer_that_takes_longer_than_its_route_lets_it_is_cut_off() {
    let upstream = Upstream::scripted(|_, stream| {
        let mut goes_on = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_ok();
        while goes_on {
            goes_on = stream.write_all(b"1\r\nx\r\n").is_ok();
            std::thread::park_timeout(Duration::from_millis(20));
        }
        false
    });
    let routes = r#"
  - { id: short, match: { path: "/short" }, upstream: echo, access: public, limits: { answer_timeout: 500ms } }
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
"#;
    let gateway = Gateway::start(&config(upstream.address, routes));
    let cut = || gateway.access_lines().iter().filter(|line| line["outcome"] == "answer_timeout").count();
    let mut long = gateway.client();
    long.write(get("/open/x", None));
    assert_eq!(long.read_to_head().status, 200);
    let mut client = gateway.client();
    client.write(get("/short", None));
    assert_eq!(client.read_to_head().status, 200);
    assert!(client.try_read(false).is_none());
    until("it is logged", || cut() == 1);
    let mut h2 = crate::support::h2::H2::connect(gateway.address);
    let stream = h2.ask(&crate::support::h2::request("GET", "/short", &[]), None);
    assert!(matches!(h2.outcome(stream), crate::support::h2::Outcome::Reset(_)));
    until("it is logged", || cut() == 2);
    // Where nothing is said it goes on.
    let before = gateway.access_lines().len();
    long.hear("1\r\nx\r\n1\r\nx");
    assert_eq!(gateway.access_lines().len(), before);
}

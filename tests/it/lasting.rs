//! Answers that last: cut off within a second when the token that permitted them ends.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::{get, token, with_store};
use crate::support::redis::Redis;
use crate::support::{Gateway, Upstream, now, until};

const ROUTES: &str = r#"
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: money, match: { path: "/money/**" }, upstream: echo, access: authenticated, revocation: { mode: lookup } }
  - { id: lax, match: { path: "/lax/**" }, upstream: echo, access: authenticated, revocation: { when_unavailable: allow } }
"#;

/// An upstream that sends events for ever, or is silent after the first.
fn events() -> Upstream {
    Upstream::scripted(|seen, stream| {
        let is_silent = seen.line().contains("/silent");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        drop(stream.write_all(head.as_bytes()));
        while stream.write_all(b"9\r\ndata: 1\n\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(if is_silent { 30_000 } else { 50 }));
        }
        false
    })
}

/// A stream of events that has begun.
struct Events(std::net::TcpStream);

impl Events {
    fn begin(gateway: &Gateway, path: &str, token: Option<&str>) -> Self {
        let mut client = gateway.client();
        client.write(get(path, token));
        assert_eq!(client.read_to_head().status, 200, "{path}");
        Self(client.stream.try_clone().expect("a second handle"))
    }

    /// Whether the stream has ended, and not as a whole answer does.
    fn is_cut(&mut self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(10))).expect("a time limit");
        let mut piece = [0; 4096];
        loop {
            match self.0.read(&mut piece) {
                Ok(0) => return true,
                Ok(read) => assert!(!piece[..read].ends_with(b"0\r\n\r\n"), "a whole answer"),
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// An upload that has begun: its client goes on sending.
struct Uploading {
    client: crate::support::Client,
    is_chunked: bool,
}

impl Uploading {
    fn begin(gateway: &Gateway, path: &str, token: &str, is_chunked: bool) -> Self {
        let mut client = gateway.client();
        let length = if is_chunked { "transfer-encoding: chunked" } else { "content-length: 900000" };
        client.write(format!(
            "POST {path} HTTP/1.1\r\nhost: gw.test\r\nauthorization: Bearer {token}\r\n{length}\r\n\r\n"
        ));
        Self { client, is_chunked }
    }

    /// Sends a piece; the answer, once there is one.
    fn goes_on(&mut self) -> Option<crate::support::Answer> {
        let piece = "x".repeat(1000);
        let piece = if self.is_chunked { format!("3e8\r\n{piece}\r\n") } else { piece };
        // What is refused is read no further.
        let _sent = self.client.try_write(piece);
        self.client.stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a time limit");
        let mut first = [0];
        match self.client.stream.peek(&mut first) {
            Ok(1..) => {
                self.client.stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit");
                Some(self.client.read())
            }
            _ => None,
        }
    }
}

/// What an upload does at the service is done by whoever it was at the beginning, for as long as it takes.
#[test]
fn an_upload_that_lasts_ends_with_its_token() {
    for (store, is_chunked) in [("redis", true), ("redis", false), ("memory:", true)] {
        let (redis, upstream) = (Redis::start(), Upstream::echo());
        let url = if store == "redis" { redis.url() } else { store.to_owned() };
        let gateway = Gateway::start(&with_store(upstream.address, &url, "", ROUTES));
        let good = token(&json!({ "jti": "stays" }));
        until("it is ready", || gateway.get("/me/x", Some(&good)).status == 200);
        let gone = token(&json!({ "jti": "goes" }));
        let (mut ends, mut stays) = (
            Uploading::begin(&gateway, "/me/x", &gone, is_chunked),
            Uploading::begin(&gateway, "/me/y", &good, is_chunked),
        );
        for _ in 0..20 {
            assert!(ends.goes_on().is_none() && stays.goes_on().is_none());
        }
        let revoked = gateway.admin("POST", "/revocations", r#"{"jti":"goes"}"#);
        assert_eq!(revoked.status, 200, "{}", revoked.text());
        let mut answer = None;
        until("it is ended", || {
            answer = ends.goes_on();
            answer.is_some()
        });
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (401, Some("close")), "{}", answer.text());
        assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="test", error="invalid_token""#));
        assert_eq!(gateway.line_of(&answer)["outcome"], "taken_back");
        // The service has been told of no end.
        assert!(upstream.seen().iter().all(|seen| !seen.line().contains("/me/x") || seen.line().starts_with("GET")));
        for _ in 0..20 {
            assert!(stays.goes_on().is_none());
        }
    }
}

/// A client that is faster than the service is never waited for, and its upload may last as long.
#[test]
fn an_upload_that_its_service_takes_slowly_ends_with_its_token() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut piece = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = stream.read(&mut piece) {
                counted.fetch_add(read, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let routes = r#"
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated, limits: { body: 2GiB } }
"#;
    let gateway = Gateway::start(&with_store(address, "memory:", "", routes));
    let gone = token(&json!({ "jti": "goes" }));
    let mut client = gateway.client();
    client.write(format!(
        "POST /me/x HTTP/1.1\r\nhost: gw.test\r\nauthorization: Bearer {gone}\r\ncontent-length: 2000000000\r\n\r\n"
    ));
    let mut sending = client.stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || {
        let (piece, mut sent) = (vec![b'x'; 64 * 1024], 0_u64);
        while sending.write_all(&piece).is_ok() {
            sent += piece.len() as u64;
        }
        sent
    });
    until("it has lasted", || taken.load(Ordering::Relaxed) > 2_000_000);
    assert_eq!(gateway.admin("POST", "/revocations", r#"{"jti":"goes"}"#).status, 200);
    let answer = client.read();
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert_eq!(gateway.line_of(&answer)["outcome"], "taken_back");
    drop(client);
    assert!(sender.join().expect("it ends") < 2_000_000_000);
}

/// Who cannot be told from one that was taken back is not told to throw its token away.
#[test]
fn an_upload_that_lasts_ends_with_503_where_the_store_is_silent() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let gateway = Gateway::start(&with_store(upstream.address, &redis.url(), "", ROUTES));
    let good = token(&json!({}));
    until("it is ready", || gateway.get("/me/x", Some(&good)).status == 200);
    let mut upload = Uploading::begin(&gateway, "/me/x", &good, true);
    for _ in 0..20 {
        assert!(upload.goes_on().is_none());
    }
    redis.freeze();
    let mut answer = None;
    until("it is ended", || {
        answer = upload.goes_on();
        answer.is_some()
    });
    redis.thaw();
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
    assert_eq!(gateway.line_of(&answer)["outcome"], "standing_unknown");
}

#[test]
fn a_stream_is_cut_within_a_second_of_the_revocation_and_others_go_on() {
    let (redis, upstream) = (Redis::start(), events());
    for store in [redis.url(), "file:store.db".to_owned(), "memory:".to_owned()] {
        let gateway = Gateway::start(&with_store(upstream.address, &store, "", ROUTES));
        until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
        let (dead, good) =
            (token(&json!({ "jti": "dead", "sub": "kim" })), token(&json!({ "jti": "good", "sub": "lee" })));
        for path in ["/me/events", "/me/silent", "/money/events"] {
            let mut cut = Events::begin(&gateway, path, Some(&dead));
            let mut goes_on = Events::begin(&gateway, path, Some(&good));
            let mut open = Events::begin(&gateway, "/open/events", None);
            // It is looked at a few times before.
            std::thread::sleep(Duration::from_millis(600));
            assert!(!cut.is_cut() && !goes_on.is_cut() && !open.is_cut(), "{path}");
            assert_eq!(gateway.admin("POST", "/revocations", r#"{"jti":"dead"}"#).status, 200);
            let revoked = Instant::now();
            until("it is cut", || cut.is_cut());
            assert!(revoked.elapsed() < Duration::from_secs(1), "{path} on {store}: {:?}", revoked.elapsed());
            assert!(!goes_on.is_cut() && !open.is_cut(), "{path}");
            until("the line says so", || {
                gateway.access_lines().iter().any(|line| line["outcome"] == "taken_back" && line["cut"] == true)
            });
            if store.starts_with("redis") {
                redis.command(&["DEL", "blacklist:dead"]);
                until("it is taken again", || {
                    let mut client = gateway.client();
                    client.write(get("/me/silent", Some(&dead)));
                    client.read_to_head().status == 200
                });
            } else {
                // A store of its own cannot take it back.
                break;
            }
        }
    }
}

#[test]
fn a_stream_ends_with_its_token() {
    let upstream = events();
    let yaml = with_store(upstream.address, "memory:", "", ROUTES)
        .replace("algorithms: [RS256]", "leeway: 0s, algorithms: [RS256]");
    let gateway = Gateway::start(&yaml);
    let short = token(&json!({ "exp": now() + 2 }));
    let mut events = Events::begin(&gateway, "/me/events", Some(&short));
    assert!(!events.is_cut());
    let begun = Instant::now();
    until("it is cut", || events.is_cut());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_store_that_is_away_for_a_moment_ends_no_stream_and_one_that_stays_away_does() {
    let (redis, upstream) = (Redis::start(), events());
    let gateway = Gateway::start(&with_store(upstream.address, &redis.url(), "", ROUTES));
    until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
    let good = token(&json!({}));
    let (mut strict, mut lax) =
        (Events::begin(&gateway, "/me/events", Some(&good)), Events::begin(&gateway, "/lax/events", Some(&good)));
    for _ in 0..3 {
        redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        until("it is ready", || gateway.admin("GET", "/readyz", "").status == 200);
        // Longer than what counts as a connection that lasts.
        std::thread::sleep(Duration::from_millis(1200));
    }
    assert!(!strict.is_cut() && !lax.is_cut());
    redis.freeze();
    let frozen = Instant::now();
    until("it is cut", || strict.is_cut());
    assert!(frozen.elapsed() < Duration::from_secs(4), "{:?}", frozen.elapsed());
    assert!(!lax.is_cut());
}

/// A client that takes an answer byte by byte keeps it no longer than one that takes it as it comes, in either protocol.
#[test]
fn a_client_that_reads_slowly_keeps_an_answer_no_longer() {
    use crate::support::h2::{H2, frame, request};
    let upstream = Upstream::scripted(|_, stream| {
        let mut goes_on = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_ok();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while goes_on {
            goes_on = stream.write_all(chunk.as_bytes()).is_ok();
        }
        false
    });
    let short = "  - { id: short, match: { path: \"/short\" }, upstream: echo, access: authenticated, limits: { answer_timeout: 1s } }\n";
    let gateway = Gateway::start(&with_store(upstream.address, "memory:", "", &format!("{ROUTES}{short}")));
    let cut = |outcome: &str| gateway.access_lines().iter().filter(|line| line["outcome"] == *outcome).count();
    let bearer = format!("Bearer {}", token(&json!({ "sub": "kim" })));
    for (path, outcome) in [("/short", "answer_timeout"), ("/me/long", "taken_back")] {
        let mut h2 = H2::connect(gateway.address);
        let stream = h2.ask(&request("GET", path, &[("authorization", &bearer)]), None);
        let mut socket = gateway.client().stream;
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time limit");
        let head = format!("GET {path} HTTP/1.1\r\nhost: gw.test\r\nauthorization: {bearer}\r\n\r\n");
        socket.write_all(head.as_bytes()).expect("it goes out");
        let mut trickle = || {
            // A little more now and then: less would be a flood of frames that bring nothing.
            std::thread::sleep(Duration::from_millis(20));
            let more = [frame(8, 0, 0, &[0, 0, 8, 0]), frame(8, 0, stream, &[0, 0, 8, 0])].concat();
            let _closed = h2.try_write(&more);
            let _closed = socket.read(&mut [0; 1]);
        };
        for _ in 0..10 {
            trickle();
        }
        if outcome == "taken_back" {
            let order = json!({ "sub": "kim", "before": now() }).to_string();
            assert_eq!(gateway.admin("POST", "/revocations", &order).status, 200);
        }
        let end = Instant::now() + Duration::from_secs(5);
        while cut(outcome) < 2 {
            assert!(Instant::now() < end, "{outcome}: {:?}", gateway.lines());
            trickle();
        }
    }
}

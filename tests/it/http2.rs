//! HTTP/2 from clients: with prior knowledge and by ALPN, judged as HTTP/1 is.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::version::{TLS12, TLS13};

use crate::support::gateway::customer;
use crate::support::h2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, Outcome, PING, PREFACE, RST_STREAM,
    WINDOW_UPDATE, block, frame, request,
};
use crate::support::tls::{Authority, TlsClient};
use crate::support::{Gateway, Upstream, config, sign, until};

fn with_limits(upstream: &Upstream, limits: &str) -> String {
    config(upstream.address, "").replace("realm: test }", &format!("realm: test, limits: {{ {limits} }} }}"))
}

#[test]
fn requests_are_judged_and_forwarded_as_those_of_http_1_are() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = H2::connect(gateway.address);
    for _ in 0..3 {
        let answer = client.get("/orders/7?a=b", Some(&customer()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let head = answer.text();
        assert!(head.starts_with("GET /orders/7?a=b HTTP/1.1\r\n"), "{head}");
        for line in ["host: gw.test\r\n", "x-user-id: kim\r\n", "x-forwarded-proto: http\r\n", "x-user-roles: customer"]
        {
            assert!(head.contains(line), "{line}: {head}");
        }
        assert!(!head.contains("authorization") && !head.contains("\r\n:"), "{head}");
        assert_eq!(gateway.line_of(&answer)["route"], "order");
    }
    for (path, token, status, outcome) in [
        ("/orders/7", None, 401, "missing_token"),
        ("/pay", Some(customer()), 403, "missing_scope"),
        ("/nowhere", Some(customer()), 404, "no_route"),
        ("/me/%2e%2e/x", Some(customer()), 400, "ambiguous_path"),
        ("/me/x", Some(format!("{}AAAA", customer())), 401, "bad_signature"),
    ] {
        let before = upstream.seen().len();
        let answer = client.get(path, token.as_deref());
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("connection"), None);
        let line = gateway.line_of(&answer);
        assert_eq!(line["outcome"], outcome, "{line}");
        assert_eq!(upstream.seen().len(), before, "nothing goes upstream");
    }
}

#[test]
fn a_tls_listener_offers_http_2_first_and_http_1_to_whoever_wants_that() {
    let (upstream, authority) = (Upstream::echo(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    authority.write(folder.path(), "gw", &["gw.test"]);
    let tls = r#"{ address: "127.0.0.1:0", tls: { certificates: [{ cert_file: gw.crt, key_file: gw.key }] } }]"#;
    let yaml = config(upstream.address, "").replace(r#"{ address: "127.0.0.1:0" }]"#, tls);
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    let gateway = Gateway::start_in(folder, &[]);
    for version in [&TLS13, &TLS12] {
        let mut client = H2::over_tls(gateway.address, &authority.client(&[version]), "gw.test");
        for _ in 0..3 {
            let answer = client.get("/orders/7", Some(&customer()));
            assert_eq!(answer.status, 200);
            assert!(answer.text().contains("x-forwarded-proto: https\r\n"), "{}", answer.text());
        }
        // Without ALPN it is HTTP/1, and the preface of HTTP/2 is no request there.
        let mut client = TlsClient::connect(gateway.address, &authority.client(&[version]), "gw.test").expect("TLS");
        client.0.write_all(PREFACE).expect("it is sent");
        assert_eq!(client.read().map(|(status, ..)| status), Some(400));
    }
}

#[test]
fn streams_go_on_beside_each_other_and_a_slow_one_holds_up_nobody() {
    let upstream = Upstream::scripted(|seen, stream| {
        if seen.line().contains("/slow") {
            std::thread::sleep(Duration::from_secs(1));
        }
        let body = seen.line();
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = H2::connect(gateway.address);
    let slow = client.ask(&request("GET", "/open/slow", &[]), None);
    let others: Vec<u32> =
        (0..20).map(|number| client.ask(&request("GET", &format!("/open/{number}"), &[]), None)).collect();
    // In the order in which they come: the slow one is the last.
    let mut ended = Vec::new();
    let mut bodies = std::collections::HashMap::<u32, Vec<u8>>::new();
    while ended.len() < 21 {
        let frame = client.frame().expect("a frame");
        if frame.kind == DATA {
            bodies.entry(frame.stream).or_default().extend(&frame.payload);
        }
        if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
            ended.push(frame.stream);
        }
    }
    assert_eq!(ended.last(), Some(&slow));
    for (number, stream) in others.iter().enumerate() {
        assert_eq!(bodies[stream], format!("GET /open/{number} HTTP/1.1").as_bytes());
    }
}

/// Rows 40, 60, 75.
#[test]
fn header_lists_that_are_no_request_reach_no_upstream() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let bearer = format!("Bearer {}", customer());
    let of = |fields: &[(&'static str, &'static str)]| fields.to_vec();
    let (get, http, path, host) =
        ((":method", "GET"), (":scheme", "http"), (":path", "/open/x"), (":authority", "gw.test"));
    let lists = [
        of(&[http, path, host]),
        of(&[get, path, host]),
        of(&[get, http, host]),
        of(&[get, http, path]),
        of(&[get, get, http, path, host]),
        of(&[get, http, http, path, host]),
        of(&[get, http, path, path, host]),
        of(&[get, http, path, host, host]),
        of(&[get, http, path, host, (":status", "200")]),
        of(&[get, http, path, host, (":protocol", "websocket")]),
        of(&[get, http, path, host, (":unknown", "x")]),
        of(&[get, http, path, ("x", "y"), host]),
        of(&[get, http, path, host, ("x", "y"), (":path", "/me/x")]),
        of(&[get, http, (":path", ""), host]),
        of(&[get, http, (":path", "open/x"), host]),
        of(&[get, http, (":path", "Service/Method"), host]),
        of(&[get, http, (":path", "*"), host]),
        of(&[get, http, (":path", "http://gw.test/open/x"), host]),
        of(&[get, http, (":path", "/open/x y"), host]),
        of(&[get, http, (":path", "/open/\u{1}"), host]),
        of(&[get, http, (":path", "//gw.test/open/x"), host]),
        of(&[get, http, path, (":authority", "")]),
        of(&[get, http, path, (":authority", "user@gw.test")]),
        of(&[get, http, path, (":authority", "gw.test/x")]),
        of(&[get, http, path, (":authority", "gw.test gw.test")]),
        of(&[get, http, path, host, ("host", "other.test")]),
        of(&[get, http, path, ("host", "gw.test"), ("host", "gw.test")]),
        of(&[get, http, path, host, ("host", "gw.test"), ("host", "gw.test")]),
        of(&[(":method", ""), http, path, host]),
        of(&[(":method", "G T"), http, path, host]),
        of(&[(":method", "CONNECT"), host]),
        of(&[(":method", "CONNECT"), http, path, host]),
        of(&[(":method", "TRACE"), http, path, host]),
        of(&[get, http, path, host, ("connection", "close")]),
        of(&[get, http, path, host, ("connection", "x-user-id")]),
        of(&[get, http, path, host, ("keep-alive", "timeout=5")]),
        of(&[get, http, path, host, ("proxy-connection", "close")]),
        of(&[get, http, path, host, ("transfer-encoding", "chunked")]),
        of(&[get, http, path, host, ("upgrade", "websocket")]),
        of(&[get, http, path, host, ("te", "gzip")]),
        of(&[get, http, path, host, ("X-User-Id", "admin")]),
        of(&[get, http, path, host, ("x-User-id", "admin")]),
        of(&[get, http, path, host, ("", "x")]),
        of(&[get, http, path, host, ("x y", "x")]),
        of(&[get, http, path, host, ("x:y", "x")]),
        of(&[get, http, path, host, ("x\r\ny", "x")]),
        of(&[get, http, path, host, ("x", "a\r\nx-user-id: admin")]),
        of(&[get, http, path, host, ("x", "a\nb")]),
        of(&[get, http, path, host, ("x", "a\0b")]),
        of(&[get, http, path, host, ("content-length", "1")]),
        of(&[get, http, path, host, ("content-length", "+0")]),
        of(&[get, http, path, host, ("content-length", "0"), ("content-length", "1")]),
        of(&[get, http, path, host, ("content-length", "x")]),
    ];
    for list in &lists {
        let mut client = H2::connect(gateway.address);
        let stream = client.ask(list, None);
        match client.outcome(stream) {
            Outcome::Answered(answer, _) => assert_eq!(answer.status, 400, "{list:?}: {}", answer.text()),
            Outcome::Reset(code) => assert_eq!(code, 1, "{list:?}"),
            Outcome::Gone(code) => assert!(matches!(code, Some(1 | 9)), "{list:?}: {code:?}"),
        }
        assert!(upstream.seen().is_empty(), "{list:?}: {}", upstream.last().head);
    }
    // The parser drops a fragment; what is judged is what goes on.
    let mut client = H2::connect(gateway.address);
    for (path, status) in [("/open/x#/../../me/x", 200), ("/me/x#/open/x", 401)] {
        let answer = client.get(path, None);
        assert_eq!(answer.status, status);
        assert!(status != 200 || answer.text().starts_with("GET /open/x HTTP/1.1\r\n"), "{}", answer.text());
    }
    // What a client may say of its own accord changes nothing.
    let mut client = H2::connect(gateway.address);
    let fields = [("authorization", &*bearer), ("x-user-id", "admin"), ("x_user_id", "admin"), ("te", "trailers")];
    let answer = client.send(&request("GET", "/me/x", &fields), None);
    let head = answer.text().to_ascii_lowercase();
    assert!(answer.status == 200 && head.contains("x-user-id: kim\r\n"), "{head}");
    assert!(!head.contains("admin") && !head.contains("\r\nte:"), "{head}");
}

#[test]
fn cookie_crumbs_become_one_field_and_two_credentials_are_none() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = H2::connect(gateway.address);
    let crumbs = [("cookie", "a=1"), ("x-b", "c"), ("cookie", "b=2"), ("cookie", "c=3; d=4")];
    let answer = client.send(&request("GET", "/open/x", &crumbs), None);
    assert!(answer.text().contains("cookie: a=1; b=2; c=3; d=4\r\n"), "{}", answer.text());
    assert_eq!(answer.text().matches("cookie").count(), 1);
    let bearer = format!("Bearer {}", customer());
    let twice = [("authorization", &*bearer), ("authorization", &*bearer)];
    assert_eq!(client.send(&request("GET", "/me/x", &twice), None).status, 400);
}

#[test]
fn bodies_of_every_kind_arrive_whole_and_their_trailers_do_not() {
    let upstream = Upstream::scripted(|seen, stream| {
        let length = seen.body.len();
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes()).is_ok()
            && stream.write_all(&seen.body).is_ok()
    });
    let yaml = with_limits(&upstream, "body: 4MiB");
    let gateway = Gateway::start(&yaml);
    let mut client = H2::connect(gateway.address);
    let large: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
    for body in [&b""[..], b"x", &large[..60_000]] {
        let length = body.len().to_string();
        for more in [&[][..], &[("content-length", &*length)]] {
            let answer = client.send(&request("POST", "/open/x", more), Some(body));
            assert_eq!((answer.status, answer.body.len()), (200, body.len()));
            assert_eq!(answer.body, body);
            let seen = upstream.last();
            let framing = (seen.value("content-length"), seen.value("transfer-encoding"));
            let expected = match (more.is_empty(), body.is_empty()) {
                (true, false) => (None, Some("chunked")),
                _ => (Some(&*length), None),
            };
            // An empty piece at the end is no body, or one without a length.
            assert!(framing == expected || (body.is_empty() && framing == (None, Some("chunked"))), "{framing:?}");
        }
    }
    // Larger than the stream's window: it is opened again as the upstream takes it.
    let mut client = H2::connect(gateway.address);
    let stream = client.stream();
    client.write(&frame(HEADERS, END_HEADERS, stream, &block(&request("POST", "/open/x", &[]))));
    let (mut left, mut windows, mut sent) = (1_000_000_usize, [0, 262_144_usize], 0_u32);
    while left > 0 {
        while windows.iter().any(|window| *window < 16_384) {
            let update = client.frame_of(WINDOW_UPDATE);
            let more = u32::from_be_bytes(update.payload[..4].try_into().expect("four bytes")) as usize;
            windows[usize::from(update.stream != 0)] += more;
        }
        let piece = left.min(16_384);
        left -= piece;
        windows = windows.map(|window| window - piece);
        sent += 1;
        client.write(&frame(DATA, if left == 0 { END_STREAM } else { 0 }, stream, &vec![sent as u8; piece]));
    }
    let answer = client.answer(stream);
    assert_eq!((answer.status, answer.body.len()), (200, 1_000_000));

    let stream = client.stream();
    client.write(
        &[
            frame(HEADERS, END_HEADERS, stream, &block(&request("POST", "/open/x", &[]))),
            frame(DATA, 0, stream, b"body"),
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[("x-user-id", "admin")])),
        ]
        .concat(),
    );
    match client.outcome(stream) {
        Outcome::Answered(answer, trailers) => assert_eq!((&*answer.body, &*trailers), (&b"body"[..], &[][..])),
        other => panic!("{other:?}"),
    }
    assert!(!upstream.last().head.contains("admin"));
}

#[test]
fn a_body_that_nobody_reads_ends_its_stream_alone() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&with_limits(&upstream, "body: 64KiB"));
    let mut client = H2::connect(gateway.address);
    for (path, status) in [("/me/x", 401), ("/nowhere", 404)] {
        for _ in 0..50 {
            let stream = client.stream();
            client.write(&frame(HEADERS, END_HEADERS, stream, &block(&request("POST", path, &[]))));
            client.write(&frame(DATA, 0, stream, &[0; 8_000]));
            assert_eq!(client.answer(stream).status, status, "{path}");
        }
    }
    let stream = client.ask(&request("POST", "/open/x", &[("content-length", "100000")]), Some(&[0; 50_000]));
    // Too long, or not as long as was said: both are refused.
    assert!(!matches!(client.outcome(stream), Outcome::Answered(answer, _) if answer.status != 413));
    assert!(upstream.seen().is_empty());
    assert_eq!(client.get("/open/x", None).status, 200, "the window is open again");
}

#[test]
fn answers_without_a_body_have_none() {
    let upstream = Upstream::scripted(|seen, stream| {
        let head = if seen.line().contains("/304") { "304 Not Modified" } else { "200 OK" };
        stream.write_all(format!("HTTP/1.1 {head}\r\netag: \"x\"\r\ncontent-length: 5\r\n\r\n").as_bytes()).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = H2::connect(gateway.address);
    for (method, path, status) in [("HEAD", "/open/x", 200), ("GET", "/open/304", 304), ("HEAD", "/open/304", 304)] {
        let answer = client.send(&request(method, path, &[]), None);
        assert_eq!((answer.status, answer.body.len(), answer.header("etag")), (status, 0, Some("\"x\"")));
    }
}

#[test]
fn an_answer_that_breaks_off_is_a_reset_and_never_a_clean_end() {
    let upstream = Upstream::scripted(|seen, stream| {
        let framing = if seen.line().contains("/chunked") { "transfer-encoding: chunked" } else { "content-length: 9" };
        drop(stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhel").as_bytes()));
        false
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = H2::connect(gateway.address);
    for path in ["/open/chunked", "/open/length"] {
        let stream = client.ask(&request("GET", path, &[]), None);
        assert!(matches!(client.outcome(stream), Outcome::Reset(2)), "{path}");
    }
    assert!(client.is_alive());
}

#[test]
fn draining_tells_the_client_and_answers_what_is_under_way() {
    let upstream = Upstream::scripted(|_, stream| {
        std::thread::sleep(Duration::from_millis(700));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok()
    });
    let mut gateway = Gateway::start(&config(upstream.address, ""));
    let mut idle = H2::connect(gateway.address);
    let mut silent = H2::raw(gateway.address);
    let mut client = H2::connect(gateway.address);
    assert!(idle.is_alive());
    let stream = client.ask(&request("GET", "/open/x", &[]), None);
    until("it is upstream", || upstream.seen().len() == 1);
    gateway.signal("TERM");
    let goaway = client.frame_of(GOAWAY);
    assert_eq!(goaway.code(), 0);
    // The end is told twice, so that what was on its way meanwhile is taken (RFC 9113 §6.8).
    let ping = client.frame_of(PING);
    client.write(&frame(PING, ACK, 0, &ping.payload));
    assert_eq!(client.frame_of(GOAWAY).payload[..4], stream.to_be_bytes());
    let head = client.frame_of(HEADERS);
    assert_eq!(client.decode(&head.payload)[0].1, "200");
    assert_eq!(client.frame_of(DATA).payload, b"ok");
    assert_eq!(client.end(), None);
    let ping = idle.frame_of(PING);
    idle.write(&frame(PING, ACK, 0, &ping.payload));
    assert_eq!(idle.end(), Some(0));
    assert_eq!(silent.end(), None, "nothing was begun");
    assert!(gateway.wait().success());
}

#[test]
fn connections_that_wait_for_too_long_are_told_so() {
    let upstream = Upstream::echo();
    let limits = "keep_alive_timeout: 3s, header_timeout: 1s, send_timeout: 1s";
    let gateway = Gateway::start(&with_limits(&upstream, limits));
    // One that answers the farewell, and one that does not.
    let mut polite = H2::connect(gateway.address);
    assert_eq!(polite.get("/open/x", None).status, 200);
    let mut rude = H2::connect(gateway.address);
    let goaway = polite.frame_of(GOAWAY);
    assert_eq!(goaway.code(), 0);
    let ping = polite.frame_of(PING);
    polite.write(&frame(PING, ACK, 0, &ping.payload));
    assert_eq!(polite.end(), Some(0));
    assert_eq!(rude.end(), Some(0));
    // A preface that does not come to its end, and a head that does not.
    let mut preface = H2::raw(gateway.address);
    preface.write(&PREFACE[..20]);
    let mut told = Vec::new();
    drop(std::io::Read::read_to_end(&mut preface.socket, &mut told));
    assert!(told.starts_with(b"HTTP/1.1 400 "), "{told:?}");
    let mut head = H2::connect(gateway.address);
    head.write(&frame(HEADERS, 0, 1, &block(&request("GET", "/open/x", &[]))));
    head.end();
    // Also where other requests are under way all the time.
    let mut busy = H2::connect(gateway.address);
    let mut blocked = false;
    while busy.try_write(&if blocked { frame(CONTINUATION, 0, 3, &block(&[("x", "y")])) } else { Vec::new() }).is_some()
    {
        if !blocked {
            assert_eq!(busy.get("/open/x", None).status, 200);
            busy.write(&frame(HEADERS, 0, 3, &block(&request("GET", "/open/x", &[]))));
            blocked = true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    until("both are counted", || gateway.metric("heads_refused_total{reason=\"head_timeout\"}") >= 2.0);
}

/// curl in each of its ways: with prior knowledge, by an `Upgrade` that is passed over, with a body that waits
/// to be asked for, and as a client of HTTP/1.0.
#[test]
fn curl_is_served_in_every_protocol_that_it_speaks() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let file = gateway.folder().join("body");
    std::fs::write(&file, vec![b'x'; 300_000]).expect("a file");
    let upload = ["-H", "expect: 100-continue", "-T", file.to_str().expect("a path")];
    for (way, protocol) in [("--http2-prior-knowledge", "2"), ("--http2", "1.1"), ("--http1.1", "1.1"), ("-0", "1")] {
        for more in [&[][..], &upload] {
            let answer = Command::new("curl")
                .args(["-sS", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", way])
                .args(more)
                .arg(format!("http://{}/open/x", gateway.address))
                .stderr(Stdio::inherit())
                .output()
                .expect("curl is installed");
            assert_eq!(String::from_utf8_lossy(&answer.stdout), format!("{protocol} 200"), "{way} {more:?}");
            let seen = upstream.last();
            assert_eq!(seen.body.len(), if more.is_empty() { 0 } else { 300_000 }, "{way}");
            assert!(!seen.head.to_ascii_lowercase().contains("h2c"), "{}", seen.head);
        }
    }
}

/// A service that answers before it has read the body, and goes on to read what it takes for the next request.
fn hasty() -> (std::net::SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let record = Arc::clone(&connections);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let record = Arc::clone(&record);
            std::thread::spawn(move || {
                let number = {
                    let mut record = record.lock().expect("the record");
                    record.push(Vec::new());
                    record.len() - 1
                };
                let mut read = [0; 4096];
                let mut answered = false;
                while let Ok(come @ 1..) = std::io::Read::read(&mut stream, &mut read) {
                    let mut record = record.lock().expect("the record");
                    record[number].extend_from_slice(&read[..come]);
                    if !answered || record[number].ends_with(b"\r\n\r\n") {
                        answered = true;
                        drop(stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"));
                    }
                }
            });
        }
    });
    (address, connections)
}

// A stream that is reset with NO_ERROR is no body that has come to its end: the next request on the connection
// would be read as the rest of this one.
#[test]
fn a_body_that_is_taken_back_without_an_error_ends_its_connection_to_the_service() {
    let (address, connections) = hasty();
    let gateway = Gateway::start_with(&config(address, ""), &["--workers", "1"]);
    for more in [&[("content-length", "50")][..], &[]] {
        let mut client = H2::connect(gateway.address);
        let stream = client.stream();
        client.write(&frame(HEADERS, END_HEADERS, stream, &block(&request("POST", "/open/first", more))));
        assert_eq!(client.answer(stream).status, 401);
        client.write(&frame(RST_STREAM, 0, stream, &[0; 4]));
        assert!(client.is_alive());
        for _ in 0..3 {
            assert_eq!(client.get("/open/next", None).status, 401);
        }
        let connections = connections.lock().expect("the record");
        let first = connections.iter().find(|it| it.starts_with(b"POST /open/first")).expect("the first request");
        assert!(!String::from_utf8_lossy(first).contains("/open/next"), "{}", first.escape_ascii());
        drop(connections);
    }
}

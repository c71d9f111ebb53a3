//! Requests and answers at the edges of the protocol, where an earlier version went wrong.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gateway::{config, get, token};
use crate::support::{Gateway, Upstream, until};

/// A configuration with limits of its own.
fn limited(upstream: std::net::SocketAddr, limits: &str, routes: &str) -> Gateway {
    let yaml = config(upstream, routes).replace("realm: test }", &format!("realm: test, limits: {{ {limits} }} }}"));
    Gateway::start(&yaml)
}

// hyper takes 100 fields by itself, and nothing here asks it for more.
#[test]
fn as_many_fields_are_taken_as_the_file_can_allow() {
    let upstream = Upstream::echo();
    let gateway = limited(upstream.address, "header_count: 100", "");
    for (more, status) in [(99, 200), (100, 431)] {
        let fields: String = (0..more).map(|number| format!("x-{number}: 1\r\n")).collect();
        let request = get("/open/x", None).replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
        assert_eq!(gateway.send(request).status, status, "a Host and {more} more");
    }
    assert_eq!(upstream.seen().len(), 1);
}

// The end of an upload that had been answered early made the connection look idle while the next
// request was under way, and an idle connection is parked.
#[test]
fn a_request_after_an_upload_that_was_answered_early_is_answered_too() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    let was_early = seen.is_empty();
                    seen.extend_from_slice(&buffer[..read]);
                    if was_early && seen.starts_with(b"POST /open/early") {
                        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
                    }
                    if seen.starts_with(b"GET /open/slow") || seen.windows(14).any(|part| part == b"GET /open/slow") {
                        std::thread::sleep(Duration::from_millis(2500));
                        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow"));
                        seen.clear();
                    }
                }
            });
        }
    });
    let gateway = limited(address, "keep_alive_timeout: 8s", "");
    let mut client = gateway.client();
    client.write("POST /open/early HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 10\r\n\r\nhello");
    assert_eq!(client.read().status, 200);
    client.write(format!("world{}", get("/open/slow", None)));
    let answer = client.read();
    assert_eq!((answer.status, answer.text().as_str()), (200, "slow"));
}

/// And its connection to the service goes back as soon as the body is through, not when the client asks for something else.
#[test]
fn a_connection_whose_answer_came_before_the_body_was_through_is_used_again_after_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (says, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for (number, mut stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let says = says.clone();
            std::thread::spawn(move || {
                let (mut seen, mut buffer, mut is_answered) = (Vec::new(), [0; 4096], false);
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    seen.extend_from_slice(&buffer[..read]);
                    let Some(head) = seen.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
                    let length = if seen.starts_with(b"POST") { 10 } else { 0 };
                    if !is_answered {
                        drop(write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}"));
                    }
                    is_answered = seen.len() < head + 4 + length;
                    if !is_answered {
                        seen.clear();
                        says.send(()).expect("somebody waits");
                    }
                }
            });
        }
    });
    let gateway = Gateway::start_with(&config(address, ""), &["--workers", "1"]);
    let mut client = gateway.client();
    client.write("POST /open/early HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 10\r\n\r\nhello");
    assert_eq!(client.read().text(), "0");
    client.write("world");
    told.recv().expect("the whole body");
    assert_eq!(gateway.get("/open/next", None).text(), "0", "on the same connection");
}

#[test]
fn an_encoded_slash_never_leads_around_another_route() {
    let upstream = Upstream::echo();
    let routes = r#"
  - { id: files, match: { path: "/files/{name}" }, upstream: echo, access: authenticated, encoded_slash: allow }
  - { id: secret, match: { path: "/files/admin/{name}" }, upstream: echo, access: { roles: [admin] } }
  - { id: put, match: { path: "/files/put/it", methods: [PUT] }, upstream: echo, access: { roles: [admin] } }
"#;
    let gateway = Gateway::start(&config(upstream.address, routes));
    let nobody = token(&json!({}));
    let status = |path: &str| gateway.get(path, Some(&nobody)).status;
    assert_eq!((status("/files/admin/x"), status("/files/a%2Fb"), status("/files/admin")), (403, 200, 200));
    for path in ["/files/admin%2Fx", "/files/admin%2fx", "/files/put%2Fit", "/files/%61dmin%2Fx", "/files%2Fadmin/x"] {
        let before = upstream.seen().len();
        assert!(matches!(status(path), 400 | 404), "{path}");
        assert_eq!(upstream.seen().len(), before, "{path}");
    }
}

/// A catch-all has every path: where it demands nothing more, nothing is led around it.
#[test]
fn an_encoded_slash_is_taken_beside_a_route_for_the_rest_that_protects_no_more() {
    let upstream = Upstream::echo();
    let routes = r#"
  - { id: files, match: { path: "/files/{name}" }, upstream: echo, access: authenticated, encoded_slash: allow }
  - { id: public, match: { path: "/public/{name}" }, upstream: echo, access: public, encoded_slash: allow }
  - { id: own, match: { path: "/own/{name}" }, upstream: echo, access: { claims: { sub: "{name}" } }, encoded_slash: allow }
  - { id: owned, match: { path: "/own/{name}/{rest}" }, upstream: echo, access: { claims: { sub: "{name}" } } }
  - { id: open, match: { path: "/files/open/{x}" }, upstream: echo, access: public }
  - { id: counted, match: { path: "/files/counted/**" }, upstream: echo, access: authenticated, rate_limit: { key: client_ip, limit: 1/minute } }
  - { id: off, match: { path: "/files/off/**" }, upstream: echo, access: authenticated, revocation: { mode: off } }
  - { id: other, match: { path: "/files/other/**" }, upstream: echo, auth: [ec], access: authenticated }
  - { id: rest, match: { path: "/**" }, upstream: echo, access: authenticated }
"#;
    let gateway = Gateway::start(&config(upstream.address, routes));
    let kim = token(&json!({}));
    for (path, status) in [
        ("/files/a%2Fb", 200),
        ("/files/a%2fb%2Fc", 200),
        ("/files/open%2Fx", 200),
        ("/files/counted%2Fx", 400),
        ("/files/off%2Fx", 400),
        ("/files/other%2Fx", 400),
        // Whoever is nobody may not, under its other name.
        ("/public/a%2Fb", 400),
        // The same words mean another part of the path.
        ("/own/kim%2Fx", 400),
        ("/rest%2Fx", 400),
    ] {
        let answer = gateway.get(path, Some(&kim));
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    assert!(upstream.seen().iter().any(|seen| seen.line() == "GET /files/a%2Fb HTTP/1.1"));
}

// What an upstream sends where there is no body would be read as the answer to the next request.
#[test]
fn a_body_that_should_not_be_there_reaches_nobody() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";
    let upstream = Upstream::scripted(|seen, stream| {
        let head = match seen.line() {
            line if line.starts_with("HEAD") => "HTTP/1.1 200 OK\r\n",
            line if line.contains("/204") => "HTTP/1.1 204 No Content\r\n",
            line if line.contains("/304") => "HTTP/1.1 304 Not Modified\r\n",
            _ => return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").is_ok(),
        };
        let framing = if seen.line().contains("chunked") {
            "transfer-encoding: chunked".to_owned()
        } else {
            format!("content-length: {}", EVIL.len())
        };
        drop(stream.write_all(format!("{head}{framing}\r\n\r\n").as_bytes()));
        std::thread::sleep(Duration::from_millis(1));
        stream.write_all(EVIL.as_bytes()).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = gateway.client();
    for (method, path) in
        [("HEAD", "/open/head"), ("GET", "/open/204"), ("GET", "/open/204/chunked"), ("GET", "/open/304/chunked")]
    {
        for _ in 0..50 {
            client.write(format!("{method} {path} HTTP/1.1\r\nhost: gw.test\r\n\r\n"));
            client.read_to_head();
            let answer = client.send(get("/open/x", None));
            assert_eq!(answer.text(), "good", "{method} {path}");
        }
    }
}

#[test]
fn a_transfer_coding_beside_chunked_is_400_and_closes() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    for codings in [
        "gzip, chunked",
        "chunked, chunked",
        "chunked\r\ntransfer-encoding: chunked",
        "identity\r\ntransfer-encoding: chunked",
        ",chunked",
    ] {
        let mut client = gateway.client();
        client.write(format!(
            "POST /open/x HTTP/1.1\r\nhost: gw.test\r\ntransfer-encoding: {codings}\r\n\r\n0\r\n\r\n{}",
            get("/open/y", None)
        ));
        assert_eq!(client.read().status, 400, "{codings}");
        assert!(client.try_read(false).is_none(), "{codings}: closed");
    }
    let answer = gateway.send("POST /open/x HTTP/1.1\r\nhost: gw.test\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn nothing_after_a_head_that_is_not_understood_is_taken_for_a_request() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    for head in [
        "GET /open/x HTTP/1.1\r\n\r\n",
        "GET /open/x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET /open/x HTTP/1.1\r\nhost: a@b\r\n\r\n",
        "GET http://other/open/x HTTP/1.1\r\nhost: gw.test\r\n\r\n",
        "CONNECT gw.test:443 HTTP/1.1\r\nhost: gw.test:443\r\n\r\n",
    ] {
        let mut client = gateway.client();
        client.write(format!("{head}{}", get("/open/y", None)));
        let answer = client.read();
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{head}");
        assert!(client.try_read(false).is_none(), "{head}: closed");
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn a_client_that_stalls_its_body_is_408_and_not_the_services_fault() {
    let upstream = Upstream::echo();
    let yaml = config(upstream.address, "")
        .replace("realm: test }", "realm: test, limits: { body_timeout: 1500ms } }")
        .replace("targets: [\"http", "timeout: 300ms, targets: [\"http");
    assert!(yaml.contains("timeout: 300ms"));
    let gateway = Gateway::start(&yaml);
    let mut client = gateway.client();
    client.write("POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 100\r\n\r\nabc");
    assert_eq!(client.read().status, 408);
}

#[test]
fn a_client_reads_the_refusal_of_an_upload_that_it_is_still_sending() {
    let upstream = Upstream::echo();
    let gateway = limited(upstream.address, "body: 6MiB", "");
    for (path, status, mebibytes) in [("/me/x", 401, 5), ("/none", 404, 5), ("/open/x", 413, 7)] {
        for _ in 0..5 {
            let mut client = gateway.client();
            let length = mebibytes * 1024 * 1024;
            client.write(format!("POST {path} HTTP/1.1\r\nhost: gw.test\r\ncontent-length: {length}\r\n\r\n"));
            let piece = vec![b'x'; 64 * 1024];
            let sent = (0..length / piece.len()).all(|_| client.try_write(&piece).is_some());
            assert!(sent, "{path}: the connection was reset");
            assert_eq!(client.try_read(false).map(|answer| answer.status), Some(status), "{path}");
        }
    }
}

#[test]
fn chunks_of_an_answer_may_be_padded_for_as_long_as_it_lasts() {
    let upstream = Upstream::scripted(|_, stream| {
        let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..6000 {
            answer.extend_from_slice(b"8   ;padded\r\nAAAAAAAA\r\n");
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        stream.write_all(&answer).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    assert_eq!(gateway.get("/open/x", None).body.len(), 48_000);
}

#[test]
fn half_a_head_does_not_hold_up_a_drain() {
    let upstream = Upstream::echo();
    let mut gateway = limited(upstream.address, "header_timeout: 500ms, drain_timeout: 30s", "");
    let mut slow = gateway.client();
    slow.write("GET /open/x HTTP/1.1\r\nhost: ");
    assert_eq!(gateway.get("/open/x", None).status, 200);
    let told = Instant::now();
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

#[test]
fn what_connection_names_is_removed_whatever_else_stands_there() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut head = b"GET /open/x HTTP/1.1\r\nhost: gw.test\r\nx-hop: 1\r\nconnection: x-hop, ".to_vec();
    head.extend_from_slice(b"\xff\r\n\r\n");
    assert_eq!(gateway.send(head).status, 200);
    assert_eq!(upstream.last().value("x-hop"), None);
    until("the line is written", || !gateway.access_lines().is_empty());
}

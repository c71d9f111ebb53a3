//! Connections to the upstreams: reused, retried where that is safe, passed over where a target is
//! away.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::gateway::{get, token};
use crate::support::upstream::deaf;
use crate::support::{Gateway, Upstream, config, until};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn a_connection_to_the_upstream_serves_many_requests() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = gateway.client();
    for number in 0..200 {
        assert_eq!(client.send(get(&format!("/open/{number}"), None)).status, 200);
    }
    assert_eq!((upstream.connections(), upstream.seen().len()), (1, 200));
}

#[test]
fn answers_without_a_length_or_with_close_are_passed_on_and_their_connections_are_not_reused() {
    let upstream = Upstream::scripted(|seen, stream| {
        let answer: &[u8] = match seen.line() {
            "GET /open/eof HTTP/1.1" => b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
            "GET /open/close HTTP/1.1" => {
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 13\r\n\r\nuntil the end"
            }
            "GET /open/old HTTP/1.1" => b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
            _ => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nuntil \r\n7\r\nthe end\r\n0\r\n\r\n",
        };
        drop(stream.write_all(answer));
        seen.line().contains("chunked")
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    for path in ["/open/eof", "/open/close", "/open/old", "/open/chunked"] {
        let mut client = gateway.client();
        for _ in 0..3 {
            let answer = client.send(get(path, None));
            assert_eq!((answer.status, answer.text().as_str()), (200, "until the end"), "{path}");
            if answer.header("content-length").is_none() && answer.header("transfer-encoding").is_none() {
                client = gateway.client();
            }
        }
    }
}

/// An upstream that closes its connection after the first answer, at the moment the next request
/// arrives on it.
fn stale() -> Upstream {
    let turn = Arc::new(AtomicUsize::new(0));
    let last = Arc::new(AtomicUsize::new(usize::MAX));
    Upstream::scripted(move |seen, stream| {
        // The second request on a connection gets no answer: the connection ends.
        if last.swap(seen.connection, Ordering::SeqCst) == seen.connection {
            last.store(usize::MAX, Ordering::SeqCst);
            return false;
        }
        turn.fetch_add(1, Ordering::SeqCst);
        stream.write_all(OK).is_ok()
    })
}

#[test]
fn a_stale_connection_is_retried_once_for_an_idempotent_request_without_body() {
    let upstream = stale();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = gateway.client();
    for number in 0..10 {
        assert_eq!(client.send(get(&format!("/open/{number}"), None)).status, 200, "{number}");
    }
}

#[test]
fn what_may_have_had_an_effect_is_not_sent_twice() {
    let upstream = stale();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = gateway.client();
    for request in [
        "POST /open/pay HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 0\r\n\r\n",
        "POST /open/pay HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 5\r\n\r\nhello",
        "PATCH /open/pay HTTP/1.1\r\nhost: gw.test\r\n\r\n",
        "PUT /open/pay HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        assert_eq!(client.send(get("/open/first", None)).status, 200);
        upstream.clear();
        assert_eq!(client.send(request).status, 502, "{request}");
        assert_eq!(upstream.seen().len(), 1, "{request}");
    }
}

#[test]
fn a_target_that_takes_no_connection_is_passed_over() {
    let (one, two) = (Upstream::echo(), Upstream::echo());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let targets = format!("targets: [\"http://{closed}\", \"http://{}\", \"http://{}\"]", one.address, two.address);
    let yaml = config(one.address, "").replace(&format!("targets: [\"http://{}\"]", one.address), &targets);
    let gateway = Gateway::start(&yaml);
    for _ in 0..30 {
        assert_eq!(gateway.send("POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 2\r\n\r\nhi").status, 200);
    }
    assert_eq!(one.seen().len() + two.seen().len(), 30);
    assert!(one.seen().len() >= 5 && two.seen().len() >= 5);
}

#[test]
fn the_time_for_a_request_covers_every_target_and_both_tries() {
    let (_held, address) = deaf();
    let targets = format!("targets: [{}], connect_timeout: 10s", vec![format!("\"http://{address}\""); 3].join(", "));
    let yaml = config(address, "")
        .replace(&format!("targets: [\"http://{address}\"]"), &targets)
        .replace("realm: test }", "realm: test, limits: { request_timeout: 400ms } }");
    let gateway = Gateway::start(&yaml);
    let started = std::time::Instant::now();
    let answer = gateway.get("/open/x", None);
    assert_eq!((answer.status, gateway.line_of(&answer)["outcome"].as_str()), (504, Some("upstream_connect_timeout")));
    assert!(started.elapsed() >= Duration::from_millis(400) && started.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_response_time_counts_from_the_last_movement_of_the_body() {
    let upstream = Upstream::echo();
    let yaml = config(upstream.address, "").replace("\"] } }\ndefaults", "\"], timeout: 400ms } }\ndefaults");
    let gateway = Gateway::start(&yaml);
    let mut client = gateway.client();
    client.write("POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 10\r\n\r\n");
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(100));
        client.write("x");
    }
    assert_eq!(client.read().status, 200);
}

#[test]
fn an_answer_that_falls_silent_is_cut_off() {
    let upstream = Upstream::scripted(|_, stream| {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello"));
        std::thread::park();
        false
    });
    let yaml = config(upstream.address, "").replace("\"] } }\ndefaults", "\"], idle_timeout: 200ms } }\ndefaults");
    let gateway = Gateway::start(&yaml);
    let mut client = gateway.client();
    client.write(get("/open/x", None));
    assert!(client.try_read(false).is_none());
}

#[test]
fn an_upstream_is_let_go_when_the_client_leaves() {
    let gone = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&gone);
    let upstream = Upstream::scripted(move |_, stream| {
        let mut rest = [0; 16];
        let read = std::io::Read::read(stream, &mut rest);
        flag.store(matches!(read, Ok(0) | Err(_)), Ordering::SeqCst);
        false
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = gateway.client();
    client.write(get("/open/x", None));
    until("the request arrives", || !upstream.seen().is_empty());
    drop(client);
    until("the upstream's connection ends", || gone.load(Ordering::SeqCst));
    until("the line says so", || {
        gateway.access_lines().iter().any(|line| line["outcome"] == "client_gone" && line["status"] == 499)
    });
}

#[test]
fn a_request_whose_client_leaves_at_once_is_recorded_all_the_same() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let count = 20;
    for number in 0..count {
        let mut client = TcpStream::connect(gateway.address).expect("connected");
        client.write_all(get(&format!("/open/{number}"), None).as_bytes()).expect("written");
        client.shutdown(if number % 2 == 0 { Shutdown::Write } else { Shutdown::Both }).expect("shut");
    }
    until("each has its line", || {
        let lines = gateway.access_lines();
        let seen = |number: i32| lines.iter().any(|line| line["path"] == format!("/open/{number}"));
        (0..count).all(seen)
    });
}

#[test]
fn an_early_answer_reaches_the_client_and_its_connection_is_not_reused() {
    let upstream = Upstream::echo();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                drop(std::io::Read::read(&mut stream, &mut head));
                drop(stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"));
                // Takes nothing more, and does not close.
                std::thread::park();
            });
        }
    });
    let yaml = config(upstream.address, "").replace(&upstream.address.to_string(), &address.to_string());
    let gateway = Gateway::start(&yaml);
    for _ in 0..5 {
        let mut client = gateway.client();
        client.write("POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 900000\r\n\r\nhello");
        let answer = client.read();
        assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    }
}

#[test]
fn what_was_answered_in_any_way_is_not_sent_twice() {
    let turn = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::scripted(move |seen, stream| {
        let answer: &[u8] = match seen.line() {
            "DELETE /open/upgrade HTTP/1.1" => {
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
            }
            "DELETE /open/garbage HTTP/1.1" => b"garbage\r\n\r\n",
            _ => OK,
        };
        turn.fetch_add(1, Ordering::SeqCst);
        stream.write_all(answer).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ""));
    let mut client = gateway.client();
    for path in ["upgrade", "garbage"] {
        assert_eq!(client.send(get("/open/first", None)).status, 200);
        upstream.clear();
        assert_eq!(client.send(format!("DELETE /open/{path} HTTP/1.1\r\nhost: gw.test\r\n\r\n")).status, 502);
        assert_eq!(upstream.seen().len(), 1, "{path}");
    }
}

/// Nothing is kept of an answer: what one host, scheme or caller got is nobody else's.
#[test]
fn threat_70_no_answer_is_given_twice_whatever_a_service_says_of_caching() {
    let upstream = Upstream::scripted(|seen, stream| {
        let who = [seen.value("host").unwrap_or_default(), seen.value("x-user-id").unwrap_or_default()].join(" ");
        let head = "cache-control: public, max-age=600, immutable\r\netag: \"1\"\r\nage: 1\r\nexpires: Thu, 01 Jan 2099 00:00:00 GMT";
        let length = who.len();
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {length}\r\n\r\n{who}").as_bytes())
            .is_ok()
    });
    let routes = r#"  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }"#;
    let gateway = Gateway::start(&config(upstream.address, routes));
    let mut client = gateway.client();
    let mut asked = 0;
    for _ in 0..3 {
        for (host, subject) in [("a.test", "kim"), ("b.test", "kim"), ("a.test", "lee")] {
            let token = token(&serde_json::json!({ "sub": subject }));
            let answer =
                client.send(format!("GET /me/x HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n"));
            asked += 1;
            assert_eq!((answer.status, answer.text()), (200, format!("{host} {subject}")));
            assert_eq!(upstream.seen().len(), asked);
        }
    }
}

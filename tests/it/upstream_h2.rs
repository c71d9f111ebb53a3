//! Services that speak HTTP/2: with prior knowledge and by ALPN.

use std::time::{Duration, Instant};

use crate::support::gateway::{customer, get};
use crate::support::h2::{DATA, END_HEADERS, END_STREAM, H2, HEADERS, Outcome, block, frame, request};
use crate::support::h2_service::{H2Service, Ways};
use crate::support::tls::Authority;
use crate::support::{Gateway, config, sign, until};

fn yaml(service: &H2Service, keys: &str) -> String {
    let address = service.address;
    config(address, "")
        .replace(&format!("targets: [\"http://{address}\"]"), &format!("targets: [\"h2://{address}\"]{keys}"))
        .replace("realm: test }", "realm: test, limits: { body: 4MiB } }")
}

fn start(service: &H2Service, keys: &str) -> Gateway {
    Gateway::start_with(&yaml(service, keys), &["--workers", "1"])
}

#[test]
fn requests_go_on_in_http_2_with_the_same_fields_and_on_one_connection() {
    let service = H2Service::start(Ways::default());
    let gateway = start(&service, "");
    let (mut h1, mut h2) = (gateway.client(), H2::connect(gateway.address));
    for _ in 0..10 {
        let answer = h1.send(get("/orders/7?a=/../b", Some(&customer())));
        assert_eq!((answer.status, answer.header("x-service"), &*answer.body), (200, Some("h2"), &b"xx"[..]));
        assert!(answer.header("x-checksum").is_none());
        let answer = h2.get("/orders/7?a=/../b", Some(&customer()));
        assert_eq!((answer.status, &*answer.body), (200, &b"xx"[..]));
    }
    let seen = service.seen();
    assert_eq!(seen.len(), 20);
    for seen in &seen {
        assert_eq!(seen.uri, "http://gw.test/orders/7?a=/../b");
        for (name, value) in [("x-user-id", "kim"), ("te", "trailers"), ("x-forwarded-proto", "http")] {
            assert_eq!(seen.headers.get(name).map(|value| value.as_bytes()), Some(value.as_bytes()), "{name}");
        }
        for name in ["authorization", "connection", "transfer-encoding", "host", "upgrade"] {
            assert!(!seen.headers.contains_key(name), "{name}");
        }
        assert_eq!(seen.connection, 0);
    }
    // What is refused goes nowhere.
    assert_eq!(h2.get("/orders/7", None).status, 401);
    assert_eq!(service.seen().len(), 20);
}

#[test]
fn bodies_stream_both_ways_and_trailers_of_answers_go_on() {
    let service = H2Service::start(Ways::default());
    let gateway = start(&service, "");
    let mut client = H2::connect(gateway.address);
    let stream = client.ask(&request("GET", "/open/large", &[]), None);
    match client.outcome(stream) {
        Outcome::Answered(answer, trailers) => {
            assert_eq!((answer.status, answer.body.len()), (200, 2_000_000));
            // Without what would say where a body ends.
            let expected = [("x-checksum", "7"), ("connection-trailer", "kept")];
            let expected: Vec<_> = expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(trailers, expected);
        }
        other => panic!("{other:?}"),
    }
    let mut client = gateway.client();
    let body = "x".repeat(1_000_000);
    for _ in 0..3 {
        let head = format!("POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: {}\r\n\r\n", body.len());
        assert_eq!(client.send(format!("{head}{body}")).status, 200);
        let seen = service.seen().pop().expect("a request");
        assert_eq!((seen.body, &*seen.method), (1_000_000, "POST"));
        assert_eq!(seen.headers.get("content-length").expect("a length"), "1000000");
    }
    // A length that was said goes on; a client of HTTP/1 without one gets chunks.
    let answer = client.send(get("/open/length", None));
    assert_eq!((answer.header("content-length"), answer.body.len()), (Some("100000"), 100_000));
    let answer = client.send(get("/open/x", None));
    assert_eq!((answer.header("transfer-encoding"), &*answer.body), (Some("chunked"), &b"xx"[..]));
    client.write("HEAD /open/x HTTP/1.1\r\nhost: gw.test\r\n\r\n");
    assert_eq!(client.read_to_head().status, 200);
    assert_eq!(client.send(get("/open/x", None)).body, b"xx", "and no body was sent");

    // A conversation: the answer comes while the request goes on.
    let mut client = H2::connect(gateway.address);
    let stream = client.stream();
    client.write(&frame(HEADERS, END_HEADERS, stream, &block(&request("POST", "/open/early", &[]))));
    let head = client.frame_of(HEADERS);
    assert_eq!(client.decode(&head.payload)[0].1, "200");
    for word in [&b"one"[..], b"two", b"three"] {
        client.write(&frame(DATA, 0, stream, word));
        assert_eq!(client.frame_of(DATA).payload, word);
    }
    client.write(&frame(DATA, END_STREAM, stream, b""));
    assert_eq!(client.frame_of(HEADERS).flags & END_STREAM, END_STREAM);
}

/// It wants the body all the same, unless it says that it does not (RFC 9113 §8.1).
#[test]
fn a_service_that_has_answered_before_the_body_is_through_gets_the_rest_of_it() {
    let service = H2Service::start(Ways::default());
    let gateway = start(&service, "");
    let begin = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 20\r\n\r\nfirst half");
    let answers = [("/open/first/empty", ""), ("/open/first", "first"), ("/open/first/told", "first")];
    for (number, (path, body)) in answers.into_iter().enumerate() {
        let mut client = gateway.client();
        let answer = client.send(begin(path));
        assert_eq!((answer.status, answer.text().as_str()), (200, body));
        assert_eq!(service.seen().len(), number * 2, "it waits for the rest");
        client.write("the second");
        until("it has come", || service.seen().len() == number * 2 + 1);
        let seen = service.seen().pop().expect("a request");
        assert!(seen.body == 20 && !seen.is_broken, "{seen:?}");
        assert_eq!(client.send(get("/open/next", None)).status, 200, "and the connection goes on");
    }
    assert!(gateway.access_lines().iter().all(|line| line.get("cut").is_none()), "{:?}", gateway.access_lines());
    // What it does not want is not sent on, and not waited for.
    let mut client = gateway.client();
    assert_eq!(client.send(begin("/open/first/enough")).status, 200);
    assert!(client.is_closed(), "its next request would be lost");
}

/// How long a conversation lasts is for both sides to say, and how much is for the route.
#[test]
fn a_conversation_may_be_slow_and_ends_on_both_sides_when_it_goes_on_past_its_limit() {
    let service = H2Service::start(Ways::default());
    let yaml = yaml(&service, "").replace("body: 4MiB", "body: 1KiB, body_timeout: 200ms");
    let gateway = Gateway::start_with(&yaml, &["--workers", "1"]);
    let mut client = H2::connect(gateway.address);
    let stream = client.stream();
    client.write(&frame(HEADERS, END_HEADERS, stream, &block(&request("POST", "/open/early", &[]))));
    let head = client.frame_of(HEADERS);
    assert_eq!(client.decode(&head.payload)[0].1, "200");
    for word in [&b"one"[..], b"two", b"three"] {
        let since = Instant::now();
        until("both have been silent for a while", || since.elapsed() > Duration::from_millis(500));
        client.write(&frame(DATA, 0, stream, word));
        assert_eq!(client.frame_of(DATA).payload, word);
    }
    client.write(&frame(DATA, 0, stream, &[b'x'; 2000]));
    assert!(matches!(client.outcome(stream), Outcome::Reset(_)));
    until("the service is told", || service.seen().iter().any(|seen| seen.is_broken));
    // Without an answer the client alone is waited for.
    let stream = client.stream();
    client.write(&frame(HEADERS, END_HEADERS, stream, &block(&request("POST", "/open/x", &[]))));
    client.write(&frame(DATA, 0, stream, b"one"));
    assert_eq!(client.answer(stream).status, 408);
}

#[test]
fn what_goes_wrong_is_told_like_that_of_http_1() {
    let service = H2Service::start(Ways::default());
    let gateway = start(&service, ", timeout: 300ms, retries: 0");
    let mut client = H2::connect(gateway.address);
    for (path, status, outcome) in
        [("/open/reset", 502, "upstream_broken"), ("/open/silent", 504, "upstream_response_timeout")]
    {
        let answer = client.get(path, None);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(gateway.line_of(&answer)["outcome"], outcome);
    }
    let stream = client.ask(&request("GET", "/open/breaks", &[]), None);
    assert!(matches!(client.outcome(stream), Outcome::Reset(2)));
    // A stream of its own each: another one has not noticed, and after a silence there is a new connection.
    assert_eq!(client.get("/open/x", None).status, 200);
    assert_eq!(service.seen().last().expect("a request").connection, 1);
    // What is not HTTP/2 is no answer.
    let yaml = config(crate::secure::plain(), "").replace("http://127", "h2://127");
    assert_eq!(Gateway::start(&yaml).get("/open/x", None).status, 502);
    // One that takes connections and says nothing has not taken one.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("an address");
    let target = format!("targets: [\"h2://{address}\"], connect_timeout: 300ms");
    let gateway = Gateway::start(&config(address, "").replace(&format!("targets: [\"http://{address}\"]"), &target));
    let answer = gateway.get("/open/x", None);
    assert_eq!((answer.status, gateway.line_of(&answer)["outcome"].as_str()), (504, Some("upstream_connect_timeout")));
}

/// A service that is about to stop tells so at once whoever comes to it still: nothing has begun, and nothing is wrong.
#[test]
fn a_connection_that_ends_before_it_has_begun_is_made_anew_and_is_no_failure() {
    for (ends, status) in [(2, 200), (3, 502)] {
        let service = H2Service::start(Ways { ends, ..Ways::default() });
        let gateway = start(&service, ", retries: 0");
        assert_eq!(gateway.get("/open/x", None).status, status);
        let connections: Vec<usize> = service.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections, if status == 200 { vec![2] } else { vec![] });
    }
}

#[test]
fn connections_that_end_and_streams_that_are_refused_fail_no_request() {
    for (ways, post) in [
        (Ways { requests: Some(7), ..Ways::default() }, true),
        (Ways { refuses: Some(5), ..Ways::default() }, true),
        (Ways { streams: Some(2), ..Ways::default() }, false),
        // A service that is slow to say how many it takes: once, eight were begun at once on each new connection, and
        // those that were refused three times in a row failed.
        (Ways { streams: Some(2), silence: Some(Duration::from_millis(100)), ..Ways::default() }, false),
    ] {
        let service = H2Service::start(ways);
        let gateway = start(&service, ", retries: 0");
        // Of several at once one might be refused again and again.
        let clients = if ways.refuses.is_some() { 1 } else { 8 };
        let failed: usize = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..clients)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = gateway.client();
                        let request = if post {
                            "POST /open/x HTTP/1.1\r\nhost: gw.test\r\ncontent-length: 0\r\n\r\n".to_owned()
                        } else {
                            get("/open/slow", None)
                        };
                        (0..240 / clients).filter(|_| client.send(&request).status != 200).count()
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().expect("a client")).sum()
        });
        assert_eq!(failed, 0);
        assert_eq!(service.seen().len(), 240);
        assert!(ways.refuses.is_none() || service.refused() > 40, "{}", service.refused());
        let connections = service.seen().iter().map(|seen| seen.connection).max().expect("requests") + 1;
        assert!(ways.streams.is_none() || (3..=12).contains(&connections), "{connections}");
    }
}

#[test]
fn a_target_over_tls_picks_the_protocol_where_both_are_offered() {
    let authority = Authority::new();
    for (protocols, is_http2) in [(&[&b"h2"[..], b"http/1.1"][..], true), (&[&b"h2"[..]][..], true)] {
        let folder = tempfile::tempdir().expect("a folder");
        sign::write_keys(folder.path());
        authority.write(folder.path(), "service", &["127.0.0.1"]);
        authority.write_own(&folder.path().join("services.pem"));
        let service = H2Service::start_tls(Ways::default(), folder.path(), "service", protocols);
        let keys = ", tls: { ca_file: services.pem, http2: true }, health_check: { path: /healthz, interval: 50ms }";
        let yaml = yaml(&service, keys).replace("h2://", "https://");
        std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
        let gateway = Gateway::start_in(folder, &[]);
        for _ in 0..5 {
            let answer = gateway.get("/open/x", None);
            assert_eq!((answer.status, answer.header("x-service").is_some()), (200, is_http2));
        }
        let seen = service.seen();
        assert!(seen.iter().any(|seen| seen.uri == "https://gw.test/open/x"), "{seen:?}");
        until("it is checked", || service.seen().iter().any(|seen| seen.uri.ends_with("/healthz")));
        let name = format!("target_up{{upstream=\"echo\",target=\"{}\"}}", service.address);
        assert_eq!(gateway.metric(&name), 1.0);
    }
}

#[test]
fn a_target_that_does_not_want_http_2_gets_http_1() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    authority.write(folder.path(), "local", &["127.0.0.1"]);
    authority.write_own(&folder.path().join("services.pem"));
    let service = crate::secure::Service::start(folder.path(), "local", None);
    let keys =
        format!("targets: [\"https://127.0.0.1:{}\"], tls: {{ ca_file: services.pem, http2: true }}", service.port);
    let gateway = crate::secure::start(folder, &keys, &keys);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(gateway.get("/b/x", None).status, 200);
                }
            });
        }
    });
}

/// A stream that is idle for long holds up nobody else, and a token that is taken back ends its own alone.
#[test]
fn a_client_that_reads_nothing_holds_up_no_other_stream() {
    let service = H2Service::start(Ways::default());
    let gateway = start(&service, "");
    let mut slow: Vec<_> = (0..40).map(|_| H2::connect_with(gateway.address, &[(4, 100)])).collect();
    for client in &mut slow {
        client.ask(&request("GET", "/open/large", &[]), None);
        client.frame_of(DATA);
    }
    // Two megabytes wait behind each of them, as far as the windows go.
    std::thread::sleep(Duration::from_millis(200));
    let mut client = H2::connect(gateway.address);
    for _ in 0..20 {
        assert_eq!(client.get("/open/large", None).body.len(), 2_000_000);
    }
}

/// Who waits for a connection that somebody else is making learns nothing of the target: one try is one failure.
#[test]
fn a_target_that_takes_no_connection_fails_once_and_not_once_for_each_that_waits() {
    let (_held, address) = crate::support::upstream::deaf();
    let routes = "  - { id: open, match: { path: \"/open/**\" }, upstream: echo, access: public }\n";
    let yaml = crate::support::config(address, routes).replace("http://", "h2://").replace(
        "\"] } }\ndefaults",
        "\"], connect_timeout: 300ms, retries: 0, ejection: { failures: 4 } } }\ndefaults",
    );
    let gateway = Gateway::start_with(&yaml, &["--workers", "1"]);
    let mut clients: Vec<_> = (0..6).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.write("GET /open/x HTTP/1.1\r\nhost: gw.test\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.read().status, 504);
    }
    let ejections = format!("target_ejections_total{{upstream=\"echo\",target=\"{address}\"}}");
    assert_eq!(gateway.metric(&ejections), 0.0);
    // However many come one after the other while others wait.
    until("it is passed over", || {
        let mut clients: Vec<_> = (0..2).map(|_| gateway.client()).collect();
        for client in &mut clients {
            client.write("GET /open/x HTTP/1.1\r\nhost: gw.test\r\n\r\n");
        }
        for client in &mut clients {
            assert!([503, 504].contains(&client.read().status));
        }
        gateway.metric(&ejections) == 1.0
    });
}

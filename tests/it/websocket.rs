//! WebSockets through the gateway, by another library's client and server, and by hand where they behave
//! as no library would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::support::gateway::{config, customer, get, token};
use crate::support::{Client, Gateway, Upstream, until};

pub const ROUTES: &str = r#"
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
  - { id: chat, match: { path: "/chat" }, upstream: echo, access: { roles: [customer] }, upgrade: [websocket] }
  - { id: quiet, match: { path: "/quiet" }, upstream: echo, access: public, upgrade: [websocket], limits: { tunnel_timeout: 300ms } }
  - { id: brief, match: { path: "/brief" }, upstream: echo, access: public, upgrade: [websocket], limits: { answer_timeout: 600ms } }
  - { id: raw, match: { path: "/raw/**" }, upstream: echo, access: public, upgrade: [websocket] }
"#;

/// A service that sends every message back, and its head first.
pub fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut seen = String::new();
                #[allow(clippy::result_large_err, reason = "the library's")]
                let keep = |request: &tungstenite::handshake::server::Request, response| {
                    seen = format!("{} {:?}", request.uri(), request.headers());
                    Ok(response)
                };
                let Ok(mut socket) = tungstenite::accept_hdr(stream, keep) else { return };
                drop(socket.send(Message::text(seen)));
                while let Ok(message) = socket.read() {
                    if message.is_text() || message.is_binary() {
                        drop(socket.send(message));
                    }
                }
            });
        }
    });
    address
}

fn start() -> Gateway {
    Gateway::start(&config(service(), ROUTES))
}

fn connect(gateway: &Gateway, path: &str, token: Option<&str>) -> Result<WebSocket<TcpStream>, tungstenite::Error> {
    let stream = TcpStream::connect(gateway.address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let mut request = format!("ws://gw.test{path}").into_client_request().expect("a request");
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a value"));
    }
    let connected = tungstenite::client(request, stream);
    connected.map(|(socket, _)| socket).map_err(|error| match error {
        tungstenite::HandshakeError::Failure(error) => error,
        tungstenite::HandshakeError::Interrupted(_) => panic!("no answer"),
    })
}

fn status(outcome: Result<WebSocket<TcpStream>, tungstenite::Error>) -> u16 {
    match outcome {
        Ok(_) => 101,
        Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        Err(other) => panic!("{other}"),
    }
}

/// Waits for the Close and says its code.
pub fn closed_with<S: Read + Write>(socket: &mut WebSocket<S>) -> Option<CloseCode> {
    loop {
        match socket.read() {
            Ok(Message::Close(close)) => return close.map(|close| close.code),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[test]
fn messages_go_both_ways_and_the_service_knows_who_speaks() {
    let gateway = start();
    let mut socket = connect(&gateway, "/chat?x=1", Some(&customer())).expect("a socket");
    let seen = socket.read().expect("a message").into_text().expect("text");
    assert!(seen.starts_with("/chat?x=1 ") && seen.contains("\"x-user-roles\": \"customer\""), "{seen}");
    assert!(!seen.contains("authorization"), "{seen}");
    for size in [0, 1, 125, 126, 65_535, 65_536, 3_000_000] {
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).expect("sent");
        assert_eq!(socket.read().expect("a message"), message, "{size}");
    }
    socket.send(Message::Ping(b"hi".to_vec().into())).expect("sent");
    assert_eq!(socket.read().expect("a message"), Message::Pong(b"hi".to_vec().into()));
    socket.close(None).expect("closed");
    while socket.read().is_ok() {}
    until("the line is written", || gateway.access_lines().iter().any(|line| line["status"] == 101));
    let line = gateway.access_lines().into_iter().find(|line| line["status"] == 101).expect("a line");
    assert_eq!((line["outcome"].as_str(), line["route"].as_str()), (Some("ok"), Some("chat")));
    assert!(line["bytes"].as_u64().expect("a number") > 3_000_000, "{line}");
}

#[test]
fn a_socket_is_decided_on_like_every_request() {
    let gateway = start();
    assert_eq!(status(connect(&gateway, "/chat", None)), 401);
    assert_eq!(status(connect(&gateway, "/chat", Some(&token(&json!({ "roles": ["admin"] }))))), 403);
    assert_eq!(status(connect(&gateway, "/none", None)), 404);
    // Where the route does not say so the service is not asked to change anything, and refuses.
    assert!(matches!(status(connect(&gateway, "/open/x", None)), 400 | 426 | 502));
}

#[test]
fn a_socket_whose_token_is_taken_back_or_ends_is_closed_with_1008() {
    let gateway = start();
    let taken_back = token(&json!({ "roles": ["customer"], "jti": "gone" }));
    let ends = token(&json!({ "roles": ["customer"], "jti": "short", "exp": crate::support::now() + 2 - 30 }));
    let lasts = token(&json!({ "roles": ["customer"], "jti": "good" }));
    let mut sockets = [&taken_back, &ends, &lasts].map(|token| {
        let mut socket = connect(&gateway, "/chat", Some(token)).expect("a socket");
        socket.read().expect("the head");
        socket
    });
    let revoked = Instant::now();
    assert_eq!(gateway.admin("POST", "/revocations", &json!({ "jti": "gone" }).to_string()).status, 200);
    let [gone, short, good] = &mut sockets;
    assert_eq!(closed_with(gone), Some(CloseCode::Policy));
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
    assert_eq!(closed_with(short), Some(CloseCode::Policy));
    good.send(Message::text("still here")).expect("sent");
    assert_eq!(good.read().expect("a message"), Message::text("still here"));
    until("both are logged", || {
        gateway.access_lines().iter().filter(|line| line["outcome"] == "taken_back").count() == 2
    });
}

#[test]
fn a_socket_outlives_a_reload_and_a_drain_says_1001() {
    let upstream = service();
    let yaml = config(upstream, ROUTES);
    let mut gateway = Gateway::start_with(&yaml, &["--no-watch"]);
    let mut socket = connect(&gateway, "/chat", Some(&customer())).expect("a socket");
    socket.read().expect("the head");
    // Even where its route is gone: it was permitted, and its token holds.
    assert!(gateway.reload(&config(upstream, "")));
    socket.send(Message::text("one")).expect("sent");
    assert_eq!(socket.read().expect("a message"), Message::text("one"));
    gateway.signal("TERM");
    assert_eq!(closed_with(&mut socket), Some(CloseCode::Away));
    drop(socket);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_socket_that_talks_for_longer_than_its_route_lets_it_is_closed_with_1001() {
    let gateway = start();
    let mut socket = connect(&gateway, "/brief", None).expect("a socket");
    socket.read().expect("the head");
    let started = Instant::now();
    let ended = loop {
        if socket.send(Message::text("still here")).is_err() {
            break closed_with(&mut socket);
        }
        match socket.read() {
            Ok(Message::Text(_)) => {}
            Ok(Message::Close(frame)) => break frame.map(|frame| frame.code),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ended, Some(CloseCode::Away));
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    until("it is logged", || gateway.access_lines().iter().any(|line| line["outcome"] == "answer_timeout"));
}

#[test]
fn a_silent_socket_is_closed_after_its_time_and_not_before() {
    let gateway = start();
    let mut socket = connect(&gateway, "/quiet", None).expect("a socket");
    socket.read().expect("the head");
    let started = Instant::now();
    // Longer than its limit, but never silent.
    while started.elapsed() < Duration::from_millis(900) {
        socket.send(Message::text("tick")).expect("sent");
        socket.read().expect("a message");
        std::thread::sleep(Duration::from_millis(50));
    }
    let fell_silent = Instant::now();
    assert_eq!(closed_with(&mut socket), Some(CloseCode::Away));
    assert!(fell_silent.elapsed() >= Duration::from_millis(200) && fell_silent.elapsed() < Duration::from_secs(5));
}

fn asks(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: gw.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n{more}\r\n"
    )
}

/// The head of a service that agrees, to which fields may be added.
pub const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n";

/// Agrees late, says `first`, and then what it hears: nothing follows on this connection.
pub fn agree_late(stream: &mut TcpStream, fields: &str) -> bool {
    std::thread::sleep(Duration::from_millis(200));
    drop(stream.write_all(format!("{SWITCH}{fields}\r\nfirst").as_bytes()));
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).expect("what the client said");
    drop(stream.write_all(&heard));
    false
}

/// A service that writes what the path says, and tells what it read after the head.
fn scripted() -> (Upstream, Gateway) {
    let upstream = Upstream::scripted(|seen, stream| {
        let answer = match seen.line().split(' ').nth(1).unwrap_or_default() {
            "/raw/good" => return agree_late(stream, ""),
            "/raw/unnamed" => "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n".to_owned(),
            "/raw/other" => SWITCH.replace("websocket", "h2c") + "\r\n",
            "/raw/two" => format!("{SWITCH}upgrade: h2c\r\n\r\n"),
            "/raw/unsaid" => SWITCH.replace("connection: upgrade\r\n", "") + "\r\n",
            "/raw/length" => format!("{SWITCH}content-length: 5\r\n\r\nhello"),
            "/raw/426" => "HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nno".to_owned(),
            "/open/101" => format!("{SWITCH}\r\n"),
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(),
        };
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let gateway = Gateway::start(&config(upstream.address, ROUTES));
    (upstream, gateway)
}

// Row 68: nothing runs ahead of the 101, and what is no upgrade stays HTTP.
#[test]
fn threat_68_nothing_is_forwarded_before_the_protocol_has_changed() {
    let (upstream, gateway) = scripted();
    let smuggled = get("/raw/smuggled", None);
    // Sent together with the request, it is held until the service has agreed; the strict reader at the
    // service would have taken it for a request.
    let mut client = gateway.client();
    client.write(asks("/raw/good", "") + "early");
    let answer = client.read_to_head();
    assert_eq!(
        (answer.status, answer.header("upgrade"), answer.header("connection")),
        (101, Some("websocket"), Some("upgrade"))
    );
    client.hear("firstearly");
    assert!(client.is_closed());
    // An answer that is none is 502, an answer that refuses goes through; what was sent ahead is the next
    // request, and that of nobody else.
    for (path, expected) in [
        ("/raw/unnamed", 502),
        ("/raw/other", 502),
        ("/raw/two", 502),
        ("/raw/unsaid", 502),
        ("/raw/length", 502),
        ("/raw/426", 426),
        ("/raw/200", 200),
        ("/open/101", 502),
    ] {
        let mut client = gateway.client();
        client.write(format!("{}{}", asks(path, ""), get("/open/next", None)));
        assert_eq!(client.read().status, expected, "{path}");
        assert_eq!(client.read().text(), "ok", "{path}");
    }
    assert!(upstream.seen().iter().all(|seen| seen.line() != smuggled.lines().next().unwrap_or_default()));
}

#[test]
fn threats_68_76_a_request_that_asks_otherwise_changes_nothing() {
    let (upstream, gateway) = scripted();
    let good = asks("/raw/200", "");
    for (request, is_asked) in [
        (good.clone(), true),
        (
            good.replace("connection: Upgrade", "connection: keep-alive, UPGRADE")
                .replace("websocket\r\n", "WebSocket\r\n"),
            true,
        ),
        (good.replace("upgrade: websocket", "upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__"), false),
        (good.replace("upgrade: websocket", "upgrade: websocket, h2c"), false),
        (good.replace("upgrade: websocket", "upgrade: h2c, websocket"), false),
        (good.replace("upgrade: websocket", "upgrade: websocket\r\nupgrade: h2c"), false),
        (good.replace("upgrade: websocket", "upgrade: websocket/13"), false),
        (good.replace("connection: Upgrade", "connection: keep-alive"), false),
        (good.replace("HTTP/1.1", "HTTP/1.0"), false),
        (good.replace("GET", "POST"), false),
        (asks("/raw/200", "content-length: 5\r\n") + "hello", false),
        (asks("/raw/200", "transfer-encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n", false),
        (asks("/open/200", ""), false),
    ] {
        let answer = gateway.send(&request);
        assert_eq!(answer.status, 200, "{request}");
        let seen = upstream.last();
        let expected = if is_asked { Some("websocket") } else { None };
        assert_eq!(
            (seen.value("upgrade"), seen.value("connection").map(|_| ())),
            (expected, expected.map(|_| ())),
            "{request}"
        );
        assert!(seen.value("http2-settings").is_none());
    }
}

#[test]
fn threat_90_a_handshake_of_a_megabyte_is_431() {
    let (upstream, gateway) = scripted();
    let mut client = gateway.client();
    client.try_write(asks("/raw/good", &format!("x: {}\r\n", "x".repeat(1 << 20))));
    assert_eq!(client.try_read(false).map(|answer| answer.status), Some(431));
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_client_that_leaves_takes_the_service_s_connection_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let gateway = Gateway::start(&config(listener.local_addr().expect("an address"), ROUTES));
    let mut client = gateway.client();
    client.write(asks("/raw/x", ""));
    let (mut service, _) = listener.accept().expect("a connection");
    let mut head = [0; 4096];
    assert!(service.read(&mut head).expect("the head") > 0);
    service
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .expect("written");
    assert_eq!(client.read_to_head().status, 101);
    drop::<Client>(client);
    service.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    assert_eq!(service.read(&mut head).expect("the end"), 0);
}

// What a service said before it went (a Close with its reason, say) is the client's, whoever noticed first that it is gone.
#[test]
fn what_a_service_said_before_it_went_arrives_though_it_takes_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let gateway = Gateway::start(&config(listener.local_addr().expect("an address"), ROUTES));
    let mut stream = TcpStream::connect(gateway.address).expect("a connection");
    let mut client = Client::on(stream.try_clone().expect("the same"));
    client.write(asks("/raw/x", ""));
    let (mut service, _) = listener.accept().expect("a connection");
    assert!(service.read(&mut [0; 4096]).expect("the head") > 0);
    service.write_all(format!("{SWITCH}\r\n").as_bytes()).expect("written");
    assert_eq!(client.read_to_head().status, 101);
    // What stands in its own buffer is lost when it goes: that is little.
    socket2::SockRef::from(&service).set_send_buffer_size(8 * 1024).expect("a small buffer");
    service.set_write_timeout(Some(Duration::from_millis(300))).expect("a limit");
    let mut said = 0;
    while let Ok(written) = service.write(&[7; 4096]) {
        said += written;
    }
    client.write("something that it does not read");
    until("the service has it unread", || service.peek(&mut [0]).is_ok());
    drop(service);
    // The gateway hears that it is gone when it says this.
    client.write("more");
    let mut heard = 0;
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    while let Ok(read @ 1..) = stream.read(&mut vec![0; 64 * 1024]) {
        heard += read;
    }
    assert!(heard + 64 * 1024 >= said, "{heard} of {said} bytes");
}

#[test]
fn idle_sockets_hold_little_memory() {
    let gateway = start();
    drop(connect(&gateway, "/quiet", None));
    let before = gateway.resident();
    let sockets: Vec<_> = (0..200).map(|_| connect(&gateway, "/chat", Some(&customer())).expect("a socket")).collect();
    let each = gateway.resident().saturating_sub(before) / 200;
    assert!(each < 40, "{each} KiB");
    drop(sockets);
}

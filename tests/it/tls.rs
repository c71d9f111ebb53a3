//! TLS listeners: who is shown which certificate, and what is not TLS ends there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};

use crate::support::gateway::{PROGRAM, customer, get};
use crate::support::tls::{Authority, TlsClient};
use crate::support::{Client, Gateway, Upstream, config, sign, until};

const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// A gateway whose first listener speaks TLS, with these certificates in its folder.
fn start(upstream: &Upstream, authority: &Authority, tls: &str, limits: &str) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    authority.write(folder.path(), "gw", &["gw.test"]);
    authority.write(folder.path(), "shop", &["shop.test", "*.shop.test"]);
    let yaml = config(upstream.address, "")
        .replace(r#"{ address: "127.0.0.1:0" }]"#, &format!(r#"{{ address: "127.0.0.1:0", tls: {{ {tls} }} }}]"#))
        .replace("realm: test }", &format!("realm: test, limits: {{ {limits} }} }}"));
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    Gateway::start_in(folder, &[])
}

const CERTIFICATES: &str =
    "certificates: [{ cert_file: gw.crt, key_file: gw.key }, { cert_file: shop.crt, key_file: shop.key }]";

#[test]
fn requests_come_over_tls_and_upstreams_are_told_so() {
    let (upstream, authority) = (Upstream::echo(), Authority::new());
    let gateway = start(&upstream, &authority, CERTIFICATES, "");
    for version in BOTH {
        let mut config = (*authority.client(&[version])).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut client = TlsClient::connect(gateway.address, &Arc::new(config), "gw.test").expect("a handshake");
        assert_eq!(client.0.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(client.0.conn.protocol_version(), Some(version.version));
        for _ in 0..3 {
            let (status, _, told) = client.send(&get("/orders/7", Some(&customer())));
            assert_eq!(status, 200);
            assert!(told.contains("x-forwarded-proto: https\r\n"), "{told}");
        }
        let (status, head, _) = client.send(&get("/orders/7", None));
        assert!(status == 401 && head.contains("www-authenticate: bearer realm=\"test\""), "{head}");
    }
    // A client that offers nothing that is spoken here is refused (RFC 7301 §3.2).
    let mut config = (*authority.client(&BOTH)).clone();
    config.alpn_protocols = vec![b"h3".to_vec()];
    assert!(TlsClient::connect(gateway.address, &Arc::new(config), "gw.test").is_err());
    let gateway = start(&upstream, &authority, &format!("{CERTIFICATES}, min_version: 1.3"), "");
    assert!(TlsClient::connect(gateway.address, &authority.client(&[&TLS12]), "gw.test").is_err());
    assert!(TlsClient::connect(gateway.address, &authority.client(&[&TLS13]), "gw.test").is_ok());
    until("it is counted", || {
        gateway.admin("GET", "/metrics", "").text().contains("heads_refused_total{reason=\"tls_handshake\"} 1\n")
    });
}

// Who came in without TLS would not get in now: its connection has its next answer, and ends with it.
#[test]
fn a_listener_that_speaks_tls_from_now_on_ends_the_plain_connections_of_before() {
    let (upstream, authority, folder) = (Upstream::echo(), Authority::new(), tempfile::tempdir().expect("a folder"));
    sign::write_keys(folder.path());
    authority.write(folder.path(), "gw", &["gw.test"]);
    let plain = config(upstream.address, "");
    let listener = r#"{ address: "127.0.0.1:0" }]"#;
    let tls = r#"{ address: "127.0.0.1:0", tls: { certificates: [{ cert_file: gw.crt, key_file: gw.key }] } }]"#;
    std::fs::write(folder.path().join("gateway.yaml"), &plain).expect("a file");
    let gateway = Gateway::start_in(folder, &["--no-watch"]);
    let (mut waits, mut asks) = (gateway.client(), gateway.client());
    for client in [&mut waits, &mut asks] {
        assert_eq!(client.send(get("/open/x", None)).status, 200);
    }
    assert!(gateway.reload(&plain.replacen(listener, tls, 1)));
    let is_over = |client: &mut Client| {
        client.try_write(get("/open/x", None));
        client.try_read(false).is_none_or(|answer| answer.header("connection") == Some("close"))
    };
    until("it is told", || is_over(&mut asks));
    assert!(waits.is_closed(), "it has waited for long enough");
    let mut new = TlsClient::connect(gateway.address, &authority.client(&BOTH), "gw.test").expect("a handshake");
    assert_eq!(new.send(&get("/open/x", None)).0, 200);
}

#[test]
fn the_name_that_a_client_asks_for_picks_the_certificate() {
    let (upstream, authority) = (Upstream::echo(), Authority::new());
    let gateway = start(&upstream, &authority, CERTIFICATES, "");
    let client = authority.client(&BOTH);
    for name in ["gw.test", "shop.test", "GW.test", "api.shop.test"] {
        let mut client = TlsClient::connect(gateway.address, &client, name).expect(name);
        assert_eq!(client.send(&get("/open/x", None)).0, 200, "{name}");
    }
    // One label only; what fits none is shown the first, which the client does not take.
    for name in ["a.b.shop.test", "other.test"] {
        let refused = TlsClient::connect(gateway.address, &client, name).map(drop).expect_err(name);
        assert!(refused.contains("NotValidForName") || refused.contains("not valid for name"), "{refused}");
    }
}

#[test]
fn a_new_certificate_is_shown_within_a_second_and_half_of_one_never() {
    let (upstream, authority) = (Upstream::echo(), Authority::new());
    let gateway = start(&upstream, &authority, CERTIFICATES, "");
    // A resumed session would show what was shown when it began.
    let mut client = (*authority.client(&BOTH)).clone();
    client.resumption = rustls::client::Resumption::disabled();
    let client = Arc::new(client);
    let shown = || TlsClient::connect(gateway.address, &client, "gw.test").expect("no handshake fails").certificate();
    let mut held = TlsClient::connect(gateway.address, &client, "gw.test").expect("a handshake");
    let before = shown();
    // The certificate without its key: what was there stays, and it is told once.
    let spare = tempfile::tempdir().expect("a folder");
    let after = authority.write(spare.path(), "gw", &["gw.test"]);
    std::fs::copy(spare.path().join("gw.crt"), gateway.folder().join("gw.crt")).expect("a copy");
    let told = "the key is not that of the certificate";
    until("it is told", || gateway.lines().iter().any(|line| line.contains(told)));
    assert_eq!(shown(), before);
    std::fs::copy(spare.path().join("gw.key"), gateway.folder().join("gw.key")).expect("a copy");
    let swapped = Instant::now();
    until("the new one is shown", || shown() == after);
    assert!(swapped.elapsed() < Duration::from_secs(2), "{:?}", swapped.elapsed());
    assert_eq!(gateway.lines().iter().filter(|line| line.contains(told)).count(), 1);
    assert_eq!(held.send(&get("/open/x", None)).0, 200, "a connection outlives its certificate");
    // A file that goes away changes nothing either.
    std::fs::remove_file(gateway.folder().join("gw.key")).expect("removed");
    until("it is told", || gateway.lines().iter().any(|line| line.contains("there is no such file")));
    assert_eq!(shown(), after);
}

#[test]
fn threat_87_what_is_not_tls_is_answered_in_words_or_closed() {
    let (upstream, authority) = (Upstream::echo(), Authority::new());
    let gateway = start(&upstream, &authority, CERTIFICATES, "header_timeout: 400ms");
    let mut plain = Client::connect(gateway.address);
    let answer = plain.send(get("/open/x", None));
    assert_eq!((answer.status, answer.text().trim()), (400, "This address speaks HTTPS."));
    assert!(plain.is_closed());
    let hello = |length: usize| {
        let mut record = vec![22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
        record.resize(length, 0);
        record
    };
    // Row 87: truncated hellos, and other rubbish: closed, at once or when their time is over.
    for bytes in [vec![0; 64], hello(1), hello(7), hello(100), vec![22, 3, 1, 255, 255], vec![23; 20]] {
        let mut client = TcpStream::connect(gateway.address).expect("a socket");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        client.write_all(&bytes).expect("sent");
        let mut said = Vec::new();
        let ended = client.read_to_end(&mut said);
        assert!(said.len() <= 7 && ended.is_ok_and(|_| true) || said.is_empty(), "{bytes:?}: {said:?}");
    }
    for _ in 0..2_000 {
        let mut client = TcpStream::connect(gateway.address).expect("a socket");
        drop(client.write_all(&hello(60)));
    }
    let silent = TcpStream::connect(gateway.address).expect("a socket");
    let mut client = TlsClient::connect(gateway.address, &authority.client(&BOTH), "gw.test").expect("a handshake");
    assert_eq!(client.send(&get("/open/x", None)).0, 200, "it goes on");
    // A head that does not come to its end is 408, over TLS as well.
    client.0.write_all(b"GET /open").expect("sent");
    assert_eq!(client.read().map(|(status, ..)| status), Some(408));
    drop(silent);
    let metrics = gateway.admin("GET", "/metrics", "").text();
    assert!(metrics.contains("heads_refused_total{reason=\"plain_http\"} 1\n"), "{metrics}");
    assert!(metrics.contains("tls_certificate_expiry_seconds "), "{metrics}");
}

#[test]
fn a_connection_that_waits_is_parked_and_goes_on_and_is_closed_in_time() {
    let (upstream, authority) = (Upstream::echo(), Authority::new());
    let gateway = start(&upstream, &authority, CERTIFICATES, "keep_alive_timeout: 4s");
    let mut client = TlsClient::connect(gateway.address, &authority.client(&BOTH), "gw.test").expect("a handshake");
    assert_eq!(client.send(&get("/open/x", None)).0, 200);
    until("it is parked", || gateway.admin("GET", "/metrics", "").text().contains("bearward_connections_parked 1\n"));
    assert_eq!(client.send(&get("/open/x", None)).0, 200);
    assert!(client.read().is_none(), "closed after its time");
    // Large bodies both ways.
    let mut client = TlsClient::connect(gateway.address, &authority.client(&BOTH), "gw.test").expect("a handshake");
    let body = "x".repeat(700_000);
    let head = format!("PUT /orders/7 HTTP/1.1\r\nhost: gw.test\r\nauthorization: Bearer {}\r\n", customer());
    let (status, ..) = client.send(&format!("{head}content-length: {}\r\n\r\n{body}", body.len()));
    assert_eq!(status, 200);
    assert_eq!(upstream.last().body.len(), body.len());
}

// curl, with a certificate that the program made.
#[test]
fn a_certificate_for_development_is_made_and_taken_by_curl() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = || {
        Command::new(PROGRAM)
            .args(["keys", "generate", "--tls", "gw.test", "--tls", "127.0.0.1", "--out"])
            .arg(folder.path().join("tls"))
            .output()
            .expect("it runs")
    };
    let made = make();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(!make().status.success(), "files that are there are not overwritten");
    sign::write_keys(folder.path());
    let upstream = Upstream::echo();
    let tls = "tls: { certificates: [{ cert_file: tls/gw.test.crt, key_file: tls/gw.test.key }] }";
    let yaml = config(upstream.address, "").replace(r#""127.0.0.1:0" }]"#, &format!(r#""127.0.0.1:0", {tls} }}]"#));
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    let ca = folder.path().join("tls/gw.test.crt");
    let (ca, gateway) = (std::fs::read(&ca).expect("a file"), Gateway::start_in(folder, &[]));
    let file = gateway.folder().join("for-curl.crt");
    std::fs::write(&file, ca).expect("a file");
    for (version, protocol) in [("--tlsv1.3", "HTTP/2"), ("--tls-max=1.2", "HTTP/2"), ("--http1.1", "HTTP/1.1")] {
        let version: Vec<&str> = version.split('=').collect();
        let answer = Command::new("curl")
            .args(["-sS", "-i", "--cacert"])
            .arg(&file)
            .args(&version)
            .arg(format!("https://127.0.0.1:{}/open/x", gateway.address.port()))
            .stderr(Stdio::inherit())
            .output()
            .expect("curl is installed");
        let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(answer.starts_with(&format!("{protocol} 200")), "{version:?}: {answer}");
    }
}

// RFC 8446 §6.1: without it a client cannot tell the end from an attack.
#[test]
fn every_end_of_a_connection_is_said_within_tls() {
    let (upstream, authority) = (Upstream::echo(), Authority::new());
    let gateway = start(&upstream, &authority, CERTIFICATES, "keep_alive_timeout: 1500ms");
    let asks_in_vain = "GET /open/x HTTP/1.1\r\nhost: gw.test\r\nconnection: close, upgrade\r\nupgrade: h2c\r\n\r\n";
    let closes = "GET /open/x HTTP/1.1\r\nhost: gw.test\r\nconnection: close\r\n\r\n";
    for request in ["", &get("/open/x", None), asks_in_vain, closes, "nonsense\r\n\r\n"] {
        let mut client =
            TlsClient::connect(gateway.address, &authority.client(&[&TLS13]), "gw.test").expect("a handshake");
        if request.is_empty() {
            // It says nothing at all, is parked, and its time is over.
        } else {
            client.send(request);
        }
        let mut rest = Vec::new();
        assert!(client.0.read_to_end(&mut rest).is_ok(), "{request:?}");
    }
}

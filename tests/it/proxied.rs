//! The PROXY protocol: who says who has connected, and who may say it.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConnection, StreamOwned};

use crate::support::gateway::get;
use crate::support::tls::{Authority, TlsClient};
use crate::support::{Gateway, Upstream, config, sign, until};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n";

fn block(kind: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len()).expect("a length").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[kind, family][..], &length, addresses].concat()
}

/// A gateway whose listener takes the header from `network`.
fn start(upstream: &Upstream, network: &str, keys: &str) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    let listener = format!(r#"{{ address: "127.0.0.1:0", proxy_protocol: [{network}]{keys} }}]"#);
    let yaml = config(upstream.address, "")
        .replacen(r#"{ address: "127.0.0.1:0" }]"#, &listener, 1)
        .replace("realm: test }", "realm: test, limits: { header_timeout: 1s } }");
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    if keys.contains("tls") {
        let authority = Authority::new();
        authority.write(folder.path(), "gw", &["gw.test"]);
        authority.write_own(&folder.path().join("gw-ca.pem"));
    }
    Gateway::start_in(folder, &[])
}

#[test]
fn a_balancer_says_who_has_connected_in_either_version_and_in_pieces() {
    let upstream = Upstream::echo();
    let gateway = start(&upstream, "127.0.0.0/8", "");
    let v4 = block(0x21, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0x13, 0x88, 1, 0xbb, 3, 0, 4, 1, 2, 3, 4]);
    let v6 = block(0x21, 0x21, &[&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 20]].concat());
    for (header, client) in [
        (LINE, "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (&v4, "192.0.2.7"),
        (&v6, "2001:db8::7"),
        (&block(0x20, 0, &[]), "127.0.0.1"),
    ] {
        let request = get("/open/x", None);
        for cut in [0, 1, 6, 12, 14, header.len() - 1, header.len(), header.len() + 4] {
            let mut client_of = gateway.client();
            let bytes = [header, request.as_bytes()].concat();
            client_of.write(&bytes[..cut]);
            std::thread::sleep(Duration::from_millis(10));
            client_of.write(&bytes[cut..]);
            let answer = client_of.read();
            assert_eq!(answer.status, 200);
            assert!(answer.text().contains(&format!("x-forwarded-for: {client}\r\n")), "{}", answer.text());
            assert_eq!(gateway.line_of(&answer)["client"], client);
            // Once, and not before each request.
            assert_eq!(client_of.send(get("/open/y", None)).status, 200);
        }
    }
}

#[test]
fn a_header_that_is_missing_wrong_or_slow_ends_the_connection_and_is_counted() {
    let upstream = Upstream::echo();
    let gateway = start(&upstream, "127.0.0.0/8", "");
    let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
    let huge = block(0x21, 0x11, &[0; 4096]);
    for (count, begins) in [
        get("/open/x", None).as_bytes(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 5000\r\nGET / HTTP/1.1\r\n\r\n",
        long.as_bytes(),
        &block(0x21, 0x12, &[0; 12]),
        &huge,
        b"PROXY TCP4 192.0.2.7",
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = gateway.client();
        drop(client.stream.write_all(begins));
        assert!(client.try_read(false).is_none(), "{}", begins.escape_ascii());
        until("it is counted", || gateway.metric("heads_refused_total{reason=\"proxy_header\"}") == count as f64 + 1.0);
    }
    assert!(upstream.seen().is_empty());
    // Whoever is no balancer says nothing of itself.
    let gateway = start(&upstream, "10.0.0.0/8", "");
    let answer = gateway.send([LINE, get("/open/x", None).as_bytes()].concat());
    assert_eq!(answer.status, 400);
    assert_eq!(gateway.get("/open/x", None).status, 200);
}

#[test]
fn tls_begins_behind_the_header() {
    let upstream = Upstream::echo();
    let gateway = start(&upstream, "127.0.0.1", ", tls: { certificates: [{ cert_file: gw.crt, key_file: gw.key }] }");
    let mut roots = rustls::RootCertStore::empty();
    let ca = std::fs::read(gateway.folder().join("gw-ca.pem")).expect("a file");
    for certificate in <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::pem_slice_iter(&ca)
    {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let config = Arc::new(config.expect("versions").with_root_certificates(roots).with_no_client_auth());
    let mut socket = TcpStream::connect(gateway.address).expect("a socket");
    socket.write_all(LINE).expect("it is sent");
    let name = ServerName::try_from("gw.test").expect("a name");
    let connection = ClientConnection::new(config, name).expect("a connection");
    let mut client = TlsClient(StreamOwned::new(connection, socket));
    let (status, _, text) = client.send(&get("/open/x", None));
    assert_eq!(status, 200);
    assert!(text.contains("x-forwarded-for: 192.0.2.7\r\n") && text.contains("x-forwarded-proto: https\r\n"), "{text}");
}

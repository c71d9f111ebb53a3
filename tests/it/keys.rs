//! Keys that are published at a URL: read in the background, never on the way of a request.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use serde_json::{Value, json};

use crate::support::gateway::{signal, token};
use crate::support::sign::{self, Claims};
use crate::support::{Gateway, Upstream, until};

/// A key server whose document can be exchanged; `None` hangs, text that is no JSON is served as it is.
struct KeyServer {
    server: Upstream,
    document: Arc<Mutex<Document>>,
    fetches: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Document {
    Text(String),
    Status(&'static str),
    Reset,
    Hang,
}

impl KeyServer {
    fn start(document: Document) -> Self {
        let (document, fetches) = (Arc::new(Mutex::new(document)), Arc::new(AtomicUsize::new(0)));
        let (shared, count) = (Arc::clone(&document), Arc::clone(&fetches));
        let server = Upstream::scripted(move |seen, stream| {
            count.fetch_add(1, Ordering::SeqCst);
            assert_eq!(seen.line(), "GET /keys.json HTTP/1.1");
            let document = shared.lock().expect("the document").clone();
            let answer = match document {
                Document::Text(text) => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()),
                Document::Status(status) => {
                    format!("HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n")
                }
                Document::Reset => return false,
                Document::Hang => {
                    std::thread::park();
                    return false;
                }
            };
            drop(stream.write_all(answer.as_bytes()));
            false
        });
        Self { server, document, fetches }
    }

    fn publish(&self, document: Document) {
        *self.document.lock().expect("the document") = document;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

fn set(keys: &[(&KeyPair, &str)]) -> Document {
    let keys: Vec<Value> = keys.iter().map(|(key, kid)| sign::rsa_jwk(key, kid)).collect();
    Document::Text(json!({ "keys": keys }).to_string())
}

fn start(keys: &KeyServer, schedule: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let yaml = crate::support::config(upstream.address, "").replace(
        "algorithms: [RS256], jwks_file: rsa.jwks.json",
        &format!("algorithms: [RS256], jwks_uri: \"http://{}/keys.json\", {schedule}", keys.server.address),
    );
    (upstream, Gateway::start(&yaml))
}

fn signed(key: &KeyPair, kid: &str) -> String {
    let header = json!({ "alg": "RS256", "kid": kid }).to_string();
    sign::rsa_by(key, &RSA_PKCS1_SHA256, &header, &Claims::of("https://rsa.test").json())
}

fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.get("/me/x", Some(token)).status
}

#[test]
fn threat_25_a_removed_key_dies_with_the_next_reading_and_a_new_one_lives() {
    let (old, new) = (sign::rsa_key(), KeyPair::generate(KeySize::Rsa2048).expect("a key"));
    let server = KeyServer::start(set(&[(old, "old")]));
    let (_upstream, gateway) = start(&server, "jwks_refresh: 200ms, jwks_max_age: 1h, jwks_cooldown: 30s");
    let (by_old, by_new) = (signed(old, "old"), signed(&new, "new"));
    until("the keys are read", || status(&gateway, &by_old) == 200);
    assert_eq!(status(&gateway, &by_new), 401);
    // Both, for a while: what was remembered stays good.
    server.publish(set(&[(old, "old"), (&new, "new")]));
    until("the new key is read", || status(&gateway, &by_new) == 200);
    assert_eq!(status(&gateway, &by_old), 200);
    // The old key is gone, and the token that it vouched for, remembered or not.
    server.publish(set(&[(&new, "new")]));
    until("the old key is gone", || status(&gateway, &by_old) == 401);
    assert_eq!(status(&gateway, &signed(old, "old")), 401);
    assert_eq!(status(&gateway, &by_new), 200);
    // The same name for another key is another key.
    server.publish(set(&[(old, "new")]));
    until("the key changed under its name", || status(&gateway, &by_new) == 401);
}

/// Who says that a login has ended may say it once.
#[test]
fn the_first_logout_token_by_a_new_key_waits_for_it() {
    let (old, new) = (sign::rsa_key(), KeyPair::generate(KeySize::Rsa2048).expect("a key"));
    for (cooldown, kid, expected) in [("100ms", "new", 200), ("100ms", "nobody", 400), ("30s", "new", 503)] {
        let server = KeyServer::start(set(&[(old, "old")]));
        let upstream = Upstream::echo();
        let schedule = format!("jwks_refresh: 1h, jwks_max_age: 2h, jwks_cooldown: {cooldown}");
        let yaml = crate::support::config(upstream.address, "")
            .replace(
                "algorithms: [RS256], jwks_file: rsa.jwks.json",
                &format!("algorithms: [RS256], jwks_uri: \"http://{}/keys.json\", {schedule}", server.server.address),
            )
            .replace(
                "revocation: { keys",
                "revocation: { backchannel_logout: { path: /ended, issuers: { rsa: [app] } }, keys",
            );
        let gateway = Gateway::start(&yaml);
        let login = {
            let claims = Claims::of("https://rsa.test").with(&json!({ "sid": "s-1" })).json();
            sign::rsa_by(old, &RSA_PKCS1_SHA256, r#"{"alg":"RS256","kid":"old"}"#, &claims)
        };
        until("the keys are read", || status(&gateway, &login) == 200);
        server.publish(set(&[(old, "old"), (&new, "new")]));
        let claims = json!({
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} }, "aud": "app", "sid": "s-1",
        });
        let claims = Claims::of("https://rsa.test").with(&claims).json();
        let header = json!({ "alg": "RS256", "kid": kid, "typ": "logout+jwt" }).to_string();
        let body = format!("logout_token={}", sign::rsa_by(&new, &RSA_PKCS1_SHA256, &header, &claims));
        let answer = gateway.send(format!(
            "POST /ended HTTP/1.1\r\nhost: gw.test\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(answer.status, expected, "{cooldown} {kid}: {}", answer.text());
        assert_eq!(answer.header("retry-after").is_some(), expected == 503);
        assert_eq!(status(&gateway, &login), if expected == 200 { 401 } else { 200 });
    }
}

#[test]
fn threat_26_a_key_server_that_fails_in_any_way_harms_nobody() {
    let server = KeyServer::start(set(&[(sign::rsa_key(), "rsa-1")]));
    let (_upstream, gateway) = start(&server, "jwks_refresh: 100ms, jwks_max_age: 1h, jwks_cooldown: 100ms");
    let good = token(&json!({}));
    until("the keys are read", || status(&gateway, &good) == 200);
    let huge = format!("{{\"keys\":[{}]}}", " ".repeat(10 * 1024 * 1024));
    let weak = json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] }).to_string();
    let documents = [
        Document::Text("<html>not found</html>".to_owned()),
        Document::Text(String::new()),
        Document::Text("{\"keys\":1}".to_owned()),
        Document::Text("{\"keys\":[]}".to_owned()),
        Document::Text(weak),
        Document::Text(huge),
        Document::Text("[".repeat(100_000)),
        Document::Status("500 Internal Server Error"),
        Document::Status("302 Found"),
        Document::Status("204 No Content"),
        Document::Reset,
        Document::Hang,
    ];
    for document in documents {
        let before = server.fetches();
        server.publish(document);
        until("it was read", || server.fetches() > before);
        // A flood of failing tokens meanwhile, and the old key still holds. Their key may be one that cannot be read: a client
        // would throw a good token away.
        let unknown = sign::rsa_as(r#"{"alg":"RS256","kid":"nobody"}"#, &Claims::of("https://rsa.test").json());
        until("that is known", || status(&gateway, &unknown) == 503);
        let forged = format!("{}.AAAA", good.rsplit_once('.').expect("three parts").0);
        for _ in 0..20 {
            assert_eq!((status(&gateway, &unknown), status(&gateway, &forged)), (503, 401));
        }
        assert_eq!(status(&gateway, &token(&json!({}))), 200);
    }
    server.publish(set(&[(sign::rsa_key(), "rsa-1")]));
    let unknown = sign::rsa_as(r#"{"alg":"RS256","kid":"nobody"}"#, &Claims::of("https://rsa.test").json());
    until("there is no such key", || status(&gateway, &unknown) == 401);
}

#[test]
fn threat_27_unknown_kids_ask_for_one_fetch_in_a_cool_down() {
    let server = KeyServer::start(set(&[(sign::rsa_key(), "rsa-1")]));
    let (_upstream, gateway) = start(&server, "jwks_refresh: 1h, jwks_max_age: 2h, jwks_cooldown: 1h");
    until("the keys are read", || status(&gateway, &token(&json!({}))) == 200);
    let mut client = gateway.client();
    for number in 0..10_000 {
        let token = format!(
            "{}.AAAA",
            sign::unsigned(&format!(r#"{{"alg":"RS256","kid":"k{number}"}}"#), r#"{"iss":"https://rsa.test"}"#)
        );
        assert_eq!(client.send(crate::support::gateway::get("/me/x", Some(&token))).status, 401);
    }
    assert_eq!(server.fetches(), 1);
}

#[test]
fn an_unknown_kid_brings_a_new_key_in_before_its_time() {
    let (old, new) = (sign::rsa_key(), KeyPair::generate(KeySize::Rsa2048).expect("a key"));
    let server = KeyServer::start(set(&[(old, "old")]));
    let (_upstream, gateway) = start(&server, "jwks_refresh: 1h, jwks_max_age: 2h, jwks_cooldown: 100ms");
    until("the keys are read", || status(&gateway, &signed(old, "old")) == 200);
    server.publish(set(&[(old, "old"), (&new, "new")]));
    until("the new key is read", || status(&gateway, &signed(&new, "new")) == 200);
}

// A set of one key without a name: only the signature tells that it is not the right one any more.
#[test]
fn a_bad_signature_by_a_nameless_key_brings_the_new_key_in_before_its_time() {
    let (old, new) = (sign::rsa_key(), KeyPair::generate(KeySize::Rsa2048).expect("a key"));
    let nameless = |key: &KeyPair| {
        let mut jwk = sign::rsa_jwk(key, "");
        jwk.as_object_mut().expect("an object").remove("kid");
        Document::Text(json!({ "keys": [jwk] }).to_string())
    };
    let server = KeyServer::start(nameless(old));
    let (_upstream, gateway) = start(&server, "jwks_refresh: 1h, jwks_max_age: 2h, jwks_cooldown: 100ms");
    until("the keys are read", || status(&gateway, &signed(old, "old")) == 200);
    server.publish(nameless(&new));
    until("the new key is read", || status(&gateway, &signed(&new, "new")) == 200);
    assert_eq!(status(&gateway, &signed(old, "old")), 401);
}

#[test]
fn without_keys_a_token_gets_503_and_public_routes_go_on() {
    let server = KeyServer::start(Document::Status("500 Internal Server Error"));
    let (_upstream, gateway) = start(&server, "jwks_refresh: 200ms, jwks_max_age: 400ms, jwks_cooldown: 50ms");
    let good = token(&json!({}));
    let answer = gateway.get("/me/x", Some(&good));
    assert_eq!(
        (answer.status, answer.header("retry-after"), answer.header("www-authenticate")),
        (503, Some("1"), None)
    );
    assert_eq!(gateway.line_of(&answer)["outcome"], "keys_unavailable");
    assert_eq!(gateway.get("/open/x", None).status, 200);
    assert_eq!(gateway.get("/me/x", Some(&sign::ec(&Claims::of("https://ec.test").json()))).status, 200);
    let ready = gateway.admin("GET", "/readyz", "");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("no keys of issuer `rsa`"), "{}", ready.text());
    server.publish(set(&[(sign::rsa_key(), "rsa-1")]));
    until("the keys are read", || status(&gateway, &good) == 200);
    assert_eq!(gateway.admin("GET", "/readyz", "").status, 200);
    // Keys past their age are not used, not even for a token that was taken a moment ago.
    server.publish(Document::Reset);
    until("the keys grow too old", || status(&gateway, &good) == 503);
    server.publish(set(&[(sign::rsa_key(), "rsa-1")]));
    until("the keys are back", || status(&gateway, &good) == 200);
}

#[test]
fn keys_are_read_over_tls_from_a_server_that_proves_itself() {
    let authority = rcgen::CertificateParams::new(Vec::<String>::new()).map(|mut params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    });
    let key = rcgen::KeyPair::generate().expect("a key");
    let authority = rcgen::CertifiedIssuer::self_signed(authority.expect("parameters"), key).expect("an authority");
    for (name, expected) in [("localhost", 200), ("other.test", 503)] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::new(vec![name.to_owned()])
            .and_then(|params| params.signed_by(&key, &authority))
            .expect("a leaf");
        let address = serve_tls(leaf.der().to_vec(), key.serialize_der());
        let upstream = Upstream::echo();
        let yaml = crate::support::config(upstream.address, "").replace(
            "algorithms: [RS256], jwks_file: rsa.jwks.json",
            &format!(
                "algorithms: [RS256], jwks_uri: \"https://localhost:{}/keys.json\", jwks_refresh: 100ms",
                address.port()
            ),
        );
        let folder = tempfile::tempdir().expect("a folder");
        sign::write_keys(folder.path());
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("a file");
        std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
        let gateway = Gateway::start_in(folder, &[]);
        if expected == 200 {
            until("the keys are read", || status(&gateway, &token(&json!({}))) == 200);
        } else {
            until("the failure is told", || {
                gateway.lines().iter().any(|line| line.contains("keys cannot be read") && line.contains("TLS"))
            });
            assert_eq!(status(&gateway, &token(&json!({}))), 503);
        }
    }
}

/// A TLS server that answers every request with the keys of the tests.
fn serve_tls(certificate: Vec<u8>, key: Vec<u8>) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate.into()], key))
        .expect("a configuration");
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let document = json!({ "keys": [sign::rsa_jwk(sign::rsa_key(), "rsa-1")] }).to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a connection");
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            let mut head = [0; 1024];
            if std::io::Read::read(&mut tls, &mut head).is_ok_and(|read| read > 0) {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{document}", document.len());
                drop(tls.write_all(answer.as_bytes()));
                drop(tls.flush());
            }
        }
    });
    address
}

/// A process that has no keys would refuse what the one before it takes.
#[test]
fn nobody_takes_the_place_of_a_gateway_before_it_has_its_keys() {
    let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let server = KeyServer::start(set(&[(&key, "one")]));
    let (_upstream, mut gateway) = start(&server, "");
    let token = signed(&key, "one");
    until("the keys are there", || gateway.get("/me/x", Some(&token)).status == 200);
    // Where they come late they are waited for.
    server.publish(Document::Status("503 Service Unavailable"));
    signal(gateway.id(), "USR2");
    let fetches = server.fetches();
    until("the other process asks", || server.fetches() > fetches);
    assert_eq!(gateway.get("/me/x", Some(&token)).status, 200);
    let says = |what: &str| gateway.lines().iter().filter(|line| line.contains(what)).count();
    until("it gives up", || says("no other process takes this one's place: it goes on") == 1);
    assert_eq!(gateway.get("/me/x", Some(&token)).status, 200);
    assert_eq!(says("\"message\":\"drained\""), 0);
    // Who is told to end while another process starts ends both.
    signal(gateway.id(), "USR2");
    until("another one starts", || gateway.processes().len() == 3);
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    let last = *gateway.processes().last().expect("a process");
    until("it has ended", || !std::path::Path::new(&format!("/proc/{last}")).exists());
}

// Keys that another `iss` had are retired with it, and stay so; a new one reads them for itself.
#[test]
fn an_issuer_that_is_called_something_else_keeps_its_keys() {
    let server = KeyServer::start(set(&[(sign::rsa_key(), "rsa-1")]));
    let (_upstream, gateway) = start(&server, "jwks_refresh: 200ms, jwks_max_age: 1h, jwks_cooldown: 100ms");
    let of = |issuer: &str| {
        let header = json!({ "alg": "RS256", "kid": "rsa-1" }).to_string();
        sign::rsa_by(sign::rsa_key(), &RSA_PKCS1_SHA256, &header, &Claims::of(issuer).json())
    };
    let (before, after) = (of("https://rsa.test"), of("https://other.test"));
    let file = gateway.folder().join("gateway.yaml");
    let yaml = std::fs::read_to_string(&file).expect("a file");
    let renamed = yaml.replace("https://rsa.test", "https://other.test");
    for (yaml, good, bad) in [(&yaml, &before, &after), (&renamed, &after, &before), (&yaml, &before, &after)] {
        std::fs::write(&file, yaml).expect("a file");
        signal(gateway.id(), "HUP");
        until("it is good", || status(&gateway, good) == 200);
        assert_eq!(status(&gateway, bad), 401);
        let seen = server.fetches();
        until("the keys were read again", || server.fetches() > seen + 1);
        assert_eq!((status(&gateway, good), status(&gateway, bad)), (200, 401));
    }
}

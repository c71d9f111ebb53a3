//! TLS to services: who cannot prove to be the service gets no request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::gateway::{customer, get};
use crate::support::tls::Authority;
use crate::support::{Gateway, config, sign, until};

/// A service of another library; dropping it ends it.
pub struct Service {
    child: Child,
    pub port: u16,
}

impl Service {
    pub fn start(folder: &Path, name: &str, client_ca: Option<&str>) -> Self {
        let mut child = Command::new("python3")
            .arg("tests/it/support/secure.py")
            .args([folder.join(format!("{name}.crt")), folder.join(format!("{name}.key"))])
            .args(client_ca.map(|name| folder.join(name)))
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed (tests/run.sh installs it)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its port");
        Self { child, port: line.trim().parse().expect("a port") }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const ROUTES: &str = r#"
  - { id: a, match: { path: "/a/**" }, upstream: a, access: { roles: [customer] } }
  - { id: b, match: { path: "/b/**" }, upstream: b, access: public }
"#;

/// What answers in plain HTTP, whatever it is asked.
pub fn plain() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            drop(stream.read(&mut [0; 2048]));
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"));
        }
    });
    address
}

/// A gateway with two upstreams, in a folder with certificates of two authorities.
pub fn start(folder: tempfile::TempDir, a: &str, b: &str) -> Gateway {
    sign::write_keys(folder.path());
    let nowhere: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    let yaml = config(nowhere, ROUTES).replace("upstreams: {", &format!("upstreams: {{ a: {{ {a} }}, b: {{ {b} }},"));
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    Gateway::start_in(folder, &[])
}

fn folder(authority: &Authority) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    authority.write(folder.path(), "service", &["service.test"]);
    authority.write(folder.path(), "local", &["127.0.0.1"]);
    authority.write(folder.path(), "gateway", &["gateway.test"]);
    authority.write_own(&folder.path().join("services.pem"));
    folder
}

#[test]
fn a_service_is_reached_over_tls_that_proves_its_name_and_connections_are_kept() {
    let authority = Authority::new();
    let folder = folder(&authority);
    let (named, local) = (Service::start(folder.path(), "service", None), Service::start(folder.path(), "local", None));
    let gateway = start(
        folder,
        &format!(
            "targets: [\"https://127.0.0.1:{}\"], tls: {{ ca_file: services.pem, server_name: service.test }}",
            named.port
        ),
        &format!("targets: [\"https://127.0.0.1:{}\"], tls: {{ ca_file: services.pem }}", local.port),
    );
    for _ in 0..5 {
        let answer = gateway.get("/a/x", Some(&customer()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.json();
        assert_eq!(
            (&told["version"], &told["host"], &told["user"]),
            (&"TLSv1.3".into(), &"gw.test".into(), &"kim".into())
        );
        assert!(told["connection"].as_u64().is_some_and(|number| number <= 2), "one for each worker: {told}");
        assert_eq!(gateway.get("/b/x", None).status, 200);
    }
}

// What was deciphered and not read is with no kernel: asking that alone would take it for the answer to the next request.
#[test]
fn what_came_with_an_answer_over_tls_is_not_the_answer_to_the_next_request() {
    let authority = Authority::new();
    let folder = folder(&authority);
    let service = Service::start(folder.path(), "local", None);
    let target = format!("targets: [\"https://127.0.0.1:{}\"], tls: {{ ca_file: services.pem }}", service.port);
    let gateway = start(folder, &target, &target);
    let (mut client, token) = (gateway.client(), customer());
    for _ in 0..3 {
        let answer = client.send(get("/a/more", Some(&token)));
        assert_eq!((answer.status, answer.text().len() > 8000), (200, true));
        let answer = client.send(get("/a/x", Some(&token)));
        assert_eq!((answer.status, &answer.json()["user"]), (200, &"kim".into()));
    }
}

#[test]
fn who_cannot_prove_to_be_the_service_gets_no_request() {
    let authority = Authority::new();
    let folder = folder(&authority);
    authority.write_expired(folder.path(), "expired", &["127.0.0.1"]);
    let expired = Service::start(folder.path(), "expired", None);
    let (other, plain) = (Service::start(folder.path(), "service", None), plain());
    let ca = "tls: { ca_file: services.pem }";
    let gateway = start(
        folder,
        &format!("targets: [\"https://127.0.0.1:{}\"], {ca}", expired.port),
        &format!("targets: [\"https://127.0.0.1:{}\", \"https://{plain}\"], {ca}", other.port),
    );
    let says =
        |words: &str| gateway.lines().iter().any(|line| line.contains("no TLS to a target") && line.contains(words));
    for path in ["/a/x", "/b/x", "/b/x"] {
        let answer = gateway.get(path, Some(&customer()));
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert_eq!(gateway.line_of(&answer)["outcome"], "upstream_tls");
    }
    until("it is told", || says("Expired") || says("expired"));
    until("it is told", || says("NotValidForName") || says("not valid for"));
    // The system's roots do not have this authority (SSL_CERT_FILE names an empty place).
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let folder = self::folder(&authority);
    authority.write_own(&folder.path().join("ca.pem"));
    let gateway = start(
        folder,
        &format!("targets: [\"https://127.0.0.1:{}\"]", other.port),
        &format!("targets: [\"https://{}\"], connect_timeout: 300ms", silent.local_addr().expect("an address")),
    );
    assert_eq!(gateway.get("/a/x", Some(&customer())).status, 502, "trusted, and of another name");
    let asked = Instant::now();
    let answer = gateway.get("/b/x", None);
    assert_eq!(answer.status, 504, "a handshake that does not come is a connection that does not come");
    assert_eq!(gateway.line_of(&answer)["outcome"], "upstream_connect_timeout");
    assert!(asked.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_service_that_wants_a_certificate_gets_the_gateways_and_nobody_shares_its_connections() {
    let authority = Authority::new();
    let folder = folder(&authority);
    let service = Service::start(folder.path(), "local", Some("services.pem"));
    let target = format!("targets: [\"https://127.0.0.1:{}\"]", service.port);
    let gateway = start(
        folder,
        &format!("{target}, tls: {{ ca_file: services.pem, cert_file: gateway.crt, key_file: gateway.key }}"),
        &format!("{target}, tls: {{ ca_file: services.pem }}"),
    );
    for _ in 0..3 {
        let answer = gateway.get("/a/x", Some(&customer()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains("gateway.test"), "{}", answer.text());
        // The same place, without a certificate: the connections of the other are not its own.
        assert_eq!(gateway.get("/b/x", None).status, 502);
    }
}

#[test]
fn connections_outlast_a_reload_that_changes_nothing_about_them() {
    let authority = Authority::new();
    let folder = folder(&authority);
    let service = Service::start(folder.path(), "local", None);
    let tls = "tls: { ca_file: services.pem }, keep_alive: 1m";
    let target = format!("targets: [\"https://127.0.0.1:{}\"], {tls}", service.port);
    let gateway = start(folder, &target, &target);
    let yaml = std::fs::read_to_string(gateway.folder().join("gateway.yaml")).expect("a file");
    // One worker's.
    let mut client = gateway.client();
    let mut number = || client.send(get("/b/x", None)).json()["connection"].as_u64().expect("a number");
    let first = number();
    for _ in 0..5 {
        assert!(gateway.reload(&yaml));
        assert_eq!(number(), first);
    }
    // Somebody else is trusted as well: who was believed before has to be believed again.
    let (ours, other) = (gateway.folder().join("services.pem"), gateway.folder().join("other.pem"));
    Authority::new().write_own(&other);
    let both = [&ours, &other].map(|path| std::fs::read_to_string(path).expect("a file")).concat();
    std::fs::write(&ours, both).expect("a file");
    until("the list is read", || number() != first);
}

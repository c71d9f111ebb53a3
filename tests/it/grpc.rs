//! gRPC from end to end: a real client, the gateway, a real service.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::redis::python;
use crate::support::gateway::customer;
use crate::support::tls::Authority;
use crate::support::{Gateway, config, sign};

const SCRIPT: &str = "tests/it/support/grpc_pair.py";

struct Service(Child, u16);

impl Service {
    fn start() -> Self {
        let mut child = Command::new(python())
            .args([SCRIPT, "serve"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/run.sh installs grpcio");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its port");
        Self(child, line.trim().parse().expect("a port"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const ROUTES: &str = r#"
  - { id: admin, match: { path: "/shop.Orders/Admin" }, upstream: echo, access: { roles: [admin] } }
  - { id: orders, match: { path: "/shop.Orders/**" }, upstream: echo, access: authenticated }
  - { id: away, match: { path: "/away.Orders/**" }, upstream: away, access: authenticated }
"#;

/// The calls of the client, each with what it came to.
fn calls(arguments: &[&str]) -> Vec<(String, Value)> {
    let output = Command::new(python())
        .args([SCRIPT, "call"])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("tests/run.sh installs grpcio");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    lines.map(|line| (line["call"].as_str().expect("a name").to_owned(), line)).collect()
}

#[test]
fn calls_of_every_kind_pass_and_refusals_have_the_status_that_grpc_has_for_them() {
    let service = Service::start();
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    authority.write(folder.path(), "gw", &["gw.test"]);
    let ca = folder.path().join("ca.pem");
    authority.write_own(&ca);
    let tls = r#"{ address: "127.0.0.1:0" }, { address: "127.0.0.1:0", tls: { certificates: [{ cert_file: gw.crt, key_file: gw.key }] } }]"#;
    let address = format!("127.0.0.1:{}", service.1).parse().expect("an address");
    let yaml = config(address, ROUTES).replace(r#"{ address: "127.0.0.1:0" }]"#, tls).replace(
        "upstreams: { echo: { targets: [\"http://",
        "upstreams: { away: { targets: [\"h2://127.0.0.1:1\"] }, echo: { targets: [\"h2://",
    );
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    let ca = ca.to_str().expect("a path").to_owned();
    let gateway = Gateway::start_in(folder, &[]);
    let listening = gateway.lines();
    let secure = listening.iter().find(|line| line.contains("\"tls\":true")).expect("a TLS listener");
    let secure: Value = serde_json::from_str(secure).expect("a JSON line");
    let plain = gateway.address.to_string();
    let token = customer();
    for arguments in [&[&*plain, &*token][..], &[secure["address"].as_str().expect("an address"), &token, &ca]] {
        let expected = [
            ("unary", json!(["kim:7", { "x-after": "trailer", "x-saw": "kim" }])),
            ("large", json!(900_004)),
            ("refused by the service", json!([9, "not today, 홍길동"])),
            ("no token", json!([16, "a credential is needed"])),
            ("a bad token", json!([16, "the token is expired, revoked, malformed or otherwise not accepted"])),
            ("no role", json!([7, "the caller may not do this"])),
            ("no method of the service", json!([12, "Method not found!"])),
            ("no route", json!([12, "nothing is served at this path"])),
            ("no service", json!([14, "the service behind the gateway cannot be reached"])),
            ("stream", json!(1000)),
            ("collect", json!(100)),
            ("talk", json!(["kim:one", "kim:two", "kim:three"])),
        ];
        let calls = calls(arguments);
        assert_eq!(calls.len(), expected.len());
        for ((name, line), (call, came)) in calls.iter().zip(expected) {
            let said = line.get("said").cloned().unwrap_or_else(|| json!([line["code"], line["details"]]));
            assert_eq!((name.as_str(), said), (call, came), "{line}");
        }
    }
}

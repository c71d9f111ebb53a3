//! What services that want proof are told of a caller: a short token that anybody can check.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::gateway::{PROGRAM, config, get, token};
use crate::support::{Gateway, Upstream, until};

const ROUTES: &str = r#"
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: other, match: { path: "/other" }, upstream: other, access: authenticated }
  - { id: plain, match: { path: "/plain" }, upstream: plain, access: authenticated }
"#;

fn keys(folder: &Path, kid: &str) {
    let made = Command::new(PROGRAM).args(["keys", "generate", "--kid", kid, "--out"]).arg(folder).status();
    assert!(made.expect("the program runs").success());
}

fn yaml(upstream: &Upstream, assertion: &str) -> String {
    let address = upstream.address;
    config(address, ROUTES)
        .replace("identity:\n", &format!("identity:\n  assertion: {{ header: X-Proof, issuer: https://gw.test, upstreams: [echo, other], jwks: /proof-keys, claims: [name], {assertion} }}\n"))
        .replace(
            "upstreams: { echo:",
            &format!("upstreams: {{ other: {{ targets: [\"http://{address}\"] }}, plain: {{ targets: [\"http://{address}\"] }}, echo:"),
        )
}

fn start(upstream: &Upstream, assertion: &str) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    crate::support::sign::write_keys(folder.path());
    keys(folder.path(), "one");
    std::fs::write(folder.path().join("gateway.yaml"), yaml(upstream, assertion)).expect("a file");
    Gateway::start_in(folder, &[])
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON")
}

const ONE: &str = "signing_key: { file: one.private.pem, kid: one }";

#[test]
fn a_service_gets_a_token_of_its_own_that_pyjwt_verifies() {
    let upstream = Upstream::echo();
    let gateway = start(&upstream, ONE);
    let hong = token(
        &json!({ "sub": "hong", "name": "홍길동", "roles": ["customer"], "scope": "a b", "org": { "tenant": "x" } }),
    );
    let told = |path: &str, token: &str| {
        assert_eq!(gateway.get(path, Some(token)).status, 200);
        let seen = upstream.last();
        assert!(seen.values("x-proof").len() <= 1);
        seen.value("x-proof").map(str::to_owned)
    };
    let first = told("/me/x", &hong).expect("a token");
    assert_eq!(told("/me/y", &hong).as_ref(), Some(&first), "it is signed once");
    let said = claims(&first);
    let names: Vec<&str> = said.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "exp", "iat", "iss", "name", "roles", "scope", "sub"]);
    assert_eq!(
        (&said["aud"], &said["sub"], &said["name"], &said["scope"]),
        (&json!("echo"), &json!("hong"), &json!("홍길동"), &json!("a b"))
    );
    assert_eq!(said["exp"].as_i64().expect("a time") - said["iat"].as_i64().expect("a time"), 60);
    let other = told("/other", &hong).expect("a token");
    assert_eq!(claims(&other)["aud"], "other");
    assert_eq!(told("/plain", &hong), None);
    let kim = told("/me/x", &token(&json!({ "sub": "kim" }))).expect("a token");
    assert_eq!((&claims(&kim)["sub"], claims(&kim).get("roles")), (&json!("kim"), None));
    // Nobody else says it, on no route.
    for path in ["/open/x", "/me/x", "/plain"] {
        let forged = get(path, Some(&hong)).replace("\r\n\r\n", "\r\nx-proof: forged\r\nx_proof: forged\r\n\r\n");
        assert_eq!(gateway.send(forged).status, 200);
        assert!(!upstream.last().head.contains("forged"), "{path}");
    }
    // It lets nobody in.
    assert_eq!(gateway.get("/me/x", Some(&first)).status, 401);
    let url = format!("http://{}/proof-keys", gateway.address);
    for (token, upstream) in [(&first, "echo"), (&other, "other")] {
        let out = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-python/bin/python3"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/verify_assertion.py"))
            .args([&url, token.as_str(), upstream])
            .output()
            .expect("tests/run.sh installs it");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(serde_json::from_slice::<Value>(&out.stdout).expect("JSON")["sub"], "hong");
    }
}

#[test]
fn it_is_signed_anew_before_it_ends_and_with_the_next_key_at_once() {
    let upstream = Upstream::echo();
    let mut gateway = start(&upstream, &format!("{ONE}, ttl: 2s"));
    let hong = token(&json!({ "sub": "hong" }));
    let told = |gateway: &Gateway| {
        assert_eq!(gateway.get("/me/x", Some(&hong)).status, 200);
        upstream.last().value("x-proof").expect("a token").to_owned()
    };
    let first = told(&gateway);
    until("it is signed anew", || told(&gateway) != first);
    assert!(claims(&told(&gateway))["iat"].as_i64() > claims(&first)["iat"].as_i64());
    let folder = gateway.folder().to_owned();
    keys(&folder, "two");
    let two = "signing_key: { file: two.private.pem, kid: two }, other_keys: [{ file: one.public.pem, kid: one }]";
    std::fs::write(folder.join("gateway.yaml"), yaml(&upstream, two)).expect("a file");
    gateway.signal("HUP");
    until("the next key signs", || {
        let header = told(&gateway).split('.').next().expect("a header").to_owned();
        String::from_utf8_lossy(&URL_SAFE_NO_PAD.decode(header).expect("base64url")).contains("\"two\"")
    });
    let set = gateway.get("/proof-keys", None).json();
    let kids: Vec<&str> =
        set["keys"].as_array().expect("a list").iter().filter_map(|key| key["kid"].as_str()).collect();
    assert_eq!(kids, ["two", "one"]);
    gateway.signal("TERM");
    assert!(gateway.wait().success());
}

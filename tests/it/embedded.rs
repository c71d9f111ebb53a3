//! Forced logout on one machine without Redis: the store in a file.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::support::gateway::{PROGRAM, get, token, with_store};
use crate::support::{Client, Gateway, Upstream, until};

fn config(upstream: &Upstream, path: &Path) -> String {
    with_store(upstream.address, &format!("file:{}", path.display()), "", "")
}

fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.get("/me/x", Some(token)).status
}

fn revoke(gateway: &Gateway, body: &serde_json::Value) {
    let answer = gateway.admin("POST", "/revocations", &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_revocation_in_the_file_counts_at_once_and_after_a_restart() {
    let (upstream, folder) = (Upstream::echo(), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("standings.db");
    let gateway = Gateway::start(&config(&upstream, &path));
    let (one, two) = (token(&json!({ "jti": "one", "sub": "kim" })), token(&json!({ "jti": "two", "sub": "lee" })));
    for _ in 0..5 {
        assert_eq!((status(&gateway, &one), status(&gateway, &two)), (200, 200));
    }
    revoke(&gateway, &json!({ "jti": "one" }));
    gateway.refuses(&upstream, &one, &["revoked"]);
    assert_eq!(status(&gateway, &two), 200);
    revoke(&gateway, &json!({ "sub": "lee" }));
    gateway.refuses(&upstream, &two, &["revoked"]);
    let mode = std::fs::metadata(&path).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it names subjects");
    drop(gateway);
    let gateway = Gateway::start(&config(&upstream, &path));
    gateway.refuses(&upstream, &one, &["revoked"]);
    gateway.refuses(&upstream, &two, &["revoked"]);
    assert_eq!(status(&gateway, &token(&json!({ "jti": "three", "sub": "park" }))), 200);
}

#[test]
fn without_a_store_in_the_configuration_there_is_a_file_beside_it() {
    let upstream = Upstream::echo();
    let yaml = config(&upstream, Path::new("/nowhere"));
    let yaml: String =
        yaml.lines().filter(|line| !line.starts_with("store:")).map(|line| format!("{line}\n")).collect();
    let gateway = Gateway::start(&yaml);
    let one = token(&json!({ "jti": "one" }));
    assert_eq!(status(&gateway, &one), 200);
    revoke(&gateway, &json!({ "token": one }));
    gateway.refuses(&upstream, &one, &["revoked"]);
    assert!(gateway.folder().join("bearward.db").exists());
    // Where nobody asks it, there is none.
    let off = yaml.replace("revocation: { keys", "revocation: { mode: off, keys");
    let gateway = Gateway::start(&off);
    assert_eq!(status(&gateway, &one), 200);
    assert!(!gateway.folder().join("bearward.db").exists());
}

/// What `run` says and ends with.
fn refused(yaml: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    crate::support::sign::write_keys(folder.path());
    let file = folder.path().join("gateway.yaml");
    std::fs::write(&file, yaml).expect("a file");
    let run = Command::new(PROGRAM).args(["run", "--config"]).arg(&file).output().expect("the program");
    assert_eq!(run.status.code(), Some(1));
    String::from_utf8_lossy(&run.stderr).into_owned()
}

#[test]
fn a_file_that_cannot_be_the_store_ends_the_start_with_words() {
    let (upstream, folder) = (Upstream::echo(), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("in-use.db");
    let _gateway = Gateway::start(&config(&upstream, &path));
    let said = refused(&config(&upstream, &path));
    assert!(said.contains("in-use.db` is in use by another process"), "{said}");
    let odd = folder.path().join("odd.db");
    std::fs::write(&odd, "version: 1\nthis is no store at all, but a text of somebody else\n".repeat(200))
        .expect("a file");
    let said = refused(&config(&upstream, &odd));
    assert!(said.contains("odd.db` is something else than a store"), "{said}");
    assert!(std::fs::read_to_string(&odd).expect("text").starts_with("version: 1"), "it is left as it was");
    let said = refused(&config(&upstream, &folder.path().join("no/such/folder.db")));
    assert!(said.contains("folder.db` cannot be opened"), "{said}");
}

#[test]
fn a_store_whose_end_is_missing_is_told_and_ends_nobody_who_serves_by_another() {
    let (upstream, folder) = (Upstream::echo(), tempfile::tempdir().expect("a folder"));
    let (whole, half) = (folder.path().join("whole.db"), folder.path().join("half.db"));
    let gateway = Gateway::start_with(&config(&upstream, &whole), &["--no-watch"]);
    let one = token(&json!({ "jti": "one" }));
    revoke(&gateway, &json!({ "token": one }));
    let bytes = std::fs::read(&whole).expect("the file");
    std::fs::write(&half, &bytes[..bytes.len() / 2]).expect("a file");
    assert!(!gateway.reload(&config(&upstream, &half)), "it is refused");
    assert_eq!((status(&gateway, &one), status(&gateway, &token(&json!({ "jti": "two" })))), (401, 200));
    let said = refused(&config(&upstream, &half));
    assert!(said.contains("half.db` cannot be opened") && said.contains("damaged"), "{said}");
}

// `BEARWARD_TURNS` sets how often.
#[test]
fn nothing_that_was_acknowledged_is_forgotten_by_a_kill() {
    let turns = std::env::var("BEARWARD_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let (upstream, folder) = (Upstream::echo(), tempfile::tempdir().expect("a folder"));
    let yaml = config(&upstream, &folder.path().join("store.db"));
    let acknowledged: Mutex<Vec<String>> = Mutex::default();
    let next = AtomicUsize::new(0);
    for turn in 0..turns {
        let gateway = Gateway::start(&yaml);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let jti = format!("k-{}", next.fetch_add(1, Ordering::Relaxed));
                        if try_revoke(&gateway, &jti) == Some(200) {
                            acknowledged.lock().expect("a list").push(jti);
                        }
                    }
                });
            }
            let enough = acknowledged.lock().expect("a list").len() + 20;
            until("some are acknowledged", || acknowledged.lock().expect("a list").len() >= enough);
            gateway.signal("KILL");
            is_over.store(true, Ordering::Relaxed);
        });
        drop(gateway);
        let gateway = Gateway::start(&yaml);
        let acknowledged = acknowledged.lock().expect("a list");
        // Those of this turn, and some of all before.
        let recent = acknowledged.iter().rev().take(100);
        let mut client = gateway.client();
        for jti in recent.chain(acknowledged.iter().step_by(1 + acknowledged.len() / 50)) {
            let answer = client.send(get("/me/x", Some(&token(&json!({ "jti": jti })))));
            assert_eq!(answer.status, 401, "turn {turn}: {jti} is forgotten");
        }
    }
    println!("{} revocations in {turns} lives", acknowledged.into_inner().expect("a list").len());
}

#[test]
fn a_disk_that_takes_no_more_is_503_and_heals() {
    let (upstream, folder) = (Upstream::echo(), tempfile::tempdir().expect("a folder"));
    let gateway = Gateway::start(&config(&upstream, &folder.path().join("full.db")));
    let (good, dead) = (token(&json!({ "jti": "good" })), token(&json!({ "jti": "dead" })));
    assert_eq!(status(&gateway, &good), 200);
    revoke(&gateway, &json!({ "jti": "dead" }));
    limit(&gateway, "4096");
    let answer = gateway.admin("POST", "/revocations", r#"{"jti":"good"}"#);
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("not revoked: the store refused"), "{}", answer.text());
    until("nothing is known", || status(&gateway, &good) == 503);
    assert_eq!(status(&gateway, &dead), 503);
    assert_eq!(gateway.get("/open/x", None).status, 200);
    assert_eq!(gateway.admin("GET", "/readyz", "").status, 503);
    limit(&gateway, "unlimited");
    until("it heals, whoever tries meanwhile", || {
        try_revoke(&gateway, "another").expect("an answer");
        status(&gateway, &good) == 200
    });
    assert_eq!((status(&gateway, &dead), gateway.admin("GET", "/readyz", "").status), (401, 200));
    revoke(&gateway, &json!({ "jti": "good" }));
    assert_eq!(status(&gateway, &good), 401);
}

/// The size, in bytes, that no file of the gateway may grow beyond.
fn limit(gateway: &Gateway, size: &str) {
    let size = format!("--fsize={size}:unlimited");
    let status = Command::new("prlimit").args(["--pid", &gateway.id().to_string(), &size]).status().expect("prlimit");
    assert!(status.success());
}

/// The status, unless the gateway went away before it.
fn try_revoke(gateway: &Gateway, jti: &str) -> Option<u16> {
    let body = json!({ "jti": jti }).to_string();
    let mut client = Client::try_connect(gateway.admin)?;
    let length = body.len();
    let head = "POST /revocations HTTP/1.1\r\nhost: admin\r\ncontent-type: application/json\r\nconnection: close";
    client.try_write(format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}"))?;
    client.try_read(false).map(|answer| answer.status)
}

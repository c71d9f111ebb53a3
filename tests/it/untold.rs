//! A store that is not what it seems: a replica, changed without a word, or one
//! that will not be asked for one key.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::fault::Fault;
use crate::support::gateway::{get, token, with_store};
use crate::support::redis::Redis;
use crate::support::{Gateway, Upstream, until};

const ROUTES: &str = r#"
  - { id: me, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: money, match: { path: "/money" }, upstream: echo, access: authenticated, revocation: { mode: lookup } }
"#;

fn start(url: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&with_store(upstream.address, url, "", ROUTES));
    (upstream, gateway)
}

fn status(gateway: &Gateway, path: &str, token: &str) -> u16 {
    gateway.get(path, Some(token)).status
}

fn readiness(gateway: &Gateway) -> String {
    gateway.admin("GET", "/readyz", "").text()
}

#[test]
fn a_primary_that_becomes_a_replica_is_not_believed_any_more() {
    let (one, other) = (Redis::start(), Redis::start());
    let (_upstream, gateway) = start(&one.url());
    let good = token(&json!({ "jti": "d-1" }));
    for path in ["/me/x", "/money"] {
        until("it is taken", || status(&gateway, path, &good) == 200);
    }
    one.command(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    until("nothing is known", || status(&gateway, "/me/x", &good) == 503);
    until("a look-up does not help", || status(&gateway, "/money", &good) == 503);
    other.command(&["SET", "blacklist:d-1", "1"]);
    (0..20).for_each(|_| assert_eq!(status(&gateway, "/me/x", &good), 503));
    until("it is told", || gateway.lines().iter().any(|line| line.contains("it is a replica")));
    until("it says why", || readiness(&gateway).contains("the store is away"));
    // A gateway that starts on it does not believe it either.
    let (_upstream, late) = start(&one.url());
    assert_eq!(status(&late, "/me/x", &good), 503);
    one.command(&["REPLICAOF", "NO", "ONE"]);
    until("it heals", || matches!(status(&gateway, "/me/x", &good), 200 | 401));
}

// Redis tells nobody of SWAPDB: what is known is read again, a little with each proof.
#[test]
fn a_change_that_is_not_told_is_found_out() {
    let redis = Redis::start();
    let (_upstream, gateway) = start(&redis.url());
    let good = token(&json!({ "jti": "w-1" }));
    until("it is taken", || status(&gateway, "/me/x", &good) == 200);
    redis.command(&["-n", "1", "SET", "blacklist:w-1", "1"]);
    redis.command(&["SWAPDB", "0", "1"]);
    until("it is found out", || status(&gateway, "/me/x", &good) == 401);
}

#[test]
fn a_key_that_may_not_be_read_concerns_nobody_else() {
    let redis = Redis::start();
    // Every pattern's probe, and one subject.
    redis.command(&[
        "ACL",
        "SETUSER",
        "gw",
        "on",
        ">pw",
        "+@all",
        "resetkeys",
        "~bearward:*",
        "~*bearward-probe",
        "~blacklist:*",
        "~session-revoked:*",
        "~logout:kim",
    ]);
    let (_upstream, gateway) = start(&format!("redis://gw:pw@127.0.0.1:{}", redis.port));
    let (kim, eve) = (token(&json!({ "sub": "kim" })), token(&json!({ "sub": "eve" })));
    until("it is taken", || status(&gateway, "/me/x", &kim) == 200);
    let end = Instant::now() + Duration::from_secs(2);
    let mut asked = 0;
    while Instant::now() < end {
        assert_eq!(status(&gateway, "/me/x", &eve), 503);
        assert_eq!(status(&gateway, "/me/x", &kim), 200);
        asked += 1;
    }
    assert!(asked > 10);
    redis.command(&["ACL", "SETUSER", "gw", "~logout:*"]);
    until("it is allowed", || status(&gateway, "/me/x", &eve) == 200);
}

// The way of most requests has no store in it: a slow one is felt by tokens that are new alone.
#[test]
fn a_slow_store_slows_no_token_that_is_known() {
    let redis = Redis::start();
    let network = Fault::before(redis.port);
    let (_upstream, gateway) = start(&network.url());
    let good = token(&json!({ "jti": "s-1" }));
    until("it is taken", || status(&gateway, "/me/x", &good) == 200);
    network.delay(Duration::from_millis(100));
    let mut client = gateway.client();
    let started = Instant::now();
    for _ in 0..500 {
        assert_eq!(client.send(get("/me/x", Some(&good))).status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(25), "a tenth of a second each would be 50 s");
    let slow = Instant::now();
    until("a new one is taken", || status(&gateway, "/me/x", &token(&json!({ "jti": "s-2" }))) == 200);
    assert!(slow.elapsed() >= Duration::from_millis(100));
    redis.command(&["SET", "blacklist:s-1", "1"]);
    until("it is refused", || status(&gateway, "/me/x", &good) == 401);
}

// Full, unable to save, or still reading its file: what it refuses to write, a lease among it, it cannot be
// relied on for; what it does not answer yet is not clear.
#[test]
fn a_store_that_is_full_or_cannot_save_or_is_loading_is_not_fresh() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("text");
    let settings = ["--enable-protected-configs", "yes", "--enable-debug-command", "local", "--dir", dir];
    let redis = Redis::start_with(&settings);
    let (_upstream, gateway) = start(&redis.url());
    let (good, gone) = (token(&json!({ "jti": "y-1" })), token(&json!({ "jti": "y-2" })));
    redis.command(&["SET", "blacklist:y-2", "1"]);
    let heals = || {
        until("it heals", || match status(&gateway, "/me/x", &good) {
            200 => true,
            503 => false,
            other => panic!("{other}"),
        });
        assert_eq!(status(&gateway, "/me/x", &gone), 401);
    };
    heals();
    for (broken, mended) in [
        (&["CONFIG SET maxmemory 1"][..], &["CONFIG SET maxmemory 0"][..]),
        (
            &["CONFIG SET dir /proc/self", "CONFIG SET save 3600-1", "SET other 1", "BGSAVE"],
            &["CONFIG SET dir FOLDER", "CONFIG SET save -", "BGSAVE"],
        ),
    ] {
        let run = |commands: &[&str]| {
            for command in commands {
                let words: Vec<String> = command.split(' ').map(|word| word.replace("FOLDER", dir)).collect();
                let words: Vec<String> = words
                    .into_iter()
                    .map(|word| match &*word {
                        "3600-1" => "3600 1".to_owned(),
                        "-" => String::new(),
                        _ => word,
                    })
                    .collect();
                redis.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
            }
        };
        run(broken);
        until("it is not fresh", || match status(&gateway, "/me/x", &good) {
            503 => true,
            200 => false,
            other => panic!("{broken:?}: {other}"),
        });
        let answer = gateway.admin("POST", "/revocations", &json!({ "jti": "y-3" }).to_string());
        assert_eq!(answer.status, 503, "{broken:?}: {}", answer.text());
        run(mended);
        heals();
    }
    // Half a millisecond for each of 4,000 keys.
    redis.command(&["DEBUG", "POPULATE", "4000"]);
    until("it is saved", || redis.command(&["SAVE"]) == "OK");
    let port = redis.kill();
    until("it is away", || status(&gateway, "/me/x", &good) == 503);
    let slow = ["--dir", dir, "--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"];
    let redis = Redis::start_loading(port, &slow);
    let mut was_loading = false;
    until("it has loaded", || {
        was_loading |= redis.try_command(&["GET", "x"]).is_some_and(|said| said.contains("LOADING"));
        match status(&gateway, "/me/x", &good) {
            200 => true,
            503 => false,
            other => panic!("{other}"),
        }
    });
    assert!(was_loading, "it was never seen loading");
    assert_eq!(status(&gateway, "/me/x", &gone), 401);
}

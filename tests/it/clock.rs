//! Steps of the wall clock: what has ended stays ended, and what is put right has forgotten nothing.

use serde_json::json;

use crate::support::gateway::{token, with_store};
use crate::support::{Gateway, Upstream, now, until};

const HOUR: i32 = 3600;

fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.get("/me/x", Some(token)).status
}

/// Waits until the gateway has told of a step.
fn told(gateway: &Gateway, what: &str) {
    until(what, || gateway.lines().iter().any(|line| line.contains(what)));
}

#[test]
fn a_token_that_was_seen_to_end_stays_ended_when_the_clock_is_set_back() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start_ahead(&with_store(upstream.address, "memory:", "", ""), HOUR);
    let times = |ends: i64| json!({ "jti": format!("until {ends}"), "iat": now() - 60, "exp": now() + ends });
    let (ended, good) = (token(&times(1800)), token(&times(7000)));
    assert_eq!((status(&gateway, &ended), status(&gateway, &good)), (401, 200));
    gateway.set_ahead(0);
    told(&gateway, "the wall clock was set back");
    gateway.refuses(&upstream, &ended, &["expired"]);
    assert_eq!(status(&gateway, &good), 200);
    // Nobody has presented this one before.
    gateway.refuses(&upstream, &token(&times(1801)), &["expired"]);
    let metrics = gateway.admin("GET", "/metrics", "").text();
    assert!(metrics.contains("bearward_clock_steps_total 1\n"), "{metrics}");
    let ready = gateway.admin("GET", "/readyz", "");
    assert_eq!(ready.status, 200, "{}", ready.text());
}

#[test]
fn a_clock_that_is_put_right_has_forgotten_no_revocation_and_ended_no_token() {
    let (upstream, folder) = (Upstream::echo(), tempfile::tempdir().expect("a folder"));
    let file = format!("file:{}", folder.path().join("standings.db").display());
    for store in [&*file, "memory:"] {
        let gateway = Gateway::start_ahead(&with_store(upstream.address, store, "", ""), 0);
        let times = |jti: &str| json!({ "jti": jti, "iat": now() - 60, "exp": now() + 1800 });
        let (one, two) = (token(&times("one")), token(&times("two")));
        let revoke = |jti: &str| {
            let answer = gateway.admin("POST", "/revocations", &json!({ "jti": jti }).to_string());
            assert_eq!(answer.status, 200, "{}", answer.text());
        };
        revoke("one");
        gateway.refuses(&upstream, &one, &["revoked"]);
        assert_eq!(status(&gateway, &two), 200);
        gateway.set_ahead(10 * 365 * 24 * HOUR);
        told(&gateway, "the wall clock was set forward");
        gateway.refuses(&upstream, &two, &["expired"]);
        // A store that looks for what is over does it when it is written to, now and then.
        for number in 0..1100 {
            revoke(&format!("other {number}"));
        }
        gateway.set_ahead(0);
        told(&gateway, "goes on from before");
        assert_eq!(status(&gateway, &two), 200);
        gateway.refuses(&upstream, &one, &["revoked"]);
    }
}

//! Tokens that say nothing by themselves: whoever issued them is asked (RFC 7662).

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::gateway::{customer, get, with_store};
use crate::support::{Gateway, Upstream, now, until};

const ROUTES: &str = r#"
  - { id: me, match: { path: "/me/**" }, upstream: echo, auth: [opaque, rsa], access: authenticated }
  - { id: pay, match: { path: "/pay" }, upstream: echo, auth: [opaque], access: { scopes: ["pay:write"] } }
  - { id: jwt, match: { path: "/jwt" }, upstream: echo, auth: [rsa], access: authenticated }
  - { id: often, match: { path: "/often" }, upstream: echo, auth: [often], access: authenticated }
  - { id: both, match: { path: "/both" }, upstream: echo, auth: [opaque, often], access: authenticated }
"#;

/// A server that knows tokens, and counts how often it is asked.
pub struct Knows {
    pub server: Upstream,
    answers: Arc<Mutex<Vec<(String, String)>>>,
    asked: Arc<AtomicUsize>,
}

impl Knows {
    fn start() -> Self {
        let answers: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let (known, count) = (Arc::clone(&answers), Arc::clone(&asked));
        let server = Upstream::scripted(move |seen, stream| {
            use std::io::Write;
            count.fetch_add(1, Ordering::SeqCst);
            let form = String::from_utf8_lossy(&seen.body).into_owned();
            let token = form.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
            let known = known.lock().expect("answers");
            let answer = known.iter().rev().find(|(name, _)| name == token).map(|(_, answer)| answer.clone());
            drop(known);
            let answer = answer.unwrap_or_else(|| r#"{"active":false}"#.to_owned());
            if answer == "silent" {
                std::thread::sleep(Duration::from_secs(1));
                return false;
            }
            let (status, answer) = answer.split_once('|').unwrap_or(("200 OK", &answer));
            let length = answer.len();
            let text = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{answer}"
            );
            // Some close without a word.
            stream.write_all(text.as_bytes()).is_ok() && !token.starts_with("last-")
        });
        Self { server, answers, asked }
    }

    fn says(&self, token: &str, answer: &Value) {
        self.says_text(token, &answer.to_string());
    }

    fn says_text(&self, token: &str, answer: &str) {
        self.answers.lock().expect("answers").push((token.to_owned(), answer.to_owned()));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn gateway(upstream: &Upstream, knows: &Knows) -> Gateway {
    let address = knows.server.address;
    let lines = format!(
        "introspection:\n  opaque: {{ uri: \"http://{address}/introspect\", client_id: \"gate way\", client_secret_file: hmac.secret, issuer: https://as.test, audiences: [api], cache: 2s, timeout: 500ms }}\n  often: {{ uri: \"http://{address}/often\", client_id: g, client_secret_file: hmac.secret, cache: 0s, timeout: 500ms }}\n"
    );
    Gateway::start(&with_store(upstream.address, "memory:", &lines, ROUTES))
}

/// A gateway whose server knows no token.
pub fn start(upstream: &Upstream) -> (Upstream, Gateway) {
    let knows = Knows::start();
    let gateway = gateway(upstream, &knows);
    (knows.server, gateway)
}

fn active(sub: &str, scope: &str) -> Value {
    json!({ "active": true, "sub": sub, "scope": scope, "aud": "api", "iat": now() - 5, "exp": now() + 600, "roles": ["customer"] })
}

/// A logout ends what was issued up to then: what says that it is issued later would outlive every one.
#[test]
fn a_token_that_is_issued_in_the_future_is_none() {
    let (upstream, knows) = (Upstream::echo(), Knows::start());
    let gateway = gateway(&upstream, &knows);
    let at = |iat: i64| {
        let mut said = active("kim", "");
        said["iat"] = json!(iat);
        said
    };
    for (token, iat, status) in [
        ("soon", now() + 10, 200),
        ("later", now() + 600, 401),
        ("millis", now() * 1000, 401),
        ("past", now() - 600, 200),
    ] {
        knows.says(token, &at(iat));
        assert_eq!(gateway.get("/me/x", Some(token)).status, status, "{token}");
    }
}

#[test]
fn who_issued_a_token_says_whose_it_is_and_is_asked_once_in_a_while() {
    let (upstream, knows) = (Upstream::echo(), Knows::start());
    let gateway = gateway(&upstream, &knows);
    knows.says("tok-1", &active("kim", "pay:write"));
    knows.says("tok-2", &active("lee", ""));
    let told = gateway.get("/me/x", Some("tok-1")).text();
    assert!(told.contains("x-user-id: kim\r\n") && told.contains("x-user-roles: customer\r\n"), "{told}");
    let question = knows.server.last();
    assert_eq!(question.value("authorization").map(|value| value.starts_with("Basic Z2F0ZSUyMHdheTph")), Some(true));
    assert_eq!(String::from_utf8_lossy(&question.body), "token=tok-1&token_type_hint=access_token");
    let before = knows.asked();
    for _ in 0..20 {
        assert_eq!(gateway.get("/me/x", Some("tok-1")).status, 200);
    }
    assert!(knows.asked() - before <= 1, "{}", knows.asked() - before);
    // Each route decides by itself, after it is known whose it is.
    assert_eq!(gateway.get("/pay", Some("tok-1")).status, 200);
    let refused = gateway.get("/pay", Some("tok-2"));
    assert_eq!(
        (refused.status, refused.header("www-authenticate").map(|text| text.contains("insufficient_scope"))),
        (403, Some(true))
    );
    // A JWT is nobody's question, and what is none is none where nobody is asked.
    let before = knows.asked();
    assert_eq!(gateway.get("/me/x", Some(&customer())).status, 200);
    assert_eq!(gateway.get("/jwt", Some("tok-1")).status, 401);
    assert_eq!(gateway.get("/me/x", Some("eyJhbGciOiJub25lIn0.e30.")).status, 401);
    assert_eq!(knows.asked(), before);
    // However many come with it at once.
    knows.says("tok-0", &active("kim", ""));
    let before = knows.asked();
    let mut clients: Vec<_> = (0..200).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.write(get("/me/x", Some("tok-0")));
    }
    for client in &mut clients {
        assert_eq!(client.read().status, 200);
    }
    assert!(knows.asked() - before <= 10, "{}", knows.asked() - before);
    // It is asked again, and what is not active any more lets nobody in.
    knows.says("tok-1", &json!({ "active": false }));
    until("it is asked again", || gateway.get("/me/x", Some("tok-1")).status == 401);
    // Whoever tries it again and again costs nothing.
    let before = knows.asked();
    for _ in 0..10 {
        let answer = gateway.get("/me/x", Some("tok-1"));
        assert_eq!((answer.status, &gateway.line_of(&answer)["outcome"]), (401, &json!("inactive_token")));
    }
    assert!(knows.asked() - before <= 1);
    // It is taken back here like any other.
    assert_eq!(gateway.get("/me/x", Some("tok-2")).status, 200);
    assert_eq!(gateway.admin("POST", "/revocations", r#"{"sub":"lee"}"#).status, 200);
    assert_eq!(gateway.get("/me/x", Some("tok-2")).status, 401);
    // Where nothing is remembered each request asks.
    knows.says("tok-3", &active("kim", ""));
    let before = knows.asked();
    for _ in 0..5 {
        assert_eq!(gateway.get("/often", Some("tok-3")).status, 200);
    }
    assert_eq!(knows.asked() - before, 5);
    // Over connections that stay.
    let before = (knows.asked(), knows.server.connections());
    for number in 0..20 {
        let token = format!("fresh-{number}");
        knows.says(&token, &active("kim", ""));
        assert_eq!(gateway.get("/me/x", Some(&token)).status, 200);
    }
    assert_eq!((knows.asked() - before.0, knows.server.connections() - before.1), (20, 0));
    // One that the server has closed is no failure.
    for number in 0..20 {
        let token = format!("last-{number}");
        knows.says(&token, &active("kim", ""));
        assert_eq!(gateway.get("/me/x", Some(&token)).status, 200, "{token}");
    }
    let log = gateway.lines().join("\n");
    assert!(!log.contains("tok-") && !log.contains("thirty-two"), "no token and no secret is logged");
}

#[test]
fn what_is_said_is_judged_and_what_is_not_said_is_503() {
    let (upstream, knows) = (Upstream::echo(), Knows::start());
    let gateway = gateway(&upstream, &knows);
    let with = |more: Value| {
        let mut answer = active("kim", "");
        for (name, value) in more.as_object().expect("an object") {
            answer[name] = value.clone();
        }
        answer
    };
    for (token, answer, status, outcome) in [
        ("a", with(json!({ "aud": "other" })), 401, "wrong_audience"),
        ("b", with(json!({ "aud": null })), 401, "wrong_audience"),
        ("c", with(json!({ "iss": "https://evil.test" })), 401, "wrong_issuer"),
        ("d", with(json!({ "iss": "https://as.test" })), 200, "ok"),
        ("e", with(json!({ "exp": now() - 1 })), 401, "expired"),
        ("f", with(json!({ "nbf": now() + 600 })), 401, "not_yet_valid"),
        ("g", json!({ "active": true, "aud": "api" }), 401, "missing_claim"),
        ("h", with(json!({ "cnf": { "jkt": "x" } })), 401, "unproven_token"),
        ("i", with(json!({ "aud": ["x", "api"] })), 200, "ok"),
        ("j", json!({ "sub": "kim" }), 503, "keys_unavailable"),
        ("k", json!({ "active": "true", "sub": "kim", "aud": "api" }), 503, "keys_unavailable"),
    ] {
        knows.says(token, &answer);
        let came = gateway.get("/me/x", Some(token));
        assert_eq!((came.status, gateway.line_of(&came)["outcome"].as_str()), (status, Some(outcome)), "{token}");
    }
    knows.says_text("twice", r#"{"active":false,"active":true,"sub":"kim","aud":"api"}"#);
    knows.says_text("error", "500 Internal Server Error|{}");
    knows.says_text("denied", "401 Unauthorized|{}");
    for token in ["twice", "error"] {
        assert_eq!(gateway.get("/me/x", Some(token)).status, 503, "{token}");
    }
    // What is odd about one token is no reason to leave the others alone.
    let before = knows.asked();
    for _ in 0..8 {
        knows.says("long", &with(json!({ "groups": "x".repeat(70_000) })));
        assert_eq!(gateway.get("/me/x", Some("long")).status, 503);
    }
    assert!(knows.asked() - before <= 2, "{}", knows.asked() - before);
    knows.says_text("odd", "400 Bad Request|{}");
    for _ in 0..20 {
        knows.says_text("odd", "400 Bad Request|{}");
        assert_eq!(gateway.get("/me/x", Some("odd")).status, 503);
    }
    for number in 0..8 {
        knows.says_text(&format!("odd-{number}"), "400 Bad Request|{}");
        assert_eq!(gateway.get("/me/x", Some(&format!("odd-{number}"))).status, 503);
    }
    knows.says("fine", &active("kim", ""));
    assert_eq!(gateway.get("/me/x", Some("fine")).status, 200);
    // What is odd is remembered like what is not active: another audience's token costs nothing.
    let before = knows.asked();
    for _ in 0..10 {
        assert_eq!(gateway.get("/me/x", Some("a")).status, 401);
    }
    assert!(knows.asked() - before <= 2, "{}", knows.asked() - before);
    knows.says("refresh", &with(json!({ "token_type": "refresh_token" })));
    assert_eq!(gateway.get("/me/x", Some("refresh")).status, 401);
    // A token that two know is good for both.
    knows.says("shared", &active("kim", ""));
    for path in ["/me/x", "/often", "/me/x", "/pay"] {
        assert_eq!(gateway.get(path, Some("shared")).status, if path == "/pay" { 403 } else { 200 }, "{path}");
    }
    assert_eq!(gateway.get("/pay", Some(&customer())).status, 401);
    // Many different ones at once wait for their turn.
    let tokens: Vec<String> = (0..150).map(|number| format!("many-{number}")).collect();
    for token in &tokens {
        knows.says(token, &active("kim", ""));
    }
    let mut clients: Vec<_> = tokens.iter().map(|token| (gateway.client(), token)).collect();
    for (client, token) in &mut clients {
        client.write(get("/me/x", Some(token)));
    }
    for (client, token) in &mut clients {
        assert_eq!(client.read().status, 200, "{token}");
    }
    // One that is silent holds nobody for long, and is left alone when it has been silent time and again.
    knows.says_text("silent", "silent");
    knows.says("good", &active("kim", ""));
    let started = Instant::now();
    assert_eq!(gateway.get("/me/x", Some("silent")).status, 503);
    assert!(started.elapsed() < Duration::from_millis(950), "{:?}", started.elapsed());
    let log = |words: &str| gateway.lines().iter().any(|line| line.contains(words));
    until("it is left alone", || {
        gateway.get("/me/x", Some("denied")).status == 503 && log("tokens cannot be asked about")
    });
    let before = knows.asked();
    let came = gateway.get("/me/x", Some("good"));
    assert!(came.status == 503 && came.header("retry-after") == Some("1") && knows.asked() == before);
    // Whatever it says of a token, it is there.
    knows.says_text("strange", "400 Bad Request|{}");
    until("it is asked again", || {
        gateway.get("/me/x", Some("strange")).status == 503 && log("tokens can be asked about again")
    });
    assert_eq!(gateway.get("/me/x", Some("good")).status, 200);
    assert_eq!(gateway.get("/me/x", Some(&customer())).status, 200);
    // Of two one is enough, and the one that is away might have known.
    knows.says("both", &active("kim", ""));
    assert_eq!(gateway.get("/both", Some("both")).status, 200);
    assert_eq!(gateway.get("/both", Some("nobodys")).status, 401);
    assert_eq!(gateway.send(get("/both", Some("both")).replace("Bearer", "Basic")).status, 401);
}

/// However many answers of one token last: what came of the one look that asked is what becomes of all.
#[test]
fn every_answer_that_lasts_ends_when_its_token_does_or_nobody_says() {
    let (upstream, knows) = (Upstream::trickles(), Knows::start());
    let gateway = gateway(&upstream, &knows);
    let streams = |token: &str, count: usize| -> Vec<_> {
        let open = |_| {
            let mut client = gateway.client();
            client.write(get("/often", Some(token)));
            assert_eq!(client.read_to_head().status, 200);
            client
        };
        (0..count).map(open).collect()
    };
    let ended = |outcome: &str| gateway.access_lines().iter().filter(|line| line["outcome"] == outcome).count();
    knows.says("many", &active("kim", ""));
    let _open = streams("many", 12);
    knows.says("many", &json!({ "active": false }));
    let began = Instant::now();
    until("all are cut", || ended("taken_back") == 12);
    assert!(began.elapsed() < Duration::from_secs(6), "not one after another: {:?}", began.elapsed());
    // While the server fails nobody says that they go on.
    knows.says("away", &active("kim", ""));
    let _open = streams("away", 3);
    knows.says_text("away", "500 Internal Server Error|{}");
    until("they are cut", || gateway.access_lines().len() == 15);
    assert_eq!(ended("taken_back") + ended("unconfirmed"), 15, "{:?}", gateway.access_lines());
}

/// A page that says that something is broken says so however long it is.
#[test]
fn a_long_page_of_a_server_in_trouble_is_a_failure_and_no_answer() {
    let (upstream, knows) = (Upstream::echo(), Knows::start());
    let gateway = gateway(&upstream, &knows);
    for number in 0..5 {
        knows.says_text(&format!("t-{number}"), &format!("502 Bad Gateway|{}", "x".repeat(100_000)));
        assert_eq!(gateway.get("/me/x", Some(&format!("t-{number}"))).status, 503);
    }
    let said = |line: &String| line.contains("tokens cannot be asked about");
    until("it is left alone", || gateway.lines().iter().any(said));
}

/// Connections that are kept and lead nowhere any more cost the questions that are on their way, and no later one.
#[test]
fn a_server_that_has_moved_without_a_word_is_asked_over_new_connections() {
    let upstream = Upstream::echo();
    let silent: Arc<Mutex<HashSet<usize>>> = Arc::default();
    let (moved, known) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&silent));
    let has_moved = Arc::clone(&moved);
    let server = Upstream::scripted(move |seen, stream| {
        use std::io::Write;
        let mut known = known.lock().expect("connections");
        if has_moved.load(Ordering::SeqCst) == 0 {
            known.insert(seen.connection);
        } else if known.contains(&seen.connection) {
            drop(known);
            std::thread::sleep(Duration::from_secs(5));
            return false;
        }
        drop(known);
        // Long enough for several to be on their way.
        std::thread::sleep(Duration::from_millis(50));
        let body = active("kim", "").to_string();
        let length = body.len();
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes()).is_ok()
    });
    let knows = Knows { server, answers: Arc::default(), asked: Arc::default() };
    let gateway = gateway(&upstream, &knows);
    let mut clients: Vec<_> = (0..8).map(|number| (gateway.client(), format!("first-{number}"))).collect();
    for (client, token) in &mut clients {
        client.write(get("/me/x", Some(token)));
    }
    for (client, _) in &mut clients {
        assert_eq!(client.read().status, 200);
    }
    assert!(silent.lock().expect("connections").len() > 1);
    moved.store(1, Ordering::SeqCst);
    let answers: Vec<u16> = (0..8).map(|number| gateway.get("/me/x", Some(&format!("next-{number}"))).status).collect();
    assert_eq!(answers, [503, 200, 200, 200, 200, 200, 200, 200]);
}

/// An answer that lasts goes on for as long as the token is active, and no longer.
#[test]
fn an_answer_that_lasts_is_asked_about_again() {
    let (upstream, knows) = (Upstream::trickles(), Knows::start());
    let gateway = gateway(&upstream, &knows);
    knows.says("tok-1", &active("kim", ""));
    let mut client = gateway.client();
    client.write(get("/me/x", Some("tok-1")));
    assert_eq!(client.read_to_head().status, 200);
    let began = Instant::now();
    until("it was asked again", || began.elapsed() > Duration::from_secs(3) && knows.asked() >= 2);
    assert!(gateway.access_lines().is_empty(), "it goes on");
    // What it says besides is another matter now: it is decided anew.
    let mut other = active("kim", "");
    other["name"] = "somebody else".into();
    knows.says("tok-1", &other);
    until("it is cut", || gateway.access_lines().iter().any(|line| line["outcome"] == "taken_back"));
    let mut client = gateway.client();
    client.write(get("/me/x", Some("tok-1")));
    assert_eq!(client.read_to_head().status, 200);
    let before = gateway.access_lines().len();
    // Nor do clients that leave keep anybody from being asked about.
    for number in 0..20 {
        let _left = gateway.client().try_write(get("/me/x", Some(&format!("gone-{number}"))));
    }
    knows.says("tok-1", &json!({ "active": false }));
    until("it is cut", || gateway.access_lines().iter().skip(before).any(|line| line["outcome"] == "taken_back"));
    // Where nothing is remembered it is asked about once a second.
    knows.says("tok-2", &active("kim", ""));
    let mut client = gateway.client();
    client.write(get("/often", Some("tok-2")));
    assert_eq!(client.read_to_head().status, 200);
    let (before, began) = (knows.asked(), Instant::now());
    until("it was asked again", || began.elapsed() > Duration::from_secs(2) && knows.asked() > before);
    let (asked, seconds) = (knows.asked() - before, began.elapsed().as_secs());
    assert!(asked as u64 <= seconds + 2, "{asked} times in {seconds} s");
}

// What is written for another one than was meant takes nothing back, and would say that it did.
#[test]
fn where_keys_name_the_issuer_what_another_server_says_is_taken_back_by_its_name() {
    let (upstream, knows) = (Upstream::echo(), Knows::start());
    let address = knows.server.address;
    let lines = format!(
        "introspection:\n  often: {{ uri: \"http://{address}/often\", client_id: g, client_secret_file: hmac.secret, cache: 0s, timeout: 500ms }}\n"
    );
    let routes = r#"
  - { id: me, match: { path: "/me/**" }, upstream: echo, auth: [rsa, often], access: authenticated }
"#;
    let one = "  rsa: { issuer: https://rsa.test";
    let yaml = with_store(upstream.address, "memory:", &lines, routes)
        .lines()
        .filter(|line| !line.starts_with("  ec:") && !line.starts_with("  hmac:"))
        .collect::<Vec<_>>()
        .join("\n")
        .replace("auth: [rsa, ec, hmac]", "auth: [rsa]")
        .replace("blacklist:{jti}", "blacklist:{iss}|{jti}")
        .replace("logout:{sub}", "logout:{iss}|{sub}");
    assert!(yaml.contains(one));
    let gateway = Gateway::start(&yaml);
    let mut answer = active("kim", "");
    answer["jti"] = "o1".into();
    knows.says("tok-1", &answer);
    assert_eq!(gateway.get("/me/x", Some("tok-1")).status, 200);
    let revoke = |body: Value| gateway.admin("POST", "/revocations", &body.to_string());
    for body in [json!({ "sub": "kim" }), json!({ "jti": "o1" })] {
        let refused = revoke(body);
        assert_eq!(refused.status, 400);
        assert!(refused.text().contains("`rsa`, `often`"), "{}", refused.text());
    }
    assert_eq!(revoke(json!({ "sub": "kim", "issuer": "as" })).status, 400);
    assert_eq!(gateway.get("/me/x", Some("tok-1")).status, 200);
    let done = revoke(json!({ "jti": "o1", "issuer": "often" }));
    assert_eq!((done.status, done.json()["key"].as_str()), (200, Some("blacklist:often|o1")), "{}", done.text());
    assert_eq!(gateway.get("/me/x", Some("tok-1")).status, 401);
    // Of another one the same id is another token.
    assert_eq!(gateway.get("/me/x", Some(&customer())).status, 200);
}

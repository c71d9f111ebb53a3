//! Forged, broken and foreign tokens. Numbers are those of the threat list: what went wrong in
//! token libraries before, each a test by name.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use serde_json::{Value, json};

use crate::support::gateway::{customer, get, token};
use crate::support::sign::{self, Claims, base64url};
use crate::support::{Gateway, Upstream, config, now};

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    (upstream, gateway)
}

fn claims() -> String {
    Claims::of("https://rsa.test").json()
}

#[test]
fn good_tokens_of_each_family_are_taken() {
    let (_upstream, gateway) = start();
    gateway.takes(&sign::rsa(&claims()));
    gateway.takes(&sign::ec(&Claims::of("https://ec.test").json()));
    gateway.takes(&sign::hmac_as(sign::SECRET, r#"{"alg":"HS256"}"#, &Claims::of("https://hmac.test").json()));
    gateway.takes(&sign::rsa_as(r#"{"typ":"at+jwt","alg":"RS256","kid":"rsa-1"}"#, &claims()));
    // Exactly one key fits a token without `kid`.
    gateway.takes(&sign::rsa_as(r#"{"alg":"RS256"}"#, &claims()));
}

#[test]
fn threats_01_to_03_a_public_key_in_any_spelling_is_no_hmac_secret() {
    let (upstream, gateway) = start();
    let (n, e) = sign::rsa_components(sign::rsa_key());
    let (pem, der) = (sign::rsa_public_pem(), sign::rsa_public_der());
    let jwk = sign::rsa_jwk(sign::rsa_key(), "rsa-1");
    let set = json!({ "keys": [jwk] });
    let spellings: Vec<Vec<u8>> = vec![
        pem.clone().into_bytes(),
        pem.trim_end().as_bytes().to_vec(),
        pem.replace('\n', "\r\n").into_bytes(),
        pem.replace('\n', "").into_bytes(),
        format!(" {pem}").into_bytes(),
        format!("\n{pem}").into_bytes(),
        pem.lines().filter(|line| !line.starts_with('-')).collect::<String>().into_bytes(),
        der.clone(),
        base64url(&der).into_bytes(),
        jwk.to_string().into_bytes(),
        format!("{jwk:#}").into_bytes(),
        set.to_string().into_bytes(),
        n.clone(),
        base64url(&n).into_bytes(),
        [n, e].concat(),
    ];
    for secret in spellings {
        for header in [r#"{"alg":"HS256","kid":"rsa-1"}"#, r#"{"alg":"HS256"}"#] {
            gateway.refuses(&upstream, &sign::hmac_as(&secret, header, &claims()), &["algorithm_not_allowed"]);
        }
        let of_hmac_issuer = Claims::of("https://hmac.test").json();
        gateway.refuses(&upstream, &sign::hmac_as(&secret, r#"{"alg":"HS256"}"#, &of_hmac_issuer), &["bad_signature"]);
    }
}

#[test]
fn threat_04_the_tokens_algorithm_never_chooses_beyond_the_pinned_ones() {
    let (upstream, gateway) = start();
    for alg in ["RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256", "HS384", "HS512"] {
        let header = json!({ "alg": alg, "kid": "rsa-1" }).to_string();
        gateway.refuses(&upstream, &sign::rsa_as(&header, &claims()), &["algorithm_not_allowed"]);
    }
    // Another issuer's key and algorithm do not vouch for this one's tokens.
    gateway.refuses(&upstream, &sign::ec(&claims()), &["algorithm_not_allowed"]);
    gateway.refuses(&upstream, &sign::rsa_as(r#"{"alg":"RS256","kid":"ec-1"}"#, &claims()), &["unknown_key"]);
}

#[test]
fn threat_05_a_key_without_alg_is_used_for_pinned_algorithms_only() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    let mut jwk = sign::rsa_jwk(sign::rsa_key(), "rsa-1");
    jwk.as_object_mut().expect("an object").remove("alg");
    std::fs::write(folder.path().join("rsa.jwks.json"), json!({ "keys": [jwk] }).to_string()).expect("a file");
    std::fs::write(folder.path().join("gateway.yaml"), config(upstream.address, "")).expect("a file");
    let gateway = Gateway::start_in(folder, &[]);
    gateway.takes(&sign::rsa(&claims()));
    for (alg, token) in [
        ("PS256", sign::rsa_pss(r#"{"alg":"PS256","kid":"rsa-1"}"#, &claims())),
        ("RS512", sign::rsa_512(r#"{"alg":"RS512","kid":"rsa-1"}"#, &claims())),
        ("HS256", sign::hmac_as(&sign::rsa_public_der(), r#"{"alg":"HS256","kid":"rsa-1"}"#, &claims())),
    ] {
        assert!(!alg.is_empty());
        gateway.refuses(&upstream, &token, &["algorithm_not_allowed"]);
    }
}

#[test]
fn threats_06_and_07_unknown_algorithms_and_none_are_refused() {
    let (upstream, gateway) = start();
    let odd = [
        json!("RS256 "),
        json!("rs256"),
        json!("Rs256"),
        json!("XX"),
        json!(256),
        json!(["RS256"]),
        json!(null),
        json!({}),
        json!(true),
        json!(""),
        json!("none"),
        json!("None"),
        json!("nOnE"),
        json!("NONE"),
        json!("none "),
        json!("RS256\u{0}"),
    ];
    for alg in odd {
        let header = json!({ "alg": alg, "kid": "rsa-1" }).to_string();
        gateway.refuses(&upstream, &sign::rsa_as(&header, &claims()), &["algorithm_not_allowed"]);
        let bare = sign::unsigned(&header, &claims());
        gateway.refuses(&upstream, &format!("{bare}."), &["malformed_token"]);
        gateway.refuses(&upstream, &bare, &["malformed_token"]);
    }
    gateway.refuses(&upstream, &sign::rsa_as(r#"{"kid":"rsa-1"}"#, &claims()), &["algorithm_not_allowed"]);
}

#[test]
fn threat_08_an_empty_or_missing_signature_is_refused() {
    let (upstream, gateway) = start();
    let token = sign::rsa(&claims());
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    for broken in [signed.to_owned(), format!("{signed}."), format!("{signed}.."), format!(".{signed}")] {
        gateway.refuses(&upstream, &broken, &["malformed_token"]);
    }
    for broken in ["AA", "AAAA", &signature[..signature.len() - 4], &format!("{signature}AAAA")] {
        gateway.refuses(&upstream, &format!("{signed}.{broken}"), &["bad_signature"]);
    }
    // Not base64url: padding, the other alphabet, bits that do not belong to it.
    gateway.refuses(&upstream, &format!("{signed}.{signature}=="), &["bad_signature"]);
    gateway.refuses(&upstream, &format!("{signed}.{}", signature.replace(['-', '_'], "+")), &["bad_signature"]);
}

#[test]
fn threat_09_psychic_ecdsa_signatures_are_refused() {
    let (upstream, gateway) = start();
    let order: [u8; 32] = [
        0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xBC, 0xE6,
        0xFA, 0xAD, 0xA7, 0x17, 0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51,
    ];
    let (zero, mut one, mut below) = ([0_u8; 32], [0_u8; 32], order);
    one[31] = 1;
    below[31] -= 1;
    let signed = sign::unsigned(r#"{"alg":"ES256","kid":"ec-1"}"#, &Claims::of("https://ec.test").json());
    for (r, s) in [(zero, zero), (zero, one), (one, zero), (order, order), (below, one), (one, one), (order, one)] {
        gateway.refuses(&upstream, &format!("{signed}.{}", base64url([r, s].concat())), &["bad_signature"]);
    }
    gateway.refuses(&upstream, &format!("{signed}.{}", base64url([0_u8; 8])), &["bad_signature"]);
}

#[test]
fn threats_10_and_11_keys_and_urls_in_the_token_are_not_looked_at() {
    let (upstream, gateway) = start();
    let trap = TcpListener::bind("127.0.0.1:0").expect("a free port");
    trap.set_nonblocking(true).expect("a look without waiting");
    let url = format!("http://{}/keys", trap.local_addr().expect("an address"));
    let own = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
    let jwk = sign::rsa_jwk(&own, "own");
    let headers = [
        json!({ "alg": "RS256", "jwk": jwk }),
        json!({ "alg": "RS256", "kid": "own", "jwk": jwk }),
        json!({ "alg": "RS256", "kid": "rsa-1", "jwk": jwk }),
        json!({ "alg": "RS256", "kid": "own", "jku": url }),
        json!({ "alg": "RS256", "kid": "rsa-1", "jku": url, "x5u": url }),
        json!({ "alg": "RS256", "x5u": "file:///etc/passwd" }),
        json!({ "alg": "RS256", "jku": "http://169.254.169.254/latest/meta-data" }),
        json!({ "alg": "RS256", "jku": "gopher://127.0.0.1:6379/_FLUSHALL" }),
        json!({ "alg": "RS256", "x5c": ["MIIB"] }),
    ];
    for header in headers {
        let token = sign::rsa_by(&own, &aws_lc_rs::signature::RSA_PKCS1_SHA256, &header.to_string(), &claims());
        gateway.refuses(&upstream, &token, &["bad_signature", "unknown_key"]);
    }
    assert!(trap.accept().is_err(), "nobody called");
}

#[test]
fn threats_12_and_13_a_kid_is_only_a_name_and_an_unknown_one_has_no_key() {
    let (upstream, gateway) = start();
    let long = "k".repeat(4096);
    let kids = [
        json!("../../dev/null"),
        json!("/dev/null"),
        json!("' OR '1'='1"),
        json!("\"; cat /etc/passwd"),
        json!("a\r\nSET x y"),
        json!("\u{0}"),
        json!(long),
        json!(1),
        json!(["rsa-1"]),
        json!({ "kid": "rsa-1" }),
        json!(null),
        json!("RSA-1"),
        json!("rsa-1 "),
        json!(""),
    ];
    let expected = ["unknown_key", "malformed_token", "algorithm_not_allowed"];
    for kid in kids {
        let header = json!({ "alg": "RS256", "kid": kid }).to_string();
        gateway.refuses(&upstream, &sign::rsa_as(&header, &claims()), &expected);
        let header = json!({ "alg": "HS256", "kid": kid }).to_string();
        gateway.refuses(&upstream, &sign::hmac_as(b"", &header, &claims()), &expected);
        let of_hmac = Claims::of("https://hmac.test").json();
        gateway.refuses(&upstream, &sign::hmac_as(b"", &header, &of_hmac), &["bad_signature", "malformed_token"]);
    }
    // 64 KB of it: more than the header fields may be, and where they may, more than a token may be.
    let header = json!({ "alg": "RS256", "kid": "k".repeat(64 * 1024) }).to_string();
    let huge = sign::rsa_as(&header, &claims());
    assert_eq!(gateway.get("/me/x", Some(&huge)).status, 431);
    let wide = config(upstream.address, "").replace("realm: test }", "realm: test, limits: { headers: 256KiB } }");
    Gateway::start(&wide).refuses(&upstream, &huge, &["malformed_token"]);
}

#[test]
fn threats_14_and_15_what_the_header_demands_and_is_not_understood_refuses_the_token() {
    let (upstream, gateway) = start();
    for more in [
        json!({ "crit": ["exp"] }),
        json!({ "crit": ["x"], "x": 1 }),
        json!({ "crit": [] }),
        json!({ "crit": "b64" }),
        json!({ "crit": null }),
        json!({ "b64": false }),
        json!({ "b64": false, "crit": ["b64"] }),
        json!({ "b64": true }),
        json!({ "typ": "logout+jwt" }),
        json!({ "typ": ["JWT"] }),
        json!({ "zip": "DEF" }),
    ] {
        let mut header = json!({ "alg": "RS256", "kid": "rsa-1" });
        header.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        gateway.refuses(&upstream, &sign::rsa_as(&header.to_string(), &claims()), &["unsupported_token"]);
    }
}

#[test]
fn threat_16_a_time_of_the_wrong_type_is_not_an_absent_time() {
    let (upstream, gateway) = start();
    let later = now() + 600;
    for name in ["exp", "nbf", "iat"] {
        for odd in [json!(later.to_string()), json!([later]), json!({ "t": later }), json!(true), json!(-1)] {
            gateway.refuses(&upstream, &token(&json!({ name: odd })), &["malformed_token"]);
        }
        let text = claims().replacen('{', &format!("{{\"{name}x\":0,"), 1);
        let null = text.replace(&format!("\"{name}\":"), &format!("\"old\":0,\"{name}\":null,\"was\":"));
        if null != text {
            gateway.refuses(&upstream, &sign::rsa(&null), &["malformed_token"]);
        }
    }
    gateway.refuses(&upstream, &token(&json!({ "exp": null })), &["missing_claim"]);
}

#[test]
fn threat_17_an_audience_has_to_be_named_in_a_form_of_the_rfc() {
    let (upstream, gateway) = start();
    gateway.takes(&token(&json!({ "aud": ["x", "api"] })));
    gateway.takes(&token(&json!({ "aud": "other" })));
    gateway.refuses(&upstream, &token(&json!({ "aud": null })), &["missing_claim"]);
    for odd in
        [json!("API"), json!("api "), json!("apis"), json!("ap"), json!(""), json!([]), json!(["x"]), json!("api,x")]
    {
        gateway.refuses(&upstream, &token(&json!({ "aud": odd })), &["wrong_audience"]);
    }
    for odd in [json!(1), json!(true), json!({ "api": true }), json!(["api", 1]), json!([["api"]]), json!([null])] {
        gateway.refuses(&upstream, &token(&json!({ "aud": odd })), &["malformed_token"]);
    }
}

#[test]
fn threat_18_an_issuer_is_equal_to_the_byte_or_another() {
    let (upstream, gateway) = start();
    let odd = [
        "https://rsa.tes",
        "https://rsa.test/",
        "https://rsa.test.evil",
        "xhttps://rsa.test",
        "HTTPS://RSA.TEST",
        "https://rsa.test ",
        "rsa",
        "https://ec.test@https://rsa.test",
    ];
    for iss in odd {
        gateway.refuses(&upstream, &token(&json!({ "iss": iss })), &["wrong_issuer"]);
    }
    gateway.refuses(&upstream, &token(&json!({ "iss": ["https://rsa.test"] })), &["malformed_token"]);
    gateway.refuses(&upstream, &token(&json!({ "iss": 1 })), &["malformed_token"]);
    gateway.refuses(&upstream, &token(&json!({ "iss": null })), &["missing_claim"]);
}

#[test]
fn threat_19_only_the_compact_form_is_a_token() {
    let (upstream, gateway) = start();
    let token = sign::rsa(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let flattened = json!({ "protected": parts[0], "payload": parts[1], "signature": parts[2] }).to_string();
    let general =
        json!({ "payload": parts[1], "signatures": [{ "protected": parts[0], "signature": parts[2] }] }).to_string();
    let polyglot = format!("{{\"a\":\"{token}\",\"protected\":\"{}\"}}", parts[0]);
    for form in [
        flattened,
        general,
        polyglot,
        format!("{token}.{token}"),
        format!("{token}.x"),
        format!("{}..{}", parts[0], parts[2]),
    ] {
        gateway.refuses(&upstream, &form, &["malformed_token"]);
        gateway.refuses(&upstream, &base64url(&form), &["malformed_token"]);
    }
}

#[test]
fn threats_20_and_21_dots_and_length_cost_nothing() {
    let upstream = Upstream::echo();
    let roomy = "defaults: { auth: [rsa, ec, hmac], realm: test, limits: { headers: 1MiB } }";
    let yaml = config(upstream.address, "").replace("defaults: { auth: [rsa, ec, hmac], realm: test }", roomy);
    let gateway = Gateway::start(&yaml);
    let good = sign::rsa(&claims());
    for text in [
        ".".repeat(64 * 1024),
        "a.".repeat(32 * 1024),
        "a".repeat(64 * 1024),
        "a".repeat(900 * 1024),
        format!("{good}{}", "A".repeat(9000)),
    ] {
        let started = Instant::now();
        gateway.refuses(&upstream, &text, &["malformed_token"]);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    // Just too long, though it would verify.
    let padded = token(&json!({ "pad": "x".repeat(8000) }));
    gateway.refuses(&upstream, &padded, &["malformed_token"]);
}

#[test]
fn threats_22_to_24_an_encrypted_token_is_refused_before_anything_is_opened() {
    let (upstream, gateway) = start();
    let before = gateway.resident();
    for header in [
        json!({ "alg": "RSA-OAEP", "enc": "A256GCM", "zip": "DEF" }),
        json!({ "alg": "dir", "enc": "A128CBC-HS256", "zip": "DEF" }),
        json!({ "alg": "PBES2-HS256+A128KW", "enc": "A128CBC-HS256", "p2c": 2_147_483_647_u32, "p2s": "AAAA" }),
    ] {
        let header = base64url(header.to_string());
        let parts = [header.as_str(), "AAAA", "AAAA", &"A".repeat(4000), "AAAA"].join(".");
        let started = Instant::now();
        gateway.refuses(&upstream, &parts, &["malformed_token"]);
        gateway.refuses(&upstream, &format!("{header}.{}.AAAA", base64url(claims())), &["unsupported_token"]);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    // What really expands: 2 MB of one letter, and as much of it as fits into a token.
    let wide = config(upstream.address, "").replace("realm: test }", "realm: test, limits: { headers: 256KiB } }");
    let wide = Gateway::start(&wide);
    let header = base64url(r#"{"alg":"dir","enc":"A256GCM","zip":"DEF"}"#);
    for size in [2_000_000, 900_000] {
        let parts = [&header, "", "AAAAAAAAAAAAAAAA", &base64url(deflated(size)), "AAAAAAAAAAAAAAAAAAAAAA"].join(".");
        wide.refuses(&upstream, &parts, &["malformed_token"]);
        let parts = [&header, &base64url(deflated(size)), "AAAA"].join(".");
        wide.refuses(&upstream, &parts, &["unsupported_token", "malformed_token"]);
    }
    assert!(gateway.resident() < before + 8 * 1024 && wide.resident() < before + 8 * 1024);
}

/// So many letters `a` in DEFLATE (RFC 1951 §3.2.6): one literal, then matches of 258 at distance 1.
fn deflated(size: usize) -> Vec<u8> {
    let mut bits: Vec<bool> = vec![true, true, false];
    let mut code = |value: u32, length: u32| (0..length).rev().for_each(|bit| bits.push(value >> bit & 1 == 1));
    code(0x30 + u32::from(b'a'), 8);
    for _ in 0..size / 258 {
        code(0b1100_0101, 8);
        code(0, 5);
    }
    code(0, 7);
    bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |sum, &bit| sum << 1 | u8::from(bit))).collect()
}

#[test]
fn threat_28_a_wrong_issuer_is_never_taken_for_a_missing_token() {
    let upstream = Upstream::echo();
    let routes = r#"
  - { id: rsa-only, match: { path: "/me/**" }, upstream: echo, auth: [rsa], access: { not: { roles: [banned] } } }
  - { id: open, match: { path: "/open/**" }, upstream: echo, access: public }
"#;
    let gateway = Gateway::start(&config(upstream.address, routes));
    gateway.takes(&sign::rsa(&claims()));
    gateway.refuses(&upstream, &sign::ec(&Claims::of("https://ec.test").json()), &["wrong_issuer"]);
    gateway.refuses(&upstream, &token(&json!({ "iss": "https://nobody.test" })), &["wrong_issuer"]);
    gateway.refuses(&upstream, "garbage", &["malformed_token"]);
}

#[test]
fn threat_29_malformed_tokens_on_open_routes_are_not_looked_at_and_do_no_harm() {
    let (upstream, gateway) = start();
    for text in
        ["", ".", "..", "...", "a.b.c", "e30.e30.e30", "eyJhbGciOiJSUzI1NiJ9..", &"x".repeat(9000), "=", "\u{1}"]
    {
        let answer = gateway.send(get("/open/x", Some(text)));
        assert!(answer.status == 200 || answer.status == 400, "{text}: {}", answer.status);
    }
    assert!(
        upstream.seen().iter().all(|seen| seen.value("authorization").is_none() && seen.value("x-user-id").is_none())
    );
    gateway.takes(&sign::rsa(&claims()));
}

#[test]
fn threat_30_tokens_that_begin_alike_and_routes_that_differ_never_share_an_identity() {
    let upstream = Upstream::echo();
    let routes = r#"
  - { id: both, match: { path: "/me/**" }, upstream: echo, access: authenticated }
  - { id: ec-only, match: { path: "/ec" }, upstream: echo, auth: [ec], access: authenticated }
  - { id: scoped, match: { path: "/scoped" }, upstream: echo, access: { scopes: [s] } }
"#;
    let gateway = Gateway::start(&config(upstream.address, routes));
    // The first 700 characters are the same; the subject stands last.
    let alike = |sub: &str| {
        let now = now();
        let pad = "p".repeat(600);
        sign::rsa(&format!(
            r#"{{"pad":"{pad}","iss":"https://rsa.test","aud":"api","exp":{},"iat":{now},"jti":"j","sub":"{sub}"}}"#,
            now + 600
        ))
    };
    let (one, other) = (alike("one"), alike("other"));
    assert_eq!(one[..700], other[..700]);
    let mut client = gateway.client();
    // BEARWARD_TURNS=500000 makes it the million of the row; the suite takes fewer.
    let turns = std::env::var("BEARWARD_TURNS").map_or(500, |turns| turns.parse().expect("a number"));
    for _ in 0..turns {
        for (token, sub) in [(&one, "one"), (&other, "other")] {
            let answer = client.send(get("/me/x", Some(token)));
            assert!(answer.text().contains(&format!("x-user-id: {sub}\r\n")), "{}", answer.text());
        }
    }
    // What is remembered says who they are, not what they may.
    assert_eq!(gateway.get("/ec", Some(&one)).status, 401);
    assert_eq!(gateway.get("/scoped", Some(&one)).status, 403);
    assert_eq!(gateway.get("/me/x", Some(&one)).status, 200);
}

#[test]
fn threat_31_no_answer_and_no_log_line_holds_a_secret_or_a_token() {
    let (_upstream, gateway) = start();
    let good = customer();
    let payload = good.split('.').nth(1).expect("a payload").to_owned();
    let bad = format!("{}AAAA", &good[..good.len() - 4]);
    let mut said = String::new();
    for token in [&good, &bad] {
        for path in ["/orders/1?secret=q-u-e-r-y", "/pay", "/nowhere", "/a/../b", "/open/x?access_token=abc"] {
            let answer = gateway.get(path, Some(token));
            // The echo service shows what it was sent; the gateway's own words are what counts.
            if answer.status != 200 {
                said.push_str(&format!("{:?}{}", answer.headers, answer.text()));
            }
            gateway.line_of(&answer);
        }
    }
    said.push_str(&gateway.admin("GET", "/metrics", "").text());
    said.push_str(&gateway.lines().join("\n"));
    let secret = std::str::from_utf8(sign::SECRET).expect("text");
    for never in [secret, &payload, &good[good.len() - 40..], "q-u-e-r-y", "access_token", "Bearer ey"] {
        assert!(!said.contains(never), "{never} in {said}");
    }
}

#[test]
fn threat_33_weak_and_broken_keys_are_refused_at_load() {
    let jwk = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut jwk = sign::rsa_jwk(sign::rsa_key(), "rsa-1");
        change(jwk.as_object_mut().expect("an object"));
        jwk
    };
    let set = |name: &str, value: Value| jwk(&|jwk| drop(jwk.insert(name.to_owned(), value.clone())));
    let mut off_curve = sign::ec_jwk(sign::ec_key(), "ec-1");
    off_curve["y"] = json!(base64url([7_u8; 32]));
    let mut even = sign::rsa_components(sign::rsa_key()).0;
    *even.last_mut().expect("bytes") &= 0xFE;
    let cases = [
        (set("n", json!(base64url([0xFF_u8; 128]))), "rsa", "1024 bits"),
        (set("e", json!("AQ")), "rsa", "weak"),
        (set("e", json!("Ag")), "rsa", "weak"),
        (set("n", json!(base64url(even))), "rsa", "weak"),
        (set("n", json!("!!!")), "rsa", "not base64url"),
        (set("kid", json!(7)), "rsa", "`kid` is no text"),
        (off_curve, "ec", "not on its curve"),
        (json!({ "kty": "oct", "k": base64url(sign::SECRET), "kid": "rsa-1" }), "rsa", "symmetric"),
        (json!({ "kid": "rsa-1" }), "rsa", "`kty` is missing"),
    ];
    for (jwk, issuer, reason) in cases {
        refused_at_load(issuer, &json!({ "keys": [jwk] }), reason);
    }
    let twice = json!({ "keys": [sign::rsa_jwk(sign::rsa_key(), "a"), sign::rsa_jwk(sign::rsa_key(), "a")] });
    refused_at_load("rsa", &twice, "share the kid");
    refused_at_load("rsa", &json!({ "keys": [] }), "no key");
    refused_at_load("rsa", &json!({ "keys": [set("use", json!("enc"))] }), "no key");
    refused_at_load("rsa", &json!({ "keys": [set("key_ops", json!(["encrypt"]))] }), "no key");
    // The same in PEM, where the file is the key.
    let (n, e) = sign::rsa_components(sign::rsa_key());
    let mut even = n.clone();
    *even.last_mut().expect("bytes") &= 0xFE;
    let mut point = aws_lc_rs::signature::KeyPair::public_key(sign::ec_key()).as_ref().to_vec();
    refused_pem("RS256", &sign::rsa_spki(&[0xFF; 128], &e), "1024 bits");
    refused_pem("RS256", &sign::rsa_spki(&n, &[1]), "weak");
    refused_pem("RS256", &sign::rsa_spki(&even, &e), "weak");
    refused_pem("ES256", &sign::rsa_spki(&n, &e), "no PEM public key");
    refused_pem("RS256", &sign::ec_spki(&point), "no PEM public key");
    refused_pem("ES384", &sign::ec_spki(&point), "goes with ES256 alone");
    *point.last_mut().expect("bytes") ^= 1;
    refused_pem("ES256", &sign::ec_spki(&point), "not on its curve");
    let many: Vec<Value> = (0..101).map(|n| sign::rsa_jwk(sign::rsa_key(), &n.to_string())).collect();
    refused_at_load("rsa", &json!({ "keys": many }), "101 keys");
}

fn refused_pem(algorithm: &str, der: &[u8], reason: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    std::fs::write(folder.path().join("rsa.jwks.json"), sign::pem("PUBLIC KEY", der)).expect("a file");
    let yaml = config("127.0.0.1:1".parse().expect("an address"), "")
        .replace("algorithms: [RS256], jwks_file", &format!("algorithms: [{algorithm}], public_key_file"));
    refused_by_check(folder.path(), &yaml, "issuers.rsa.public_key_file", reason);
}

fn refused_at_load(issuer: &str, set: &Value, reason: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    sign::write_keys(folder.path());
    std::fs::write(folder.path().join(format!("{issuer}.jwks.json")), set.to_string()).expect("a file");
    let yaml = config("127.0.0.1:1".parse().expect("an address"), "");
    refused_by_check(folder.path(), &yaml, &format!("issuers.{issuer}.jwks_file"), reason);
}

fn refused_by_check(folder: &std::path::Path, yaml: &str, place: &str, reason: &str) {
    let file = folder.join("gateway.yaml");
    std::fs::write(&file, yaml).expect("a file");
    let out =
        std::process::Command::new(crate::support::gateway::PROGRAM).arg("check").arg(&file).output().expect("runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(78), "{reason}: {said}");
    assert!(said.contains(reason) && said.contains(place), "{reason}: {said}");
}

#[test]
fn threat_35_a_name_that_stands_twice_refuses_the_token() {
    let (upstream, gateway) = start();
    let good = claims();
    for twice in
        [r#""sub":"root","#, r#""\u0073ub":"root","#, r#""exp":1,"#, r#""o":{"x":1,"x":2},"#, r#""l":[{"x":1,"x":2}],"#]
    {
        gateway.refuses(&upstream, &sign::rsa(&good.replacen('{', &format!("{{{twice}"), 1)), &["malformed_token"]);
    }
    for header in
        [r#"{"alg":"RS256","kid":"rsa-1","alg":"RS256"}"#, r#"{"alg":"RS256","\u0061lg":"HS256","kid":"rsa-1"}"#]
    {
        gateway.refuses(&upstream, &sign::rsa_as(header, &good), &["malformed_token"]);
    }
}

#[test]
fn a_token_is_refused_outside_of_its_time() {
    let (upstream, gateway) = start();
    let now = now();
    // 30 s of leeway on both sides.
    gateway.takes(&token(&json!({ "exp": now - 20 })));
    gateway.takes(&token(&json!({ "nbf": now + 20, "iat": now + 20 })));
    gateway.refuses(&upstream, &token(&json!({ "exp": now - 31 })), &["expired"]);
    gateway.refuses(&upstream, &token(&json!({ "nbf": now + 40 })), &["not_yet_valid"]);
    gateway.refuses(&upstream, &token(&json!({ "iat": now + 40, "exp": now + 100 })), &["not_yet_valid"]);
    gateway.refuses(&upstream, &token(&json!({ "exp": now + 25 * 3600 })), &["lifetime_too_long"]);
    gateway.refuses(&upstream, &token(&json!({ "exp": 9_007_199_254_740_991_i64 })), &["lifetime_too_long"]);
}

#[test]
fn a_token_that_was_taken_before_is_refused_once_its_time_is_over() {
    let (upstream, gateway) = start();
    // Leeway included, this one has two seconds left.
    let short = token(&json!({ "exp": now() - 28 }));
    gateway.takes(&short);
    crate::support::until("the remembered token expires", || gateway.get("/me/x", Some(&short)).status == 401);
    gateway.refuses(&upstream, &short, &["expired"]);
}

#[test]
fn claims_that_every_token_needs() {
    let (upstream, gateway) = start();
    for name in ["sub", "jti", "iat"] {
        gateway.refuses(&upstream, &token(&json!({ name: null })), &["missing_claim"]);
    }
    for (name, odd) in [
        ("sub", json!("")),
        ("sub", json!(7)),
        ("jti", json!(["a"])),
        ("sid", json!(1)),
        ("roles", json!({ "a": 1 })),
        ("scope", json!(7)),
    ] {
        gateway.refuses(&upstream, &token(&json!({ name: odd })), &["malformed_token"]);
    }
    // Without a login there is nothing to end by `sid`.
    gateway.takes(&token(&json!({ "sid": null })));
    let answer = gateway.get("/me/x", Some(&token(&json!({ "jti": null }))));
    assert_eq!(gateway.line_of(&answer)["missing_claim"], "jti");
}

#[test]
fn a_foreign_key_and_a_changed_byte_are_refused() {
    let (upstream, gateway) = start();
    let foreign = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let signed = sign::unsigned(r#"{"alg":"ES256","kid":"ec-1"}"#, &Claims::of("https://ec.test").json());
    let signature = foreign.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    gateway.refuses(&upstream, &format!("{signed}.{}", base64url(signature)), &["bad_signature"]);
    let good = sign::rsa(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(parts[1]).expect("base64url");
    let changed = String::from_utf8(payload).expect("text").replace("kim", "kip");
    gateway.takes(&good);
    gateway.refuses(&upstream, &format!("{}.{}.{}", parts[0], base64url(changed), parts[2]), &["bad_signature"]);
}

/// `(r, n - s)` is a second spelling of a signature, and so of a token: whoever takes one back takes both back.
#[test]
fn threat_36_the_second_spelling_of_a_revoked_token_is_revoked_as_well() {
    let (_upstream, gateway) = start();
    let first = sign::ec(&Claims::of("https://ec.test").with(&json!({ "jti": "spelled-twice" })).json());
    let (signed, signature) = first.rsplit_once('.').expect("three parts");
    let mut bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let other = sign::other_s(&bytes[32..]);
    bytes[32..].copy_from_slice(&other);
    let second = format!("{signed}.{}", base64url(&bytes));
    assert_ne!(first, second);
    for token in [&first, &second] {
        gateway.takes(token);
    }
    assert_eq!(gateway.admin("POST", "/revocations", &json!({ "token": first }).to_string()).status, 200);
    for token in [&first, &second] {
        assert_eq!(gateway.get("/me/x", Some(token)).status, 401);
    }
}

/// What is deep, wide or long costs nothing and says nothing, wherever JSON is read.
#[test]
fn threat_91_deep_and_wide_json_is_judged_at_once_and_harms_nobody() {
    let (_upstream, gateway) = start();
    let before = gateway.resident();
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let claims = |more: &str| {
        let own = Claims::of("https://rsa.test").json();
        format!("{},{more}}}", own.strip_suffix('}').expect("an object"))
    };
    let sign = |text: &str| sign::rsa_as(r#"{"alg":"RS256","kid":"rsa-1"}"#, text);
    let wide = |count: usize| (0..count).map(|n| format!("\"c{n}\":0")).collect::<Vec<_>>().join(",");
    for (what, claims, status) in [
        ("a little deep", claims(&format!("\"x\":{}", deep(50))), 200),
        ("deeper than it may be", claims(&format!("\"x\":{}", deep(2_000))), 401),
        ("never closed", claims(&format!("\"x\":{}", "[".repeat(2_000))), 401),
        ("deep in objects", claims(&format!("\"x\":{}1{}", "{\"a\":".repeat(900), "}".repeat(900))), 401),
        ("wide", claims(&wide(500)), 200),
        ("wider than a token may be", claims(&wide(10_000)), 431),
        ("a number of a thousand digits", claims(&format!("\"x\":1{}", "0".repeat(1_000))), 401),
    ] {
        for _ in 0..20 {
            let answer = gateway.get("/me/x", Some(&sign(&claims)));
            assert_eq!(answer.status, status, "{what}: {}", answer.text());
        }
    }
    // In the header of a token as well, and where operators write.
    for header in [format!(r#"{{"alg":"RS256","kid":"rsa-1","x":{}}}"#, deep(2_000)), "[".repeat(4_000)] {
        assert_eq!(
            gateway.get("/me/x", Some(&sign::rsa_as(&header, &Claims::of("https://rsa.test").json()))).status,
            401
        );
    }
    for body in [deep(10_000), format!("{{\"sub\":{}}}", deep(10_000)), format!("{{{}}}", wide(1_000))] {
        assert_eq!(gateway.admin("POST", "/revocations", &body).status, 400);
    }
    assert_eq!(gateway.get("/me/x", Some(&customer())).status, 200);
    assert!(gateway.resident() < before + 64 * 1024, "{} KiB more", gateway.resident() - before);
}

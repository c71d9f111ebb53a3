//! What opens a door is in no log, on no page and not in the store: whatever clients sent and were given in any test is
//! looked for in all that any gateway of the suite puts out.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::client::Answer;

/// So much of a secret gives it away. Shorter ones are made up by a test and told from nothing.
const TELLING: usize = 20;

/// A refresh token is this long at the least, and begins with so much that is the name of its login, which is no secret.
const REFRESH: (usize, usize) = (86, 22);

type Pieces = LazyLock<Mutex<HashSet<[u8; TELLING]>>>;

/// What clients have sent.
static SENT: Pieces = LazyLock::new(Mutex::default);
/// What gateways have issued; what services have made is theirs to keep as they like.
static ISSUED: Pieces = LazyLock::new(Mutex::default);

/// Takes note of the credentials in what a client sends: bearer tokens, cookies, tokens in a form.
pub fn sent(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    for line in head.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => learn(&SENT, value.trim().trim_start_matches("Bearer ")),
            "cookie" => value.split(';').filter_map(|crumb| crumb.split_once('=')).for_each(|(_, id)| learn(&SENT, id)),
            _ => {}
        }
    }
    for (name, value) in body.split('&').filter_map(|pair| pair.split_once('=')) {
        if name.ends_with("token") {
            learn(&SENT, value);
        }
    }
}

/// Takes note of the credentials in an answer: cookies, and the tokens of a pair.
pub fn received(answer: &Answer) {
    for (_, cookie) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
        let value = cookie.split(';').next().and_then(|pair| pair.split_once('='));
        value.into_iter().for_each(|(_, value)| learn(&ISSUED, value));
    }
    if answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        for name in ["access_token", "refresh_token"] {
            body[name].as_str().into_iter().for_each(|token| learn(&ISSUED, token));
        }
    }
}

/// Fails where a log or a page holds any of it.
#[track_caller]
pub fn not_told(place: &str, text: &[u8]) {
    for pieces in [&SENT, &ISSUED] {
        assert_eq!(found(pieces, text), None, "a credential in {place}");
    }
}

/// Fails where what a store keeps holds any that a gateway has issued.
#[track_caller]
pub fn not_kept(file: &Path) {
    if let Ok(bytes) = std::fs::read(file) {
        assert_eq!(found(&ISSUED, &bytes), None, "a credential in {}", file.display());
    }
}

fn learn(pieces: &Pieces, value: &str) {
    let is_refresh = value.len() >= REFRESH.0 && !value.contains('.');
    let value = if is_refresh { value.get(REFRESH.1..).unwrap_or_default() } else { value };
    // Of a JWT the claims and the signature: the head is that of all.
    let parts: Vec<&str> = value.split('.').collect();
    let is_jwt = parts.len() == 3 && value.starts_with("eyJ");
    let mut known = pieces.lock().unwrap_or_else(PoisonError::into_inner);
    let decoded = STANDARD.decode(value).unwrap_or_default();
    let texts = parts.iter().skip(usize::from(is_jwt)).map(|part| part.as_bytes()).chain([&*decoded]);
    for piece in texts.flat_map(runs).filter_map(|run| run.first_chunk()) {
        known.insert(*piece);
    }
}

fn found(pieces: &Pieces, text: &[u8]) -> Option<String> {
    let known = pieces.lock().unwrap_or_else(PoisonError::into_inner);
    let mut windows = runs(text).flat_map(|run| run.windows(TELLING));
    let hit = windows.find(|piece| <[u8; TELLING]>::try_from(*piece).is_ok_and(|piece| known.contains(&piece)))?;
    Some(String::from_utf8_lossy(hit).into_owned())
}

/// Longest stretches of what credentials are written with.
fn runs(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let runs = text.split(|byte| !byte.is_ascii_alphanumeric() && !b"-_+/".contains(byte));
    runs.filter(|run| run.len() >= TELLING)
}

#[test]
fn a_credential_is_found_wherever_it_slips_out() {
    static PIECES: Pieces = LazyLock::new(Mutex::default);
    learn(&PIECES, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJraW1fdGhlX2Zpc2gifQ.c2lnbmF0dXJlLW9mLXNvbWUta2luZA");
    learn(&PIECES, "6f1ed002ab5595859014ebf0951522d9aabbcc");
    learn(&PIECES, "name-of-the-login-----the-secret-that-nobody-can-guess-at-all----and-the-tag-of-that--");
    for (text, expected) in [
        ("family:name-of-the-login-----", false),
        ("turned the-secret-that-nobody", true),
        (r#"{"outcome":"revoked","request_id":"6f1ed002ab5595859014ebf0951522ff"}"#, true),
        (r#"{"outcome":"revoked","request_id":"0000ab5595859014ebf0951522ffabcd"}"#, false),
        ("cookie SID=6f1ed002ab5595859014 is odd", true),
        ("cut off behind 6f1ed002ab559585901", false),
        ("token eyJhbGciOiJIUzI1NiJ9 has that head", false),
        ("claims eyJzdWIiOiJraW1fdGhlX2Zpc2gifQ", true),
        ("signed xc2lnbmF0dXJlLW9mLXNvbWUta2luZAx", true),
    ] {
        assert_eq!(found(&PIECES, text.as_bytes()).is_some(), expected, "{text}");
    }
}

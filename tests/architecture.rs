//! The import rules, read off the `use` lines: the table in ARCHITECTURE.md is this file.
//!
//! A stage uses the root nouns and the products of earlier stages, never a later stage, and no stage
//! knows how it is configured or recorded.

#![allow(
    clippy::pedantic,
    clippy::excessive_nesting,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a test says what is wrong by panicking, and has clocks of its own"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The stages, in the order in which a request meets them: also the order of the alphabet.
const STAGES: [&str; 7] = ["accept", "admit", "authenticate", "authorize", "forward", "issue", "respond"];

/// What each room may name besides itself and the libraries.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        // Root nouns.
        ("alarm", vec!["clock", "waiter"]),
        ("certificate", vec![]),
        ("chunked", vec![]),
        ("clock", vec![]),
        ("cookie", vec![]),
        ("denial", vec![]),
        ("destination", vec![]),
        ("late", vec![]),
        ("origin", vec![]),
        ("percent", vec![]),
        ("rate", vec!["authenticate::Caller", "authenticate::claims", "clock", "denial", "store"]),
        ("refusal", vec!["denial", "forward::ForwardError"]),
        ("stream", vec![]),
        ("waiter", vec![]),
        ("signer", vec!["authenticate::keys"]),
        ("route", vec!["admit::pattern", "authenticate::claims", "destination", "origin", "rate"]),
        (
            "gateway",
            vec![
                "accept",
                "admit",
                "authenticate",
                "authorize",
                "certificate",
                "clock",
                "denial",
                "forward",
                "issue",
                "observe::exchange",
                "observe::metrics",
                "refusal",
                "respond",
                "route",
                "store",
            ],
        ),
        // Stages. `accept` hands requests to the gateway, so it names what it hands them to.
        (
            "accept",
            vec![
                "alarm",
                "certificate",
                "chunked",
                "clock",
                "forward::Connections",
                "forward::body",
                "forward::leash",
                "forward::upgrade",
                "gateway",
                "observe::exchange::Recorded",
                "observe::metrics",
                "route",
                "store",
                "stream",
                "waiter",
            ],
        ),
        ("admit", vec!["denial", "percent", "route"]),
        (
            "authenticate",
            vec![
                "admit::Admitted",
                "certificate",
                "clock",
                "cookie",
                "denial",
                "late",
                "origin",
                "percent",
                "route",
                "store",
            ],
        ),
        ("authorize", vec!["admit::Admitted", "authenticate::Caller", "authenticate::Identity", "denial", "route"]),
        (
            "forward",
            vec![
                "alarm",
                "accept::Busy",
                "accept::Peer",
                "authenticate::Caller",
                "authenticate::Identity",
                "authenticate::claims",
                "authorize::Permit",
                "chunked",
                "clock",
                "cookie",
                "route",
                "signer",
                "stream",
                "waiter",
            ],
        ),
        (
            "issue",
            vec![
                "authenticate::Authenticator",
                "authenticate::Caller",
                "authenticate::Identity",
                "authenticate::bearer",
                "authenticate::json",
                "authenticate::keys",
                "authenticate::logout_token",
                "authenticate::session",
                "authorize::Permit",
                "clock",
                "cookie",
                "denial",
                "forward::ForwardError",
                "forward::Phase",
                "forward::body",
                "forward::upload",
                "origin",
                "percent",
                "refusal",
                "route",
                "signer",
                "store",
            ],
        ),
        (
            "respond",
            vec!["denial", "forward::ForwardError", "forward::body", "forward::trace::RequestId", "refusal", "route"],
        ),
        // Beside the way of a request.
        ("store", vec!["clock", "late"]),
        (
            "observe",
            vec![
                "accept::tls::Tls",
                "authenticate",
                "certificate",
                "clock",
                "denial",
                "forward",
                "gateway",
                "percent",
                "refusal",
                "respond",
                "route",
                "store",
            ],
        ),
        (
            "config",
            vec![
                "accept",
                "admit",
                "authenticate",
                "certificate",
                "cookie",
                "denial",
                "forward",
                "gateway",
                "issue",
                "percent",
                "rate",
                "respond",
                "route",
                "signer",
                "store",
            ],
        ),
        (
            "cli",
            vec![
                "accept",
                "admit::Admitted",
                "authenticate",
                "authorize::check_demand",
                "clock",
                "config",
                "denial",
                "forward::check",
                "gateway",
                "observe",
                "percent",
                "rate",
                "route",
                "signer",
                "store",
            ],
        ),
    ])
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// Every `crate::...` path of a file, outside of its tests; groups are taken apart.
fn named(text: &str) -> Vec<String> {
    let code: String = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for rest in code.replace("$crate::", "crate::").split("crate::").skip(1) {
        let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
        match rest[path.len()..].strip_prefix('{') {
            Some(group) if path.ends_with("::") => {
                let group = group.split('}').next().unwrap_or_default();
                paths.extend(
                    group.split(',').map(|name| format!("{path}{}", name.trim())).filter(|name| !name.ends_with("::")),
                );
            }
            _ => paths.push(path.trim_end_matches(':').to_owned()),
        }
    }
    paths
}

fn all() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below src").display().to_string();
            let room = name.split(['/', '.']).next().expect("a room").to_owned();
            (name, room, fs::read_to_string(&path).expect("text"))
        })
        .collect()
}

#[test]
fn each_room_names_only_what_it_may() {
    let allowed = allowed();
    let mut wrong = Vec::new();
    for (name, room, text) in
        all().into_iter().filter(|(name, ..)| name != "lib.rs" && name != "main.rs" && !name.contains("tests"))
    {
        let may =
            allowed.get(room.as_str()).unwrap_or_else(|| panic!("{name}: give the room `{room}` a line in `allowed`"));
        for path in named(&text) {
            let is_own = path == room || path.starts_with(&format!("{room}::"));
            let fits = may.iter().any(|allowed| path == *allowed || path.starts_with(&format!("{allowed}::")));
            if !is_own && !fits {
                wrong.push(format!("{name}: crate::{path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_stage_names_a_later_stage_its_configuration_or_how_it_is_recorded() {
    for (place, stage) in STAGES.iter().enumerate() {
        // `accept` is the outside of the gateway: it hands requests in and bodies out.
        if *stage == "accept" {
            continue;
        }
        let may = &allowed()[stage];
        for later in STAGES.iter().skip(place + 1).chain(&["config", "observe", "cli", "gateway"]) {
            assert!(
                !may.iter().any(|allowed| allowed.split("::").next() == Some(later)),
                "{stage} may not name {later}"
            );
        }
    }
    let mut sorted = STAGES;
    sorted.sort_unstable();
    assert_eq!(sorted, STAGES, "the listing of src is the order of a request");
}

#[test]
fn only_authorize_makes_a_permit_and_only_authenticate_an_identity() {
    for (name, room, text) in all() {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        if room != "authorize" {
            assert!(!text.contains("Permit {"), "{name}");
        }
        if room != "authenticate" {
            assert!(!text.contains("Identity::new"), "{name}");
        }
        if room != "admit" {
            assert!(!text.contains("Admitted {"), "{name}");
        }
        // Who a caller would be is asked by commands, and never for a request.
        let asks = ["authenticate/assume/", "gateway/judge.rs", "cli/policy/", "cli/explain.rs", "cli/test.rs"];
        if !asks.iter().any(|part| name.starts_with(part)) {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            let words: Vec<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let is_declared = |word: &str| text.contains(&format!("pub mod {word};"));
            for word in ["assume", "Assumed", "judge", "Judged", "Who"] {
                let named = words.iter().filter(|named| **named == word).count();
                // `judge` is also what others do to what they have got.
                let is_other = word == "judge" && !text.contains("gateway::judge") && !text.contains("gateway.judge(");
                assert!(named == usize::from(is_declared(word)) || is_other, "{name} names `{word}`");
            }
        }
    }
}

#[test]
fn clocks_are_read_in_one_place_and_nothing_is_unsafe() {
    for (name, _, text) in all() {
        if name != "clock/mod.rs" {
            assert!(!text.contains("SystemTime::now") && !text.contains("Instant::now"), "{name}");
        }
        assert!(!text.contains("unsafe {") && !text.contains("unsafe fn"), "{name}");
    }
}

#[test]
fn files_stay_small_and_open_with_what_they_are() {
    for (name, _, text) in all().into_iter().filter(|(name, ..)| !name.contains("tests")) {
        let lines = text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
        assert!(lines <= 400, "{name} has {lines} lines: is there a second reason to change inside?");
        assert!(text.starts_with("//! "), "{name} does not say what it is");
    }
}

#[test]
fn serve_fits_on_one_screen() {
    let gateway = all().into_iter().find(|(name, ..)| name == "gateway/mod.rs").expect("gateway/mod.rs").2;
    let serve = gateway.split("async fn serve").nth(1).and_then(|rest| rest.split("\n    }\n").next()).expect("serve");
    assert!(serve.lines().count() <= 15, "{serve}");
}

#[test]
fn the_table_in_architecture_md_is_this_table() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    assert!(page.lines().count() <= 150, "{}", page.lines().count());
    for (room, may) in allowed() {
        let may = if may.is_empty() {
            "–".to_owned()
        } else {
            may.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ")
        };
        let row = format!("| `{room}` | {may} |");
        assert!(page.contains(&row), "ARCHITECTURE.md lacks: {row}");
    }
}

/// Private keys and secrets are used by aws-lc alone: none of the libraries whose timing told of them is there
/// (RUSTSEC-2023-0071); deny.toml has the others.
#[test]
fn threat_34_no_library_that_leaks_by_its_timing_is_in_the_tree() {
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).expect("text");
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert!(names.contains(&"aws-lc-rs") && names.len() > 100);
    for other in ["rsa", "openssl", "p256", "ed25519-dalek", "hmac"] {
        assert!(!names.contains(&other), "{other} is in the tree");
    }
}

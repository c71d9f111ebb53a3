//! Configuration files: those that are shipped load, those that are wrong say so in golden words.
//!
//! `UPDATE_GOLDEN=1 cargo test --test config` writes the words anew; read the difference.

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

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bearward::config::policy::PolicyFile;
use bearward::config::{self, schema};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join(folder))
        .expect(folder)
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|known| known == ending))
        .collect();
    files.sort();
    files
}

fn no_env(_: &str) -> Option<String> {
    None
}

#[test]
fn every_bad_file_is_told_all_its_mistakes_in_golden_words() {
    let cases = files("tests/invalid", "yaml");
    assert!(cases.len() >= 40, "{}", cases.len());
    let mut wrong = Vec::new();
    for path in &cases {
        let source = fs::read_to_string(path).expect("text");
        let started = Instant::now();
        let errors = match config::load_text("gateway.yaml", source, path.parent().expect("a folder"), &no_env) {
            Ok(_) => panic!("{} was taken", path.display()),
            Err(errors) => errors,
        };
        assert!(started.elapsed() < Duration::from_secs(1), "{}", path.display());
        // What is found from where differs from machine to machine.
        let said = errors.to_string().replace(&*path.parent().expect("a folder").to_string_lossy(), "FOLDER");
        let golden = path.with_extension("stderr");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &said).expect("written");
        } else if fs::read_to_string(&golden).unwrap_or_default() != said {
            wrong.push(format!("{}:\n{said}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_mistake_shows_a_secret() {
    for path in files("tests/invalid", "stderr") {
        let said = fs::read_to_string(&path).expect("text");
        let from_line = said.lines().filter(|line| !line.contains(" | "));
        let words: String = from_line.collect();
        assert!(!words.contains("hunter2") && !words.contains("0123456789abcdef"), "{}", path.display());
    }
}

/// A folder with the key files that shipped configurations name.
fn with_keys() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let make = |arguments: &[&str]| {
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_bearward"))
            .args(arguments)
            .current_dir(folder.path())
            .output();
        assert!(made.expect("runs").status.success(), "{arguments:?}");
    };
    let generate = |algorithm: &str, kid: &str, out: &str| {
        make(&["keys", "generate", "--alg", algorithm, "--kid", kid, "--out", out])
    };
    generate("HS256", "batch", "secrets");
    generate("EdDSA", "partner", "keys");
    generate("PS256", "legacy", "keys");
    generate("ES256", "shop", "keys");
    generate("ES256", "2026-11", "keys");
    generate("ES256", "2026-12", "keys");
    generate("ES256", "assertion", "keys");
    generate("ES256", "demo", ".");
    let rename = |from: &str, to: &str| fs::copy(folder.path().join(from), folder.path().join(to)).expect(from);
    rename("secrets/batch.secret", "secrets/batch-hs256");
    rename("secrets/batch.secret", "secrets/express");
    rename("secrets/batch.secret", "secrets/introspection");
    rename("keys/partner.public.pem", "keys/partner.pem");
    make(&["keys", "generate", "--tls", "edge", "--out", "tls"]);
    make(&["keys", "generate", "--tls", "shop", "--out", "tls"]);
    rename("tls/shop.crt", "tls/services.pem");
    rename("tls/shop.crt", "tls/mesh-ca.pem");
    fs::write(folder.path().join("tls/mesh.crl"), revocation_list()).expect("a file");
    folder
}

/// A list of revoked certificates with nothing in it.
fn revocation_list() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    let authority = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().expect("a key"));
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2027, 1, 1),
        crl_number: rcgen::SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(&authority.expect("an authority")).expect("a list").pem().expect("PEM")
}

/// The blocks of a Markdown file that are whole configurations.
fn blocks(path: &Path) -> Vec<String> {
    marked(path, "```yaml\n")
}

/// The blocks that begin like this.
fn marked(path: &Path, begin: &str) -> Vec<String> {
    let text = fs::read_to_string(path).expect("text");
    let mut blocks = Vec::new();
    for block in text.split(begin).skip(1) {
        blocks.push(block.split("```").next().unwrap_or_default().to_owned());
    }
    blocks
}

/// Every page that shows files.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "README.ko.md", "SECURITY.md"].iter().map(|name| root().join(name)).collect();
    pages.extend(files("docs", "md"));
    pages
}

/// Every configuration that is shipped or shown.
fn shown() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for name in ["gateway.yaml", "examples/minimal.yaml", "examples/shop/gateway.yaml", "examples/demo/gateway.yaml"] {
        all.push((name.to_owned(), fs::read_to_string(root().join(name)).expect(name)));
    }
    for page in pages() {
        for (number, block) in blocks(&page).into_iter().enumerate() {
            all.push((format!("{} block {number}", page.display()), block));
        }
    }
    all
}

fn demo_env(name: &str) -> Option<String> {
    let value = match name {
        "DEMO_LISTEN" | "DEMO_ADMIN" => "127.0.0.1:0",
        "DEMO_KEYS" => ".",
        "DEMO_ORDER" | "DEMO_PAYMENT" | "DEMO_MEMBER" => "127.0.0.1:9000",
        _ => return None,
    };
    Some(value.to_owned())
}

#[test]
fn every_configuration_that_is_shipped_or_shown_loads() {
    // `https://` sources of keys need root certificates; a machine without any is not the point here.
    let roots = Path::new("/etc/ssl/certs/ca-certificates.crt");
    assert!(roots.exists(), "ca-certificates is installed (tests/run.sh installs it)");
    let folder = with_keys();
    let all = shown();
    assert!(all.len() >= 6, "{}", all.len());
    for (name, text) in all {
        if let Err(errors) = config::load_text(&name, text, folder.path(), &demo_env) {
            panic!("{errors}");
        }
    }
}

/// A YAML text as JSON, by another reader than the gateway's own.
fn as_json(text: &str) -> Value {
    serde_yaml::from_str::<Value>(text).expect("YAML")
}

#[test]
fn every_configuration_that_is_shown_fits_the_schema_and_bad_ones_do_not() {
    let schema = jsonschema::validator_for(&schema::schema()).expect("a schema");
    for (name, text) in shown() {
        let errors: Vec<String> =
            schema.iter_errors(&as_json(&text)).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
    for name in [
        "unknown-key",
        "missing-access",
        "empty-roles",
        "access-word",
        "bad-duration",
        "bad-size",
        "unknown-algorithm",
        "bad-version",
    ] {
        let text = fs::read_to_string(root().join(format!("tests/invalid/{name}.yaml"))).expect(name);
        assert!(!schema.is_valid(&as_json(&text)), "{name}");
    }
}

/// What is a mistake to one of them and not to the other sends people into the wrong direction.
#[test]
fn the_schema_takes_what_the_reader_takes() {
    let schema = jsonschema::validator_for(&schema::schema()).expect("a schema");
    let folder = with_keys();
    let base = fs::read_to_string(root().join("examples/demo/gateway.yaml")).expect("text");
    let env = |name: &str| match name {
        "ON" => Some("true".to_owned()),
        "SEVEN" => Some("7".to_owned()),
        "MODE" => Some("lookup".to_owned()),
        "METHOD" => Some("GET".to_owned()),
        "ROLE" => Some("customer".to_owned()),
        "PATH_" => Some("/more".to_owned()),
        "TIME" => Some("5s".to_owned()),
        "RATE" => Some("5/minute".to_owned()),
        other => demo_env(other),
    };
    let route = |members: &str| {
        format!("{base}  - {{ id: more, match: {{ path: /more, methods: [GET] }}, upstream: order, {members} }}\n")
    };
    let claims = |value: &str| route(&format!("access: {{ claims: {{ a: {value} }} }}"));
    let access = "access: authenticated";
    for (text, is_right) in [
        (route(access), true),
        (claims("1"), true),
        (claims("1.5"), false),
        (claims("true"), true),
        (claims("[a, 2]"), true),
        (claims("[]"), false),
        (route("access: { roles: [\"${ROLE}\"] }"), true),
        (route("access: { roles: [] }"), false),
        (route(&format!("{access}, rate_limit: {{ key: subject, limit: 5/minute }}")), true),
        (
            route(&format!("{access}, rate_limit: {{ key: subject, limit: \"${{RATE}}\", burst: \"${{SEVEN}}\" }}")),
            true,
        ),
        (route(&format!("{access}, rate_limit: {{ key: subject, limit: 0/second }}")), false),
        (route(&format!("{access}, limits: {{ request_timeout: 5s }}")), true),
        (route(&format!("{access}, limits: {{ request_timeout: \"${{TIME}}\" }}")), true),
        (route(&format!("{access}, limits: {{ request_timeout: 5 s }}")), false),
        (route(&format!("{access}, revocation: {{ mode: \"${{MODE}}\" }}")), true),
        (route(&format!("{access}, revocation: {{ mode: sometimes }}")), false),
        (base.replacen("methods: [GET]", "methods: [\"${METHOD}\"]", 1), true),
        (format!("{base}\ntrusted_proxies: [\"10.0.0.0/8\"]\n"), true),
        (base.replacen("identity:", "identity:\n  forward_token: \"${ON}\"", 1), true),
        (base.replacen("identity:", "identity:\n  forward_token: true", 1), true),
        (base.replacen("identity:", "identity:\n  forward_token: \"true\"", 1), false),
    ] {
        let loaded = config::load_text("gateway.yaml", text.clone(), folder.path(), &env);
        let why = loaded.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert_eq!(loaded.is_ok(), is_right, "{text}: {why}");
        assert_eq!(schema.is_valid(&as_json(&text)), is_right, "{text}");
    }
}

/// Every key path of a value, lists and chosen names folded.
fn keys(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    for group in ["anyOf", "allOf"] {
        for part in schema[group].as_array().into_iter().flatten() {
            keys(part, at, found);
        }
    }
    keys_of_list(schema, at, found);
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.{name}");
        found.insert(path.clone());
        keys(member, &path, found);
    }
    if schema["additionalProperties"].is_object() {
        keys(&schema["additionalProperties"], &format!("{at}.*"), found);
    }
}

fn keys_of_list(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    if schema["items"].is_object() {
        keys(&schema["items"], at, found);
    }
}

/// Whether a document has something at a key path.
fn has(document: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    match document {
        Value::Array(list) => list.iter().any(|element| has(element, path)),
        Value::Object(members) if *first == "*" => members.values().any(|member| has(member, rest)),
        Value::Object(members) => members.get(*first).is_some_and(|member| has(member, rest)),
        _ => false,
    }
}

#[test]
fn the_reference_shows_every_key_and_its_default() {
    let schema = schema::schema();
    let text = fs::read_to_string(root().join("gateway.yaml")).expect("text");
    let document = as_json(&text);
    let mut found = BTreeSet::new();
    keys(&schema, "", &mut found);
    assert!(found.len() > 60, "{}", found.len());
    let is_shown = |path: &str| has(&document, &path.split('.').skip(1).collect::<Vec<_>>());
    for path in &found {
        // Limits stand in two places; each key of them is shown in one.
        let limit = path.split_once(".rate_limit.").map(|(_, key)| format!(".routes.rate_limit.{key}"));
        let is_limit_shown = limit.is_some_and(|same| found.contains(&same) && is_shown(&same));
        assert!(is_shown(path) || is_limit_shown, "gateway.yaml does not show `{path}`");
    }
    for demand in ["roles:", "scopes:", "any_scope:", "claims:", "any:", "all:", "not:"] {
        assert!(text.contains(demand), "gateway.yaml does not show `{demand}`");
    }
    // A default that a comment names is the one that the reader uses.
    let limits = &schema["properties"]["defaults"]["properties"]["limits"]["properties"];
    // One that may be left out has none.
    for (name, limit) in limits.as_object().expect("limits").iter().filter(|(_, limit)| !limit["default"].is_null()) {
        let default = limit["default"].as_str().map_or_else(|| limit["default"].to_string(), str::to_owned);
        let shown = text.lines().find(|line| line.trim_start().starts_with(&format!("{name}: {default} ")));
        assert!(shown.is_some_and(|line| line.contains("# default")), "{name}: {default}");
    }
}

#[test]
fn the_schema_file_that_editors_read_is_the_schema_of_the_program() {
    let path = root().join("gateway.schema.json");
    let now = format!("{:#}\n", schema::schema());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &now).expect("written");
    }
    assert_eq!(fs::read_to_string(&path).expect("text"), now, "bearward schema > gateway.schema.json");
}

#[test]
fn policy_tests_that_are_shown_can_be_read_and_fit_their_schema() {
    let path = root().join("policy.schema.json");
    let now = format!("{:#}\n", schema::of_policy_tests());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &now).expect("written");
    }
    assert_eq!(fs::read_to_string(&path).expect("text"), now, "bearward schema tests > policy.schema.json");
    let schema = jsonschema::validator_for(&schema::of_policy_tests()).expect("a schema");
    let shop = fs::read_to_string(root().join("examples/shop/policy.yaml")).expect("text");
    let shown: Vec<String> = pages().iter().flat_map(|page| marked(page, "```yaml policy\n")).collect();
    assert!(!shown.is_empty());
    for text in shown.into_iter().chain([shop]) {
        if let Err(errors) = PolicyFile::load_text("policy.yaml", text.clone(), &|_| None) {
            panic!("{errors}");
        }
        let errors: Vec<String> = schema.iter_errors(&as_json(&text)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{text}: {errors:?}");
    }
    for odd in [
        "tests: [{ name: x, request: GET, expect: allowed }]",
        "tests: [{ name: x, request: GET /x, expect: 200 }]",
        "tests: [{ name: x, request: GET /x, expect: missing_rol }]",
        "tests: [{ name: x, request: GET /x, expect: allowed, ass: kim }]",
        "{ tests: [], callers: { kim: { claims: { sub: kim } } } }",
        "tests: [{ name: x, request: [], expect: allowed }]",
    ] {
        assert!(PolicyFile::load_text("policy.yaml", odd.to_owned(), &|_| None).is_err(), "{odd}");
        assert!(!schema.is_valid(&as_json(odd)), "{odd}");
    }
}

#[test]
fn ten_thousand_routes_load_in_a_moment() {
    let mut text = fs::read_to_string(root().join("examples/demo/gateway.yaml")).expect("text");
    for number in 0..10_000 {
        let path =
            if number % 2 == 0 { format!("/r{number}/{{id}}") } else { format!("/p{}/r{number}/**", number % 50) };
        text.push_str(&format!(
            "  - {{ id: r{number}, match: {{ path: \"{path}\" }}, upstream: order, access: authenticated }}\n"
        ));
    }
    let folder = with_keys();
    let started = Instant::now();
    let loaded = config::load_text("gateway.yaml", text, folder.path(), &demo_env);
    assert_eq!(
        loaded.map(|compiled| compiled.gateway.routes.all().len()).map_err(|errors| errors.to_string()),
        Ok(10_009)
    );
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

// How much memory that takes is asked in tests/it/commands.rs.
#[test]
fn threat_65_alias_bombs_and_deep_nesting_are_refused_at_once() {
    for (text, word) in [
        (format!("a: {}", "[".repeat(100_000)), "recursion"),
        (format!("{}x", "a:\n ".repeat(5_000)), ""),
        ("? ".repeat(50_000), ""),
        (format!("a: {}", "{a: ".repeat(50_000)), ""),
        (fs::read_to_string(root().join("tests/invalid/alias-bomb.yaml")).expect("text"), ""),
        ("a: &a [*a]".to_owned(), ""),
        (format!("a: \"{}\"", "x".repeat(9 * 1024 * 1024)), "longer than"),
    ] {
        let started = Instant::now();
        let errors = config::load_text("gateway.yaml", text, root(), &no_env).expect_err("refused");
        assert!(started.elapsed() < Duration::from_secs(1) && errors.to_string().contains(word), "{errors}");
    }
}

#[test]
fn threat_32_what_is_no_secret_is_refused_at_load() {
    let source = fs::read_to_string(root().join("tests/invalid/short-secret.yaml")).expect("text");
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("keys")).expect("a folder");
    let load = |secret: &[u8]| {
        fs::write(folder.path().join("keys/short.secret"), secret).expect("a file");
        let loaded = config::load_text("gateway.yaml", source.clone(), folder.path(), &no_env);
        loaded.map(drop).map_err(|errors| errors.to_string())
    };
    let good: Vec<u8> = (b'!'..=b'~').collect();
    for length in 0..32 {
        // A line break at the end is not a byte of the secret.
        for secret in [good[..length].to_vec(), [&good[..length], b"\n"].concat()] {
            let said = load(&secret).expect_err("refused");
            assert!(said.contains(&format!("the secret has {length} bytes, at least 32 are needed")), "{said}");
            assert!(said.contains("issuers.shop.secret_file"), "{said}");
        }
    }
    for known in ["a-string-secret-at-least-256-bits-long", "your-256-bit-secret-your-256-bit-secret"] {
        assert!(load(known.as_bytes()).expect_err("refused").contains("public documentation"), "{known}");
    }
    for guessable in [[b'a'; 64], [0; 64]] {
        assert!(load(&guessable).expect_err("refused").contains("fewer than 8 different bytes"));
    }
    assert_eq!(load(&good[..32]), Ok(()));
}

#[test]
fn a_value_from_the_environment_is_never_shown() {
    let text = fs::read_to_string(root().join("examples/minimal.yaml")).expect("text");
    let secret = |name: &str| (name == "REDIS_URL").then(|| "redis://user:hunter2@host:notaport".to_owned());
    let errors = config::load_text("gateway.yaml", text, root(), &secret).expect_err("refused").to_string();
    assert!(errors.contains("store.url") && !errors.contains("hunter2") && !errors.contains("notaport"), "{errors}");
}

// Wherever it stands: the slip is to put a secret where the name of its file belongs.
#[test]
fn a_secret_in_the_wrong_place_is_not_shown_either() {
    let text = fs::read_to_string(root().join("gateway.yaml")).expect("text");
    let secret = |name: &str| (name == "SECRET").then(|| "p9Qx-real-secret".to_owned());
    let lines: Vec<&str> = text.lines().collect();
    let mut tried = 0;
    for (place, line) in lines.iter().enumerate() {
        // Every single value of the reference, in turn.
        let Some((key, value)) = line.split_once(": ").filter(|(_, value)| !value.trim_start().starts_with('#')) else {
            continue;
        };
        for written in ["\"${SECRET}\"", "[\"${SECRET}\"]", "\"a ${SECRET} b\"", "{ x: \"${SECRET}\" }"] {
            let mut changed: Vec<String> = lines.iter().map(ToString::to_string).collect();
            changed[place] = format!("{key}: {written}");
            let result = config::load_text("gateway.yaml", changed.join("\n"), root(), &secret);
            let Err(errors) = result else { continue };
            let said = format!("{errors} {}", errors.to_json());
            assert!(!said.contains("p9Qx-real") && !said.contains("real-secret"), "{key}: {value}: {said}");
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried}");
    // Nor in a URL that is refused because of what is in the password.
    for url in ["redis://:pa/ssWORD@127.0.0.1:6379", "redis://user:ss,WORD@127.0.0.1:6379"] {
        let changed = text.replace("\"${REDIS_URL:-redis://127.0.0.1:6379}\"", &format!("\"{url}\""));
        assert!(changed.contains(url));
        let changed = changed.replace("store:", "store:\n  odd: 1");
        let errors = config::load_text("gateway.yaml", changed, root(), &secret).expect_err("refused").to_string();
        assert!(!errors.contains("ssWORD") && !errors.contains(",WORD"), "{errors}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(version|routes|access|- |: |\\{|\\}|\\[|\\]|\"|'|\\$\\{|\\}|&a|\\*a|<<|\n| |~|1|#|%|!|\\||>|é|\u{0}|\t){0,60}") {
        drop(config::load_text("gateway.yaml", text, root(), &no_env));
    }

    #[test]
    fn no_text_makes_the_reader_of_policy_tests_panic(
        tests in "(\\{ |\\}|, |name: x|request: |expect: |as: |identity: |headers: |allowed|GET /x|GET \\*|missing_role|404|-1|1e9|\\[|\\]|null|\"|~|é|\u{0}|\\$\\{A\\}){0,40}"
    ) {
        for text in [format!("tests: [{tests}]"), format!("callers: {{ a: {tests} }}\ntests: []"), tests] {
            if let Err(errors) = PolicyFile::load_text("policy.yaml", text, &no_env) {
                proptest::prop_assert!(errors.count() > 0 && !errors.to_string().is_empty());
            }
        }
    }
}

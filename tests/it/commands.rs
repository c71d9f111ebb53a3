//! The commands as they are typed.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::gateway::{PROGRAM, customer, token, with_store};
use crate::support::redis::Redis;
use crate::support::upstream::deaf;
use crate::support::{Gateway, Upstream, config, until};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).current_dir(folder).env_remove("BEARWARD_CONFIG").output().expect("runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn keys_and_tokens_made_by_the_commands_are_taken_by_the_gateway() {
    let upstream = Upstream::echo();
    for algorithm in
        ["ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA", "HS256", "HS384", "HS512"]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let is_hmac = algorithm.starts_with("HS");
        let made = run(folder.path(), &["keys", "generate", "--alg", algorithm, "--kid", "k.1", "--out", "made"]);
        assert!(made.status.success(), "{algorithm}: {}", said(&made));
        let again = run(folder.path(), &["keys", "generate", "--alg", algorithm, "--kid", "k.1", "--out", "made"]);
        assert_eq!(again.status.code(), Some(1), "nothing is overwritten");
        let key = if is_hmac { "made/k.1.secret" } else { "made/k.1.private.pem" };
        let mode = std::fs::metadata(folder.path().join(key))
            .map(|data| std::os::unix::fs::PermissionsExt::mode(&data.permissions()));
        assert_eq!(mode.expect("a file") & 0o777, 0o600);
        let token = run(
            folder.path(),
            &[
                "token",
                "mint",
                "--key",
                key,
                "--alg",
                algorithm,
                "--kid",
                "k.1",
                "--iss",
                "me",
                "--aud",
                "api",
                "--sub",
                "kim",
                "--role",
                "customer",
                "--scope",
                "a b",
                "--claim",
                "name=홍길동",
                "--claim",
                "level=7",
                "--ttl",
                "10m",
            ],
        );
        let token = String::from_utf8(token.stdout).expect("text").trim().to_owned();
        // Each source of keys that goes with the algorithm.
        let sources: &[&str] = if is_hmac {
            &["secret_file: made/k.1.secret"]
        } else {
            &["jwks_file: made/k.1.jwks.json", "public_key_file: made/k.1.public.pem"]
        };
        for (number, source) in sources.iter().enumerate() {
            let issuer =
                format!("issuers: {{ me: {{ issuer: me, audiences: [api], algorithms: [{algorithm}], {source} }} }}");
            let yaml = config(upstream.address, "")
                .replace("defaults: { auth: [rsa, ec, hmac], realm: test }", "defaults: { auth: [me] }");
            let (before, after) = yaml.split_once("issuers:").expect("issuers");
            let (_, after) = after.split_once("\nrevocation").expect("revocation");
            let yaml = format!("{before}{issuer}\nrevocation{after}");
            let made = tempfile::tempdir().expect("a folder");
            let copied =
                Command::new("cp").arg("-r").arg(folder.path().join("made")).arg(made.path()).status().expect("cp");
            assert!(copied.success());
            std::fs::write(made.path().join("gateway.yaml"), yaml).expect("a file");
            let gateway = Gateway::start_in(made, &[]);
            let answer = gateway.get("/me/x", Some(&token));
            assert_eq!(answer.status, 200, "{algorithm} {number}: {:?}", gateway.line_of(&answer));
            let forged = format!("{}{}", &token[..token.len() - 6], "AAAAAA");
            assert_eq!(gateway.get("/me/x", Some(&forged)).status, 401);
        }
        let shown = run(folder.path(), &["token", "inspect", &token]);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        assert_eq!(
            (&shown["claims"]["name"], &shown["claims"]["level"], &shown["form"]),
            (&json!("홍길동"), &json!(7), &json!("taken"))
        );
    }
}

/// Who takes something back need not have the gateway's keys, nor its environment.
#[test]
fn revoke_finds_the_admin_address_in_a_file_whose_keys_it_cannot_read() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let folder = tempfile::tempdir().expect("a folder");
    let yaml = config(upstream.address, "")
        .replace("admin: { address: \"127.0.0.1:0\" }", &format!("admin: {{ address: \"{}\" }}", gateway.admin));
    let yaml = yaml.replace("url: \"memory:\"", "url: \"${NOT_HERE}\"");
    std::fs::write(folder.path().join("gateway.yaml"), &yaml).expect("a file");
    let revoke = run(folder.path(), &["revoke", "--sub", "somebody"]);
    assert!(revoke.status.success(), "{}", said(&revoke));
    let list = run(folder.path(), &["revocations", "list"]);
    assert!(said(&list).contains("logout:somebody"), "{}", said(&list));
    for (odd, words) in [
        (yaml.replace(&gateway.admin.to_string(), "nowhere"), "admin.address"),
        ("a: [".to_owned(), "not readable as YAML"),
    ] {
        std::fs::write(folder.path().join("gateway.yaml"), odd).expect("a file");
        let refused = run(folder.path(), &["revoke", "--sub", "somebody"]);
        assert_eq!(refused.status.code(), Some(78), "{}", said(&refused));
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
}

#[test]
fn a_reader_that_has_gone_away_ends_a_command_quietly() {
    for arguments in [&["completions", "bash"][..], &["schema"], &["version"], &["keys", "generate", "--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output =
            Command::new(PROGRAM).args(arguments).stdout(writer).stderr(Stdio::piped()).output().expect("runs");
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        assert_eq!(said(&output), "", "{arguments:?}");
    }
}

#[test]
fn keys_are_made_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    for (there, arguments) in [
        ("k.public.pem", &["keys", "generate", "--kid", "k"][..]),
        ("k.jwks.json", &["keys", "generate", "--kid", "k"]),
        ("a.test.crt", &["keys", "generate", "--tls", "a.test"]),
    ] {
        let folder = folder.path().join(there);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join(there), "of another pair").expect("a file");
        let refused = run(&folder, arguments);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains("nothing was written"), "{}", said(&refused));
        let files: Vec<_> =
            std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("one").file_name()).collect();
        assert_eq!(files, [there], "{}", said(&refused));
        assert_eq!(std::fs::read_to_string(folder.join(there)).expect("text"), "of another pair");
    }
    for name in ["", " "] {
        let refused = run(folder.path(), &["keys", "generate", "--tls", name]);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    }
}

#[test]
fn routes_says_how_the_store_is_asked_of_sessions_too() {
    let folder = tempfile::tempdir().expect("a folder");
    crate::support::sign::write_keys(folder.path());
    let routes = r#"
  - { id: both, match: { path: "/both" }, upstream: echo, auth: [rsa, web], access: authenticated, revocation: { mode: off } }
  - { id: one, match: { path: "/one" }, upstream: echo, auth: [web], access: authenticated, revocation: { mode: off } }
  - { id: none, match: { path: "/none" }, upstream: echo, auth: [rsa], access: authenticated, revocation: { mode: off } }
"#;
    let lines = "sessions: { web: { cookie: { name: SID }, key: \"session:{id}\" } }";
    let yaml = crate::support::gateway::with_store(
        "127.0.0.1:9".parse().expect("an address"),
        "redis://127.0.0.1:9",
        lines,
        routes,
    );
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    let listed = said(&run(folder.path(), &["routes"]));
    let line = |id: &str| {
        listed.lines().find(|line| line.starts_with(id)).unwrap_or_else(|| panic!("{id}: {listed}")).to_owned()
    };
    assert!(line("both").contains(" off, sessions tracked "), "{listed}");
    assert!(line("one").contains(" tracked ") && line("none").contains(" off "), "{listed}");
    let cookie = ["explain", "GET", "/both", "--as", "web", "--claim", "sub=kim"];
    assert!(
        said(&run(folder.path(), &cookie)).contains("revocation  tracked"),
        "{}",
        said(&run(folder.path(), &cookie))
    );
}

#[test]
fn the_demo_plays_its_story() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = run(folder.path(), &["demo", "--smoke"]);
    assert!(out.status.success(), "{}", said(&out));
    let text = said(&out);
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 32, "{text}");
    assert!(text.contains("홍길동 is out") && text.contains("all came as expected") && !text.contains("FAIL"));
}

#[test]
fn revoke_works_through_a_running_gateway_and_says_what_is_true() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let admin = gateway.admin.to_string();
    let revoke = |what: &[&str]| {
        let mut arguments = vec!["revoke", "--admin", &admin];
        arguments.extend(what);
        run(gateway.folder(), &arguments)
    };
    let good = customer();
    gateway.takes(&good);
    let done = revoke(&[&good]);
    assert!(done.status.success() && said(&done).contains(": blacklist:"), "{}", said(&done));
    gateway.refuses(&upstream, &good, &["revoked"]);
    let by_sub = token(&json!({ "sub": "lee" }));
    assert!(revoke(&["--sub", "lee"]).status.success());
    gateway.refuses(&upstream, &by_sub, &["revoked"]);
    let piped = customer();
    let mut child = Command::new(PROGRAM)
        .args(["revoke", "--admin", &admin, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), format!("{piped}\n").as_bytes())
        .expect("written");
    assert!(child.wait().expect("ends").success());
    gateway.refuses(&upstream, &piped, &["revoked"]);
    for (what, code, reason) in [
        (vec!["garbage"], 1, "this is no token"),
        (vec!["--sub", "a", "--jti", "b"], 2, "cannot be used with"),
        (vec![], 2, "required"),
        (vec!["--jti", "x", "--issuer", "nobody"], 1, "unknown issuer"),
    ] {
        let out = revoke(&what);
        assert_eq!(out.status.code(), Some(code), "{what:?}: {}", said(&out));
        assert!(said(&out).contains(reason), "{what:?}: {}", said(&out));
    }
    let nobody = run(gateway.folder(), &["revoke", "--admin", "127.0.0.1:1", "--jti", "x"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("cannot be reached"));
}

#[test]
fn revocations_are_listed_as_lines_for_people_and_machines() {
    let upstream = Upstream::echo();
    let gateway = Gateway::start(&config(upstream.address, ""));
    let admin = gateway.admin.to_string();
    let list = |more: &[&str]| {
        let mut arguments = vec!["revocations", "list", "--admin", &admin];
        arguments.extend(more);
        run(gateway.folder(), &arguments)
    };
    assert_eq!(said(&list(&[])), "");
    for order in [r#"{"jti":"a\u001b[31m"}"#, r#"{"sub":"홍길동","before":1700000000}"#, r#"{"sid":"s-1"}"#] {
        assert_eq!(gateway.admin("POST", "/revocations", order).status, 200, "{order}");
    }
    let text = said(&list(&[]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with(r"jti  blacklist:a\u{1b}[31m  1  "), "no escape reaches the terminal: {text}");
    assert!(lines[1].starts_with("sid  session-revoked:s-1  1  ") && lines[1].ends_with(" s"), "{text}");
    assert!(lines[2].starts_with("sub  logout:홍길동  1700000000  "), "{text}");
    let json = said(&list(&["--kind", "sub", "--format", "json"]));
    let one: serde_json::Value = serde_json::from_str(&json).expect("one object");
    assert_eq!((one["kind"].as_str(), one["key"].as_str()), (Some("sub"), Some("logout:홍길동")));
    let none = list(&["--kind", "iss"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(said(&none).contains("`revocation.keys.iss` is not configured"), "{}", said(&none));
}

#[test]
fn routes_schema_completions_version_and_usage() {
    let upstream = Upstream::echo();
    let folder = tempfile::tempdir().expect("a folder");
    crate::support::sign::write_keys(folder.path());
    std::fs::write(folder.path().join("gateway.yaml"), config(upstream.address, "")).expect("a file");
    let routes = said(&run(folder.path(), &["routes"]));
    assert!(
        routes.contains("pay")
            && routes.contains("scope pay:write+pay:read")
            && routes.contains("(claim sub or role admin)"),
        "{routes}"
    );
    let schema: Value = serde_json::from_slice(&run(folder.path(), &["schema"]).stdout).expect("JSON");
    assert_eq!(schema["properties"]["version"]["const"], 1);
    assert!(said(&run(folder.path(), &["completions", "bash"])).contains("_bearward"));
    assert!(said(&run(folder.path(), &["version"])).starts_with("bearward "));
    assert_eq!(run(folder.path(), &["serve"]).status.code(), Some(2));
    assert_eq!(run(folder.path(), &["check"]).status.code(), Some(0));
    let empty = tempfile::tempdir().expect("a folder");
    let none = run(empty.path(), &["run"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(said(&none).contains("./gateway.yaml") && said(&none).contains("BEARWARD_CONFIG"));
}

#[test]
fn a_bad_file_is_78_with_every_mistake_and_starts_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("gateway.yaml"),
        "version: 2\nlisteners: []\nupstreams: {}\nroutes: []\nextra: 1\n",
    )
    .expect("a file");
    for command in [&["check", "gateway.yaml"][..], &["run"], &["routes"]] {
        let out = run(folder.path(), command);
        assert_eq!(out.status.code(), Some(78), "{command:?}: {}", said(&out));
    }
    let out = run(folder.path(), &["check", "gateway.yaml", "--format", "json"]);
    let list: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert!(
        list.as_array().is_some_and(|list| list.len() >= 2 && list.iter().all(|one| one["line"].as_u64() > Some(0))),
        "{list}"
    );
}

#[test]
fn the_demo_prints_lines_that_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(PROGRAM)
        .args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut reader = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut script = String::new();
    while !script.contains("Ctrl-C ends it.") {
        assert!(std::io::BufRead::read_line(&mut reader, &mut script).expect("text") > 0, "{script}");
    }
    // Pasted as it is, all but the load: each line says which status comes.
    let lines = script.split("another terminal:").nth(1).and_then(|rest| rest.split("# load").next()).expect("lines");
    let pasted = Command::new("bash").args(["-c", lines]).current_dir(folder.path()).output().expect("bash");
    let out = said(&pasted);
    let said: Vec<&str> = lines.lines().filter(|line| line.starts_with("# ")).collect();
    let shown: Vec<&str> = lines.lines().filter(|line| line.starts_with("curl -i ")).collect();
    let came: Vec<&str> = out.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect();
    assert_eq!((came.len(), said.len()), (shown.len(), 32), "{out}");
    let expected: Vec<&str> = lines
        .lines()
        .zip(lines.lines().skip(1))
        .filter(|(_, command)| command.starts_with("curl -i "))
        .map(|(comment, _)| comment.rsplit(": ").next().expect("a status"))
        .collect();
    for (came, expected) in came.iter().zip(&expected) {
        assert!(came.contains(&format!(" {expected} ")), "{came} instead of {expected}:\n{out}");
    }
    assert!(out.contains("%ED%99%8D%EA%B8%B8%EB%8F%99"));
    assert!(script.contains("wrk -t1 -c64") && script.contains("/revocations"));
    crate::support::gateway::signal(child.id(), "INT");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn threat_65_a_file_made_to_be_too_much_takes_little_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let bombs = [
        format!("a: {}", "[".repeat(100_000)),
        format!("a: {}", "{a: ".repeat(50_000)),
        "? ".repeat(50_000),
        (0..20).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
            text + &format!("a{}: &a{} [{}]\n", n + 1, n + 1, vec![format!("*a{n}"); 10].join(", "))
        }),
        format!("a: \"{}\"", "x".repeat(9 * 1024 * 1024)),
    ];
    for (number, bomb) in bombs.iter().enumerate() {
        std::fs::write(folder.path().join("gateway.yaml"), bomb).expect("a file");
        let script = "import resource, subprocess, sys\n\
            code = subprocess.run([sys.argv[1], 'check', 'gateway.yaml'], capture_output=True).returncode\n\
            print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
        let out = Command::new("python3")
            .args(["-c", script, PROGRAM])
            .current_dir(folder.path())
            .output()
            .expect("python3 (tests/run.sh needs it)");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let (code, memory) = text.trim().split_once(' ').expect("two numbers");
        assert_eq!(code, "78", "{number}: {}", said(&out));
        assert!(memory.parse::<u64>().expect("KiB") < 64 * 1024, "{number}: {memory} KiB");
    }
}

// In an image there may be nothing else that could ask, and exit codes are all that Docker and Kubernetes look at.
#[test]
fn whether_a_gateway_is_ready_is_an_exit_code_and_why_not_is_said() {
    let (redis, upstream) = (Redis::start(), Upstream::echo());
    let gateway = Gateway::start(&with_store(upstream.address, &redis.url(), "", ""));
    let folder = tempfile::tempdir().expect("a folder");
    let asked = |address: &dyn std::fmt::Display, more: &[&str]| {
        let output = run(folder.path(), &[&["healthcheck", "--admin", &address.to_string()], more].concat());
        (output.status.code(), said(&output))
    };
    until("it is ready", || asked(&gateway.admin, &[]) == (Some(0), "ready\n".to_owned()));
    // The address is that of a configuration, where none is named.
    let yaml = format!("version: 1\nadmin: {{ address: \"{}\" }}\n", gateway.admin);
    std::fs::write(folder.path().join("gateway.yaml"), yaml).expect("a file");
    assert_eq!(run(folder.path(), &["healthcheck"]).status.code(), Some(0));
    let port = redis.kill();
    let is_told =
        |(code, said): (Option<i32>, String)| code == Some(1) && said.starts_with("not ready (503): the store is away");
    until("it is not ready", || is_told(asked(&gateway.admin, &[])));
    assert_eq!(asked(&gateway.admin, &["--live"]), (Some(0), "live\n".to_owned()));
    let _redis = Redis::start_on(port);
    until("it is ready again", || asked(&gateway.admin, &[]).0 == Some(0));
    let address = gateway.admin;
    drop(gateway);
    assert!(matches!(asked(&address, &[]), (Some(1), said) if said.contains("cannot be reached")));
    let (_held, address) = deaf();
    let (code, said) = asked(&address, &["--timeout", "200ms"]);
    assert!(code == Some(1) && said.contains("gave no answer within 200ms"), "{said}");
}

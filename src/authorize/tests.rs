use std::sync::Arc;
use std::time::Duration;

use http::Request;
use serde_json::json;

use super::*;
use crate::admit::pattern::Pattern;
use crate::admit::{HeadLimits, Routes};
use crate::authenticate::claims::{ClaimPath, Claims};
use crate::route::{Match, RevocationMode, RevocationPolicy, Route, RouteLimits, WhenUnavailable};

fn routes(rule: Rule) -> Routes {
    let route = Route {
        id: Arc::from("r"),
        number: 0,
        matching: Match {
            pattern: Pattern::parse("/members/{id}/{kind}").expect("a pattern"),
            methods: None,
            hosts: Vec::new(),
        },
        leads_to: crate::route::Destination::Upstreams(crate::route::Shares::all_to(0)),
        on_success: None,
        rate_limit: None,
        rewrite: None,
        guarded: Vec::new(),
        auth: crate::route::Auth::default(),
        rule,
        revocation: RevocationPolicy { mode: RevocationMode::Off, when_unavailable: WhenUnavailable::Deny },
        limits: RouteLimits {
            body: 0,
            request_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
            tunnel_timeout: Duration::ZERO,
            answer_timeout: None,
        },
        cors: None,
        upgrade: Vec::new(),
        encoded_slash: false,
    };
    Routes::new(vec![route], HeadLimits { target: 1000, headers: 1000, header_count: 10 })
}

/// A caller with roles `customer` and `vip`, scopes `a` and `b`, and some claims.
fn known() -> Caller {
    let claims =
        json!({ "sub": "홍", "level": 7, "ok": true, "tags": ["x", 7], "n": null, "o": { "p": "q" }, "f": 1.5 });
    let claims = Claims::new(claims.as_object().expect("an object").clone());
    let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    Caller::Known(Arc::new(Identity::for_tests("홍", texts(&["customer", "vip"]), texts(&["a", "b"]), claims)))
}

fn decided(rule: Rule, caller: Caller, path: &str) -> Result<(), Denial> {
    let routes = routes(rule);
    let (parts, ()) = Request::builder().uri(path).header("host", "h").body(()).expect("a request").into_parts();
    decide(routes.admit(&parts).expect("admitted"), caller).map(|_| ())
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn role(names: &[&str]) -> Requirement {
    Requirement::AnyRole(texts(names))
}

fn claim(path: &str, accepted: Vec<Expected>) -> Requirement {
    Requirement::Claim(ClaimPath::parse(path).expect("a path"), accepted)
}

fn value(value: serde_json::Value) -> Vec<Expected> {
    vec![Expected::Value(value)]
}

#[test]
fn each_requirement_holds_or_says_why_not() {
    let all = |names: &[&str]| Requirement::AllScopes(texts(names), Arc::from("s"));
    let any = |names: &[&str]| Requirement::AnyScope(texts(names), Arc::from("s"));
    let scope = || Err(Denial::MissingScope(Arc::from("s")));
    let not = |inner: Requirement| Requirement::Not(Box::new(inner));
    let cases = [
        (Requirement::Authenticated, Ok(())),
        (role(&["admin", "vip"]), Ok(())),
        (role(&["admin"]), Err(Denial::MissingRole)),
        (role(&["Customer"]), Err(Denial::MissingRole)),
        (role(&[]), Err(Denial::MissingRole)),
        (all(&["a", "b"]), Ok(())),
        (all(&["a", "c"]), scope()),
        (any(&["c", "b"]), Ok(())),
        (any(&["c"]), scope()),
        (claim("sub", value(json!("홍"))), Ok(())),
        (claim("level", value(json!(7))), Ok(())),
        (claim("level", value(json!("7"))), Err(Denial::ClaimMismatch)),
        (claim("ok", value(json!(true))), Ok(())),
        (claim("ok", value(json!("true"))), Err(Denial::ClaimMismatch)),
        (claim("tags", value(json!(7))), Ok(())),
        (claim("tags", vec![Expected::Value(json!("z")), Expected::Value(json!("x"))]), Ok(())),
        (claim("tags", value(json!("z"))), Err(Denial::ClaimMismatch)),
        (claim("o.p", value(json!("q"))), Ok(())),
        (claim("absent", value(json!(""))), Err(Denial::ClaimMismatch)),
        (claim("n", value(json!(null))), Err(Denial::ClaimMismatch)),
        (Requirement::All(vec![role(&["vip"]), all(&["c"])]), scope()),
        (Requirement::All(Vec::new()), Ok(())),
        (Requirement::Any(vec![role(&["admin"]), all(&["a"])]), Ok(())),
        (Requirement::Any(vec![role(&["admin"]), all(&["c"])]), Err(Denial::MissingRole)),
        (Requirement::Any(vec![all(&["c"]), role(&["admin"])]), scope()),
        (Requirement::Any(Vec::new()), Err(Denial::Excluded)),
        (not(role(&["admin"])), Ok(())),
        (not(role(&["vip"])), Err(Denial::Excluded)),
        (not(not(role(&["vip"]))), Ok(())),
    ];
    for (requirement, expected) in cases {
        let said = format!("{requirement:?}");
        assert_eq!(decided(Rule::Require(requirement), known(), "/members/1/x"), expected, "{said}");
    }
}

#[test]
fn a_claim_is_held_against_the_decoded_path_parameter() {
    let parameter = |path: &str, place: usize| Rule::Require(claim(path, vec![Expected::Parameter(place)]));
    for (rule, path, holds) in [
        (parameter("sub", 0), "/members/%ED%99%8D/x", true),
        (parameter("sub", 0), "/members/hong/x", false),
        (parameter("sub", 1), "/members/x/%ED%99%8D", true),
        (parameter("level", 0), "/members/7/x", true),
        (parameter("level", 0), "/members/07/x", false),
        (parameter("tags", 0), "/members/x/y", true),
        (parameter("f", 0), "/members/1.5/x", false),
        (parameter("ok", 0), "/members/true/x", false),
        (parameter("o", 0), "/members/q/x", false),
        (parameter("sub", 2), "/members/%ED%99%8D/x", false),
    ] {
        let said = format!("{rule:?} {path}");
        assert_eq!(decided(rule, known(), path).is_ok(), holds, "{said}");
    }
}

#[test]
fn nobody_passes_where_somebody_is_asked_for() {
    let lax = || Requirement::Not(Box::new(role(&["banned"])));
    for (rule, anonymous) in [
        (Rule::Public, Ok(())),
        (Rule::Authenticated, Err(Denial::MissingToken)),
        (Rule::Require(lax()), Err(Denial::MissingToken)),
        (Rule::Require(Requirement::All(Vec::new())), Err(Denial::MissingToken)),
    ] {
        let said = format!("{rule:?}");
        assert_eq!(decided(rule.clone(), Caller::Anonymous, "/members/1/x"), anonymous, "{said}");
        assert_eq!(decided(rule, known(), "/members/1/x"), Ok(()), "{said}");
    }
}

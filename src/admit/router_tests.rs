use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::admit::pattern::Pattern;
use crate::route::{Match, RevocationMode, RevocationPolicy, RouteLimits, Rule, WhenUnavailable};

fn route(pattern: &str, methods: &[&str], hosts: &[&str]) -> Route {
    let methods: Vec<Method> = methods.iter().map(|name| name.parse().expect("a method")).collect();
    Route {
        id: Arc::from(pattern),
        number: 0,
        matching: Match {
            pattern: Pattern::parse(pattern).expect("a pattern"),
            methods: (!methods.is_empty()).then_some(methods),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        },
        leads_to: crate::route::Destination::Upstreams(crate::route::Shares::all_to(0)),
        on_success: None,
        rate_limit: None,
        rewrite: None,
        guarded: Vec::new(),
        auth: crate::route::Auth::default(),
        rule: Rule::Authenticated,
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
    }
}

fn found(routes: &[Route], host: &str, path: &str) -> Option<String> {
    let (number, _) = Router::new(routes).find(host, path, &Method::GET).ok()?;
    routes.get(number).map(|route| format!("{}{}", route.matching.hosts.join(","), route.id))
}

#[test]
fn the_most_specific_pattern_wins_whatever_the_order() {
    let mut routes: Vec<Route> = ["/**", "/a/**", "/a/{x}", "/a/b", "/a/{x}/c", "/a/b/d", "/a/b/**", "/o/{id}/", "/"]
        .iter()
        .map(|pattern| route(pattern, &[], &[]))
        .collect();
    for _ in 0..routes.len() {
        routes.rotate_left(1);
        for (path, expected) in [
            ("/", "/"),
            ("/x", "/**"),
            ("/a", "/a/**"),
            ("/a/", "/a/**"),
            ("/a/z", "/a/{x}"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/**"),
            ("/a/b/c", "/a/b/**"),
            ("/a/b/d", "/a/b/d"),
            ("/a/z/c", "/a/{x}/c"),
            ("/a/z/d", "/a/**"),
            ("/o/1/", "/o/{id}/"),
            ("/o/1", "/**"),
            ("/A/b", "/**"),
        ] {
            assert_eq!(found(&routes, "h", path).as_deref(), Some(expected), "{path}");
        }
    }
}

#[test]
fn a_dead_end_is_left_again_and_leaves_no_parameter_behind() {
    let routes = [route("/{a}/x/{c}/end", &[], &[]), route("/{a}/{b}/{c}", &[], &[])];
    let router = Router::new(&routes);
    let (number, parameters) = router.find("h", "/1/x/3", &Method::GET).expect("the wider one");
    assert_eq!(number, 1);
    assert_eq!(parameters.as_slice(), &[(1, 2), (3, 4), (5, 6)]);
}

#[test]
fn a_known_path_with_another_method_is_405_and_never_falls_to_a_wider_pattern() {
    let routes = [route("/orders/{id}", &["GET", "DELETE"], &[]), route("/**", &[], &[])];
    let refused = Router::new(&routes).find("h", "/orders/1", &Method::POST);
    assert_eq!(refused, Err(Denial::MethodNotAllowed(Arc::from("DELETE, GET"))));
}

#[test]
fn hosts_are_tried_from_the_narrowest_to_any() {
    let routes = [
        route("/x", &[], &[]),
        route("/x", &[], &["*.test"]),
        route("/x", &[], &["*.shop.test"]),
        route("/x", &[], &["a.shop.test"]),
    ];
    for (host, expected) in [
        ("a.shop.test", "a.shop.test/x"),
        ("b.shop.test", "*.shop.test/x"),
        ("c.b.shop.test", "*.shop.test/x"),
        ("shop.test", "*.test/x"),
        ("test", "/x"),
        ("evilshop.test", "*.test/x"),
        ("other", "/x"),
    ] {
        assert_eq!(found(&routes, host, "/x").as_deref(), Some(expected), "{host}");
    }
}

// Row 64: no path and no set of patterns makes a look-up slow.
#[test]
fn the_worst_patterns_and_paths_are_matched_without_blow_up() {
    let depth = 12;
    let mut routes = Vec::new();
    for mask in 0_u32..1 << depth {
        let pattern: String =
            (0..depth).map(|bit| if mask >> bit & 1 == 1 { "/a".to_owned() } else { format!("/{{p{bit}}}") }).collect();
        routes.push(route(&(pattern + "/end"), &[], &[]));
    }
    let router = Router::new(&routes);
    let path = "/a".repeat(depth) + "/other";
    let started = crate::clock::monotonic();
    assert_eq!(router.find("h", &path, &Method::GET).map(|_| ()), Err(Denial::NoRoute));
    // 8,191 nodes, each visited once; without that bound this would take minutes.
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// What comes to a route under another spelling is led around what that route does beside letting somebody in.
#[test]
fn a_route_protects_as_another_one_where_that_does_no_more() {
    let here = route("/files/{name}", &[], &[]);
    let like = |change: &dyn Fn(&mut Route)| {
        let mut other = route("/**", &[], &[]);
        change(&mut other);
        here.protects_as(&other)
    };
    assert!(like(&|_| {}) && like(&|other| other.rule = Rule::Public));
    assert!(!like(&|other| other.revocation.mode = RevocationMode::Tracked));
    assert!(!like(&|other| other.auth = crate::route::Auth::new(vec![crate::route::Proof::Issuer(0)])));
    let on_success =
        crate::route::OnSuccess { tokens: None, session: None, claims: Vec::new(), client_id: Arc::from("app") };
    assert!(!like(&|other| (other.rule, other.on_success) = (Rule::Public, Some(on_success.clone()))));
}

use super::*;
use proptest::prelude::*;

fn canonical(path: &str) -> Option<String> {
    let target = PathAndQuery::try_from(path).ok()?;
    CanonicalPath::of(&target).ok().map(|path| path.as_str().to_owned())
}

#[test]
fn equivalent_spellings_become_one_path() {
    for (raw, expected) in [
        ("/", "/"),
        ("/orders/42", "/orders/42"),
        ("/orders/", "/orders/"),
        ("/%6Frders/4%32", "/orders/42"),
        ("/a%7eb", "/a~b"),
        ("/%c3%a9t%C3%A9", "/%C3%A9t%C3%A9"),
        ("/a.b/c..d/.e/..f", "/a.b/c..d/.e/..f"),
        ("/a%20b", "/a%20b"),
        ("/a!$&'()*+,=:@-_~", "/a!$&'()*+,=:@-_~"),
        ("/100%25", "/100%25"),
        ("/100%25zz", "/100%25zz"),
        ("/%ED%99%8D", "/%ED%99%8D"),
    ] {
        assert_eq!(canonical(raw).as_deref(), Some(expected), "{raw}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for raw in REFUSED {
        assert_eq!(canonical(raw), None, "{raw}");
    }
}

const REFUSED: &[&str] = &[
    // no absolute path (row 60)
    "admin",
    "*",
    // empty and dot segments (rows 52, 55, 56)
    "//",
    "//admin",
    "/a//b",
    "/.",
    "/..",
    "/a/./b",
    "/a/../b",
    "/a/..",
    "/%2e",
    "/%2E%2e/b",
    "/a/.%2e/b",
    "/...",
    "/a/%20",
    "/a/.%20",
    "/a/%20.",
    "/a/..%20/b",
    // encoded syntax (rows 52, 53)
    "/a%5Cb",
    "/a%5c..%5cb",
    "/a%3bb",
    "/a%3Bx=1",
    "/a%23b",
    "/a%00b",
    "/a%0d%0ab",
    "/a%7f",
    "/a%1f",
    // a second decoding
    "/a%25%32%65",
    "/%25%32%65%25%32%65/b",
    "/a%252%65",
    "/a%25%32e",
    "/a%252fb",
    "/a%252e%252e/b",
    "/a%2541",
    // bad percent
    "/a%",
    "/a%2",
    "/a%zz",
    "/a%-1",
    // raw syntax
    "/a;b",
    "/a/..;/b",
    "/a/;/b",
    "/a\\b",
    "/a\u{e9}",
    "/a|b",
    "/a[b]",
    "/a^b",
    // not UTF-8: overlong slash and dot, lone byte (row 54)
    "/%c0%af",
    "/%c0%ae",
    "/%ff",
    "/%e0%80%af",
    "/%ed%a0%80",
    // fullwidth syntax
    "/%EF%BC%8F",
    "/%EF%BC%8E%EF%BC%8E",
    "/%EF%BC%BC",
    "/%EF%BC%9B",
    "/%E2%80%A6",
    "/%E2%80%A5",
];

#[test]
fn an_encoded_slash_is_kept_and_said_so_and_its_parts_are_judged() {
    let path = CanonicalPath::of(&PathAndQuery::from_static("/files/a%2fb")).expect("kept for the route to judge");
    assert_eq!((path.as_str(), path.has_encoded_slash()), ("/files/a%2Fb", true));
    for raw in ["/files/..%2Fb", "/files/a%2F", "/files/%2F", "/files/a%2F%2Fb", "/files/a%2F.."] {
        assert_eq!(canonical(raw), None, "{raw}");
    }
}

#[test]
fn the_query_is_not_judged_and_not_touched() {
    let path = CanonicalPath::of(&PathAndQuery::from_static("/%61?x=/../%2f;%zz//")).expect("the path is good");
    assert_eq!(path.target().as_str(), "/a?x=/../%2f;%zz//");
}

proptest! {
    #[test]
    fn a_canonical_path_is_its_own_canonical_form(raw in "/[ -~]{0,40}") {
        if let Some(once) = canonical(&raw) {
            let twice = canonical(&once);
            prop_assert_eq!(twice.as_deref(), Some(once.as_str()));
        }
    }

    #[test]
    fn the_quick_look_and_the_long_look_agree(raw in "/[a-c./%2eE-]{0,12}") {
        if is_plain(raw.as_bytes()) {
            let long = canonicalise(&raw);
            prop_assert_eq!(long.map(|canonical| canonical.path), Some(raw));
        }
    }

    #[test]
    fn no_canonical_path_holds_a_dot_segment_or_an_empty_one(raw in "/([./%25eEfFa]|%2e|%2E|%2f){0,14}") {
        if let Some(path) = canonical(&raw) {
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            let (_, before_last) = segments.split_last().expect("there is a leading slash");
            prop_assert!(before_last.iter().all(|segment| !segment.is_empty()));
            prop_assert!(segments.iter().all(|segment| !matches!(*segment, "." | "..")));
        }
    }
}

#[test]
fn a_rewritten_path_is_canonical_and_keeps_its_query() {
    for (path, strip, add, expected) in [
        ("/api/orders/7", 1, "", "/orders/7"),
        ("/api/orders/7", 2, "", "/7"),
        ("/api/orders/7", 1, "/v2", "/v2/orders/7"),
        ("/api/orders/7", 0, "/v2/x", "/v2/x/api/orders/7"),
        ("/api", 1, "", "/"),
        ("/api/", 1, "", "/"),
        ("/api", 1, "/v2", "/v2"),
        ("/api/", 1, "/v2", "/v2/"),
        ("/api?a=/../b", 1, "", "/?a=/../b"),
        ("/api/%ED%99%8D?x=%2f", 1, "/v2", "/v2/%ED%99%8D?x=%2f"),
    ] {
        let canonical = CanonicalPath::of(&PathAndQuery::try_from(path).expect("a target")).expect("canonical");
        let rewritten = canonical.rewritten(strip, add).expect("canonical");
        assert_eq!(rewritten.target().as_str(), expected, "{path} {strip} {add}");
    }
    let canonical = CanonicalPath::of(&PathAndQuery::from_static("/api/x")).expect("canonical");
    for add in ["/..", "/a/", "/a/../b", "//a", "/%2e", "a"] {
        assert!(canonical.rewritten(1, add).is_err(), "{add}");
    }
}

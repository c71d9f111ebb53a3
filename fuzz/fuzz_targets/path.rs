//! A canonical path is its own canonical form, and holds nothing that a second reader could resolve.
#![no_main]

use bearward::admit::path::CanonicalPath;
use bearward::admit::pattern::Pattern;
use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Pattern::parse(text);
    let Ok(target) = PathAndQuery::try_from(text) else { return };
    let Ok(once) = CanonicalPath::of(&target) else { return };
    let twice = CanonicalPath::of(once.target()).expect("canonical stays canonical");
    assert_eq!(once.target(), twice.target());
    let decoded = bearward::percent::decode(once.as_str());
    for segment in decoded.split('/').skip(1) {
        assert!(segment != "." && segment != "..", "{text}");
    }
    assert!(!decoded.contains('\\') && !decoded.contains(';') && !decoded.contains('\0'), "{text}");
    assert_eq!(target.query(), once.target().query());
});

#![no_main]
//! Cookies: what is found of a name is gone from what goes on, whatever else is there.

use bearward::cookie::{self, Kept};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|field: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(field) else { return };
    let names: Vec<Box<str>> = vec!["SID".into(), "__Host-id".into()];
    let kept = match cookie::without(field, &names) {
        Kept::All => field.to_vec(),
        Kept::Some(kept) => kept,
        Kept::Nothing => Vec::new(),
    };
    let headers = |value: HeaderValue| HeaderMap::from_iter([(COOKIE, value)]);
    let left = headers(HeaderValue::from_bytes(&kept).expect("what is left of a value is one"));
    for name in &names {
        assert_eq!(cookie::values(&left, name).count(), 0);
    }
    // What goes on is what came, without some of it.
    let _found = cookie::values(&headers(value), "SID").count();
    assert!(kept.len() <= field.len() + field.iter().filter(|byte| **byte == b';').count());
});

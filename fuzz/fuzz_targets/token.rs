//! No text makes the token reader panic; what it takes has the parts of the text.
#![no_main]

use bearward::authenticate::bearer::{Bearer, MAX_TOKEN};
use bearward::authenticate::token::UnverifiedToken;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(bearer) = Bearer::from_text(text) else { return };
    assert!(text.len() <= MAX_TOKEN);
    if let Ok(token) = UnverifiedToken::parse(bearer) {
        assert_eq!(format!("{}.{}", token.signed, token.signature), text);
        assert_eq!(text.matches('.').count(), 2);
    }
});

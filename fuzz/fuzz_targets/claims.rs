//! Whatever claims hold, a header value is one line of visible ASCII, and percent-encoding gives the
//! claim back.
#![no_main]

use bearward::authenticate::claims::{ClaimPath, Claims};
use bearward::authenticate::headers::{Encoding, IdentityHeader, encode};
use bearward::authenticate::json;
use http::HeaderName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(members) = json::object(bytes) else { return };
    let names: Vec<String> = members.keys().cloned().collect();
    let claims = Claims::new(members);
    for name in &names {
        let _ = (claims.text(name), claims.date(name));
        let Some(claim) = ClaimPath::parse(name) else { continue };
        let _ = claims.texts(&claim);
        for encoding in [Encoding::Percent, Encoding::Base64url, Encoding::Json, Encoding::Ascii] {
            let header = IdentityHeader { name: HeaderName::from_static("x-claim"), claim: claim.clone(), encoding };
            let Ok(lines) = encode(&[header], &claims) else { continue };
            let Some(line) = lines.strip_prefix(b"x-claim: ") else {
                assert!(lines.is_empty());
                continue;
            };
            let value = line.strip_suffix(b"\r\n").expect("one line");
            assert!(!value.is_empty() && value.iter().all(|b| (b' '..=b'~').contains(b)));
            if let (Encoding::Percent, Some(text)) = (encoding, claims.at(&claim).and_then(|value| value.as_str())) {
                assert_eq!(bearward::percent::decode(std::str::from_utf8(value).expect("ASCII")), text);
            }
        }
    }
});

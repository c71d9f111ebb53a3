//! No document makes the key-set reader panic.
#![no_main]

use bearward::authenticate::keys::{file, jwk};
use jsonwebtoken::Algorithm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = jwk::key_set(bytes, &[Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA]);
    let _ = file::secret(bytes, &[Algorithm::HS256]);
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let _ = file::public_key(bytes, &[algorithm]);
    }
});

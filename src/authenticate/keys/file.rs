//! Key files become keys: a shared secret, or a public key in PEM.
//!
//! A secret has at least 32 bytes (RFC 7518 §3.2), is not a public key by mistake, and is none of
//! the secrets that stand in tutorials. One final line break is not part of it.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

use super::jwk::check_rsa;
use super::{Key, KeySet, family};

/// Shortest shared secret, in bytes.
pub const MIN_SECRET: usize = 32;

/// Secrets that are printed in documentation and on token debuggers, and so are no secrets.
const KNOWN_SECRETS: [&str; 6] = [
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    "your-256-bit-secret-your-256-bit-secret",
    "qwertyuiopasdfghjklzxcvbnm123456",
    "qwertyuiopasdfghjklzxcvbnm1234567890",
    "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970",
];

/// A set of one HMAC key.
///
/// # Errors
/// Why the file is no secret.
pub fn secret(content: &[u8], algorithms: &[Algorithm]) -> Result<KeySet, String> {
    let secret = content.strip_suffix(b"\n").unwrap_or(content);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.len() < MIN_SECRET {
        return Err(format!("the secret has {} bytes, at least {MIN_SECRET} are needed", secret.len()));
    }
    let text = secret.trim_ascii();
    if text.starts_with(b"-----BEGIN") || text.starts_with(b"ssh-") || text.starts_with(b"{") {
        return Err("this is a key document, not a shared secret".to_owned());
    }
    if KNOWN_SECRETS.iter().any(|known| known.as_bytes() == text) {
        return Err("this secret is printed in public documentation".to_owned());
    }
    let mut seen = [false; 256];
    for &byte in secret {
        if let Some(mark) = seen.get_mut(usize::from(byte)) {
            *mark = true;
        }
    }
    if seen.iter().filter(|&&mark| mark).count() < 8 {
        return Err("the secret uses fewer than 8 different bytes".to_owned());
    }
    let fingerprint = digest::digest(&digest::SHA256, secret).as_ref().to_vec();
    KeySet::new(vec![Key::new(None, algorithms.to_vec(), DecodingKey::from_secret(secret), fingerprint)])
}

/// A set of one public key, from PEM (`PUBLIC KEY`, `RSA PUBLIC KEY`).
///
/// # Errors
/// Why the file is no public key for `algorithms`.
pub fn public_key(content: &[u8], algorithms: &[Algorithm]) -> Result<KeySet, String> {
    if content.windows(11).any(|window| window == b"PRIVATE KEY") {
        return Err("this is a private key; the gateway only needs the public one".to_owned());
    }
    let first = algorithms.first().copied().ok_or("no algorithm is pinned")?;
    let unfit = |_| format!("this is no PEM public key for {first:?}, or a weak or broken one");
    let decoding = match family(first) {
        AlgorithmFamily::Hmac => return Err("a public key does not go with HMAC algorithms".to_owned()),
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(content).map_err(unfit)?,
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(content).map_err(unfit)?,
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(content).map_err(unfit)?,
    };
    let material = decoding.try_get_as_bytes().map_err(unfit)?.to_vec();
    let algorithms = match family(first) {
        AlgorithmFamily::Hmac => Vec::new(),
        AlgorithmFamily::Rsa => {
            let jwk = jsonwebtoken::jwk::Jwk::from_decoding_key(&decoding, Some(first)).map_err(unfit)?;
            let components = serde_json::to_value(&jwk).map_err(|_| "the key cannot be read".to_owned())?;
            check_rsa(&components)?;
            algorithms.to_vec()
        }
        AlgorithmFamily::Ec => {
            let curve = [(Algorithm::ES256, &ECDSA_P256_SHA256_FIXED), (Algorithm::ES384, &ECDSA_P384_SHA384_FIXED)]
                .into_iter()
                .find(|(_, curve)| ParsedPublicKey::new(*curve, &material).is_ok())
                .ok_or("the key is on neither P-256 nor P-384, or its point is not on its curve")?;
            if algorithms != [curve.0] {
                return Err(format!("the key's curve goes with {:?} alone", curve.0));
            }
            vec![curve.0]
        }
        AlgorithmFamily::Ed => {
            ParsedPublicKey::new(&ED25519, &material).map_err(|_| "the key is not on Ed25519".to_owned())?;
            vec![Algorithm::EdDSA]
        }
    };
    KeySet::new(vec![Key::new(None, algorithms, decoding, material)])
}

#[cfg(test)]
mod tests {
    use super::*;

    // Rows 1-3 and 32: weak, well-known and public "secrets" are refused where they are loaded.
    #[test]
    fn what_is_no_secret_is_refused() {
        let long_key = b"  -----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA";
        let cases: [&[u8]; 8] = [
            b"",
            b"0123456789abcdef0123456789abcde\n",
            &[b'a'; 64],
            &[0; 64],
            b"a-string-secret-at-least-256-bits-long\n",
            b"{\"kty\":\"RSA\",\"n\":\"0123456789abcdefghijklmnop\"}",
            long_key,
            b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ",
        ];
        for content in cases {
            assert!(secret(content, &[Algorithm::HS256]).is_err(), "{}", content.escape_ascii());
        }
        assert!(secret(b"0123456789abcdef0123456789abcdef", &[Algorithm::HS256]).is_ok());
    }
}

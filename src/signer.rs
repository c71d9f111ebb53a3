//! Signs tokens, and shows the public half of the key.

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header};
use serde_json::Value;

use crate::authenticate::keys::family;

/// The type of an access token (RFC 9068 §2.1).
pub const ACCESS_TOKEN: &str = "at+jwt";

/// The type of what a service is told of a caller: no access token of anybody's (RFC 8725 §3.11).
pub const ASSERTION: &str = "assertion+jwt";

/// A private key that was read once, for many tokens.
pub struct Signer {
    header: Header,
    key: EncodingKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("kid", &self.header.kid).field("alg", &self.header.alg).finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer of tokens of the type `typ`, from a private key in PEM (PKCS#8), or a secret for HS*.
    ///
    /// # Errors
    /// When the key does not go with the algorithm.
    pub fn new(
        algorithm: Algorithm,
        kid: Option<&str>,
        typ: &str,
        key: &[u8],
    ) -> Result<Self, jsonwebtoken::errors::Error> {
        let mut header = Header::new(algorithm);
        header.typ = Some(typ.to_owned());
        header.kid = kid.map(str::to_owned);
        Ok(Self { header, key: encoding_key(algorithm, key)? })
    }

    /// A token that says this.
    ///
    /// # Errors
    /// When the library cannot sign; with a key that has signed before it can.
    pub fn sign(&self, claims: &Value) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&self.header, claims, &self.key)
    }
}

fn encoding_key(algorithm: Algorithm, pem: &[u8]) -> jsonwebtoken::errors::Result<EncodingKey> {
    match family(algorithm) {
        AlgorithmFamily::Hmac => {
            let secret = pem.strip_suffix(b"\n").unwrap_or(pem);
            Ok(EncodingKey::from_secret(secret.strip_suffix(b"\r").unwrap_or(secret)))
        }
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(pem),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(pem),
    }
}

/// The public half of a key in PEM, private or public, as a set publishes it.
///
/// # Errors
/// When the key does not go with the algorithm.
pub fn public_jwk(algorithm: Algorithm, kid: &str, pem: &[u8]) -> Result<Jwk, jsonwebtoken::errors::Error> {
    let is_private = pem.windows(11).any(|window| window == b"PRIVATE KEY");
    let mut jwk = if is_private {
        Jwk::from_encoding_key(&encoding_key(algorithm, pem)?, algorithm)?
    } else {
        let key = match family(algorithm) {
            AlgorithmFamily::Hmac => return Err(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat.into()),
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem)?,
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem)?,
            AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem)?,
        };
        Jwk::from_decoding_key(&key, Some(algorithm))?
    };
    jwk.common.key_id = Some(kid.to_owned());
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    Ok(jwk)
}

//! The keys that may have signed a token.
//!
//! 1. A key knows its algorithms; the token's header only selects among what the key and the
//!    issuer's configuration both allow (RFC 8725 §3.1).
//! 2. A `kid` names exactly one key. A token without `kid` is taken only where exactly one key fits
//!    its algorithm.
//! 3. A key that has left its issuer's set is retired, and every token that it vouched for with it.

pub mod fetch;
pub mod file;
pub mod jwk;
pub mod remote;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};

use self::remote::RemoteKeys;
use crate::denial::Denial;

/// One key that verifies signatures.
#[derive(Debug)]
pub struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    material: Vec<u8>,
    /// In the order of `algorithms`.
    verifiers: Vec<Verifier>,
    retired: AtomicBool,
}

/// What checks a signature of one algorithm.
#[derive(Debug)]
enum Verifier {
    /// A public key that was read once; reading it again for each token is a third of the cost.
    Parsed(ParsedPublicKey),
    /// A secret; the first block of both its hashes is hashed once.
    Secret(Box<hmac::Key>),
    /// A public key in a form that only the library reads.
    Library(Algorithm, DecodingKey),
    /// The key is of another family than the algorithm: nothing is signed with it.
    Unfit,
}

impl Verifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Self {
        // SECURITY: the bytes of a public key would be a secret that everybody knows (row 1). Configurations that mix the
        // two are refused before; here it does not depend on that.
        if key.family() != algorithm.family() {
            return Self::Unfit;
        }
        let parsed = match key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => {
                if let Some(digest) = hmac_digest(algorithm) {
                    return Self::Secret(Box::new(hmac::Key::new(digest, bytes)));
                }
                parsed_as(algorithm, bytes)
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => rsa_parameters(algorithm)
                .and_then(|scheme| RsaPublicKeyComponents { n, e }.to_parsed_public_key(scheme).ok()),
        };
        parsed.map_or_else(|| Self::Library(algorithm, key.clone()), Self::Parsed)
    }

    fn verify(&self, signed: &str, signature: &str) -> bool {
        match self {
            Self::Unfit => false,
            Self::Parsed(key) => {
                let decoded = URL_SAFE_NO_PAD.decode(signature);
                decoded.is_ok_and(|decoded| key.verify_sig(signed.as_bytes(), &decoded).is_ok())
            }
            // In constant time, and of the whole length.
            Self::Secret(key) => {
                let decoded = URL_SAFE_NO_PAD.decode(signature);
                decoded.is_ok_and(|decoded| hmac::verify(key, signed.as_bytes(), &decoded).is_ok())
            }
            Self::Library(algorithm, key) => {
                matches!(jsonwebtoken::crypto::verify(signature, signed.as_bytes(), key, *algorithm), Ok(true))
            }
        }
    }
}

fn hmac_digest(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    HMAC.iter().find(|(known, _)| *known == algorithm).map(|(_, digest)| **digest)
}

fn parsed_as(algorithm: Algorithm, bytes: &[u8]) -> Option<ParsedPublicKey> {
    let parsed = match (algorithm, rsa_parameters(algorithm)) {
        (_, Some(scheme)) => ParsedPublicKey::new(scheme, bytes),
        (Algorithm::ES256, None) => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes),
        (Algorithm::ES384, None) => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, bytes),
        (Algorithm::EdDSA, None) => ParsedPublicKey::new(&ED25519, bytes),
        (_, None) => return None,
    };
    parsed.ok()
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    RSA.iter().find(|(known, _)| *known == algorithm).map(|(_, scheme)| *scheme)
}

static HMAC: [(Algorithm, &hmac::Algorithm); 3] = [
    (Algorithm::HS256, &hmac::HMAC_SHA256),
    (Algorithm::HS384, &hmac::HMAC_SHA384),
    (Algorithm::HS512, &hmac::HMAC_SHA512),
];

/// What each algorithm of the RSA family demands; all take 2048 to 8192 bits.
static RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::RS256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::RS384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::RS512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::PS256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::PS384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::PS512, &RSA_PSS_2048_8192_SHA512),
];

impl Key {
    /// A key for `algorithms`. `material` tells two keys apart; it is public, or a digest.
    fn new(kid: Option<String>, algorithms: Vec<Algorithm>, decoding: DecodingKey, material: Vec<u8>) -> Self {
        let verifiers = algorithms.iter().map(|&algorithm| Verifier::new(algorithm, &decoding)).collect();
        Self { kid, algorithms, material, verifiers, retired: AtomicBool::new(false) }
    }

    /// The name that tokens call it by.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether it has left its issuer's set.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Verifies `signature` (base64url) over `signed`.
    ///
    /// # Errors
    /// `AlgorithmNotAllowed`, when the key is not for `algorithm`; `BadSignature`.
    pub fn verify(&self, algorithm: Algorithm, signed: &str, signature: &str) -> Result<(), Denial> {
        let place = self.algorithms.iter().position(|&own| own == algorithm).ok_or(Denial::AlgorithmNotAllowed)?;
        let holds = self.verifiers.get(place).is_some_and(|verifier| verifier.verify(signed, signature));
        holds.then_some(()).ok_or(Denial::BadSignature)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.kid == other.kid && self.material == other.material && self.algorithms == other.algorithms
    }
}

/// The keys of one issuer at one time.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Arc<Key>>,
}

impl KeySet {
    /// A set of keys whose `kid`s differ.
    ///
    /// # Errors
    /// The `kid` that two keys share.
    pub fn new(keys: Vec<Key>) -> Result<Self, String> {
        for (place, key) in keys.iter().enumerate() {
            let twin = keys.iter().take(place).any(|other| other.kid == key.kid);
            if let Some(kid) = key.kid.as_ref().filter(|_| twin) {
                return Err(format!("two keys share the kid `{}`", kid.escape_debug()));
            }
        }
        Ok(Self { keys: keys.into_iter().map(Arc::new).collect() })
    }

    /// The key that a token names.
    ///
    /// # Errors
    /// `UnknownKey`, when there is none or it is not clear which.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Arc<Key>, Denial> {
        // A key from a file has no name: whatever the token calls it, there is only this one.
        if let [only] = self.keys.as_slice()
            && only.kid.is_none()
        {
            return Ok(only);
        }
        if let Some(kid) = kid {
            return self.keys.iter().find(|key| key.kid() == Some(kid)).ok_or(Denial::UnknownKey);
        }
        let mut fitting = self.keys.iter().filter(|key| key.algorithms.contains(&algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(Denial::UnknownKey),
        }
    }

    /// The names of the keys that have one.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.kid())
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn is_same(&self, other: &Self) -> bool {
        self.len() == other.len() && self.keys.iter().all(|key| other.keys.iter().any(|known| known.is_same(key)))
    }

    /// This set with the keys that `previous` already had taken over from it, so that tokens they
    /// vouched for stay good; those that are gone are retired.
    #[must_use]
    fn succeeding(mut self, previous: &Self) -> Self {
        for key in &mut self.keys {
            if let Some(known) = previous.keys.iter().find(|known| known.is_same(key) && !known.is_retired()) {
                *key = Arc::clone(known);
            }
        }
        for old in &previous.keys {
            if !self.keys.iter().any(|key| Arc::ptr_eq(key, old)) {
                old.retired.store(true, Ordering::Release);
            }
        }
        self
    }

    /// Retires every key: none of them can be vouched for any more.
    fn retire(&self) {
        for key in &self.keys {
            key.retired.store(true, Ordering::Release);
        }
    }
}

/// Where an issuer's keys come from.
#[derive(Debug)]
pub enum KeySource {
    /// A file that was read when the configuration was loaded.
    Fixed(Arc<KeySet>),
    /// A URL that is read in the background.
    Remote(Arc<RemoteKeys>),
}

impl KeySource {
    /// The keys as they are now.
    ///
    /// # Errors
    /// `KeysUnavailable`, when they were never loaded or are older than their limit.
    pub fn current(&self) -> Result<Arc<KeySet>, Denial> {
        match self {
            Self::Fixed(keys) => Ok(Arc::clone(keys)),
            Self::Remote(remote) => remote.current().ok_or(Denial::KeysUnavailable),
        }
    }

    /// Those that are read in the background.
    #[must_use]
    pub fn remote(&self) -> Option<Arc<RemoteKeys>> {
        match self {
            Self::Fixed(_) => None,
            Self::Remote(remote) => Some(Arc::clone(remote)),
        }
    }

    /// Retires every key that `next`, the same issuer's in the configuration that follows, does not have;
    /// without it all of them.
    pub fn succeeded_by(&self, next: Option<&Self>) {
        // The very same: what is read of it meanwhile is looked at where it is read.
        if let (Self::Remote(own), Some(Self::Remote(next))) = (self, next)
            && Arc::ptr_eq(own, next)
        {
            return;
        }
        let next = next.and_then(|next| next.current().ok());
        let Ok(keys) = self.current() else { return };
        for key in &keys.keys {
            let stays = next.as_ref().is_some_and(|next| next.keys.iter().any(|other| other.is_same(key)));
            if !stays {
                key.retired.store(true, Ordering::Release);
            }
        }
    }

    /// Says that a token named a key that is not in the set; what that means for it. While the set cannot be read the key
    /// may be a new one, and its token a good one.
    pub fn missed(&self) -> Denial {
        match self {
            Self::Remote(remote) if remote.missed() => Denial::KeysUnavailable,
            Self::Remote(_) | Self::Fixed(_) => Denial::UnknownKey,
        }
    }
}

/// The family of an algorithm.
#[must_use]
pub const fn family(algorithm: Algorithm) -> AlgorithmFamily {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the enum is open; every algorithm that can be pinned is listed")]
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => AlgorithmFamily::Hmac,
        Algorithm::ES256 | Algorithm::ES384 => AlgorithmFamily::Ec,
        Algorithm::EdDSA => AlgorithmFamily::Ed,
        _ => AlgorithmFamily::Rsa,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Row 1: a public key's bytes are no secret, whatever algorithms it is loaded for.
    #[test]
    fn the_bytes_of_a_public_key_are_no_secret() {
        let bytes = b"bytes that are long enough to be a secret, and public";
        let public = DecodingKey::from_rsa_der(bytes);
        let signature = |key: &[u8]| {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"signed");
            URL_SAFE_NO_PAD.encode(tag)
        };
        let verify = |decoding: DecodingKey| {
            Key::new(None, vec![Algorithm::HS256], decoding, Vec::new()).verify(
                Algorithm::HS256,
                "signed",
                &signature(bytes),
            )
        };
        assert_eq!(verify(public), Err(Denial::BadSignature));
        assert_eq!(verify(DecodingKey::from_secret(bytes)), Ok(()));
        assert_eq!(verify(DecodingKey::from_secret(b"another")), Err(Denial::BadSignature));
    }
}

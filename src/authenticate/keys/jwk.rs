//! A JWK set (RFC 7517 §5) becomes keys.
//!
//! 1. Size and count are capped before anything is built.
//! 2. Passed over: keys for encryption (`use: enc`), of a kind or curve that no pinned algorithm
//!    uses, or whose own `alg` is not pinned. A set may hold keys for others.
//! 3. Refused, and the whole set with it: a symmetric key (`oct`), RSA below 2048 bits or with a
//!    weak exponent, a point that is not on its curve, two keys of one `kid`, members that cannot be
//!    read. A set that is wrong in one place is not relied on in another.
//!
//! Why not `DecodingKey::from_jwk` alone: it ignores `use`, `key_ops` and `alg`, and takes `oct`.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::{Map, Value};

use super::{Key, KeySet, family};
use crate::authenticate::json;
use crate::authenticate::token::algorithm_named;

/// Longest document, in bytes.
pub const MAX_DOCUMENT: usize = 1024 * 1024;
/// Most keys in one document.
pub const MAX_KEYS: usize = 100;

/// Reads a key set for an issuer that pins `pinned`.
///
/// # Errors
/// Why the set is refused.
pub fn key_set(document: &[u8], pinned: &[Algorithm]) -> Result<KeySet, String> {
    if document.len() > MAX_DOCUMENT {
        return Err(format!("it is longer than {MAX_DOCUMENT} bytes"));
    }
    let members = json::object(document).ok_or("it is not a JSON object, or names a member twice")?;
    let entries = members.get("keys").and_then(Value::as_array).ok_or("it has no list `keys`")?;
    if entries.len() > MAX_KEYS {
        return Err(format!("it holds {} keys, at most {MAX_KEYS} are taken", entries.len()));
    }
    let mut keys = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        let entry = entry.as_object().ok_or_else(|| format!("keys[{place}] is no object"))?;
        if let Some(key) = key(entry, pinned).map_err(|reason| format!("keys[{place}]: {reason}"))? {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err("it holds no key for the algorithms that are pinned".to_owned());
    }
    KeySet::new(keys)
}

/// One entry; `None` where it is for something else.
fn key(entry: &Map<String, Value>, pinned: &[Algorithm]) -> Result<Option<Key>, String> {
    let kid = match entry.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err("`kid` is no text".to_owned()),
    };
    if !is_for_verifying(entry) {
        return Ok(None);
    }
    let curve = entry.get("crv").and_then(Value::as_str);
    let kind = match (entry.get("kty").and_then(Value::as_str), curve) {
        (Some("oct"), _) => return Err("a symmetric key (`oct`) has no place in a key set".to_owned()),
        (Some("RSA"), _) => Kind::Rsa,
        (Some("EC"), Some("P-256")) => Kind::P256,
        (Some("EC"), Some("P-384")) => Kind::P384,
        (Some("OKP"), Some("Ed25519")) => Kind::Ed25519,
        (Some(_), _) => return Ok(None),
        (None, _) => return Err("`kty` is missing".to_owned()),
    };
    let own = match entry.get("alg") {
        None => None,
        Some(Value::String(name)) => match algorithm_named(name) {
            Some(algorithm) => Some(algorithm),
            None => return Ok(None),
        },
        Some(_) => return Err("`alg` is no text".to_owned()),
    };
    let algorithms: Vec<Algorithm> = pinned
        .iter()
        .copied()
        .filter(|algorithm| kind.fits(*algorithm) && own.is_none_or(|own| own == *algorithm))
        .collect();
    if algorithms.is_empty() {
        return Ok(None);
    }
    let (decoding, material) = kind.read(entry)?;
    Ok(Some(Key::new(kid, algorithms, decoding, material)))
}

/// `use` is absent or `sig`, `key_ops` is absent or has `verify` (RFC 7517 §4.2, §4.3).
fn is_for_verifying(entry: &Map<String, Value>) -> bool {
    let usage = entry.get("use").is_none_or(|usage| usage == "sig");
    let operations = entry.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|list| list.iter().any(|operation| operation == "verify"))
    });
    usage && operations
}

#[derive(Clone, Copy)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    fn fits(self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa => family(algorithm) == AlgorithmFamily::Rsa,
            Self::P256 => algorithm == Algorithm::ES256,
            Self::P384 => algorithm == Algorithm::ES384,
            Self::Ed25519 => algorithm == Algorithm::EdDSA,
        }
    }

    /// The key, and the bytes that tell it from others.
    fn read(self, entry: &Map<String, Value>) -> Result<(DecodingKey, Vec<u8>), String> {
        let off_curve = |_| "the point is not on its curve".to_owned();
        match self {
            Self::Rsa => {
                let (n, e) = check_rsa(&Value::Object(entry.clone()))?;
                let material = [n.as_slice(), e.as_slice()].concat();
                Ok((DecodingKey::from_rsa_raw_components(&n, &e), material))
            }
            Self::P256 | Self::P384 => {
                let (x, y) = (member(entry, "x")?, member(entry, "y")?);
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                let curve =
                    if matches!(self, Self::P256) { &ECDSA_P256_SHA256_FIXED } else { &ECDSA_P384_SHA384_FIXED };
                ParsedPublicKey::new(curve, &point).map_err(off_curve)?;
                let key = DecodingKey::from_ec_components(&text(entry, "x")?, &text(entry, "y")?);
                Ok((key.map_err(|_| "the point cannot be read".to_owned())?, point))
            }
            Self::Ed25519 => {
                let x = member(entry, "x")?;
                ParsedPublicKey::new(&ED25519, &x).map_err(off_curve)?;
                let key = DecodingKey::from_ed_components(&text(entry, "x")?);
                Ok((key.map_err(|_| "the point cannot be read".to_owned())?, x))
            }
        }
    }
}

/// Modulus and exponent of an RSA key in JWK form, if they are strong enough (RFC 7518 §3.3).
///
/// # Errors
/// Why they are not.
pub fn check_rsa(jwk: &Value) -> Result<(Vec<u8>, Vec<u8>), String> {
    let empty = Map::new();
    let entry = jwk.as_object().unwrap_or(&empty);
    let (n, e) = (member(entry, "n")?, member(entry, "e")?);
    let bits = significant_bits(&n);
    if !(2048..=8192).contains(&bits) {
        return Err(format!("the RSA modulus has {bits} bits, 2048 to 8192 are taken"));
    }
    let exponent = e
        .iter()
        .skip_while(|&&byte| byte == 0)
        .fold(0_u64, |sum, &byte| sum.saturating_mul(256).saturating_add(u64::from(byte)));
    if n.last().is_none_or(|last| last % 2 == 0) || !(3..1 << 33).contains(&exponent) || exponent.is_multiple_of(2) {
        return Err("the RSA modulus or exponent is weak (even, 1, or out of range)".to_owned());
    }
    let strip = |bytes: Vec<u8>| bytes.into_iter().skip_while(|&byte| byte == 0).collect::<Vec<u8>>();
    Ok((strip(n), strip(e)))
}

fn significant_bits(bytes: &[u8]) -> usize {
    let leading = bytes.iter().take_while(|&&byte| byte == 0).count();
    let first = bytes.get(leading).map_or(8, |byte| byte.leading_zeros() as usize);
    ((bytes.len() - leading) * 8).saturating_sub(first)
}

fn text(entry: &Map<String, Value>, name: &str) -> Result<String, String> {
    entry.get(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| format!("`{name}` is missing or no text"))
}

fn member(entry: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD.decode(text(entry, name)?).map_err(|_| format!("`{name}` is not base64url"))
}

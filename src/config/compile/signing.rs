//! Keys of an issuer that the gateway is itself: one signs, all are published and trusted.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jsonwebtoken::Algorithm;
use jsonwebtoken::AlgorithmFamily;
use jsonwebtoken::jwk::{Jwk, JwkSet};

use super::issuers::content;
use crate::authenticate::bearer::Bearer;
use crate::authenticate::keys::{KeySet, family, jwk};
use crate::authenticate::token::UnverifiedToken;
use crate::config::file::{Issuer as Section, SigningKey};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::signer::{ACCESS_TOKEN, Signer, public_jwk};

/// Longest name of a key, in bytes.
const MAX_KID: usize = 256;

/// The keys of one issuer.
#[derive(Debug)]
pub struct Keyring {
    /// Its name in the configuration.
    pub name: At<String>,
    /// Signs.
    pub signer: Signer,
    /// Verify.
    pub keys: Arc<KeySet>,
    /// As they are published.
    pub published: Bytes,
}

/// What only goes with a key to sign with.
pub fn check(section: &At<Section>, mistakes: &mut Mistakes) {
    if section.signing_key.is_some() {
        return;
    }
    let mut unused = |place, trail: &std::rc::Rc<str>| {
        let mistake = Mistake::new(place, trail, "nothing is issued here");
        mistakes.add(mistake.allowed("goes with `signing_key`").remedy("leave it out"));
    };
    // A default stands where its section does.
    let is_given = |place: crate::config::place::Place| place != section.place;
    if is_given(section.other_keys.place) {
        unused(section.other_keys.place, &section.other_keys.trail);
    }
    if is_given(section.access_ttl.place) {
        unused(section.access_ttl.place, &section.access_ttl.trail);
    }
    if is_given(section.endpoints.place) {
        unused(section.endpoints.place, &section.endpoints.trail);
    }
    if let Some(refresh) = &section.refresh {
        unused(refresh.place, &refresh.trail);
    }
}

/// Reads the keys of an issuer.
pub fn read(
    (name, section, own): (&At<String>, &At<Section>, &At<SigningKey>),
    algorithms: &[Algorithm],
    folder: &Path,
    mistakes: &mut Mistakes,
) -> Option<Keyring> {
    let others = [&section.jwks_file, &section.public_key_file, &section.secret_file];
    if section.jwks_uri.is_some() || others.into_iter().any(Option::is_some) {
        let mistake = Mistake::at(name, format!("issuer `{}` has no one source of keys", name.value.escape_debug()));
        mistakes.add(mistake.allowed("with `signing_key` no other one"));
        return None;
    }
    if mistakes.is_known(&section.algorithms) {
        return None;
    }
    if algorithms.iter().any(|algorithm| family(*algorithm) == AlgorithmFamily::Hmac) {
        let mistake = Mistake::at(&section.algorithms, "whoever could check these tokens could sign them");
        mistakes.add(mistake.allowed("`ES256`, `EdDSA`, `RS256` and kin with `signing_key`"));
        return None;
    }
    keyring(name, (own, &section.other_keys), (algorithms, ACCESS_TOKEN), folder, mistakes)
}

/// Reads the key that signs tokens of the type `typ`, and those beside it.
pub fn keyring(
    name: &At<String>,
    (own, others): (&At<SigningKey>, &[At<SigningKey>]),
    (algorithms, typ): (&[Algorithm], &str),
    folder: &Path,
    mistakes: &mut Mistakes,
) -> Option<Keyring> {
    let mut all: Vec<Material> = Vec::new();
    for key in std::iter::once(own).chain(others) {
        if all.iter().any(|known| known.jwk.common.key_id.as_ref() == Some(&key.kid.value)) {
            let mistake = Mistake::at(&key.kid, format!("another key is called `{}` too", key.kid.escape_debug()));
            mistakes.add(mistake.allowed("each key needs a name of its own, and keeps it"));
            continue;
        }
        match material(key, algorithms, folder) {
            Ok(material) => all.push(material),
            Err(found) => mistakes.add(unfit(key, &found, folder)),
        }
    }
    if all.len() != 1 + others.len() {
        return None;
    }
    let first = all.first()?;
    let signers = [typ, ACCESS_TOKEN].map(|typ| Signer::new(first.algorithm, Some(&own.kid), typ, &first.pem));
    let [Ok(signer), Ok(probe)] = signers else {
        mistakes.add(unfit(own, "this is no private key", folder));
        return None;
    };
    let document = serde_json::to_vec(&JwkSet { keys: all.into_iter().map(|key| key.jwk).collect() }).ok()?;
    let keys = jwk::key_set(&document, algorithms).ok()?;
    if !can_be_verified(&probe, &keys) {
        mistakes.add(unfit(own, "what it signs cannot be verified", folder));
        return None;
    }
    Some(Keyring { name: name.clone(), signer, keys: Arc::new(keys), published: document.into() })
}

/// One key as it was read.
struct Material {
    algorithm: Algorithm,
    jwk: Jwk,
    pem: Vec<u8>,
}

fn material(key: &SigningKey, algorithms: &[Algorithm], folder: &Path) -> Result<Material, String> {
    if key.kid.is_empty() || key.kid.len() > MAX_KID {
        return Err(format!("its `kid` has {} bytes, 1 to {MAX_KID} are taken", key.kid.len()));
    }
    let pem = content(&folder.join(&key.file.value))?;
    let fitting = algorithms.iter().find_map(|&algorithm| {
        let jwk = public_jwk(algorithm, &key.kid, &pem).ok()?;
        is_readable(&jwk, algorithm).then_some((algorithm, jwk))
    });
    let (algorithm, jwk) = fitting.ok_or("this is no key for an algorithm that is pinned, or a weak or broken one")?;
    Ok(Material { algorithm, jwk, pem })
}

fn unfit(key: &SigningKey, found: &str, folder: &Path) -> Mistake {
    let mistake = Mistake::at(&key.file, format!("`{}`: {found}", key.file.display()));
    mistake.allowed(format!("a key in PEM for one of `algorithms`; files are found from `{}`", folder.display()))
}

/// Whether a published key is one that we, too, would take.
fn is_readable(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let document = serde_json::to_vec(&JwkSet { keys: vec![jwk.clone()] }).unwrap_or_default();
    jwk::key_set(&document, &[algorithm]).is_ok()
}

fn can_be_verified(signer: &Signer, keys: &KeySet) -> bool {
    let Ok(text) = signer.sign(&serde_json::json!({})) else { return false };
    let Ok(token) = Bearer::from_text(&text).and_then(UnverifiedToken::parse) else { return false };
    let key = keys.find(token.kid.as_deref(), token.algorithm);
    key.is_ok_and(|key| key.verify(token.algorithm, token.signed, token.signature).is_ok())
}

//! What services that want proof are told: its key, and which services those are.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::Algorithm;

use super::signing::keyring;
use super::upstreams::not_zero;
use crate::config::file::Config;
use crate::config::mistake::{Mistake, Mistakes};
use crate::forward::assertion::Assertion;
use crate::issue::tokens::OWN_CLAIMS;
use crate::signer::ASSERTION;

/// What it may be signed with; the key says which.
const ALGORITHMS: [Algorithm; 4] = [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256];
/// Longest life.
const MAX_TTL: Duration = Duration::from_secs(60);

/// Compiles it, and the set of its keys as it is published.
pub fn compile(config: &Config, folder: &Path, mistakes: &mut Mistakes) -> Option<(Assertion, Bytes)> {
    let section = config.identity.assertion.as_ref()?;
    if !super::is_fit_for_identity(&section.header) {
        let mistake = Mistake::at(&section.header, format!("`{}` cannot carry identity", section.header.value));
        let allowed = "letters, digits and `-`, and none that HTTP or the gateway gives a meaning";
        mistakes.add(mistake.allowed(allowed).remedy("`X-Gateway-Assertion`, for example"));
    }
    let names = config.identity.headers.entries.iter().map(|(name, _)| name);
    if let Some(twin) = names.into_iter().find(|name| name.eq_ignore_ascii_case(section.header.as_str())) {
        let mistake = Mistake::at(&section.header, "the header stands twice").also(twin.place, "the other one");
        mistakes.add(mistake.allowed("a header of its own"));
    }
    not_zero(&section.ttl, mistakes);
    if *section.ttl > MAX_TTL || section.ttl.subsec_nanos() > 0 {
        let mistake = Mistake::at(&section.ttl, format!("{:?}", section.ttl.value));
        mistakes.add(mistake.allowed("whole seconds, at most `60s`: a copy of it is worth something for so long"));
    }
    for claim in section.claims.iter().filter(|claim| OWN_CLAIMS.contains(&claim.as_str())) {
        let mistake = Mistake::at(claim, format!("`{}` is the gateway's to say", claim.as_str()));
        mistakes.add(mistake.allowed("names of other claims").remedy("leave it out"));
    }
    let twin = config.issuers.entries.iter().find(|(_, issuer)| issuer.issuer.value == section.issuer.value);
    if let Some((name, _)) = twin {
        let mistake = Mistake::at(&section.issuer, format!("issuer `{}` has this `iss` already", name.value));
        mistakes.add(mistake.allowed("an `iss` of its own: it is no access token").also(name.place, "that one"));
    }
    let upstreams = section.upstreams.as_ref().map(|names| {
        let declared = &config.upstreams.declared;
        let place = |name: &crate::config::place::At<String>, mistakes: &mut Mistakes| {
            let place = declared.iter().position(|known| known.value == name.value);
            if place.is_none() {
                let mistake = Mistake::at(name, format!("unknown upstream `{}`", name.value.escape_debug()));
                let mistake = mistake.allowed(format!("declared upstreams: {}", config.upstreams.names()));
                mistakes.add(mistake.near(name, declared.iter().map(|known| known.as_str())));
            }
            place
        };
        names.iter().filter_map(|name| place(name, mistakes)).collect()
    });
    let name = section.header.with(section.header.as_str().to_owned());
    let keys = (&section.signing_key, section.other_keys.as_slice());
    let keyring = keyring(&name, keys, (&ALGORITHMS, ASSERTION), folder, mistakes)?;
    let assertion = Assertion {
        header: section.header.value.clone(),
        issuer: section.issuer.value.clone(),
        signer: keyring.signer,
        ttl: i64::try_from(section.ttl.as_secs()).unwrap_or(1),
        claims: section.claims.iter().map(|claim| claim.value.clone()).collect(),
        upstreams,
    };
    Some((assertion, keyring.published))
}

//! Issuers: their keys are read here, so that a file that names a bad key is refused as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily};

use super::signing::{self, Keyring};
use super::upstreams::not_zero;
use super::{Background, Kept, trust};
use crate::authenticate::issuer::Issuer;
use crate::authenticate::keys::fetch::Source;
use crate::authenticate::keys::remote::{RemoteKeys, Schedule};
use crate::authenticate::keys::{KeySet, KeySource, family, file, jwk};
use crate::config::file::{Config, Issuer as Section};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;

/// Furthest that clocks may differ.
const MAX_LEEWAY: Duration = Duration::from_secs(120);
/// Largest key file, in bytes.
const MAX_KEY_FILE: u64 = 1024 * 1024;
const SOURCES: &str = "exactly one of `jwks_uri`, `jwks_file`, `public_key_file`, `secret_file`, `signing_key`";

/// Compiles the issuers, in the order of the file.
pub fn compile(
    config: &Config,
    folder: &Path,
    before: &Kept,
    (background, keyrings): (&mut Background, &mut Vec<Keyring>),
    mistakes: &mut Mistakes,
) -> Vec<Issuer> {
    let mut issuers: Vec<Issuer> = Vec::new();
    for (name, section) in &config.issuers.entries {
        let twin = config.issuers.entries.iter().find(|(_, other)| other.issuer.value == section.issuer.value);
        if let Some((other, twin)) = twin.filter(|(other, _)| other.place < name.place) {
            let mistake = Mistake::at(&section.issuer, format!("issuer `{}` has this `iss` already", other.value));
            mistakes
                .add(mistake.allowed("each issuer needs an `iss` of its own").also(twin.issuer.place, "the other one"));
        }
        check_times(section, mistakes);
        let algorithms = algorithms(section, mistakes);
        if section.audiences.is_empty() && !mistakes.is_known(&section.audiences) {
            mistakes.add(Mistake::at(&section.audiences, "the list is empty").allowed("at least one audience"));
        }
        signing::check(section, mistakes);
        let keys = match &section.signing_key {
            None => keys(name, section, &algorithms, folder, (before, background), mistakes),
            Some(own) => signing::read((name, section, own), &algorithms, folder, mistakes).map(|keyring| {
                let keys = KeySource::Fixed(std::sync::Arc::clone(&keyring.keys));
                keyrings.push(keyring);
                keys
            }),
        };
        let Some(keys) = keys else { continue };
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        issuers.push(Issuer {
            name: name.as_str().into(),
            issuer: section.issuer.as_str().into(),
            audiences: section.audiences.iter().map(|audience| audience.value.clone()).collect(),
            algorithms,
            keys,
            roles: section.roles_claim.value.clone(),
            scopes: section.scopes_claim.value.clone(),
            required: section.required_claims.iter().map(|claim| claim.value.clone()).collect(),
            leeway: seconds(*section.leeway),
            max_lifetime: seconds(*section.max_lifetime),
        });
    }
    issuers
}

fn check_times(section: &At<Section>, mistakes: &mut Mistakes) {
    for time in [&section.leeway, &section.max_lifetime] {
        if time.subsec_nanos() > 0 {
            let mistake = Mistake::at(time, format!("{time:?} is no whole number of seconds", time = time.value));
            mistakes.add(mistake.allowed("whole seconds: the times of a token are in seconds"));
        }
    }
    if *section.leeway > MAX_LEEWAY {
        let mistake = Mistake::at(&section.leeway, format!("a leeway of {}s", section.leeway.as_secs()));
        mistakes.add(mistake.allowed("at most `120s`").remedy("set the clocks by NTP"));
    }
    if section.max_lifetime.is_zero() {
        mistakes.add(Mistake::at(&section.max_lifetime, "no token lives so short").allowed("at least `1s`"));
    }
    if section.jwks_uri.is_none() {
        for unused in [&section.jwks_refresh, &section.jwks_max_age, &section.jwks_cooldown] {
            // A default stands where its section does.
            if unused.place != section.place {
                mistakes.add(
                    Mistake::at(unused, "nothing is read again here")
                        .allowed("goes with `jwks_uri`")
                        .remedy("leave it out"),
                );
            }
        }
        return;
    }
    not_zero(&section.jwks_cooldown, mistakes);
    if section.jwks_refresh.is_zero() || *section.jwks_max_age < *section.jwks_refresh {
        let mistake = Mistake::at(&section.jwks_max_age, "keys would be too old before they are read again");
        mistakes.add(mistake.allowed("`jwks_max_age` at least as long as `jwks_refresh`, and neither `0s`"));
    }
}

fn algorithms(section: &Section, mistakes: &mut Mistakes) -> Vec<Algorithm> {
    if section.algorithms.is_empty() && !mistakes.is_known(&section.algorithms) {
        mistakes.add(Mistake::at(&section.algorithms, "the list is empty").allowed("at least one algorithm"));
    }
    let is_hmac = |algorithm: &At<Algorithm>| family(algorithm.value) == AlgorithmFamily::Hmac;
    let mixed = section
        .algorithms
        .iter()
        .find(|one| section.algorithms.first().is_some_and(|first| is_hmac(first) != is_hmac(one)));
    if let Some(mixed) = mixed {
        // Row 1: with both, whoever has the public key could sign.
        let mistake = Mistake::at(mixed, "HMAC and public-key algorithms in one issuer");
        mistakes.add(mistake.allowed("all `HS*`, or none").remedy("make two issuers of it"));
    }
    section.algorithms.iter().map(|algorithm| algorithm.value).collect()
}

fn keys(
    name: &At<String>,
    section: &At<Section>,
    algorithms: &[Algorithm],
    folder: &Path,
    (before, background): (&Kept, &mut Background),
    mistakes: &mut Mistakes,
) -> Option<KeySource> {
    let given = [
        section.jwks_uri.is_some(),
        section.jwks_file.is_some(),
        section.public_key_file.is_some(),
        section.secret_file.is_some(),
    ];
    if given.iter().filter(|&&is_given| is_given).count() != 1 {
        let mistake = Mistake::at(name, format!("issuer `{}` has no one source of keys", name.value));
        mistakes.add(mistake.allowed(SOURCES));
        return None;
    }
    let is_hmac = algorithms.iter().any(|algorithm| family(*algorithm) == AlgorithmFamily::Hmac);
    if mistakes.is_known(&section.algorithms) {
        return None;
    }
    if is_hmac != section.secret_file.is_some() {
        let mistake = Mistake::at(&section.algorithms, "the algorithms do not go with the source of the keys");
        mistakes.add(mistake.allowed("`HS*` with `secret_file`, the others with a public key"));
        return None;
    }
    if let Some(uri) = &section.jwks_uri {
        return remote(name, section, (uri, algorithms), (before, background), mistakes);
    }
    let readers: [(&Option<At<PathBuf>>, Reader); 3] = [
        (&section.jwks_file, jwk::key_set),
        (&section.public_key_file, file::public_key),
        (&section.secret_file, file::secret),
    ];
    let (path, read) = readers.into_iter().find_map(|(path, read)| path.as_ref().map(|path| (path, read)))?;
    match content(&folder.join(&path.value)).and_then(|content| read(&content, algorithms)) {
        Ok(keys) => Some(KeySource::Fixed(Arc::new(keys))),
        Err(reason) => {
            let mistake = Mistake::at(path, format!("`{}`: {reason}", path.display()));
            mistakes.add(mistake.allowed(format!("files are found from `{}`", folder.display())));
            None
        }
    }
}

/// Reads a file's content as the keys for these algorithms.
type Reader = fn(&[u8], &[Algorithm]) -> Result<KeySet, String>;

pub fn content(path: &Path) -> Result<Vec<u8>, String> {
    content_within(path, MAX_KEY_FILE)
}

/// Reads a file of at most so many bytes.
pub fn content_within(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let length = std::fs::metadata(path).map_err(|error| error_text(&error))?.len();
    if length > most {
        return Err(format!("the file is longer than {most} bytes"));
    }
    std::fs::read(path).map_err(|error| error_text(&error))
}

fn error_text(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound {
        return "there is no such file".to_owned();
    }
    format!("the file cannot be read: {error}")
}

fn remote(
    name: &At<String>,
    section: &Section,
    (uri, algorithms): (&At<String>, &[Algorithm]),
    (before, background): (&Kept, &mut Background),
    mistakes: &mut Mistakes,
) -> Option<KeySource> {
    let schedule =
        Schedule { refresh: *section.jwks_refresh, max_age: *section.jwks_max_age, cooldown: *section.jwks_cooldown };
    match Source::new(uri, trust::of_the_system) {
        Ok(source) => {
            let known =
                before.keys().iter().find(|keys| keys.is_of((name, &section.issuer), &source, algorithms, schedule));
            Some(KeySource::Remote(known.cloned().unwrap_or_else(|| {
                let (keys, refresher) =
                    RemoteKeys::new((name.as_str().into(), &section.issuer), source, algorithms.to_vec(), schedule);
                background.keys.push((Arc::clone(&keys), refresher));
                keys
            })))
        }
        Err(reason) => {
            let mistake = Mistake::at(uri, format!("the URL is not taken: {reason}"));
            mistakes.add(mistake.allowed("`https://host/path`, or `http://` with a loopback address"));
            None
        }
    }
}

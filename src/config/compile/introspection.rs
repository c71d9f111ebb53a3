//! Who is asked about tokens.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::upstreams::not_zero;
use super::{Kept, issuers, trust};
use crate::authenticate::keys::fetch::Source;
use crate::authenticate::opaque::{Introspector, Judges, Server};
use crate::config::file::Config;
use crate::config::mistake::{Mistake, Mistakes};
use crate::percent;

/// Longest that an answer is believed: a token that was taken back there is good here for so long.
const MAX_CACHE: Duration = Duration::from_secs(600);

/// Compiles them, in the order of the file.
pub fn compile(config: &Config, folder: &Path, before: &Kept, mistakes: &mut Mistakes) -> Vec<Introspector> {
    let mut all = Vec::new();
    for (name, section) in &config.introspection.entries {
        let (issuers, certificates) = (&config.issuers.declared, &config.client_certificates.declared);
        let others = issuers.iter().chain(certificates).chain(&config.sessions.declared);
        if let Some(twin) = others.into_iter().find(|other| other.value == name.value) {
            let mistake = Mistake::at(name, format!("something else is called `{}` too", name.value.escape_debug()));
            mistakes.add(mistake.allowed("`auth` needs names that differ").also(twin.place, "the other one"));
        }
        if *section.cache > MAX_CACHE || section.cache.subsec_nanos() > 0 {
            let mistake = Mistake::at(&section.cache, format!("{:?}", section.cache.value));
            mistakes.add(
                mistake.allowed("whole seconds, at most `10m`: for so long nobody hears that a token was taken back"),
            );
        }
        not_zero(&section.timeout, mistakes);
        let source = match Source::new(&section.uri, trust::of_the_system) {
            Ok(source) => Some(source),
            Err(reason) => {
                let mistake = Mistake::at(&section.uri, format!("the URL is not taken: {reason}"));
                mistakes.add(mistake.allowed("`https://host/path`, or `http://` with a loopback address"));
                None
            }
        };
        let secret = match issuers::content(&folder.join(&section.client_secret_file.value)) {
            Ok(text) => String::from_utf8(text).map_err(|_| "it is no text".to_owned()),
            Err(reason) => Err(reason),
        };
        let secret = secret.and_then(|text| {
            let line = text.strip_suffix('\n').unwrap_or(&text);
            let line = line.strip_suffix('\r').unwrap_or(line).to_owned();
            if line.is_empty() { Err("the file is empty".to_owned()) } else { Ok(line) }
        });
        let secret = match secret {
            Ok(secret) => secret,
            Err(reason) => {
                let file = &section.client_secret_file;
                let mistake = Mistake::at(file, format!("`{}`: {reason}", file.display()));
                mistakes.add(mistake.allowed(format!("files are found from `{}`", folder.display())));
                continue;
            }
        };
        let Some(source) = source else { continue };
        // Each part is encoded first (RFC 6749 §2.3.1).
        let pair = format!("{}:{}", percent::encode(&section.client_id), percent::encode(&secret));
        let Ok(mut authorization) = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))) else { continue };
        authorization.set_sensitive(true);
        let judges = Judges {
            name: name.as_str().into(),
            issuer: section.issuer.as_ref().map_or_else(|| name.as_str().into(), |issuer| issuer.as_str().into()),
            is_issuer_said: section.issuer.is_some(),
            audiences: section.audiences.iter().map(|audience| audience.value.clone()).collect(),
            roles: section.roles_claim.value.clone(),
            scopes: section.scopes_claim.value.clone(),
            cache: i64::try_from(section.cache.as_secs()).unwrap_or(0),
            timeout: *section.timeout,
        };
        let introspector = Introspector::new(judges, Server::new(source, authorization));
        let retired = before.asked(&introspector.shape());
        all.push(introspector.following(retired));
    }
    all
}

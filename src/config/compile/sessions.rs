//! Sessions: names of cookies and keys, and how long they live.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::{digest, hmac};

use super::{Kept, issue, issuers};
use crate::authenticate::cache::IdentityCache;
use crate::authenticate::claims::ClaimPath;
use crate::authenticate::session::{CookieEncoding, SessionKey, Sessions, Writing};
use crate::config::file::{Config, CookieSource, Sessions as Section};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::origin::CorsOrigin;
use crate::config::place::At;
use crate::config::words::{Encoding, RecordSource};
use crate::cookie;
use crate::route::Origin;
use crate::store::RecordForm;

/// Where roles and scopes are, unless `claims` says otherwise.
const ROLES: &str = "roles";
const SCOPES: &str = "scope";

/// Compiles the sessions, in the order of the file.
pub fn compile(config: &Config, folder: &Path, before: &Kept, mistakes: &mut Mistakes) -> Vec<Sessions> {
    let mut all: Vec<Sessions> = Vec::new();
    is_shared(config, mistakes);
    for (name, section) in &config.sessions.entries {
        names((name, section), &all, config, mistakes);
        times(section, mistakes);
        let key = SessionKey::parse(&section.key);
        if key.is_none() {
            let mistake = Mistake::at(&section.key, format!("`{}` is no key of a session", section.key.escape_debug()));
            mistakes.add(mistake.allowed("a word, then `{id}` or `{sha256}`, once: `session:{id}`"));
        }
        names_issuer(name, section, config, mistakes);
        let encoding = encoding(&section.cookie, folder, mistakes);
        let allowed_origins = origins(&section.csrf.allowed_origins, mistakes);
        let paths = (ClaimPath::parse(ROLES), ClaimPath::parse(SCOPES));
        let (Some(key), Some(encoding), (Some(roles), Some(scopes))) = (key, encoding, paths) else { continue };
        let claims = section.claims.entries.iter();
        let shape = shape(name, section, folder);
        let (form, writing) = match *section.record {
            RecordSource::Json => (RecordForm::Text, Writing::Json),
            RecordSource::Hash => (RecordForm::Hash, Writing::Text),
            RecordSource::Spring => (RecordForm::Hash, Writing::Spring),
        };
        all.push(Sessions {
            name: name.as_str().into(),
            cookie: section.cookie.name.as_str().into(),
            encoding,
            key,
            form,
            writing,
            issuer: section.issuer.as_ref().map_or_else(|| name.as_str().into(), |issuer| issuer.as_str().into()),
            shape,
            retired: before.sessions(&shape),
            claims: claims.map(|(name, path)| (name.as_str().into(), path.value.clone())).collect(),
            roles,
            scopes,
            idle_timeout: section.idle_timeout.as_ref().map(|time| millis(**time)),
            absolute_timeout: section
                .absolute_timeout
                .as_ref()
                .map(|time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX)),
            allowed_origins,
            known: IdentityCache::of_tokens(),
        });
    }
    all
}

/// Names that two have.
fn names((name, section): (&At<String>, &Section), all: &[Sessions], config: &Config, mistakes: &mut Mistakes) {
    let others = config.issuers.declared.iter().chain(&config.client_certificates.declared);
    if let Some(twin) = others.into_iter().find(|other| other.value == name.value) {
        let mistake = Mistake::at(name, format!("something else is called `{}` too", name.value.escape_debug()));
        mistakes.add(mistake.allowed("`auth` needs names that differ").also(twin.place, "the other one"));
    }
    if let Some(twin) = all.iter().find(|other| *other.cookie == *section.cookie.name.value) {
        let mistake = Mistake::at(&section.cookie.name, format!("sessions `{}` have this cookie already", twin.name));
        mistakes.add(mistake.allowed("each kind of sessions needs a cookie of its own"));
    }
    if !cookie::is_name(&section.cookie.name) {
        let mistake = Mistake::at(&section.cookie.name, "this is no name of a cookie");
        mistakes.add(mistake.allowed("letters, digits and signs of a header name: `JSESSIONID`"));
    }
    if let Some(path) = section.logout.as_ref().filter(|_| issue::creators(config, name).next().is_none()) {
        let mistake = Mistake::at(path, "who makes these sessions ends them");
        mistakes.add(mistake.allowed("goes with sessions that a route makes, `on_success: { create_session: NAME }`"));
    }
    let refresh = config.issuers.entries.iter().filter_map(|(_, issuer)| issuer.refresh.as_ref()?.cookie.as_ref());
    for twin in refresh.filter(|cookie| cookie.name.value == section.cookie.name.value) {
        let mistake = Mistake::at(&section.cookie.name, "refresh tokens have this cookie");
        mistakes.add(mistake.allowed("each cookie needs a name of its own").also(twin.name.place, "this one"));
    }
}

/// Where services write the records, the store has to be one that they can write to.
fn is_shared(config: &Config, mistakes: &mut Mistakes) {
    let created = |name: &str| issue::creators(config, name).next().is_some();
    let Some((first, _)) = config.sessions.entries.iter().find(|(name, _)| !created(name)) else { return };
    if config.store.as_ref().is_some_and(|store| store.url.starts_with("redis")) {
        return;
    }
    let mistake = Mistake::at(first, "no service could write a session into this store");
    let allowed = "Redis, `store: { url: \"redis://host:6379\" }`, or a route that makes them: `on_success: { create_session: NAME }`";
    let mistake = mistake.allowed(allowed);
    mistakes.add(match &config.store {
        Some(store) => mistake.also(store.url.place, "this one is the gateway's alone"),
        None => mistake,
    });
}

/// The cookies that services do not get.
pub fn kept_cookies(config: &Config) -> Vec<Box<str>> {
    let kept = config.sessions.entries.iter().filter(|(_, section)| !*section.forward_cookie);
    let refresh = config.issuers.entries.iter().filter_map(|(_, issuer)| issuer.refresh.as_ref()?.cookie.as_ref());
    let refresh = refresh.map(|cookie| cookie.name.as_str());
    kept.map(|(_, section)| section.cookie.name.as_str()).chain(refresh).map(Box::from).collect()
}

/// What tells one kind of sessions from another: all that is written of it, and the secret of its cookie.
fn shape(name: &At<String>, section: &Section, folder: &Path) -> [u8; 32] {
    let secret = section.cookie.secret_file.as_ref().and_then(|file| issuers::content(&folder.join(&file.value)).ok());
    let claims: Vec<_> = section.claims.entries.iter().map(|(name, path)| (&name.value, path.value.as_str())).collect();
    let times = (
        section.idle_timeout.as_ref().map(|time| time.value),
        section.absolute_timeout.as_ref().map(|time| time.value),
    );
    let written = format!(
        "{:?}",
        (
            &name.value,
            &section.cookie.name.value,
            *section.cookie.encoding,
            &section.key.value,
            *section.record,
            section.issuer.as_ref().map(|issuer| &issuer.value),
            claims,
            times,
        )
    );
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&written.len().to_be_bytes());
    context.update(written.as_bytes());
    context.update(&secret.unwrap_or_default());
    let mut shape = [0; 32];
    shape.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    shape
}

/// Where keys hold an issuer, whose sessions are meant has to be said: logging a subject out would pass them by.
fn names_issuer(name: &At<String>, section: &Section, config: &Config, mistakes: &mut Mistakes) {
    let keys = &config.revocation.keys;
    let named = [&keys.sub, &keys.sid].into_iter().flatten().find(|key| key.contains("{iss}"));
    if let Some(key) = named.filter(|_| section.issuer.is_none()) {
        let mistake = Mistake::at(name, format!("sessions `{}` have no `issuer`", name.value.escape_debug()));
        let mistake = mistake.allowed("the issuer whose logouts end them, since keys hold it");
        mistakes.add(mistake.also(key.place, "this key").remedy("issuer: https://auth.example.com"));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn times(section: &Section, mistakes: &mut Mistakes) {
    for time in [&section.idle_timeout, &section.absolute_timeout].into_iter().flatten() {
        if **time < Duration::from_secs(1) || time.subsec_nanos() > 0 {
            let mistake = Mistake::at(time, format!("{:?}", time.value));
            mistakes.add(mistake.allowed("whole seconds, at least `1s`"));
        }
    }
    if let Some(idle) = section.idle_timeout.as_ref().filter(|_| *section.record == RecordSource::Spring) {
        let mistake = Mistake::at(idle, "Spring Session keeps the times of its sessions itself");
        mistakes.add(mistake.allowed("goes with `record: json` or `hash`").remedy("leave `idle_timeout` out"));
    }
    if let (Some(idle), Some(absolute)) = (&section.idle_timeout, &section.absolute_timeout)
        && **absolute < **idle
    {
        let mistake = Mistake::at(absolute, "it ends before it could be idle");
        mistakes.add(mistake.allowed(format!("not less than `idle_timeout`, which is `{:?}`", idle.value)));
    }
}

fn encoding(section: &At<CookieSource>, folder: &Path, mistakes: &mut Mistakes) -> Option<CookieEncoding> {
    match (*section.encoding, &section.secret_file) {
        (Encoding::Plain, None) => Some(CookieEncoding::Plain),
        (Encoding::Base64, None) => Some(CookieEncoding::Base64),
        (Encoding::Express, Some(file)) => secret(file, folder, mistakes).map(Box::new).map(CookieEncoding::Express),
        (Encoding::Express, None) => {
            let mistake = Mistake::at(&section.encoding, "express-session signs its cookies");
            mistakes.add(mistake.allowed("goes with `secret_file`, the secret that it is given"));
            None
        }
        (Encoding::Plain | Encoding::Base64, Some(file)) => {
            let mistake = Mistake::at(file, "nothing is signed here");
            mistakes.add(mistake.allowed("goes with `encoding: express`").remedy("leave `secret_file` out"));
            None
        }
    }
}

fn secret(file: &At<PathBuf>, folder: &Path, mistakes: &mut Mistakes) -> Option<hmac::Key> {
    let text = match issuers::content(&folder.join(&file.value)) {
        Ok(text) if !text.trim_ascii_end().is_empty() => text,
        Ok(_) => {
            mistakes.add(Mistake::at(file, format!("`{}`: the file is empty", file.display())).allowed("a secret"));
            return None;
        }
        Err(reason) => {
            let mistake = Mistake::at(file, format!("`{}`: {reason}", file.display()));
            mistakes.add(mistake.allowed(format!("files are found from `{}`", folder.display())));
            return None;
        }
    };
    let line = text.strip_suffix(b"\n").map_or(&*text, |line| line.strip_suffix(b"\r").unwrap_or(line));
    Some(hmac::Key::new(hmac::HMAC_SHA256, line))
}

/// Pages that may send what changes something.
pub fn origins(allowed: &[At<CorsOrigin>], mistakes: &mut Mistakes) -> Vec<Origin> {
    let mut origins = Vec::new();
    for origin in allowed {
        match &origin.value {
            CorsOrigin::Named(named) => origins.push(named.clone()),
            CorsOrigin::Any => {
                let mistake = Mistake::at(origin, "every page of every site could send what changes something");
                mistakes.add(mistake.allowed("the origins of your own pages: `https://shop.example.com`"));
            }
        }
    }
    origins
}

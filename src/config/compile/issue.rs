//! What the gateway issues: times and cookies of credentials, and what ends logins.

use std::sync::Arc;
use std::time::Duration;

use super::cookies::{refresh_cookie, session_cookie};
use super::signing::Keyring;
use super::upstreams::not_zero;
use crate::admit::pattern::Pattern;
use crate::authenticate::claims::ClaimPath;
use crate::authenticate::logout_token::Sender;
use crate::authenticate::session::Sessions;
use crate::config::file::{Config, Issuer as IssuerSection, Refresh as RefreshSection, Sessions as SessionsSection};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::config::words::{Encoding, Ends, OnReuse, RecordSource};
use crate::issue::session::SessionMaker;
use crate::issue::tokens::{Refresh, TokenIssuer};
use crate::issue::{Desk, Turning};
use crate::route::RevocationMode;
use crate::store::KeyPatterns;

/// What is remembered beyond the end of what it takes back, for clocks that differ.
const MARGIN: Duration = Duration::from_secs(300);

/// For how long what takes something back is remembered that has no end here: a record that a service writes, a token
/// that somebody else is asked about. As long as browsers keep a cookie at the most (RFC 6265bis §5.6).
const WITHOUT_END: Duration = Duration::from_secs(400 * 86_400);

/// The routes that make sessions of this kind.
pub fn creators<'c>(config: &'c Config, name: &str) -> impl Iterator<Item = &'c At<String>> {
    let made = config.routes.iter().filter_map(|route| route.on_success.as_ref()?.create_session.as_ref());
    made.filter(move |made| made.value == name)
}

/// The issuers that the gateway is, in their order.
pub fn own(config: &Config) -> impl Iterator<Item = &(At<String>, At<IssuerSection>)> {
    config.issuers.entries.iter().filter(|(_, section)| section.signing_key.is_some())
}

/// The kinds of sessions that it makes, in their order.
pub fn made(config: &Config) -> impl Iterator<Item = &(At<String>, At<SessionsSection>)> {
    config.sessions.entries.iter().filter(|(name, _)| creators(config, name).next().is_some())
}

/// The claim of credentials that is asked for when a login ends.
pub fn asked(desk: &Desk) -> Option<ClaimPath> {
    let is_needed = !desk.issuers.is_empty() || !desk.sessions.is_empty();
    is_needed.then(|| ClaimPath::parse("sid")).flatten()
}

/// Compiles what is issued; the store is for who knows it.
pub fn compile(
    config: &Config,
    keyrings: Vec<Keyring>,
    (sessions, patterns): (&[Sessions], &KeyPatterns),
    mistakes: &mut Mistakes,
) -> Desk {
    let longest = longest(config);
    begins_for_logout(config, mistakes);
    let mut refreshed = Vec::new();
    for (name, section) in own(config) {
        times(section, mistakes);
        can_end(name, "issuers with a `signing_key`", config, mistakes);
        refreshed.push(section.refresh.as_ref().map(|own| refresh(own, section, mistakes)));
    }
    let makers = made(config).filter_map(|(name, section)| {
        can_end(name, "sessions that the gateway makes", config, mistakes);
        maker(name, section, config, mistakes)?;
        let kind = sessions.iter().find(|kind| *kind.name == *name.value)?;
        Some(SessionMaker {
            name: name.as_str().into(),
            cookie: session_cookie(section, mistakes),
            key: kind.key.clone(),
            issuer: Arc::clone(&kind.issuer),
            allowed_origins: kind.allowed_origins.clone(),
            life: millis(session_life(section)),
        })
    });
    let makers = makers.collect();
    let foreign = config.sessions.entries.iter().filter(|(name, _)| creators(config, name).next().is_none());
    let foreign = foreign.filter_map(|(name, section)| {
        let place = sessions.iter().position(|kind| *kind.name == *name.value)?;
        Some((place, session_cookie(section, mistakes)))
    });
    let foreign = foreign.collect();
    let mut keyrings = keyrings.into_iter().peekable();
    let issuers = own(config).zip(refreshed).filter_map(|((name, section), refresh)| {
        let keyring = keyrings.next_if(|keyring| keyring.name.value == name.value)?;
        Some(TokenIssuer {
            name: name.as_str().into(),
            issuer: section.issuer.as_str().into(),
            audiences: section.audiences.iter().map(|audience| audience.value.clone()).collect(),
            signer: keyring.signer,
            published: keyring.published,
            access_ttl: seconds(*section.access_ttl),
            refresh,
        })
    });
    Desk {
        issuers: issuers.collect(),
        sessions: makers,
        foreign,
        patterns: patterns.clone(),
        store: None,
        timeout: config.store.as_ref().map_or(Duration::ZERO, |store| *store.timeout),
        senders: senders(config, mistakes),
        ends_subjects: config.revocation.backchannel_logout.as_ref().is_some_and(|own| *own.ends == Ends::Subject),
        assertion_keys: bytes::Bytes::new(),
        prefix: config.store.as_ref().map_or_else(|| "bearward:".to_owned(), |store| store.prefix.value.clone()),
        longest,
        has_leases: *config.revocation.leases,
    }
}

/// Who may say that logins have ended.
fn senders(config: &Config, mistakes: &mut Mistakes) -> Vec<Sender> {
    let Some(section) = &config.revocation.backchannel_logout else { return Vec::new() };
    let keys = &config.revocation.keys;
    for (key, word) in [(&keys.sid, "sid"), (&keys.sub, "sub")] {
        if key.is_none() {
            let mistake = Mistake::at(section, "what is said here could not be kept");
            mistakes.add(mistake.allowed(format!("goes with `revocation.keys.{word}`")));
        }
    }
    let mut senders = Vec::new();
    for (name, audiences) in &section.issuers.entries {
        let declared = &config.issuers.declared;
        let Some(place) = declared.iter().position(|known| known.value == name.value) else {
            let mistake = Mistake::at(name, format!("unknown issuer `{}`", name.value.escape_debug()));
            let mistake = mistake.allowed(format!("declared issuers: {}", config.issuers.names()));
            mistakes.add(mistake.near(name, declared.iter().map(|known| known.as_str())));
            continue;
        };
        if audiences.is_empty() {
            mistakes.add(Mistake::at(audiences, "the list is empty").allowed("at least one client id"));
        }
        senders.push((place, audiences.iter().map(|audience| audience.value.clone()).collect()));
    }
    senders
}

/// For how long what takes a login back has to be remembered, in milliseconds: no credential lives longer.
fn longest(config: &Config) -> u64 {
    let issuers = config.issuers.entries.iter().flat_map(|(_, section)| {
        let refresh = section.refresh.as_ref().map(|refresh| *refresh.ttl);
        [section.max_lifetime.saturating_add(section.leeway.saturating_mul(2)), refresh.unwrap_or_default()]
    });
    let sessions = config.sessions.entries.iter().map(|(name, section)| {
        // A record that a service writes stays for as long as the service says, whether or not anybody uses it.
        let idle = section.idle_timeout.as_ref().filter(|_| creators(config, name).next().is_some());
        idle.into_iter().chain(&section.absolute_timeout).map(|time| **time).max().unwrap_or(WITHOUT_END)
    });
    let asked = config.introspection.entries.iter().map(|_| WITHOUT_END);
    millis(issuers.chain(sessions).chain(asked).max().unwrap_or_default().saturating_add(MARGIN))
}

fn times(section: &At<IssuerSection>, mistakes: &mut Mistakes) {
    let refresh = section.refresh.as_ref();
    let times = refresh.into_iter().flat_map(|refresh| {
        std::iter::once(&refresh.ttl).chain(std::iter::once(&refresh.reuse_grace)).chain(&refresh.max_life)
    });
    for time in std::iter::once(&section.access_ttl).chain(times) {
        if time.subsec_nanos() > 0 {
            let mistake = Mistake::at(time, format!("{:?} is no whole number of seconds", time.value));
            mistakes.add(mistake.allowed("whole seconds"));
        }
    }
    not_zero(&section.access_ttl, mistakes);
    if *section.access_ttl > *section.max_lifetime {
        let mistake = Mistake::at(&section.access_ttl, "the gateway would refuse its own tokens");
        mistakes.add(mistake.allowed(format!("at most `max_lifetime`, which is {:?}", section.max_lifetime.value)));
    }
    let Some(refresh) = refresh else {
        for path in [&section.endpoints.refresh, &section.endpoints.revoke].into_iter().flatten() {
            let mistake = Mistake::at(path, "there are no refresh tokens");
            mistakes.add(mistake.allowed("goes with `refresh`").remedy("refresh: { ttl: 14d }"));
        }
        return;
    };
    if let Some(longest) = refresh.max_life.as_ref().filter(|longest| ***longest < *section.access_ttl) {
        let mistake = Mistake::at(longest, "a login ends before its first access token");
        mistakes.add(mistake.allowed("not shorter than `access_ttl`"));
    }
    if *refresh.ttl <= *section.access_ttl {
        let mistake = Mistake::at(&refresh.ttl, "a refresh token that ends before its access token is of no use");
        mistakes.add(mistake.allowed("longer than `access_ttl`"));
    }
    if *refresh.reuse_grace > Duration::from_secs(300) {
        let mistake = Mistake::at(&refresh.reuse_grace, "a copied token would be good for that long");
        mistakes.add(mistake.allowed("at most `5m`; `10s` is enough for two tabs"));
    }
    if section.endpoints.refresh.is_none() {
        let mistake = Mistake::at(refresh, "nobody could refresh: there is no path for it");
        mistakes.add(mistake.allowed("goes with `endpoints: { refresh: /auth/refresh }`"));
    }
    let is_plain = |path: &At<Pattern>| path.parameters().count() == 0 && !path.takes_rest();
    let refreshed = section.endpoints.refresh.as_ref().filter(|_| refresh.cookie.is_some());
    if let Some(path) = refreshed.filter(|path| !is_plain(path)) {
        let mistake = Mistake::at(path, "a cookie is limited to one path");
        mistakes.add(mistake.allowed("a path without parameters"));
    }
}

/// Of a session that does not say when it began any logout is later: one logout of a subject would keep all later sessions
/// out.
fn begins_for_logout(config: &Config, mistakes: &mut Mistakes) {
    let logouts = own(config).filter_map(|(_, section)| section.endpoints.logout.as_ref());
    let logouts = logouts.chain(made(config).filter_map(|(_, section)| section.logout.as_ref()));
    let said = config.revocation.backchannel_logout.iter().map(|said| &said.path);
    let Some(logout) = logouts.chain(said).next() else { return };
    if *config.revocation.mode == RevocationMode::Off {
        let mistake =
            Mistake::at(&config.revocation.mode, "a logout would end nothing").also(logout.place, "this path");
        mistakes.add(mistake.allowed("`tracked` or `lookup`; a route may say `off` for itself"));
    }
    for (name, section) in config.sessions.entries.iter().filter(|(name, _)| creators(config, name).next().is_none()) {
        let says_when = section.claims.entries.iter().any(|(claim, _)| claim.value == "iat");
        if section.absolute_timeout.is_none() && !says_when {
            let found = format!("one logout everywhere would keep later sessions `{}` out", name.value.escape_debug());
            let mistake = Mistake::at(name, found).also(logout.place, "which may be asked for here");
            mistakes.add(
                mistake.allowed(
                    "`absolute_timeout`, or `claims: { iat: ... }`, so that their records say when they began",
                ),
            );
        }
    }
}

/// A login ends by a mark in the store: it has to be named.
fn can_end(name: &At<String>, what: &str, config: &Config, mistakes: &mut Mistakes) {
    let keys = &config.revocation.keys;
    for (key, word, pattern) in [(&keys.sid, "sid", "session-revoked:{sid}"), (&keys.sub, "sub", "logout:{sub}")] {
        if key.is_none() {
            let mistake = Mistake::at(name, format!("logins of `{}` could not be ended", name.value.escape_debug()));
            let mistake = mistake.allowed(format!("{what} go with `revocation.keys.{word}`"));
            mistakes.add(mistake.remedy(format!("revocation: {{ keys: {{ {word}: \"{pattern}\" }} }}")));
        }
    }
}

fn refresh(own: &At<RefreshSection>, section: &IssuerSection, mistakes: &mut Mistakes) -> Refresh {
    let path = section.endpoints.refresh.as_ref().map_or("/", |path| path.as_str());
    Refresh {
        ttl: millis(*own.ttl),
        max_life: own.max_life.as_ref().map(|time| seconds(**time)),
        turning: Turning { rotate: *own.rotate, grace: millis(*own.reuse_grace) },
        reuse_ends: *own.on_reuse == OnReuse::RevokeFamily,
        cookie: own.cookie.as_ref().map(|cookie| refresh_cookie(cookie, path, mistakes)),
    }
}

/// Whether sessions of a kind can be made here.
fn maker(name: &At<String>, section: &At<SessionsSection>, config: &Config, mistakes: &mut Mistakes) -> Option<()> {
    let by = creators(config, name).next()?;
    let mut is_fit = true;
    let mut wrong = |mistake: Mistake| {
        mistakes.add(mistake.also(by.place, "which this route makes"));
        is_fit = false;
    };
    if !section.key.contains("{sha256}") {
        let mistake = Mistake::at(&section.key, "whoever reads the store could be anybody");
        let key = section.key.replace("{id}", "{sha256}");
        wrong(
            mistake
                .allowed("`{sha256}` in the key of sessions that the gateway makes")
                .remedy(format!("key: \"{key}\"")),
        );
    }
    if *section.record != RecordSource::Json {
        wrong(Mistake::at(&section.record, "the gateway writes one value").allowed("`json`"));
    }
    if *section.cookie.encoding != Encoding::Plain {
        wrong(Mistake::at(&section.cookie.encoding, "the gateway writes the id as it is").allowed("`plain`"));
    }
    if !section.claims.entries.is_empty() {
        let mistake = Mistake::at(&section.claims, "the gateway writes claims under their own names");
        wrong(mistake.allowed("goes with sessions that a service makes").remedy("leave `claims` out"));
    }
    if section.idle_timeout.is_none() && section.absolute_timeout.is_none() {
        let mistake = Mistake::at(name, format!("sessions `{}` would live for ever", name.value.escape_debug()));
        wrong(mistake.allowed("`idle_timeout`, `absolute_timeout`, or both").remedy("idle_timeout: 30m"));
    }
    is_fit.then_some(())
}

/// How long a record lives that nobody uses.
fn session_life(section: &SessionsSection) -> Duration {
    let times = [&section.idle_timeout, &section.absolute_timeout];
    times.into_iter().flatten().map(|time| **time).min().unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

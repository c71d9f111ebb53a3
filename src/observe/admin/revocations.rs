//! `POST /revocations` takes a token, a login or a subject back; `GET /revocations` says what the
//! store holds.
//!
//! ```text
//! {"token": "eyJ..."}                        the token's jti, until the token would have ended
//! {"jti": "a1", "issuer": "shop"}            until the longest-lived token would have ended
//! {"sid": "s1"}                              every token of this login
//! {"sub": "kim"} {"sub": "kim", "before": 1795417786}   every token issued at or before that second
//! {"certificate": "-----BEGIN CERT..."}      a client's certificate (PEM), until it would have ended
//! {"issuer": "shop"}                         every token of this issuer, in the same way
//! {"all": true}                              every token, in the same way
//! {"jti": "a1", "ack": "all"}                answers once the `primary` (unless said), every `replica`
//!                                            of it, or `all` gateways have it
//! ```
//!
//! `issuer` is a name in the configuration: of an issuer, or of what vouches in its place (`sessions`, `introspection`,
//! `client_certificates`). Beside a claim it is needed only where the key patterns hold `{iss}` and there are several.
//!
//! Times are by the store's clock, like those of logins.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value, json};

use super::{answer, problem};
use crate::authenticate::bearer::Bearer;
use crate::authenticate::json;
use crate::authenticate::keys::KeySource;
use crate::authenticate::token::UnverifiedToken;
use crate::certificate;
use crate::clock;
use crate::denial::Denial;
use crate::gateway::Gateway;
use crate::percent;
use crate::store::{Ack, KeyPattern, Kind, Mark, Store, StoreError};

/// How much longer than the token a revocation is kept, in seconds: clocks differ.
const MARGIN: i64 = 60;

/// What is written, and until when.
struct Order {
    kind: Kind,
    key: String,
    mark: Mark,
    expires_at: i64,
    ack: Ack,
}

/// The words for what is waited for.
const ACKS: [(&str, Ack); 3] = [("primary", Ack::Primary), ("replica", Ack::Replica), ("all", Ack::All)];

fn acknowledgement(word: &Value) -> Result<Ack, Fault> {
    let known = ACKS.iter().find(|(known, _)| word.as_str() == Some(known));
    known.map(|(_, ack)| *ack).ok_or_else(|| fault("`ack` is `primary`, `replica` or `all`"))
}

/// Why nothing was written: the status and what to say.
struct Fault(StatusCode, String);

fn fault(text: impl Into<String>) -> Fault {
    Fault(StatusCode::BAD_REQUEST, text.into())
}

/// Takes back what the body names.
pub async fn revoke(gateway: &Gateway, body: &[u8]) -> Response<Full<Bytes>> {
    let started = clock::monotonic();
    let (order, store) = match order(gateway, body).await {
        Ok(order) => order,
        Err(Fault(status, text)) => return problem(status, &text),
    };
    let until = u64::try_from(order.expires_at).unwrap_or(0).saturating_mul(1000);
    let acknowledged = match store.revoke(&order.key, order.mark, until, order.ack).await {
        Ok(acknowledged) => acknowledged,
        Err(StoreError::NoReplicas) => return problem(StatusCode::CONFLICT, &StoreError::NoReplicas.to_string()),
        Err(error) if error.is_written() => {
            return problem(StatusCode::SERVICE_UNAVAILABLE, &format!("revoked, but {error}"));
        }
        Err(error) => return problem(StatusCode::SERVICE_UNAVAILABLE, &format!("not revoked: {error}")),
    };
    let took = clock::monotonic().saturating_duration_since(started);
    tracing::info!(kind = order.kind.name(), expires_at = order.expires_at, "revoked");
    answer(
        StatusCode::OK,
        &json!({
            "revoked": order.kind.name(),
            "key": order.key,
            "expires_at": order.expires_at,
            "acknowledged_by": ACKS.iter().find(|(_, ack)| *ack == order.ack).map(|(word, _)| word),
            "confirmed": acknowledged.confirmed,
            "outwaited": acknowledged.outwaited,
            "took_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }),
    )
}

/// What the body says is to be written, and where.
async fn order<'g>(gateway: &'g Gateway, body: &[u8]) -> Result<(Order, &'g Store), Fault> {
    let members = json::object(body).unwrap_or_default();
    let is_shown = members.contains_key("token") || members.contains_key("certificate");
    let key = match named(gateway, &members) {
        Ok((_, key)) if !is_shown => key,
        // A token and a certificate are in their time by the clock that they are judged by.
        Ok(_) | Err(_) => {
            let order = read(gateway, body, clock::unix_seconds(clock::wall()))?;
            return Ok((order, store(gateway)?));
        }
    };
    let store = store(gateway)?;
    // SECURITY: logins have their times of the store. By the clock of a gateway that is behind it, what has just logged in
    // would outlive its logout; by one ahead, nobody could log in again.
    let away = |error| Fault(StatusCode::SERVICE_UNAVAILABLE, format!("not revoked: {error}"));
    let now = store.time(&key).await.map_err(away)?;
    Ok((read(gateway, body, i64::try_from(now / 1000).unwrap_or(i64::MAX))?, store))
}

/// One page of what the store holds of a kind (`kind=sub`, `after=` what the page before ended with).
async fn list(gateway: &Gateway, kind: &str, after: &str) -> Result<Value, Fault> {
    let kinds = || Kind::ALL.map(Kind::name).join(", ");
    let found = Kind::ALL.into_iter().find(|known| known.name() == kind);
    let kind = found.ok_or_else(|| fault(format!("unknown kind; known: {}", kinds())))?;
    let away = |error| Fault(StatusCode::SERVICE_UNAVAILABLE, format!("not known: {error}"));
    let store = store(gateway)?;
    let page = store.list(pattern(gateway, kind)?, after).await.map_err(away)?;
    let mut revocations = Vec::new();
    for key in page.keys {
        // One that has ended meanwhile is none.
        if let Some(entry) = store.read(&key).await.map_err(away)? {
            revocations.push(json!({ "key": key, "value": entry.value, "remaining_ms": entry.remaining }));
        }
    }
    Ok(json!({ "kind": kind.name(), "revocations": revocations, "after": page.next }))
}

/// Says what the store holds for `jti=`, `sid=`, `sub=` (and `issuer=`), `issuer=` alone, or `all=true`;
/// with `kind=` it lists.
pub async fn look_up(gateway: &Gateway, query: &str) -> Response<Full<Bytes>> {
    let members: Map<String, Value> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (percent::decode(name), percent::decode(&value.replace('+', " ")).into()))
        .collect();
    if let Some(kind) = members.get("kind").and_then(Value::as_str) {
        let after = members.get("after").and_then(Value::as_str).unwrap_or_default();
        return match list(gateway, kind, after).await {
            Ok(page) => answer(StatusCode::OK, &page),
            Err(Fault(status, text)) => problem(status, &text),
        };
    }
    let found = async {
        let (_, key) = named(gateway, &members)?;
        let away = |error| Fault(StatusCode::SERVICE_UNAVAILABLE, format!("not known: {error}"));
        let entry = store(gateway)?.read(&key).await.map_err(away)?;
        Ok((key, entry))
    };
    match found.await {
        Err(Fault(status, text)) => problem(status, &text),
        Ok((key, entry)) => answer(
            StatusCode::OK,
            &json!({
                "key": key,
                "present": entry.is_some(),
                "value": entry.as_ref().map(|entry| entry.value.clone()),
                "remaining_ms": entry.and_then(|entry| entry.remaining),
            }),
        ),
    }
}

fn read(gateway: &Gateway, body: &[u8], now: i64) -> Result<Order, Fault> {
    let mut members = json::object(body).ok_or_else(|| fault("the body is no JSON object, or names a member twice"))?;
    let ack = match members.remove("ack") {
        None => Ack::Primary,
        Some(word) => acknowledgement(&word)?,
    };
    let known = ["token", "jti", "sid", "sub", "certificate", "issuer", "all", "before", "ack"];
    if let Some(odd) = members.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(fault(format!("unknown member `{}`; known: {}", odd.escape_debug(), known.join(", "))));
    }
    if let Some(token) = members.get("token") {
        let token =
            token.as_str().filter(|_| members.len() == 1).ok_or_else(|| fault("`token` stands alone and is text"))?;
        return by_token(gateway, token, now).map(|order| Order { ack, ..order });
    }
    if let Some(pem) = members.get("certificate") {
        return by_certificate(gateway, pem, &members, now).map(|order| Order { ack, ..order });
    }
    let (kind, key) = named(gateway, &members)?;
    let issuers = gateway.authenticator.issuers();
    let leeway = issuers.iter().map(|issuer| issuer.leeway).max().unwrap_or(0);
    let before = match members.get("before") {
        None => now,
        Some(_) if !kind.is_time() => return Err(fault("`before` goes with `sub`, `issuer` or `all`")),
        Some(before) => before_of(before, now.saturating_add(leeway))?,
    };
    // An id may be that of a certificate, and those live longer.
    let certificates = gateway.authenticator.certificates().iter().filter(|_| kind == Kind::Jti);
    let certificates = certificates.map(|trusted| trusted.max_lifetime).max().unwrap_or(0);
    let mark = if kind.is_time() { Mark::NotBefore(before) } else { Mark::Presence };
    let longest = issuers.iter().map(|issuer| issuer.max_lifetime.saturating_add(issuer.leeway.saturating_mul(2)));
    // Nor does anything that is issued here.
    let issued = i64::try_from(gateway.desk.longest / 1000).unwrap_or(i64::MAX);
    let longest = longest.max().unwrap_or(0).max(certificates).max(issued);
    let expires_at = now.max(before).saturating_add(longest).saturating_add(MARGIN);
    Ok(Order { kind, key, mark, expires_at, ack })
}

/// A second up to which tokens die. One in the future would kill logins that have not happened yet.
fn before_of(before: &Value, latest: i64) -> Result<i64, Fault> {
    let seconds =
        before.as_i64().filter(|before| *before > 0).ok_or_else(|| fault("`before` is no unix time in seconds"))?;
    if seconds > latest {
        return Err(fault(format!(
            "`before` is in the future ({seconds}, at most {latest} now): the next logins would be dead as well"
        )));
    }
    Ok(seconds)
}

/// A token has to be a real one: what is revoked must be what would be accepted.
fn by_token(gateway: &Gateway, text: &str, now: i64) -> Result<Order, Fault> {
    let garbage = || fault("this is no token: three parts of base64url with dots between them, strict JSON inside");
    let bearer = Bearer::from_text(text.trim()).map_err(|_| garbage())?;
    let token = UnverifiedToken::parse(bearer).map_err(|_| garbage())?;
    let iss = token.claims.text("iss").ok().flatten().unwrap_or_default().to_owned();
    let issuers = gateway.authenticator.issuers();
    let issuer = issuers
        .iter()
        .find(|issuer| *issuer.issuer == *iss)
        .ok_or_else(|| fault("the token is of no configured issuer, so it is not accepted anyway"))?;
    let (_, token) = issuer.check_signature(token).map_err(|denial| {
        let is_late = matches!(denial, Denial::KeysUnavailable | Denial::UnknownKey);
        if is_late && matches!(issuer.keys, KeySource::Remote(_)) {
            // The keys may arrive a moment later, and the token would pass then.
            let text = "not revoked: the issuer's keys are away; use the token's `jti`, `sid` or `sub`";
            return Fault(StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
        }
        fault(format!("the token is not accepted anyway ({})", denial.label()))
    })?;
    let expires = token
        .claims
        .date("exp")
        .ok()
        .flatten()
        .ok_or_else(|| fault("the token has no `exp`, so it is not accepted anyway"))?;
    let ends = expires.saturating_add(issuer.leeway);
    if ends <= now {
        return Err(fault("the token has expired, so it is not accepted anyway"));
    }
    let jti = token.claims.text("jti").ok().flatten();
    let jti = jti.ok_or_else(|| fault("the token has no `jti` to revoke it by; revoke its `sub` or `sid`"))?;
    let key = pattern(gateway, Kind::Jti)?.key(jti, &issuer.issuer);
    Ok(Order { kind: Kind::Jti, key, mark: Mark::Presence, expires_at: ends.saturating_add(MARGIN), ack: Ack::Primary })
}

/// A client's certificate, as PEM.
fn by_certificate(gateway: &Gateway, pem: &Value, members: &Map<String, Value>, now: i64) -> Result<Order, Fault> {
    let all = gateway.authenticator.certificates();
    let longest = all.iter().map(|trusted| trusted.max_lifetime).max();
    let longest = longest.ok_or_else(|| fault("no `client_certificates` are configured"))?;
    if members.keys().any(|name| name != "certificate") {
        return Err(fault("`certificate` stands alone"));
    }
    let unread = || fault("`certificate` is no certificate in PEM");
    let der = CertificateDer::from_pem_slice(pem.as_str().unwrap_or_default().as_bytes()).map_err(|_| unread())?;
    let id = certificate::id_of(&der).ok_or_else(unread)?;
    // One word in the place of an issuer for all of them.
    let word = all.first().map_or("", |trusted| &*trusted.issuer);
    let key = pattern(gateway, Kind::Jti)?.key(&id, word);
    let expires_at = now.saturating_add(longest).saturating_add(MARGIN);
    Ok(Order { kind: Kind::Jti, key, mark: Mark::Presence, expires_at, ack: Ack::Primary })
}

/// What is named, and its key: the one of `jti`, `sid`, `sub`; or the issuer alone; or all.
fn named(gateway: &Gateway, members: &Map<String, Value>) -> Result<(Kind, String), Fault> {
    let is_all = match members.get("all") {
        None => false,
        Some(Value::Bool(true)) => true,
        Some(Value::String(text)) if text == "true" => true,
        Some(_) => return Err(fault("`all` is `true`, or is left out")),
    };
    let claims = [Kind::Jti, Kind::Sid, Kind::Sub].into_iter();
    let mut given = claims.filter_map(|kind| members.get(kind.name()).map(|value| (kind, value)));
    match (given.next(), given.next()) {
        (Some((kind, Value::String(text))), None) if !text.is_empty() && !is_all => {
            let issuer = issuer(gateway, members, kind)?.unwrap_or_default();
            Ok((kind, pattern(gateway, kind)?.key(text, issuer)))
        }
        (None, _) if is_all && !members.contains_key("issuer") => {
            Ok((Kind::All, pattern(gateway, Kind::All)?.key("", "")))
        }
        (None, _) if !is_all && members.contains_key("issuer") => {
            let issuer = issuer(gateway, members, Kind::Iss)?.unwrap_or_default();
            Ok((Kind::Iss, pattern(gateway, Kind::Iss)?.key(issuer, issuer)))
        }
        _ => Err(fault(
            "exactly one of `token`, `jti`, `sid`, `sub` has to be given, as text; or `issuer` alone; or `all`: true",
        )),
    }
}

/// What keys hold of the issuer that is named, or of the only one; needed only where they hold one.
fn issuer<'g>(gateway: &'g Gateway, members: &Map<String, Value>, kind: Kind) -> Result<Option<&'g str>, Fault> {
    let vouchers = || gateway.authenticator.vouchers();
    let names = || vouchers().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let wanted = match members.get("issuer") {
        Some(name) => Some(name.as_str().ok_or_else(|| fault("`issuer` is a name, as text"))?),
        None if pattern(gateway, kind)?.names_issuer() => None,
        None => return Ok(None),
    };
    let mut found: Vec<&str> =
        vouchers().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name)).map(|(_, issuer)| issuer).collect();
    found.sort_unstable();
    found.dedup();
    match (found.as_slice(), wanted) {
        ([only], _) => Ok(Some(only)),
        ([], _) => Err(fault(format!("unknown issuer; declared issuers: {}", names()))),
        // SECURITY: what is written for another one than was meant takes nothing back, and says that it did.
        (_, None) => Err(fault(format!("`issuer` is needed, since the key holds it; declared issuers: {}", names()))),
        (_, Some(name)) => Err(fault(format!(
            "`{}` is the name of several, whose keys are not the same; give one of them another name",
            name.escape_debug()
        ))),
    }
}

fn pattern(gateway: &Gateway, kind: Kind) -> Result<&KeyPattern, Fault> {
    let pattern = gateway.authenticator.patterns().of(kind);
    pattern.ok_or_else(|| fault(format!("`revocation.keys.{}` is not configured", kind.name())))
}

fn store(gateway: &Gateway) -> Result<&Store, Fault> {
    let store = gateway.authenticator.store().map(AsRef::as_ref);
    store.ok_or_else(|| Fault(StatusCode::CONFLICT, "no store is configured".to_owned()))
}

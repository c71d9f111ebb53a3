//! A service's answer to a login becomes credentials.
//!
//! 1. Any status but 200 goes to the client as it came.
//! 2. A 200 is an object of strict JSON with `sub`, and what of it becomes claims is said by the route; anything else
//!    is 502, and the log says why.
//! 3. A login begins after everything that took earlier ones back: what is issued in the second of a logout would be as
//!    dead as what was issued before it, so that the answer waits until that second is over.
//! 4. What is in the store is there before the client has what names it.

use std::time::Duration;

use http::header::ORIGIN;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::family::{Family, Login, RefreshToken, random};
use super::session::{NewSession, SessionMaker};
use super::tokens::{TokenIssuer, Which};
use super::wish::{Only, Wish};
use super::{Desk, Issued, answer, unknown};
use crate::authenticate::bearer::MAX_TOKEN;
use crate::authenticate::session::MAX_RECORD;
use crate::authenticate::{Authenticator, json};
use crate::clock::{self, Moment};
use crate::denial::Denial;
use crate::forward::body::Answer;
use crate::forward::{ForwardError, Phase};
use crate::origin::{Origin, is_from};
use crate::refusal::Refusal;
use crate::route::{OnSuccess, Route};
use crate::store::{Asker, StoreError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest answer of a service to a login, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest subject, in bytes.
const MAX_SUBJECT: usize = 256;
/// How far in the future what took a subject back may be, in seconds; one that is farther off is a ban.
const SOON: i64 = 5;

/// What is issued to one login.
struct Grants<'d> {
    tokens: Option<&'d TokenIssuer>,
    session: Option<&'d SessionMaker>,
    refresh_in_cookie: bool,
    met: String,
}

/// And what that is.
struct Credentials {
    sid: String,
    refresh: Option<(Family, RefreshToken)>,
    session: Option<NewSession>,
}

impl Desk {
    /// What a service's answer to a login becomes.
    ///
    /// # Errors
    /// `MalformedLogin` for a 200 that is not as agreed, `Barred` for a subject that is taken back into the future,
    /// `StandingUnknown` without a store.
    pub async fn login(
        &self,
        (route, on_success): (&Route, &OnSuccess),
        head: &Parts,
        response: Response<Answer>,
        (now, store, authenticator): (Moment, &Asker, &Authenticator),
    ) -> Result<Issued, Refusal> {
        if response.status() != StatusCode::OK {
            return Ok(Issued::nobody(response));
        }
        let login = agreed(route, on_success, response.into_body(), now).await?;
        let mut claimed = login.claims.clone();
        claimed.insert("sub".to_owned(), login.subject.as_str().into());
        if authenticator.can_tell(claimed).is_err() {
            return Err(malformed(
                route,
                "services could not be told a claim of it: it is too long, or not for its header",
            ));
        }
        let grants = self.grants(on_success, Wish::of(&head.headers));
        let began = self.first_moment(&grants, &login.subject, store).await?;
        let client = &on_success.client_id;
        let credentials = grants.begin(&login, client, began).ok_or(Denial::KeysUnavailable)?;
        let members = if let Some(issuer) = grants.tokens {
            let until = issuer.refresh.as_ref().and_then(|refresh| refresh.ends(began));
            let members = pair(issuer, &login, Which { sid: &credentials.sid, client, issued_at: began, until })?;
            let length = members.get("access_token").and_then(Value::as_str).map_or(0, str::len);
            if length > MAX_TOKEN {
                return Err(malformed(route, "its claims are longer than a token may be"));
            }
            members
        } else {
            let mut members = login.claims.clone();
            members.insert("sub".to_owned(), login.subject.as_str().into());
            members
        };
        if credentials.session.as_ref().is_some_and(|session| session.record.len() > MAX_RECORD) {
            return Err(malformed(route, "its claims are longer than a session may be"));
        }
        self.keep(&grants, &credentials, store).await?;
        let mut answer = grants.told(members, &credentials);
        // The session that the browser had is nobody's any more; beside a token its cookie would be a second credential.
        if let Some(maker) = on_success.session.and_then(|place| self.sessions.get(place)) {
            if let Some(key) = maker.left_behind(head) {
                let _best_effort = store.remove(&key).await;
            }
            if grants.session.is_none() && maker.is_shown(head) {
                answer::set_cookie(&mut answer, maker.cookie.removal());
            }
        }
        Ok(Issued::of(&login.subject, answer))
    }

    /// Whether the page that sends a login may have the cookies that come of it.
    ///
    /// # Errors
    /// `CrossSite`: a page of somebody else's would log its visitors in as whom it likes.
    pub fn check_page(&self, on_success: &OnSuccess, head: &Parts) -> Result<(), Denial> {
        // SECURITY: what is no browser says neither; a browser says at least one of them with a POST.
        if !head.headers.contains_key(ORIGIN) && !head.headers.contains_key("sec-fetch-site") {
            return Ok(());
        }
        let grants = self.grants(on_success, Wish::of(&head.headers));
        let cookie = grants.tokens.and_then(|issuer| issuer.refresh.as_ref()?.cookie.as_ref());
        let refresh = cookie.map(|(_, allowed)| allowed).filter(|_| grants.refresh_in_cookie);
        let session = grants.session.map(|maker| &maker.allowed_origins);
        let is_allowed = |allowed: &Vec<Origin>| is_from(&head.headers, allowed);
        session.into_iter().chain(refresh).all(is_allowed).then_some(()).ok_or(Denial::CrossSite)
    }

    /// What the route gives, less what the client would rather not have.
    fn grants(&self, on_success: &OnSuccess, wish: Wish) -> Grants<'_> {
        let tokens = on_success.tokens.and_then(|place| self.issuers.get(place));
        let session = on_success.session.and_then(|place| self.sessions.get(place));
        let only = wish.only.filter(|_| tokens.is_some() && session.is_some());
        let tokens = tokens.filter(|_| only != Some(Only::Session));
        let session = session.filter(|_| only != Some(Only::Tokens));
        let has_cookie =
            tokens.and_then(|issuer| issuer.refresh.as_ref()).is_some_and(|refresh| refresh.cookie.is_some());
        let refresh_in_cookie = wish.refresh_in_cookie && has_cookie;
        Grants { tokens, session, refresh_in_cookie, met: Wish::met(only, refresh_in_cookie) }
    }

    /// The first second after everything that took this subject back, by the store's clock.
    async fn first_moment(&self, grants: &Grants<'_>, subject: &str, store: &Asker) -> Result<i64, Refusal> {
        let issuers = grants.tokens.iter().map(|issuer| &issuer.issuer);
        let mut now = None;
        let mut latest = i64::MIN;
        // That of the subject is the first: its clock is the one that logouts are written by.
        let keys = issuers.chain(grants.session.iter().map(|maker| &maker.issuer));
        for key in keys.flat_map(|issuer| self.patterns.times(subject, issuer)) {
            let said = store.timed(&key).await.map_err(unknown)?;
            now = now.or(Some(said.now));
            if let Some(text) = said.text {
                let odd = || unknown(StoreError::Refused("no time".to_owned()));
                latest = latest.max(text.trim().parse::<i64>().map_err(|_| odd())?);
            }
        }
        let now = now.ok_or(Denial::StandingUnknown)?;
        let seconds = i64::try_from(now / 1000).unwrap_or(i64::MAX);
        if latest < seconds {
            return Ok(seconds);
        }
        if latest > seconds.saturating_add(SOON) {
            return Err(Refusal::Denied(Denial::Barred));
        }
        let ends = u64::try_from(latest.saturating_add(1)).unwrap_or(0).saturating_mul(1000);
        tokio::time::sleep(Duration::from_millis(ends.saturating_sub(now) + 1)).await;
        Ok(latest.saturating_add(1))
    }

    /// Keeps a login for as long as it can be refreshed, and its session for as long as it is used.
    async fn keep(&self, grants: &Grants<'_>, credentials: &Credentials, store: &Asker) -> Result<(), Refusal> {
        let refresh = grants.tokens.and_then(|issuer| issuer.refresh.as_ref());
        if let (Some(refresh), Some((family, _))) = (refresh, &credentials.refresh) {
            let text = family.write().ok_or(Denial::KeysUnavailable)?;
            store.put(&self.family_key(&credentials.sid), &text, refresh.ttl).await.map_err(unknown)?;
        }
        if let (Some(maker), Some(session)) = (grants.session, &credentials.session) {
            store.put(&session.key, &session.record, maker.life).await.map_err(unknown)?;
        }
        Ok(())
    }
}

impl Grants<'_> {
    /// Credentials of a login that begins; nothing without randomness.
    fn begin(&self, login: &Login, client: &str, began: i64) -> Option<Credentials> {
        let issuer = self.tokens.filter(|issuer| issuer.refresh.is_some());
        let mut refresh = match issuer {
            Some(issuer) => Some(Family::begin(login, &issuer.issuer, client, began)?),
            None => None,
        };
        let sid = match &refresh {
            Some((_, token)) => token.sid(),
            None => URL_SAFE_NO_PAD.encode(random::<16>()?),
        };
        let session = match self.session {
            Some(maker) => Some(maker.begin(login, &sid, began)?),
            None => None,
        };
        if let (Some((family, _)), Some(session)) = (&mut refresh, &session) {
            family.session = Some(session.key.clone());
        }
        Some(Credentials { sid, refresh, session })
    }

    /// What the client is told, and given.
    fn told(&self, mut members: Map<String, Value>, credentials: &Credentials) -> Response<Answer> {
        let refresh = self.tokens.and_then(|issuer| issuer.refresh.as_ref());
        let cookie = refresh.and_then(|refresh| refresh.cookie.as_ref()).filter(|_| self.refresh_in_cookie);
        let mut field = None;
        if let (Some((family, token)), Some(refresh)) = (&credentials.refresh, refresh) {
            let life = refresh.life_at(family.began, family.began);
            match cookie {
                Some((cookie, _)) => field = cookie.field(&token.text(), Some(life)),
                None => give(&mut members, token, life),
            }
        }
        let mut response = answer::json(members);
        answer::set_cookie(&mut response, field);
        if let (Some(maker), Some(session)) = (self.session, &credentials.session) {
            answer::set_cookie(&mut response, maker.cookie.field(&session.id, None));
        }
        answer::applied(&mut response, &self.met);
        response
    }
}

/// Who logged in, by a service's 200.
async fn agreed(route: &Route, on_success: &OnSuccess, answer: Answer, now: Moment) -> Result<Login, Refusal> {
    let left = (now.monotonic + route.limits.request_timeout).saturating_duration_since(clock::monotonic());
    let body = timeout(left, Limited::new(answer, MAX_ANSWER).collect()).await;
    let body = body.map_err(|_| ForwardError::TimedOut(Phase::Response))?;
    let body = body.map_err(|_| malformed(route, "it breaks off, or is longer than 64 KiB"))?.to_bytes();
    read(&body, &on_success.claims).map_err(|reason| malformed(route, reason))
}

fn malformed(route: &Route, reason: &'static str) -> Refusal {
    tracing::error!(route = &*route.id, reason, "the service's answer to a login is not as agreed");
    Refusal::Failed(ForwardError::MalformedLogin)
}

/// An access token as a client gets it (RFC 6749 §5.1).
pub(super) fn pair(issuer: &TokenIssuer, login: &Login, which: Which<'_>) -> Result<Map<String, Value>, Denial> {
    let mut members = Map::new();
    members.insert("access_token".to_owned(), issuer.access_token(login, which)?.into());
    members.insert("token_type".to_owned(), "Bearer".into());
    members.insert("expires_in".to_owned(), issuer.life(which).into());
    if let Some(Value::String(scope)) = login.claims.get("scope") {
        members.insert("scope".to_owned(), scope.as_str().into());
    }
    Ok(members)
}

/// And the refresh token that goes with it, which lives for so many seconds.
pub(super) fn give(members: &mut Map<String, Value>, token: &RefreshToken, life: u64) {
    members.insert("refresh_token".to_owned(), token.text().into());
    members.insert("refresh_expires_in".to_owned(), life.into());
}

/// Who logged in, by what the service says.
fn read(body: &[u8], claims: &[Box<str>]) -> Result<Login, &'static str> {
    let mut members = json::object(body).ok_or("it is no object of strict JSON")?;
    let subject = match members.remove("sub") {
        Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_SUBJECT => text,
        // Ids of members are numbers in many a table.
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        Some(_) => return Err("`sub` is neither text of at most 256 bytes nor a whole number"),
        None => return Err("it has no `sub`"),
    };
    if subject.chars().any(char::is_control) {
        return Err("`sub` has control characters");
    }
    let taken = claims.iter().filter_map(|name| Some((name.to_string(), members.remove(&**name)?)));
    let claims: Map<String, Value> = taken.filter(|(_, value)| !value.is_null()).collect();
    for name in ["roles", "scope"] {
        let is_text = |value: &Value| match value {
            Value::String(_) => true,
            Value::Array(list) => list.iter().all(Value::is_string),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        };
        if claims.get(name).is_some_and(|value| !is_text(value)) {
            return Err("`roles` or `scope` is neither text nor a list of texts");
        }
    }
    if claims.values().any(json::has_control) {
        return Err("a claim has control characters");
    }
    Ok(Login { subject, claims })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_strict_json_with_a_subject_and_only_what_is_named_becomes_a_claim() {
        let names: Vec<Box<str>> = vec!["name".into(), "roles".into()];
        let login = read(
            r#"{"sub":"hong","name":"홍길동","roles":["customer"],"password_hash":"x","iss":"y"}"#.as_bytes(),
            &names,
        )
        .expect("as agreed");
        assert_eq!(login.subject, "hong");
        assert_eq!(Value::Object(login.claims).to_string(), r#"{"name":"홍길동","roles":["customer"]}"#);
        assert_eq!(
            read(br#"{"sub":42,"name":null}"#, &names).map(|login| (login.subject, login.claims.len())),
            Ok(("42".to_owned(), 0))
        );
        for odd in [
            "",
            "[]",
            "null",
            "{}",
            r#"{"sub":""}"#,
            r#"{"sub":null}"#,
            r#"{"sub":1.5}"#,
            r#"{"sub":["a"]}"#,
            r#"{"sub":"a","sub":"b"}"#,
            r#"{"sub":"a"} x"#,
            "{\"sub\":\"a\\n\"}",
            r#"{"sub":"a","roles":{"x":1}}"#,
            r#"{"sub":"a","roles":[1]}"#,
            r#"{"sub":"a","roles":7}"#,
        ] {
            assert!(read(odd.as_bytes(), &names).is_err(), "{odd}");
        }
        assert!(read(format!("{{\"sub\":\"{}\"}}", "a".repeat(257)).as_bytes(), &names).is_err());
    }
}

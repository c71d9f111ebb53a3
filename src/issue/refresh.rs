//! A refresh token becomes the next pair, or is given up.
//!
//! 1. The token comes in the body, or in its cookie from a page that may send it.
//! 2. What becomes of it is decided by the login's family as the store has it, and counts once that family has been
//!    replaced by the one after it, in one step: of many requests with one token one turns it on, and the others
//!    find that it was turned on a moment ago.
//! 3. Then the store says whether the login was taken back; the clock was read before, so that what is issued beside a
//!    logout is as dead as what was issued before it.
//! 4. A token that somebody has used since ends its login: the copy and the original, and the access tokens of both.
//!
//! Sources: RFC 6749 §6, RFC 7009, RFC 9700 §4.14.

use http::StatusCode;
use http::request::Parts;

use super::family::{Family, RefreshToken, Turn};
use super::form::Form;
use super::login::{give, pair};
use super::tokens::{Refresh, TokenIssuer, Which};
use super::{Asked, Desk, Issued, answer, unknown};
use crate::cookie;
use crate::denial::Denial;
use crate::origin::is_from;
use crate::refusal::Refusal;
use crate::store::{Ack, Asker, Standing};

/// How often one request tries to turn a token on that others turn on as well.
const TRIES: usize = 100;

/// A token, and how it came.
struct Presented {
    token: RefreshToken,
    is_in_cookie: bool,
}

impl Desk {
    /// `POST`, with `grant_type=refresh_token&refresh_token=...`, or the cookie.
    ///
    /// # Errors
    /// `InvalidGrant`, `ReusedGrant`, `MalformedGrant`, `CrossSite`, `StandingUnknown`.
    pub(super) async fn refresh(&self, issuer: &TokenIssuer, asked: Asked<'_>) -> Result<Issued, Refusal> {
        let Asked { head, upload, now, store } = asked;
        let refresh = issuer.refresh.as_ref().ok_or(Denial::InvalidGrant)?;
        let form = Form::read(head, upload).await?;
        if form.value("grant_type").is_some_and(|kind| kind != "refresh_token") {
            return Err(Denial::MalformedGrant.into());
        }
        let Presented { token, is_in_cookie } = presented(head, &form, "refresh_token", refresh)?;
        let sid = token.sid();
        let (family, next) = self.turned(issuer, refresh, &token, store).await?;
        if refresh.max_life.is_some_and(|longest| now.unix >= family.began.saturating_add(longest)) {
            return Err(Denial::InvalidGrant.into());
        }
        let keys = self.standing_keys(&[&issuer.issuer], (&family.subject, Some(&sid)), family.began);
        match store.standing(&keys).await {
            Standing::Clear => {}
            Standing::Revoked => return Err(Denial::InvalidGrant.into()),
            Standing::Unknown => return Err(Denial::StandingUnknown.into()),
        }
        // Never before its login: that may have waited for a second to end which is not over by every clock.
        let issued_at = now.unix.max(family.began);
        let which = Which { sid: &sid, client: &family.client, issued_at };
        let mut members = pair(issuer, &family.login(), which)?;
        let next = next.unwrap_or(token);
        if !is_in_cookie {
            give(&mut members, &next, refresh.ttl);
        }
        let mut response = answer::json(members);
        if let Some((cookie, _)) = refresh.cookie.as_ref().filter(|_| is_in_cookie) {
            answer::set_cookie(&mut response, cookie.field(&next.text(), Some(refresh.ttl / 1000)));
        }
        Ok(Issued::of(&family.subject, response))
    }

    /// `POST`, with `token=...`: 200 whether or not there was such a login (RFC 7009 §2.2).
    ///
    /// # Errors
    /// `MalformedGrant`, `CrossSite`, `StandingUnknown`.
    pub(super) async fn revoke(&self, issuer: &TokenIssuer, asked: Asked<'_>) -> Result<Issued, Refusal> {
        let Asked { head, upload, store, now: _ } = asked;
        let refresh = issuer.refresh.as_ref().ok_or(Denial::InvalidGrant)?;
        let form = Form::read(head, upload).await?;
        let done = || {
            let mut response = answer::empty(StatusCode::OK);
            answer::set_cookie(&mut response, refresh.cookie.as_ref().and_then(|(cookie, _)| cookie.removal()));
            response
        };
        let token = match presented(head, &form, "token", refresh) {
            Ok(presented) => presented.token,
            Err(Denial::InvalidGrant) => return Ok(Issued::nobody(done())),
            Err(denial) => return Err(denial.into()),
        };
        let sid = token.sid();
        let said = store.timed(&self.family_key(&sid)).await.map_err(unknown)?;
        let family = said.text.as_deref().and_then(Family::read);
        let Some(family) = family.filter(|family| is_of(family, issuer) && family.has_had(&token)) else {
            return Ok(Issued::nobody(done()));
        };
        self.end(issuer, &sid, Ack::All).await?;
        self.forget(&sid, Some(&family), store).await;
        Ok(Issued::of(&family.subject, done()))
    }

    /// The family after a token's turn, and the token that follows; none where it stays.
    async fn turned(
        &self,
        issuer: &TokenIssuer,
        refresh: &Refresh,
        token: &RefreshToken,
        store: &Asker,
    ) -> Result<(Family, Option<RefreshToken>), Refusal> {
        let sid = token.sid();
        let key = self.family_key(&sid);
        for _ in 0..TRIES {
            let said = store.timed(&key).await.map_err(unknown)?;
            let text = said.text.ok_or(Denial::InvalidGrant)?;
            let family = Family::read(&text).filter(|family| is_of(family, issuer)).ok_or(Denial::InvalidGrant)?;
            match family.turn(token, said.now, refresh.turning) {
                Turn::Rotated(next, following) => {
                    let written = next.write().ok_or(Denial::KeysUnavailable)?;
                    if store.swap(&key, &text, &written, refresh.ttl).await.map_err(unknown)? {
                        return Ok((*next, Some(following)));
                    }
                }
                Turn::Kept => {
                    if store.swap(&key, &text, &text, refresh.ttl).await.map_err(unknown)? {
                        return Ok((family, None));
                    }
                }
                Turn::Again(following) => return Ok((family, Some(following))),
                Turn::Unknown => return Err(Denial::InvalidGrant.into()),
                Turn::Reused => {
                    let subject = &*family.subject;
                    if refresh.reuse_ends {
                        tracing::warn!(subject, sid, "a refresh token was used again: its login ends");
                        self.end(issuer, &sid, Ack::Primary).await?;
                        self.forget(&sid, Some(&family), store).await;
                    } else {
                        tracing::warn!(subject, sid, "a refresh token was used again");
                    }
                    return Err(Denial::ReusedGrant.into());
                }
            }
        }
        // It is turned on faster than it can be read.
        Err(Denial::StandingUnknown.into())
    }
}

/// Whether a login is this issuer's.
fn is_of(family: &Family, issuer: &TokenIssuer) -> bool {
    *family.issuer == *issuer.issuer
}

/// The one token that a request has, in its body or in its cookie.
fn presented(head: &Parts, form: &Form, name: &str, refresh: &Refresh) -> Result<Presented, Denial> {
    let mut cookies = refresh.cookie.iter().flat_map(|(cookie, _)| cookie::values(&head.headers, &cookie.name));
    let (text, is_in_cookie) = match (form.value(name), cookies.next()) {
        // A browser sends its cookie whether or not a page of its sends a token.
        (Some(text), _) => (text, false),
        (None, Some(value)) => {
            let allowed = refresh.cookie.as_ref().map(|(_, allowed)| allowed.as_slice()).unwrap_or_default();
            if !is_from(&head.headers, allowed) {
                return Err(Denial::CrossSite);
            }
            if cookies.next().is_some() {
                return Err(Denial::MalformedGrant);
            }
            (std::str::from_utf8(value).map_err(|_| Denial::InvalidGrant)?, true)
        }
        (None, None) => return Err(Denial::MalformedGrant),
    };
    Ok(Presented { token: RefreshToken::parse(text).ok_or(Denial::InvalidGrant)?, is_in_cookie })
}

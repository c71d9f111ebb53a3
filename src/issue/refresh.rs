//! A refresh token becomes the next pair, or is given up.
//!
//! 1. The token comes in the body, or in its cookie from a page that may send it.
//! 2. First it is asked whether the login has been taken back: while the store does not say, nothing is turned on that the
//!    client would not learn of. What takes the login back after that takes back what is issued here too: a mark by `sid`
//!    whatever it says, a time because the clock of the store was read before.
//! 3. What becomes of the token is decided by the login's family as the store has it, and counts once that family has been
//!    replaced by the one after it, in one step: of many requests with one token one turns it on, and the others
//!    find that it was turned on a moment ago.
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
use crate::clock;
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

/// A login after a token's turn.
struct Turned {
    family: Family,
    /// The token that is good now.
    token: RefreshToken,
    /// What time it was before it was asked whether the login goes on, in unix seconds by the store's clock.
    at: i64,
}

impl Desk {
    /// `POST`, with `grant_type=refresh_token&refresh_token=...`, or the cookie.
    ///
    /// # Errors
    /// `InvalidGrant`, `ReusedGrant`, `MalformedGrant`, `CrossSite`, `StandingUnknown`.
    pub(super) async fn refresh(&self, issuer: &TokenIssuer, asked: Asked<'_>) -> Result<Issued, Refusal> {
        let Asked { head, upload, store, .. } = asked;
        let refresh = issuer.refresh.as_ref().ok_or(Denial::InvalidGrant)?;
        let form = Form::read(head, upload).await?;
        if form.value("grant_type").is_some_and(|kind| kind != "refresh_token") {
            return Err(Denial::MalformedGrant("unsupported_grant_type").into());
        }
        let Presented { token, is_in_cookie } = presented(head, &form, refresh)?;
        let sid = token.sid();
        let Turned { family, token, at } = self.turned((issuer, refresh), token, store).await?;
        // Never before its login: that may have waited for a second to end.
        let until = refresh.ends(family.began);
        let which = Which { sid: &sid, client: &family.client, issued_at: at.max(family.began), until };
        let mut members = pair(issuer, &family.login(), which)?;
        let life = refresh.life_at(family.began, at);
        if !is_in_cookie {
            give(&mut members, &token, life);
        }
        let mut response = answer::json(members);
        if let Some((cookie, _)) = refresh.cookie.as_ref().filter(|_| is_in_cookie) {
            answer::set_cookie(&mut response, cookie.field(&token.text(), Some(life)));
        }
        Ok(Issued::of(&family.subject, response))
    }

    /// `POST`, with `token=...`: 200 whether or not there was such a login (RFC 7009 §2.2).
    ///
    /// # Errors
    /// `MalformedGrant`, for an access token too, which is not given up here; `StandingUnknown`.
    pub(super) async fn revoke(&self, issuer: &TokenIssuer, asked: Asked<'_>) -> Result<Issued, Refusal> {
        let Asked { head, upload, store, .. } = asked;
        let form = Form::read(head, upload).await?;
        let text = form.value("token").ok_or(Denial::MalformedGrant("invalid_request"))?;
        if text.contains('.') {
            return Err(Denial::MalformedGrant("unsupported_token_type").into());
        }
        let Some(token) = RefreshToken::parse(text) else { return Ok(Issued::nobody(answer::empty(StatusCode::OK))) };
        let sid = token.sid();
        let said = store.timed(&self.family_key(&sid)).await.map_err(unknown)?;
        let family = said.text.as_deref().and_then(Family::read);
        let Some(family) = family.filter(|family| is_of(family, issuer) && family.has_had(&token)) else {
            return Ok(Issued::nobody(answer::empty(StatusCode::OK)));
        };
        self.end(&issuer.issuer, &sid, Ack::All, store).await?;
        self.forget(&sid, store).await;
        // SECURITY: no cookie is taken away: any page can have a token of its own given up, and the cookie is the visitor's.
        Ok(Issued::of(&family.subject, answer::empty(StatusCode::OK)))
    }

    /// A login after a token's turn.
    async fn turned(
        &self,
        (issuer, refresh): (&TokenIssuer, &Refresh),
        token: RefreshToken,
        store: &Asker,
    ) -> Result<Turned, Refusal> {
        let sid = token.sid();
        let key = self.family_key(&sid);
        for _ in 0..TRIES {
            let asked = clock::monotonic();
            let said = store.timed(&key).await.map_err(unknown)?;
            let text = said.text.ok_or(Denial::InvalidGrant)?;
            let family = Family::read(&text).filter(|family| is_of(family, issuer)).ok_or(Denial::InvalidGrant)?;
            let turn = family.turn(&token, said.now, refresh.turning);
            if matches!(turn, Turn::Unknown) || family.is_over(said.now, refresh.ttl, refresh.max_life) {
                return Err(Denial::InvalidGrant.into());
            }
            let at = self.goes_on(issuer, &sid, &family, store).await?;
            let (next, following) = match turn {
                Turn::Rotated(next, following) => (next, Some(following)),
                Turn::Kept(next) => (next, None),
                Turn::Again(token) => return Ok(Turned { family, token, at }),
                Turn::Unknown => return Err(Denial::InvalidGrant.into()),
                Turn::Reused => return Err(self.reused((issuer, refresh), &sid, &family, store).await),
            };
            let written = next.write().ok_or(Denial::KeysUnavailable)?;
            // Not later than the client is told that there was no answer: with the token that it still has it would be taken
            // for who has stolen it.
            let left = clock::monotonic().saturating_duration_since(asked) + self.timeout;
            let by = said.now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            if store.swap(&key, (&text, &written), refresh.ttl, by).await.map_err(unknown)? {
                return Ok(Turned { family: *next, token: following.unwrap_or(token), at });
            }
        }
        // It is turned on faster than it can be read.
        Err(Denial::StandingUnknown.into())
    }

    /// What time it is, if the login has not been taken back.
    async fn goes_on(&self, issuer: &TokenIssuer, sid: &str, family: &Family, store: &Asker) -> Result<i64, Refusal> {
        let at = self.time(&issuer.issuer, &family.subject, store).await?;
        match store.standing(&self.standing_keys(&issuer.issuer, (&family.subject, sid), family.began)).await {
            Standing::Clear => Ok(at),
            Standing::Revoked => {
                self.forget(sid, store).await;
                Err(Denial::InvalidGrant.into())
            }
            Standing::Unknown => Err(Denial::StandingUnknown.into()),
        }
    }

    /// What comes of a token that somebody has used since.
    async fn reused(
        &self,
        (issuer, refresh): (&TokenIssuer, &Refresh),
        sid: &str,
        family: &Family,
        store: &Asker,
    ) -> Refusal {
        let subject = &*family.subject;
        if !refresh.reuse_ends {
            tracing::warn!(subject, sid, "a refresh token was used again");
            return Denial::ReusedGrant.into();
        }
        tracing::warn!(subject, sid, "a refresh token was used again: its login ends");
        if let Err(refusal) = self.end(&issuer.issuer, sid, Ack::Primary, store).await {
            return refusal;
        }
        self.forget(sid, store).await;
        Denial::ReusedGrant.into()
    }
}

/// Whether a login is this issuer's.
fn is_of(family: &Family, issuer: &TokenIssuer) -> bool {
    *family.issuer == *issuer.issuer
}

/// The one token that a request has, in its body or in its cookie.
fn presented(head: &Parts, form: &Form, refresh: &Refresh) -> Result<Presented, Denial> {
    let mut cookies = refresh.cookie.iter().flat_map(|(cookie, _)| cookie::values(&head.headers, &cookie.name));
    let malformed = Denial::MalformedGrant("invalid_request");
    let (text, is_in_cookie) = match (form.value("refresh_token"), cookies.next()) {
        // A browser sends its cookie whether or not a page of its sends a token.
        (Some(text), _) => (text, false),
        (None, Some(value)) => {
            let allowed = refresh.cookie.as_ref().map(|(_, allowed)| allowed.as_slice()).unwrap_or_default();
            if !is_from(&head.headers, allowed) {
                return Err(Denial::CrossSite);
            }
            if cookies.next().is_some() {
                return Err(malformed);
            }
            (std::str::from_utf8(value).map_err(|_| Denial::InvalidGrant)?, true)
        }
        (None, None) => return Err(malformed),
    };
    Ok(Presented { token: RefreshToken::parse(text).ok_or(Denial::InvalidGrant)?, is_in_cookie })
}

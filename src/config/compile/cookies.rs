//! Cookies that the gateway sets: what browsers would not take is a mistake.

use super::sessions::origins;
use crate::config::file::{RefreshCookie, Sessions as SessionsSection};
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::place::At;
use crate::cookie::{self, SameSite, SetCookie};

/// The cookie of an issuer's refresh tokens, and the pages that may send it.
pub fn refresh_cookie(
    own: &At<RefreshCookie>,
    path: &str,
    mistakes: &mut Mistakes,
) -> (SetCookie, Vec<crate::route::Origin>) {
    let cookie = SetCookie {
        name: own.name.as_str().into(),
        path: path.into(),
        domain: None,
        secure: *own.secure,
        http_only: true,
        same_site: *own.same_site,
    };
    check_cookie(&own.name, &cookie, mistakes);
    (cookie, origins(&own.allowed_origins, mistakes))
}

/// The cookie of sessions that are made here.
pub fn session_cookie(section: &At<SessionsSection>, mistakes: &mut Mistakes) -> SetCookie {
    let own = &section.cookie;
    let cookie = SetCookie {
        name: own.name.as_str().into(),
        path: own.path.as_str().into(),
        domain: own.domain.as_ref().map(|domain| domain.as_str().into()),
        secure: *own.secure,
        http_only: *own.http_only,
        same_site: *own.same_site,
    };
    check_cookie(&own.name, &cookie, mistakes);
    cookie
}

/// What browsers would not take (RFC 6265bis §4.1.3, §5.6).
fn check_cookie(name: &At<String>, cookie: &SetCookie, mistakes: &mut Mistakes) {
    let mut wrong = |found: &str, allowed: &str| {
        mistakes.add(Mistake::at(name, found).allowed(allowed));
    };
    let lower = name.to_ascii_lowercase();
    if !cookie::is_name(name) {
        wrong("this is no name of a cookie", "letters, digits and signs of a header name");
    }
    if lower.starts_with("__secure-") && !cookie.secure {
        wrong("browsers do not take a cookie of this name", "`__Secure-` goes with `secure: true`");
    }
    if lower.starts_with("__host-") && (!cookie.secure || &*cookie.path != "/" || cookie.domain.is_some()) {
        wrong(
            "browsers do not take a cookie of this name",
            "`__Host-` goes with `secure: true`, the path `/` and no `domain`",
        );
    }
    if cookie.same_site == SameSite::None && !cookie.secure {
        wrong("browsers do not take this cookie", "`same_site: none` goes with `secure: true`");
    }
    let is_fit = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';' && byte != b',');
    if !cookie.path.starts_with('/') || !is_fit(&cookie.path) {
        wrong("its path cannot stand in a cookie", "a path: `/`");
    }
    if cookie.domain.as_ref().is_some_and(|domain| domain.is_empty() || !is_fit(domain)) {
        wrong("its domain cannot stand in a cookie", "a name: `example.com`");
    }
}

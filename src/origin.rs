//! Origins of pages (RFC 6454), and whether a request comes from one of ours.

use http::HeaderMap;
use http::header::{HOST, ORIGIN};

/// One origin, or those whose host ends in one name: `https://shop.example.com`, `https://*.example.com:8443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// With `://`.
    pub scheme: &'static str,
    /// In lower case; of a wildcard what follows the first label, with its dot.
    pub host: String,
    /// Whether one or more labels stand before `host`.
    pub is_wildcard: bool,
    /// With its colon; empty where it is the scheme's own.
    pub port: String,
}

impl Origin {
    /// Whether the value of an `Origin` field is this one, or fits the wildcard. Browsers write it in one
    /// way (RFC 6454 §6.2), so no other spelling is taken.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        let host = text.strip_prefix(self.scheme).and_then(|rest| rest.strip_suffix(&self.port));
        let labels = host.and_then(|host| host.strip_suffix(&self.host));
        match labels {
            None => false,
            Some(labels) if self.is_wildcard => labels.split('.').all(is_label),
            Some(labels) => labels.is_empty(),
        }
    }
}

fn is_label(label: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    !label.is_empty() && label.bytes().all(is_fit)
}

/// Whether a request comes from one of these pages, or from one of the very host that it is for: a browser says so itself
/// (`Sec-Fetch-Site`), and pages cannot make it say something else. An `Origin` beside that has to agree.
#[must_use]
pub fn is_from(headers: &HeaderMap, allowed: &[Origin]) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    let is_own = sites.next().is_some_and(|site| site == "same-origin") && sites.next().is_none();
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) => origin
            .to_str()
            .is_ok_and(|origin| (is_own && is_of_host(origin, headers)) || allowed.iter().any(|page| page.is(origin))),
        (None, _) => is_own,
        (Some(_), Some(_)) => false,
    }
}

/// Whether an origin is of the host that a request names; who ends TLS before us is not asked about the scheme.
fn is_of_host(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let named = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    host.zip(named).is_some_and(|(host, named)| host.eq_ignore_ascii_case(named))
}

//! A request becomes one canonical path on one route.
//!
//! 1. No `CONNECT` and no `TRACE`: 400. Target and header sizes within the limits: 414, 431. A `CONNECT` that names a
//!    protocol (RFC 8441) has become a `GET` that asks for it, or is 501.
//! 2. Exactly one `Host`, well formed: 400. How the message is framed was settled by the byte guard.
//! 3. A canonical path: 400.
//! 4. One route: 404, 405. Of a preflight, where that has `cors`, the route of what is asked about.
//! 5. `%2F` only where the route allows it, and no other route protects the path that it decodes to: 400.
//! 6. An announced body within the route's limit: 413.
//! 7. Of a client of HTTP/2 no other protocol than the route offers: 501.
//! 8. Where the route rewrites the path: to a canonical one again, that no other route protects: 400.
//!
//! Pure: no IO, no clock, no log. It does not look at credentials.
//!
//! Sources: RFC 9112 §3.2, RFC 3986 §6.2.2, RFC 9110 §15.5.

pub mod host;
pub mod path;
pub mod pattern;
pub mod router;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method};
use hyper::ext::Protocol as Asked;

use self::path::CanonicalPath;
use self::router::{Parameters, Router};
use crate::denial::Denial;
use crate::route::{Destination, Protocol, Route};

/// A request known to be well formed, on exactly one route.
#[derive(Debug)]
pub struct Admitted<'g> {
    /// The route.
    pub route: &'g Route,
    /// The path that matched, which is the path that the upstream gets unless the route rewrites it.
    pub path: CanonicalPath,
    /// What the route rewrites it to.
    rewritten: Option<Box<CanonicalPath>>,
    /// Whether it is a browser's question about a request that this route takes (CORS).
    pub is_preflight: bool,
    parameters: Parameters,
}

impl Admitted<'_> {
    /// The path that the upstream gets.
    #[must_use]
    pub const fn onward(&self) -> &CanonicalPath {
        match &self.rewritten {
            Some(rewritten) => rewritten,
            None => &self.path,
        }
    }

    /// The text of the path parameter at a place, decoded.
    #[must_use]
    pub fn parameter(&self, place: usize) -> Option<String> {
        let (start, end) = *self.parameters.get(place)?;
        let segment = self.path.as_str().get(start as usize..end as usize)?;
        Some(crate::percent::decode(segment))
    }
}

/// All routes, and how large a request's head may be.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Route>,
    router: Router,
    limits: HeadLimits,
    /// The paths of what is done to its end.
    lasting: Vec<String>,
}

/// How large a request's head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Longest request target in bytes.
    pub target: usize,
    /// Most bytes of all header names and values together.
    pub headers: usize,
    /// Most header fields.
    pub header_count: usize,
}

impl Routes {
    /// The routes of a configuration.
    #[must_use]
    pub fn new(routes: Vec<Route>, limits: HeadLimits) -> Self {
        let router = Router::new(&routes);
        let lasting = routes
            .iter()
            .filter(|route| matches!(route.leads_to, Destination::Endpoint(endpoint) if endpoint.is_done_to_its_end()));
        let lasting = lasting.map(|route| route.matching.pattern.as_str().to_owned()).collect();
        Self { routes, router, limits, lasting }
    }

    /// Whether a request for a path, as it is written, is seen through whatever becomes of its client.
    #[must_use]
    pub fn is_done_to_its_end(&self, path: &str) -> bool {
        self.lasting.iter().any(|lasting| lasting == path)
    }

    /// Every route, by its number.
    #[must_use]
    pub fn all(&self) -> &[Route] {
        &self.routes
    }

    /// Admits a request to its route.
    ///
    /// # Errors
    /// `TargetTooLong`, `HeadersTooLarge`, `MalformedRequest`, `AmbiguousPath`, `NoRoute`,
    /// `MethodNotAllowed`, `BodyTooLarge`, `ProtocolNotOffered`: see the list above.
    pub fn admit(&self, request: &Parts) -> Result<Admitted<'_>, Denial> {
        // A tunnel is not offered, and an echo would show the client what only upstreams are told.
        let asked_protocol = request.extensions.get::<Asked>();
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            return Err(asked_protocol.map_or(Denial::MalformedRequest, |_| Denial::ProtocolNotOffered));
        }
        let target = request.uri.path_and_query().ok_or(Denial::MalformedRequest)?;
        if target.as_str().len() > self.limits.target {
            return Err(Denial::TargetTooLong);
        }
        self.measure(&request.headers)?;
        let host = host::of(request)?;
        let path = CanonicalPath::of(target)?;
        let asked = self.preflight(request, &host, &path);
        let method = asked.as_ref().unwrap_or(&request.method);
        let (number, parameters) = self.router.find(&host, path.as_str(), method)?;
        let route = self.routes.get(number).ok_or(Denial::NoRoute)?;
        if path.has_encoded_slash() && !(route.encoded_slash && self.leads_around_nothing(number, &host, &path, method))
        {
            return Err(Denial::AmbiguousPath);
        }
        if announced_length(&request.headers)?.is_some_and(|length| length > route.limits.body) {
            return Err(Denial::BodyTooLarge);
        }
        if asked_protocol.is_some_and(|asked| !offers(route, asked)) {
            return Err(Denial::ProtocolNotOffered);
        }
        let rewritten = onward(route, &path)?;
        let is_preflight = asked.is_some();
        Ok(Admitted { route, path, rewritten, is_preflight, parameters })
    }

    /// The method that a browser asks about before it sends it, where the route that takes it has `cors`;
    /// elsewhere such an `OPTIONS` is a request like others.
    fn preflight(&self, request: &Parts, host: &str, path: &CanonicalPath) -> Option<Method> {
        if request.method != Method::OPTIONS || !request.headers.contains_key(ORIGIN) {
            return None;
        }
        let asked = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let asked = Method::from_bytes(asked.as_bytes()).ok()?;
        let (number, _) = self.router.find(host, path.as_str(), &asked).ok()?;
        self.routes.get(number)?.cors.is_some().then_some(asked)
    }

    /// Whether no other route protects the path as an upstream reads it that decodes `%2F`: what one route
    /// lets in must not be what another one keeps out.
    fn leads_around_nothing(&self, number: usize, host: &str, path: &CanonicalPath, method: &Method) -> bool {
        match self.router.find(host, &path.as_str().replace("%2F", "/"), method) {
            Ok((other, _)) if other == number => true,
            Ok((other, _)) => {
                let both = self.routes.get(number).zip(self.routes.get(other));
                both.is_some_and(|(own, other)| own.protects_as(other))
            }
            Err(denial) => denial == Denial::NoRoute,
        }
    }

    fn measure(&self, headers: &HeaderMap) -> Result<(), Denial> {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if bytes > self.limits.headers || headers.len() > self.limits.header_count {
            return Err(Denial::HeadersTooLarge);
        }
        Ok(())
    }
}

/// What the route rewrites the path to; whether it does or not, what one route comes to must not be what another one
/// protects there.
fn onward(route: &Route, path: &CanonicalPath) -> Result<Option<Box<CanonicalPath>>, Denial> {
    let rewritten = route.rewrite.as_ref().map(|rewrite| path.rewritten(rewrite.strip, &rewrite.add)).transpose()?;
    let there = rewritten.as_ref().unwrap_or(path);
    let is_guarded = |path: &str| route.guarded.iter().any(|pattern| pattern.matches(path));
    // SECURITY: a service that decodes `%2F` sees another path.
    if is_guarded(there.as_str()) || (there.has_encoded_slash() && is_guarded(&there.as_str().replace("%2F", "/"))) {
        return Err(Denial::AmbiguousPath);
    }
    Ok(rewritten.map(Box::new))
}

/// Whether the route lets its requests change to this protocol.
fn offers(route: &Route, asked: &Asked) -> bool {
    Protocol::of(asked.as_ref()).is_some_and(|protocol| route.upgrade.contains(&protocol))
}

fn announced_length(headers: &HeaderMap) -> Result<Option<u64>, Denial> {
    let Some(field) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let text = field.to_str().map_err(|_| Denial::MalformedRequest)?;
    text.parse().map(Some).map_err(|_| Denial::MalformedRequest)
}

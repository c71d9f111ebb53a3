//! Where a route leads: to services, or to what the gateway does itself.

use std::sync::Arc;

/// Where a route leads.
#[derive(Clone, Debug)]
pub enum Destination {
    /// To one of these upstreams.
    Upstreams(Shares),
    /// To what the gateway itself does.
    Endpoint(Endpoint),
}

impl Destination {
    /// The places of the upstreams that it may lead to.
    pub fn upstreams(&self) -> impl Iterator<Item = usize> {
        let shares = match self {
            Self::Upstreams(shares) => Some(shares),
            Self::Endpoint(_) => None,
        };
        shares.into_iter().flat_map(Shares::places)
    }

    /// Whether it is where logins end.
    #[must_use]
    pub const fn is_logout(&self) -> bool {
        matches!(self, Self::Endpoint(Endpoint::Logout))
    }
}

/// What the gateway does itself, as the issuer at a place among those that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A refresh token becomes another pair (RFC 6749 §6).
    Refresh(usize),
    /// A refresh token is given up, and its login with it (RFC 7009).
    Revoke(usize),
    /// A login ends, or all of its subject.
    Logout,
    /// Its public keys (RFC 7517 §5).
    Jwks(usize),
    /// The public keys of what services are told of callers.
    AssertionJwks,
    /// Other issuers say that logins have ended (OpenID Connect Back-Channel Logout 1.0).
    BackchannelLogout,
}

impl Endpoint {
    /// Whether it ends logins, or turns them on: what has begun there is done, though its client leaves.
    #[must_use]
    pub const fn is_done_to_its_end(self) -> bool {
        match self {
            Self::Refresh(_) | Self::Revoke(_) | Self::Logout | Self::BackchannelLogout => true,
            Self::Jwks(_) | Self::AssertionJwks => false,
        }
    }

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refresh(_) => "refresh",
            Self::Revoke(_) => "revoke",
            Self::Logout => "logout",
            Self::Jwks(_) | Self::AssertionJwks => "jwks",
            Self::BackchannelLogout => "backchannel_logout",
        }
    }
}

/// What a login becomes.
#[derive(Clone, Debug)]
pub struct OnSuccess {
    /// The issuer of its tokens, by its place among those that the gateway is.
    pub tokens: Option<usize>,
    /// The kind of its session, by its place among those that the gateway makes.
    pub session: Option<usize>,
    /// What of the service's answer becomes claims, beside `sub`.
    pub claims: Vec<Box<str>>,
    /// Which application it is (`client_id`).
    pub client_id: Arc<str>,
}

/// Upstreams by their places among all, each with its share of a route's requests.
#[derive(Clone, Debug)]
pub struct Shares {
    first: usize,
    /// The others, each with the share of all before it.
    others: Vec<(u32, usize)>,
    sum: u32,
}

impl Shares {
    /// One upstream, for all requests.
    #[must_use]
    pub const fn all_to(upstream: usize) -> Self {
        Self { first: upstream, others: Vec::new(), sum: 1 }
    }

    /// Several; `None` where there is none.
    #[must_use]
    pub fn of(shares: &[(usize, u32)]) -> Option<Self> {
        let ((first, share), others) = shares.split_first()?;
        let mut sum = *share;
        let others = others.iter().map(|(upstream, share)| {
            let before = sum;
            sum += share;
            (before, *upstream)
        });
        let others = others.collect();
        Some(Self { first: *first, others, sum })
    }

    /// How many shares there are.
    #[must_use]
    pub const fn sum(&self) -> u32 {
        self.sum
    }

    /// Whose share this one is, counted from 0.
    #[must_use]
    pub fn at(&self, share: u32) -> usize {
        let other = self.others.iter().rev().find(|(before, _)| *before <= share);
        other.map_or(self.first, |(_, upstream)| *upstream)
    }

    /// All of them.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.first).chain(self.others.iter().map(|(_, upstream)| *upstream))
    }
}

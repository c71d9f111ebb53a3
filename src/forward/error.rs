//! What went wrong after the permit, and whose fault it was.

use http::StatusCode;

/// Why a permitted request got no answer from its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardError {
    /// No target took a connection.
    Unreachable,
    /// No target could prove who it is.
    Insecure,
    /// Checks say that every target is down.
    Unhealthy,
    /// Every target has as many requests as it may have.
    Saturated,
    /// A target took too long.
    TimedOut(Phase),
    /// The target closed the connection, or answered what is not HTTP, before an answer began.
    Broken,
    /// The target's answer to a login is not as agreed.
    MalformedLogin,
    /// The client's body went on past the route's limit.
    BodyOverflow,
    /// The client fell silent inside its body.
    BodyTooSlow,
    /// The client went away, or its body is not well formed.
    ClientGone,
    /// What permitted the request was taken back, or ended, while its body was on its way.
    TakenBack,
    /// The store did not say whether it was.
    Doubted,
}

/// What the target was doing when its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Taking the connection.
    Connect,
    /// Answering.
    Response,
}

impl ForwardError {
    /// All labels, in the order of [`ForwardError::number`].
    pub const LABELS: [&'static str; 13] = [
        "upstream_unreachable",
        "upstream_tls",
        "upstream_unhealthy",
        "upstream_saturated",
        "upstream_connect_timeout",
        "upstream_response_timeout",
        "upstream_broken",
        "body_too_large",
        "body_timeout",
        "client_gone",
        "malformed_login",
        "taken_back",
        "standing_unknown",
    ];

    /// The place of this error in [`ForwardError::LABELS`]; numbers counters.
    #[must_use]
    pub const fn number(self) -> usize {
        match self {
            Self::Unreachable => 0,
            Self::Insecure => 1,
            Self::Unhealthy => 2,
            Self::Saturated => 3,
            Self::TimedOut(Phase::Connect) => 4,
            Self::TimedOut(Phase::Response) => 5,
            Self::Broken => 6,
            Self::BodyOverflow => 7,
            Self::BodyTooSlow => 8,
            Self::ClientGone => 9,
            Self::MalformedLogin => 10,
            Self::TakenBack => 11,
            Self::Doubted => 12,
        }
    }

    /// Stable snake_case name for logs and metrics; says whose fault it was.
    #[must_use]
    pub fn label(self) -> &'static str {
        Self::LABELS.get(self.number()).copied().unwrap_or("unknown")
    }

    /// The status of the answer (RFC 9110 §15.6).
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unreachable | Self::Insecure | Self::Broken | Self::MalformedLogin => StatusCode::BAD_GATEWAY,
            Self::Unhealthy | Self::Saturated | Self::Doubted => StatusCode::SERVICE_UNAVAILABLE,
            Self::TakenBack => StatusCode::UNAUTHORIZED,
            Self::TimedOut(Phase::Connect | Phase::Response) => StatusCode::GATEWAY_TIMEOUT,
            Self::BodyOverflow => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ClientGone => StatusCode::BAD_REQUEST,
        }
    }

    /// What the client is told.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Unreachable => "the service behind the gateway cannot be reached",
            Self::Insecure => "the service behind the gateway cannot be reached securely",
            Self::Unhealthy => "the service behind the gateway is down",
            Self::Saturated => "the service behind the gateway has as many requests as it takes",
            Self::TimedOut(Phase::Connect) => "the service behind the gateway took too long to take the connection",
            Self::TimedOut(Phase::Response) => "the service behind the gateway took too long to answer",
            Self::Broken | Self::MalformedLogin => "the service behind the gateway gave no usable answer",
            Self::BodyOverflow => "the body is longer than is taken here",
            Self::BodyTooSlow => "the body came too slowly",
            Self::ClientGone => "the body ended early or is not well formed",
            Self::TakenBack => "the token is expired, revoked, malformed or otherwise not accepted",
            Self::Doubted => "the credential cannot be checked right now",
        }
    }

    /// Whether the client should come back: `Retry-After` in seconds.
    #[must_use]
    pub const fn retry_after(self) -> Option<u32> {
        match self {
            Self::Unhealthy | Self::Saturated | Self::Doubted => Some(1),
            Self::Unreachable
            | Self::Insecure
            | Self::TimedOut(Phase::Connect | Phase::Response)
            | Self::Broken
            | Self::MalformedLogin
            | Self::BodyOverflow
            | Self::BodyTooSlow
            | Self::ClientGone
            | Self::TakenBack => None,
        }
    }
}

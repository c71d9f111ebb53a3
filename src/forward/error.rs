//! What went wrong after the permit, and whose fault it was.

use http::StatusCode;

/// Why a permitted request got no answer from its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardError {
    /// No target took a connection.
    Unreachable,
    /// No target could prove who it is.
    Insecure,
    /// A target took too long.
    TimedOut(Phase),
    /// The target closed the connection, or answered what is not HTTP, before an answer began.
    Broken,
    /// The client's body went on past the route's limit.
    BodyOverflow,
    /// The client fell silent inside its body.
    BodyTooSlow,
    /// The client went away, or its body is not well formed.
    ClientGone,
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
    pub const LABELS: [&'static str; 8] = [
        "upstream_unreachable",
        "upstream_tls",
        "upstream_connect_timeout",
        "upstream_response_timeout",
        "upstream_broken",
        "body_too_large",
        "body_timeout",
        "client_gone",
    ];

    /// The place of this error in [`ForwardError::LABELS`]; numbers counters.
    #[must_use]
    pub const fn number(self) -> usize {
        match self {
            Self::Unreachable => 0,
            Self::Insecure => 1,
            Self::TimedOut(Phase::Connect) => 2,
            Self::TimedOut(Phase::Response) => 3,
            Self::Broken => 4,
            Self::BodyOverflow => 5,
            Self::BodyTooSlow => 6,
            Self::ClientGone => 7,
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
            Self::Unreachable | Self::Insecure | Self::Broken => StatusCode::BAD_GATEWAY,
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
            Self::TimedOut(Phase::Connect) => "the service behind the gateway took too long to take the connection",
            Self::TimedOut(Phase::Response) => "the service behind the gateway took too long to answer",
            Self::Broken => "the service behind the gateway gave no usable answer",
            Self::BodyOverflow => "the body is longer than is taken here",
            Self::BodyTooSlow => "the body came too slowly",
            Self::ClientGone => "the body ended early or is not well formed",
        }
    }
}

//! Why a request got no answer, or another one than it asked for: the one list that is logged, counted and rendered.

use http::StatusCode;

use crate::denial::Denial;
use crate::forward::ForwardError;

/// Why a request got no answer from its upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It was not permitted.
    Denied(Denial),
    /// It was permitted, and then something went wrong.
    Failed(ForwardError),
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<ForwardError> for Refusal {
    fn from(error: ForwardError) -> Self {
        Self::Failed(error)
    }
}

impl Refusal {
    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Denied(denial) => denial.status(),
            Self::Failed(error) => error.status(),
        }
    }

    /// Stable snake_case name for logs and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.label(),
            Self::Failed(error) => error.label(),
        }
    }

    /// Whether the client should come back: `Retry-After` in seconds.
    #[must_use]
    pub const fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Denied(denial) => denial.retry_after(),
            Self::Failed(error) => error.retry_after(),
        }
    }

    /// What clients of OAuth are told (RFC 6749 §5.2).
    #[must_use]
    pub const fn error(&self) -> Option<&'static str> {
        match self {
            Self::Denied(denial) => denial.error(),
            Self::Failed(_) => None,
        }
    }

    /// What the client is told.
    #[must_use]
    pub const fn detail(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.detail(),
            Self::Failed(error) => error.detail(),
        }
    }
}

//! What would be decided of a request: the first three questions, asked of one that nobody sends.
//!
//! They are the questions of `Gateway::serve`, by the same functions and in the same order, but for how often: nothing
//! is counted here. `tests/it/policy.rs` holds what is said here against what a gateway answers.

use http::request::Parts;

use super::Gateway;
use crate::authenticate::Caller;
use crate::authenticate::assume::Assumed;
use crate::authorize::{self, Permit};
use crate::clock::Moment;
use crate::denial::Denial;
use crate::respond::cors;
use crate::route::Route;
use crate::store::Asker;

/// How a request shows who sends it.
#[derive(Clone, Copy, Debug)]
pub enum Who<'r> {
    /// By what stands in its head; the store is asked.
    Shown(&'r Asker),
    /// By a credential that is only thought of.
    Assumed(&'r Assumed),
}

/// What would be decided.
#[derive(Debug)]
pub struct Judged<'g> {
    /// The route, if there is one.
    pub route: Option<&'g Route>,
    /// Who calls, as far as that was asked and known.
    pub caller: Option<Caller>,
    /// What comes of it.
    pub outcome: Result<Decision<'g>, Denial>,
}

/// What is decided of a request that is not refused.
#[derive(Debug)]
pub enum Decision<'g> {
    /// It is a browser's question, and is answered here.
    Preflight,
    /// It goes on.
    Permitted(Box<Permit<'g>>),
}

impl Gateway {
    /// What would be decided of a request at `now`.
    pub async fn judge<'g>(&'g self, request: &Parts, who: Who<'_>, now: Moment) -> Judged<'g> {
        let (mut route, mut caller) = (None, None);
        let outcome = self.ask(request, who, now, (&mut route, &mut caller)).await;
        Judged { route, caller, outcome }
    }

    async fn ask<'g>(
        &'g self,
        request: &Parts,
        who: Who<'_>,
        now: Moment,
        (on, by): (&mut Option<&'g Route>, &mut Option<Caller>),
    ) -> Result<Decision<'g>, Denial> {
        let admitted = self.routes.admit(request)?;
        *on = Some(admitted.route);
        if admitted.is_preflight {
            return cors::preflight(admitted.route, &request.headers).map(|_| Decision::Preflight);
        }
        let caller = match who {
            Who::Shown(store) => self.authenticator.identify(&admitted, (request, None), now, store).await?,
            Who::Assumed(assumed) => self.authenticator.assume(&admitted, request, assumed, now).await?,
        };
        *by = Some(caller.clone());
        authorize::decide(admitted, caller).map(|permit| Decision::Permitted(Box::new(permit)))
    }
}

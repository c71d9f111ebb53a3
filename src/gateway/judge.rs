//! What would be decided of a request: the first three questions, asked of one that nobody sends.
//!
//! They are the questions of `Gateway::serve`, by the same functions and in the same order, but for how often: nothing
//! is counted here. Nobody gets a `Permit` of it. `tests/it/explaining.rs` holds what is said here against what a gateway answers.

use http::request::Parts;

use super::Gateway;
use crate::admit::Admitted;
use crate::authenticate::Caller;
use crate::authenticate::assume::Assumed;
use crate::authorize;
use crate::clock::Moment;
use crate::denial::Denial;
use crate::respond::cors;
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
    /// The request on its route, if there is one.
    pub admitted: Option<Admitted<'g>>,
    /// Who calls, as far as that was asked and known.
    pub caller: Option<Caller>,
    /// Why it is refused; nothing: it goes on, or is answered where it is a preflight.
    pub refused: Option<Denial>,
}

impl Gateway {
    /// What would be decided of a request at `now`.
    pub async fn judge<'g>(&'g self, request: &Parts, who: Who<'_>, now: Moment) -> Judged<'g> {
        let mut judged = Judged { admitted: None, caller: None, refused: None };
        judged.refused = self.ask(request, who, now, &mut judged).await.err();
        judged
    }

    async fn ask<'g>(
        &'g self,
        request: &Parts,
        who: Who<'_>,
        now: Moment,
        judged: &mut Judged<'g>,
    ) -> Result<(), Denial> {
        let admitted = &*judged.admitted.insert(self.routes.admit(request)?);
        if admitted.is_preflight {
            return cors::preflight(admitted.route, &request.headers).map(drop);
        }
        let caller = match who {
            Who::Shown(store) => self.authenticator.identify(admitted, (request, None), now, store).await?,
            Who::Assumed(assumed) => self.authenticator.assume(admitted, request, assumed, now).await?,
        };
        authorize::check(admitted, judged.caller.insert(caller))?;
        // Of the fourth question what is asked before a service is.
        let on_success = admitted.route.on_success.as_ref();
        on_success.map_or(Ok(()), |on_success| self.desk.check_page(on_success, request))
    }
}

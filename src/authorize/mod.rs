//! A caller on a route becomes a permit: may they?
//!
//! One pure function, exhaustive: a rule that nobody has thought through does not compile. Of `any`
//! the first alternative's reason is given, of `all` and of a mapping the first that does not hold.

use std::sync::Arc;

use serde_json::Value;

use crate::admit::Admitted;
use crate::authenticate::{Caller, Identity};
use crate::denial::Denial;
use crate::route::{Destination, Expected, Requirement, Rule};

/// Proof that the rule held for this caller on this route; only [`decide`] makes one.
#[derive(Debug)]
pub struct Permit<'g> {
    admitted: Admitted<'g>,
    caller: Caller,
}

impl<'g> Permit<'g> {
    /// The request that was permitted.
    #[must_use]
    pub const fn admitted(&self) -> &Admitted<'g> {
        &self.admitted
    }

    /// Whether it is for what is issued here, and not for a service's answer as it comes.
    #[must_use]
    pub const fn is_of_issue(&self) -> bool {
        let route = self.admitted.route;
        route.on_success.is_some() || matches!(route.leads_to, Destination::Endpoint(_))
    }

    /// For whom.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// Whether the route's rule holds for the caller.
///
/// # Errors
/// `MissingToken`, `MissingRole`, `MissingScope`, `ClaimMismatch`, `Excluded`.
pub fn decide(admitted: Admitted<'_>, caller: Caller) -> Result<Permit<'_>, Denial> {
    check(&admitted, &caller)?;
    Ok(Permit { admitted, caller })
}

/// The same for who only asks.
///
/// # Errors
/// As [`decide`].
pub fn check(admitted: &Admitted<'_>, caller: &Caller) -> Result<(), Denial> {
    match (&admitted.route.rule, caller) {
        (Rule::Public, Caller::Anonymous | Caller::Known(_)) | (Rule::Authenticated, Caller::Known(_)) => Ok(()),
        (Rule::Authenticated | Rule::Require(_), Caller::Anonymous) => Err(Denial::MissingToken),
        (Rule::Require(requirement), Caller::Known(identity)) => check_demand(requirement, identity, admitted),
    }
}

/// Whether one demand of the rule holds for the caller.
///
/// # Errors
/// Why it does not.
pub fn check_demand(requirement: &Requirement, caller: &Identity, admitted: &Admitted<'_>) -> Result<(), Denial> {
    let held = |holds: bool, denial: Denial| holds.then_some(()).ok_or(denial);
    match requirement {
        Requirement::Authenticated => Ok(()),
        Requirement::AnyRole(roles) => {
            held(roles.iter().any(|role| caller.roles().contains(role)), Denial::MissingRole)
        }
        Requirement::AllScopes(scopes, text) => {
            held(scopes.iter().all(|scope| caller.scopes().contains(scope)), Denial::MissingScope(Arc::clone(text)))
        }
        Requirement::AnyScope(scopes, text) => {
            held(scopes.iter().any(|scope| caller.scopes().contains(scope)), Denial::MissingScope(Arc::clone(text)))
        }
        Requirement::Claim(path, accepted) => {
            let claim = caller.claims().at(path).ok_or(Denial::ClaimMismatch)?;
            held(accepted.iter().any(|expected| matches(claim, expected, admitted)), Denial::ClaimMismatch)
        }
        Requirement::All(all) => all.iter().try_for_each(|one| check_demand(one, caller, admitted)),
        Requirement::Any(any) => any
            .iter()
            .map(|one| check_demand(one, caller, admitted))
            .reduce(|first, next| if first.is_ok() { first } else { next.or(first) })
            .unwrap_or(Err(Denial::Excluded)),
        Requirement::Not(inner) => held(check_demand(inner, caller, admitted).is_err(), Denial::Excluded),
    }
}

/// A claim equals what is expected, or is a list that has it.
fn matches(claim: &Value, expected: &Expected, admitted: &Admitted<'_>) -> bool {
    let equals = |value: &Value| match expected {
        Expected::Value(wanted) => value == wanted,
        Expected::Parameter(place) => admitted.parameter(*place).is_some_and(|segment| is_text(value, &segment)),
    };
    match claim {
        Value::Array(list) => list.iter().any(equals),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => equals(claim),
    }
}

/// Whether a claim is written like this path segment: text as it is, a whole number in decimal.
fn is_text(claim: &Value, segment: &str) -> bool {
    match claim {
        Value::String(text) => text == segment,
        Value::Number(number) => !number.is_f64() && number.to_string() == segment,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

//! A verdict for people.

use std::fmt::Write;

use super::super::printable;
use super::why::list;
use super::{Known, Outcome, Verdict, mode};
use crate::route::{RevocationMode, WhenUnavailable};

impl Verdict {
    /// A line for each question, with `notes` below.
    #[must_use]
    pub fn text(&self, notes: &[String]) -> String {
        let mut rows: Vec<(&str, String)> = Vec::new();
        let route = self.route.as_ref().zip(self.pattern.as_ref());
        rows.push(("route", route.map_or_else(|| "none".to_owned(), |(id, pattern)| format!("{id} ({pattern})"))));
        if let Some(Known { subject, by, roles, scopes }) = &self.caller {
            let list = |names: &[String]| list(names.iter().map(String::as_str));
            rows.push(("caller", format!("{subject}, by {by}; roles {}; scopes {}", list(roles), list(scopes))));
        }
        for (number, line) in self.rule.iter().enumerate() {
            let holds = if line.holds { "holds" } else { "fails" };
            let word = if number == 0 { "rule" } else { "" };
            rows.push((word, format!("{holds}  {}{}", "  ".repeat(line.depth), line.demand)));
        }
        if let Some(policy) = self.revocation {
            let doubt = match (policy.mode, policy.when_unavailable) {
                (RevocationMode::Off, _) => "",
                (_, WhenUnavailable::Allow) => ", served while the store is silent",
                (_, WhenUnavailable::Deny) => ", 503 while the store is silent",
            };
            rows.push(("revocation", format!("{}{doubt}", mode(policy))));
        }
        if let Some(limit) = &self.limit {
            rows.push(("limit", format!("{limit}; nothing is counted here")));
        }
        self.decision(&mut rows);
        rows.extend(
            notes.iter().enumerate().map(|(number, note)| (if number == 0 { "note" } else { "" }, note.clone())),
        );
        let mut text = String::new();
        for (word, row) in rows {
            // Writing to a text does not fail.
            let _ = writeln!(text, "{}", printable(format!("{word:<12}{row}").trim_end()));
        }
        text
    }

    fn decision(&self, rows: &mut Vec<(&str, String)>) {
        match &self.outcome {
            Outcome::Allowed { to, path, identity } => {
                rows.push(("decision", "allowed".to_owned()));
                rows.push(("upstream", format!("{}, which gets {path}", to.join(", "))));
                rows.extend(identity.iter().map(|(name, value)| ("", format!("{name}: {value}"))));
            }
            Outcome::Preflight => rows.push(("decision", "answered here: a preflight (204)".to_owned())),
            Outcome::Refused { denial, why } => {
                rows.push(("decision", format!("refused, {} {}", denial.status().as_u16(), denial.label())));
                rows.push(("", why.clone()));
                rows.push(("client", format!("is told: {}", denial.detail())));
            }
        }
    }
}

//! What is wrong with a file: all of it at once, each with its place, cause and remedy.
//!
//! ```text
//! gateway.yaml:42:15: routes[3].upstream: unknown upstream `ordr`
//! 42 |     upstream: ordr
//!    |               ^^^^ declared upstreams: `member`, `order`, `payment` (line 31)
//!    = did you mean `order`?
//! gateway.yaml: 1 mistake, nothing was changed
//! ```

use std::fmt::Write;

use serde_json::json;

use super::place::{At, Place};

/// What stands for what came from the environment, and from which length on it is looked for inside of words, in bytes.
const HIDDEN: &str = "(from the environment)";
const LONG: usize = 6;

/// Longest line of the file that is shown, in characters.
const MAX_SHOWN: usize = 160;

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Mistake {
    place: Place,
    path: String,
    found: String,
    allowed: String,
    remedies: Vec<String>,
    also: Option<(Place, String)>,
}

impl Mistake {
    /// A mistake at a place: what was found.
    pub fn new(place: Place, path: &str, found: impl Into<String>) -> Self {
        let (path, found) = (path.to_owned(), found.into());
        Self { place, path, found, allowed: String::new(), remedies: Vec::new(), also: None }
    }

    /// A mistake in a value that was read.
    pub fn at<T>(value: &At<T>, found: impl Into<String>) -> Self {
        Self::new(value.place, &value.trail, found)
    }

    /// What is allowed there.
    #[must_use]
    pub fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = allowed.into();
        self
    }

    /// What to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    /// Suggests the one known name that is near the one that was written.
    #[must_use]
    pub fn near<'n>(self, written: &str, known: impl IntoIterator<Item = &'n str>) -> Self {
        match nearest(written, known) {
            Some(name) => self.remedy(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// Another place that belongs to it, with what stands there.
    #[must_use]
    pub fn also(mut self, place: Place, what: impl Into<String>) -> Self {
        self.also = Some((place, what.into()));
        self
    }
}

/// All mistakes of one file.
#[derive(Debug, Default)]
pub struct Mistakes {
    list: Vec<Mistake>,
    /// Values that could not even be made; what else is wrong with them only follows from that.
    broken: Vec<Place>,
    /// What came from the environment, the longest first.
    secrets: Vec<String>,
}

impl Mistakes {
    /// Adds one.
    pub fn add(&mut self, mistake: Mistake) {
        // What stands in one place may be read for several.
        let says = |one: &Mistake| (one.place, one.found.clone(), one.allowed.clone());
        let is_told = self.list.iter().any(|told| told.place == mistake.place && says(told) == says(&mistake));
        if !is_told && !self.broken.contains(&mistake.place) {
            self.list.push(mistake);
        }
    }

    /// Adds one about a value that there is no use in reading further.
    pub fn add_cause(&mut self, mistake: Mistake) {
        let place = mistake.place;
        self.add(mistake);
        self.broken.push(place);
    }

    /// Says that a text came from the environment: it is shown nowhere, whoever speaks of it.
    pub fn hide(&mut self, secret: &str) {
        let place = self.secrets.partition_point(|known| known.len() > secret.len());
        self.secrets.insert(place, secret.to_owned());
    }

    /// What came from the environment, for whoever shows something of the same file later.
    #[must_use]
    pub fn hidden(&self) -> &[String] {
        &self.secrets
    }

    /// A text without what came from the environment: whole words of it, and anything that is long enough to be one.
    pub fn without_secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if secret.len() >= LONG {
                text = text.replace(&**secret, HIDDEN).replace(&secret.escape_debug().to_string(), HIDDEN);
            } else {
                text = text.replace(&format!("`{secret}`"), &format!("`{HIDDEN}`"));
            }
        }
        text
    }

    /// A mistake as it may be shown.
    fn shown(&self, mistake: &Mistake) -> Mistake {
        let hide = |text: &String| self.without_secrets(text);
        Mistake {
            place: mistake.place,
            path: mistake.path.clone(),
            found: hide(&mistake.found),
            allowed: hide(&mistake.allowed),
            remedies: mistake.remedies.iter().map(hide).collect(),
            also: mistake.also.as_ref().map(|(place, what)| (*place, hide(what))),
        }
    }

    /// Whether something at or below a value is wrong already.
    #[must_use]
    pub fn is_known<T>(&self, value: &At<T>) -> bool {
        self.list.iter().any(|mistake| mistake.path.starts_with(&*value.trail))
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Puts them in the order of the file.
    pub fn sort(&mut self) {
        self.list.sort_by_key(|mistake| mistake.place);
    }

    /// The text for people.
    #[must_use]
    pub fn render(&self, file: &str, source: &str) -> String {
        let lines: Vec<&str> = source.lines().collect();
        let mut text = String::new();
        for mistake in &self.list {
            self.shown(mistake).render(&mut text, file, &lines);
            text.push('\n');
        }
        let count = self.list.len();
        let _ = writeln!(text, "{file}: {count} mistake{}, nothing was changed", if count == 1 { "" } else { "s" });
        text
    }

    /// The same for machines: a list of objects.
    #[must_use]
    pub fn to_json(&self, file: &str) -> serde_json::Value {
        let list = self.list.iter().map(|mistake| {
            let mistake = self.shown(mistake);
            json!({
                "file": file,
                "line": mistake.place.line,
                "column": mistake.place.column,
                "path": mistake.path,
                "found": mistake.found,
                "allowed": mistake.allowed,
                "remedies": mistake.remedies,
            })
        });
        list.collect()
    }
}

impl Mistake {
    // Writing to a String cannot fail.
    fn render(&self, text: &mut String, file: &str, lines: &[&str]) {
        let Self { place, path, found, allowed, remedies, also } = self;
        let subject = if path.is_empty() { String::new() } else { format!("{path}: ") };
        let _ = writeln!(text, "{file}:{}:{}: {subject}{found}", place.line, place.column);
        let margin = place.line.max(also.as_ref().map_or(0, |(other, _)| other.line)).to_string().len();
        excerpt(text, *place, allowed, lines, margin);
        if let Some((other, what)) = also {
            excerpt(text, *other, what, lines, margin);
        }
        for remedy in remedies {
            let _ = writeln!(text, "{:margin$} = {remedy}", "");
        }
    }
}

fn excerpt(text: &mut String, place: Place, label: &str, lines: &[&str], margin: usize) {
    let Some(line) = place.line.checked_sub(1).and_then(|number| lines.get(number)) else { return };
    let shown: String = masked(line).chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let column = place.column.saturating_sub(1);
    let width = shown.chars().count().saturating_sub(column);
    let carets = "^".repeat(place.length.clamp(1, width.max(1)));
    let _ = writeln!(text, "{:margin$} | {shown}", place.line);
    if column < MAX_SHOWN {
        let _ = writeln!(text, "{}", format!("{:margin$} | {:column$}{carets} {label}", "", "").trim_end());
    }
}

/// A text in which the credentials of a URL (`://user:password@`) are stars, as many as letters.
pub fn masked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        // SECURITY: a password may hold what ends the place of a host elsewhere, and then the URL is refused and shown.
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'')).unwrap_or(after.len());
        let next = after.get(..end).and_then(|word| word.find("://")).unwrap_or(end);
        let (word, tail) = after.split_at_checked(next).unwrap_or((after, ""));
        match word.rsplit_once('@') {
            Some((credentials, host)) => {
                out.push_str(&"*".repeat(credentials.chars().count()));
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(word),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// The one name that is near: a third of its letters may be wrong, and no other may be as near.
fn nearest<'n>(written: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let mut ranked: Vec<(usize, &str)> =
        known.into_iter().map(|name| (distance(&written.to_lowercase(), &name.to_lowercase()), name)).collect();
    ranked.sort_unstable();
    let (best, name) = *ranked.first()?;
    let is_alone = ranked.get(1).is_none_or(|(next, _)| *next > best);
    let limit = (name.chars().count().max(written.chars().count()) / 3).max(1);
    (is_alone && best <= limit && best < name.chars().count()).then_some(name)
}

/// Letters to add, leave out, change or swap with their neighbour (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    let mut previous = None;
    for (i, a) in one.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let at = |cells: &[usize], place: usize| cells.get(place).copied().unwrap_or(usize::MAX - 1);
            let mut cost = (at(&last, j + 1) + 1).min(at(&row, j) + 1).min(at(&last, j) + usize::from(a != *b));
            let neighbour = j.checked_sub(1).and_then(|j| other.get(j));
            if previous == Some(*b) && neighbour == Some(&a) {
                cost = cost.min(at(&before_last, j - 1) + 1);
            }
            row.push(cost);
        }
        before_last = std::mem::replace(&mut last, row);
        previous = Some(a);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested_and_a_far_or_doubtful_one_is_not() {
        let known = ["member", "order", "payment"];
        assert_eq!(nearest("ordr", known), Some("order"));
        assert_eq!(nearest("oredr", known), Some("order"));
        assert_eq!(nearest("Payments", known), Some("payment"));
        assert_eq!(nearest("inventory", known), None);
        assert_eq!(nearest("a", ["b", "c"]), None);
        assert_eq!(nearest("rol", ["role", "roll"]), None);
        assert_eq!(masked("a: redis://u:p@h, 'x://y' z://k@"), "a: redis://***@h, 'x://y' z://*@");
        assert_eq!(masked("redis://:pa/ss,W@h:1,redis://u:p@i/2"), "redis://********@h:1,redis://***@i/2");
        assert_eq!(distance("abcd", "abdc"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}

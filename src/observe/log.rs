//! Events become lines, and so do requests.
//!
//! A layer of our own under `tracing`: it writes fields straight into a line, where the formatter that comes with
//! `tracing-subscriber` builds maps and strings. An access line does not even become an event: which fields it has is
//! known when it is compiled. `RUST_LOG` filters it by its target all the same.

use std::fmt;
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::line::{self, Kind, Line, Value};
use crate::clock;

/// The target that `RUST_LOG` knows access lines by.
const ACCESS: &str = "bearward::access";

/// How access lines look where they are written: whether as JSON.
static ACCESS_LINES: OnceLock<Option<bool>> = OnceLock::new();

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `pretty` on a terminal, `json` elsewhere.
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Starts logging to the standard output, filtered as `RUST_LOG` says (default `info`).
///
/// # Errors
/// When `RUST_LOG` is no filter.
pub fn start(format: Format) -> Result<(), String> {
    let filter = filter(&std::env::var("RUST_LOG").unwrap_or_default())?;
    let is_json = match format {
        Format::Json => true,
        Format::Pretty => false,
        Format::Auto => !std::io::stdout().is_terminal(),
    };
    // A second start, in tests, keeps the first.
    ACCESS_LINES.get_or_init(|| takes_access(&filter).then_some(is_json));
    let registry = tracing_subscriber::registry().with(Lines { is_json }.with_filter(filter));
    drop(registry.try_init());
    Ok(())
}

fn filter(text: &str) -> Result<Targets, String> {
    if text.trim().is_empty() {
        return Ok(Targets::new().with_default(Level::INFO));
    }
    text.parse().map_err(|_| format!("RUST_LOG: `{text}` is no filter such as `info` or `bearward=debug`"))
}

/// Whether access lines are written; by their target alone, whatever a filter says of fields.
fn takes_access(filter: &Targets) -> bool {
    filter.would_enable(ACCESS, &Level::INFO)
}

/// Writes the line of one request that ended at this time.
pub fn access(at: SystemTime, fields: impl FnOnce(&mut Line<'_>)) {
    if let Some(Some(is_json)) = ACCESS_LINES.get() {
        line::write(*is_json, (Kind::Access, Level::INFO.as_str()), at, fields);
    }
}

struct Lines {
    is_json: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = event.metadata().level().as_str();
        line::write(self.is_json, (Kind::Event, level), clock::wall(), |line| event.record(&mut Fields(line)));
    }
}

/// Takes the fields of an event.
struct Fields<'l, 'b>(&'l mut Line<'b>);

impl Visit for Fields<'_, '_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.named(field.name(), Value::Number(value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.named(field.name(), Value::Number(value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.named(field.name(), Value::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.named(field.name(), Value::Text(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_lines_are_filtered_by_their_target() {
        for (text, is_written) in [
            ("", true),
            ("info", true),
            ("warn", false),
            ("bearward=debug", true),
            ("info,bearward::access=off", false),
            ("off,bearward::access=info", true),
            ("bearward::access", true),
            ("redis=debug", false),
        ] {
            assert_eq!(filter(text).map(|filter| takes_access(&filter)), Ok(is_written), "{text}");
        }
        assert!(filter("bearward=loud").is_err());
    }
}

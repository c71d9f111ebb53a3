//! `bearward check`: every mistake of a file.

use std::path::PathBuf;

use super::{ConfigPath, Failure, print};

/// Say every mistake of a configuration; keys are read too. Exit code 78 if there is one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  bearward check gateway.yaml\n  bearward check gateway.yaml --format json")]
pub struct Check {
    /// The file; otherwise as for `run`.
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigPath,
    /// For people, or for machines.
    #[arg(long, value_enum, default_value = "text")]
    format: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people, on the standard error.
    Text,
    /// A JSON list, on the standard output.
    Json,
}

impl Check {
    /// Checks.
    pub fn run(self) -> Result<(), Failure> {
        let path = self.file.map_or_else(|| self.config.find(), Ok)?;
        match crate::config::load(&path) {
            Ok(compiled) => {
                let gateway = &compiled.gateway;
                let counts = [
                    (gateway.routes.all().len(), "route"),
                    (gateway.forwarder.upstreams().len(), "upstream"),
                    (gateway.authenticator.issuers().len(), "issuer"),
                ];
                let counts: Vec<String> = counts
                    .iter()
                    .map(|(count, noun)| format!("{count} {noun}{}", if *count == 1 { "" } else { "s" }))
                    .collect();
                match self.format {
                    Output::Text => print(&format!("{}: no mistake, {}\n", path.display(), counts.join(", "))),
                    Output::Json => print("[]\n"),
                }
            }
            Err(errors) => {
                if self.format == Output::Json {
                    print(&format!("{:#}\n", errors.to_json()))?;
                }
                Err(Failure::Configuration(errors.to_string()))
            }
        }
    }
}

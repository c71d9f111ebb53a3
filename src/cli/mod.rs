//! The commands: one file each. Exit codes: 0 done, 1 went wrong, 2 wrong usage, 78 bad configuration.

mod check;
mod config_file;
mod demo;
mod explain;
mod handover;
mod healthcheck;
mod http;
mod keys;
mod manager;
mod policy;
mod revocations;
mod revoke;
mod routes;
mod run;
mod serving;
mod test;
mod token;
mod verify;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::compile::Compiled;
use crate::config::schema;
use crate::observe::log::Format;

/// sysexits' `EX_CONFIG`.
const BAD_CONFIGURATION: u8 = 78;

/// An API gateway that settles at the edge who is calling and whether they may.
#[derive(Debug, Parser)]
#[command(name = "bearward", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  bearward demo                         three services, a gateway, tokens, and the curl lines to try
  bearward check gateway.yaml           every mistake of a file, with its place and remedy
  bearward run --config gateway.yaml    serve until TERM or INT, then drain
  bearward explain GET /orders/42 --token -    which route, who calls, what is decided and why
  bearward revoke --sub kim             end every session of one user now";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until TERM or INT, then drain.
    Run(run::Run),
    /// Say every mistake of a configuration; keys are read too.
    Check(check::Check),
    /// Start three small services and a gateway before them, and print what to try.
    Demo(demo::Demo),
    /// Make or take apart a token, for development.
    #[command(subcommand)]
    Token(token::Token),
    /// Make keys.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Take a token, a login or a subject back, through a running gateway.
    Revoke(revoke::Revoke),
    /// Ask a running gateway whether it is ready.
    Healthcheck(healthcheck::Healthcheck),
    /// See what is taken back.
    #[command(subcommand)]
    Revocations(revocations::Revocations),
    /// List the routes of a configuration.
    Routes(routes::Routes),
    /// Say what is decided of a request, and why.
    Explain(Box<explain::Explain>),
    /// Ask a configuration about requests, and hold what it decides against what is expected.
    Test(test::Test),
    /// Print the JSON Schema of gateway.yaml, or of policy tests.
    Schema {
        /// Of what.
        #[arg(value_enum, default_value = "gateway")]
        of: Described,
    },
    /// Print completions for a shell.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

/// What a schema is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Described {
    /// gateway.yaml.
    Gateway,
    /// Policy tests.
    Tests,
}

/// Where a configuration is.
#[derive(Debug, clap::Args)]
struct ConfigPath {
    /// The configuration; otherwise ./gateway.yaml, then /etc/bearward/gateway.yaml.
    #[arg(long, short, env = "BEARWARD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How log lines look.
#[derive(Debug, clap::Args)]
struct LogFormat {
    /// How log lines look.
    #[arg(long, env = "BEARWARD_LOG_FORMAT", value_enum, default_value = "auto")]
    log_format: Format,
}

/// How a command ended when it did not end well.
#[derive(Debug)]
enum Failure {
    /// Exit code 1.
    Runtime(String),
    /// Exit code 2.
    Usage(String),
    /// Exit code 78.
    Configuration(String),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    // A second install, by a library, would be the same provider.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let outcome = match Arguments::parse().command {
        Command::Run(run) => run.run(),
        Command::Check(check) => check.run(),
        Command::Demo(demo) => demo.run(),
        Command::Token(token) => token.run(),
        Command::Keys(keys) => keys.run(),
        Command::Revoke(revoke) => revoke.run(),
        Command::Healthcheck(healthcheck) => healthcheck.run(),
        Command::Revocations(revocations) => revocations.run(),
        Command::Routes(routes) => routes.run(),
        Command::Explain(explain) => explain.run(),
        Command::Test(test) => test.run(),
        Command::Schema { of: Described::Gateway } => print(&format!("{:#}\n", schema::schema())),
        Command::Schema { of: Described::Tests } => print(&format!("{:#}\n", schema::of_policy_tests())),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "bearward", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Version => print(concat!("bearward ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    crate::observe::sink::flush();
    let (text, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Runtime(text)) => (text, 1),
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Configuration(text)) => (text, BAD_CONFIGURATION),
    };
    // Nothing can be done about a closed standard error.
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
    ExitCode::from(code)
}

/// Prints to the standard output; a reader that has gone away ends the command quietly.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Runtime(error.to_string())),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A text from somewhere else, on one line: what would begin another one, write over this one or turn it round is written
/// as what it is.
fn printable(text: &str) -> String {
    let is_told = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if is_told(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        out
    })
}

impl ConfigPath {
    /// The file to read.
    fn find(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.config {
            return Ok(path.clone());
        }
        let places = ["gateway.yaml", "/etc/bearward/gateway.yaml"];
        places.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
            let text =
                "no configuration: looked for --config, BEARWARD_CONFIG, ./gateway.yaml, /etc/bearward/gateway.yaml";
            Failure::Usage(format!("{text}\n  = `bearward demo` needs none"))
        })
    }

    /// Where operators connect, by the file.
    fn admin(&self) -> Result<String, Failure> {
        let address = crate::config::admin_address(&self.find()?);
        address.map(|address| address.to_string()).map_err(|errors| Failure::Configuration(errors.to_string()))
    }

    /// The compiled file, and which it was.
    fn load(&self) -> Result<(PathBuf, Compiled), Failure> {
        let path = self.find()?;
        let compiled = crate::config::load(&path).map_err(|errors| Failure::Configuration(errors.to_string()))?;
        Ok((path, compiled))
    }
}

/// `90s`, `10m`: the same spelling as in the configuration.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let millis = digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    millis.map(Duration::from_millis).ok_or_else(|| "a whole number with its unit: `90s`, `10m`, `1h`".to_owned())
}

/// A runtime for commands that need one.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(format!("no runtime: {error}")))
}

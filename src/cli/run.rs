//! `bearward run`: serve until TERM or INT, then drain; read the configuration again on HUP, and when it
//! changes.

use std::time::Duration;

use super::config_file::ConfigFile;
use super::handover::Predecessor;
use super::serving::{Serving, Signals};
use super::{ConfigPath, Failure, LogFormat};
use crate::accept::listen::Inherited;
use crate::observe::{log, sink};

/// How long the end waits for what reads a file.
const AT_THE_END: Duration = Duration::from_secs(1);

/// Serve until TERM or INT, then drain. A second INT stops at once. HUP reads the configuration again, and
/// so does a change of its files. USR2 starts the program again, hands its sockets over, and drains.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  bearward run\n  bearward run --config /etc/bearward/gateway.yaml --workers 4 --log-format json"
)]
pub struct Run {
    #[command(flatten)]
    config: ConfigPath,
    #[command(flatten)]
    format: LogFormat,
    /// Threads that serve requests; otherwise one for each core.
    #[arg(long, env = "BEARWARD_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Read the configuration again on HUP alone, not when its files change.
    #[arg(long)]
    no_watch: bool,
}

impl Run {
    /// Serves.
    pub fn run(self) -> Result<(), Failure> {
        // First of all: they are file descriptors that the environment names by number.
        let predecessor = Predecessor::find();
        let inherited = Inherited::from_env(predecessor.is_some());
        if predecessor.is_some() {
            sink::share();
        }
        log::start(self.format.log_format).map_err(Failure::Usage)?;
        let runtime = super::runtime()?;
        // Before it is read as well: HUP would end a process that does not listen for it.
        let signals = runtime.block_on(async { Signals::listen() })?;
        // Before it is read: what changes meanwhile is a change.
        let mut file = ConfigFile::new(&self.config.find()?, !self.no_watch);
        let (path, compiled) = self.config.load()?;
        file.taken(compiled.files.clone());
        let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
        tracing::info!(version, pid, config = %path.display(), "bearward starts");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.workers.map_or(cores, usize::from);
        let served = runtime.block_on(async {
            let serving = Serving::start(compiled, workers, inherited).await?;
            match predecessor {
                // Which tells the manager: until then that one is the service.
                Some(predecessor) => predecessor.serves(),
                None => serving.tell_manager().await,
            }
            serving.until_told(Some(file), signals).await
        });
        // A file may still be read that does not come: a pipe, a share that is gone.
        runtime.shutdown_timeout(AT_THE_END);
        served
    }
}

//! `bearward healthcheck`: whether a running gateway is ready, as an exit code, for whoever runs containers: in an image there
//! may be nothing else that could ask, and the admin address may be on loopback.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::{ConfigPath, Failure, print};

/// Ask a running gateway whether it is ready: exit code 0, or 1 and why not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  bearward healthcheck\n  bearward healthcheck --live --admin 127.0.0.1:9901")]
pub struct Healthcheck {
    /// Ask whether the process answers, and not whether it is ready.
    #[arg(long)]
    live: bool,
    /// How long it may take.
    #[arg(long, default_value = "2s", value_parser = super::duration)]
    timeout: Duration,
    /// The gateway's admin address; otherwise the one in the configuration.
    #[arg(long, env = "BEARWARD_ADMIN", value_name = "HOST:PORT")]
    admin: Option<String>,
    #[command(flatten)]
    config: ConfigPath,
}

impl Healthcheck {
    /// Asks.
    pub fn run(self) -> Result<(), Failure> {
        let address = self.admin.map_or_else(|| self.config.admin(), Ok)?;
        let page = if self.live { "/livez" } else { "/readyz" };
        let asked = async { timeout(self.timeout, super::http::get(&address, page)).await };
        let answer = super::runtime()?.block_on(asked);
        let late = || Failure::Runtime(format!("{address} gave no answer within {:?}", self.timeout));
        let answer = answer.map_err(|_| late())??;
        if answer.status().is_success() {
            return print(if self.live { "live\n" } else { "ready\n" });
        }
        let said: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let reasons = said.get("reasons").and_then(Value::as_array).into_iter().flatten();
        let reasons = reasons.filter_map(Value::as_str).collect::<Vec<_>>().join("; ");
        Err(Failure::Runtime(format!("not ready ({}): {reasons}", answer.status().as_u16())))
    }
}

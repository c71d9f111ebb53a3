//! `bearward demo`: the whole story on one machine, with nothing else installed.

mod services;
mod story;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jsonwebtoken::Algorithm;

use self::story::Stage;
use super::serving::{Serving, Signals};
use super::{Failure, keys, print};
use crate::accept::listen::Inherited;
use crate::observe::log;

const CONFIG: &str = include_str!("../../../examples/demo/gateway.yaml");

/// Start order, payment and member services and a gateway before them, and print what to try.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  bearward demo\n  bearward demo --smoke       sends the requests itself; exits 0 if each came as expected\n  bearward demo --services    only the three services, on 127.0.0.1:9101, :9201 and :9301"
)]
pub struct Demo {
    /// Send the requests, print each expectation with what came, and end.
    #[arg(long, conflicts_with = "services")]
    smoke: bool,
    /// Start only the three services, for `examples/shop`.
    #[arg(long)]
    services: bool,
    /// Where the gateway listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where its admin pages are.
    #[arg(long, default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
}

impl Demo {
    /// Shows it.
    pub fn run(self) -> Result<(), Failure> {
        if !self.smoke {
            log::start(log::Format::Auto).map_err(Failure::Usage)?;
        }
        super::runtime()?.block_on(async {
            if self.services {
                return services::serve_alone().await;
            }
            let folder = scratch()?;
            let outcome = self.show(&folder).await;
            // The keys were for this run alone.
            drop(std::fs::remove_dir_all(&folder));
            outcome
        })
    }

    async fn show(&self, folder: &Path) -> Result<(), Failure> {
        keys::write(Algorithm::ES256, "demo", folder)?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listen, admin) = if self.smoke { (any, any) } else { (self.listen, self.admin) };
        let mut variables = HashMap::from([
            ("DEMO_LISTEN".to_owned(), listen.to_string()),
            ("DEMO_ADMIN".to_owned(), admin.to_string()),
            ("DEMO_KEYS".to_owned(), folder.display().to_string()),
        ]);
        for name in ["order", "payment", "member"] {
            let address = services::start(name, any).await?;
            variables.insert(format!("DEMO_{}", name.to_uppercase()), address.to_string());
        }
        let environment = |name: &str| variables.get(name).cloned();
        let compiled = crate::config::load_text("examples/demo/gateway.yaml", CONFIG.to_owned(), folder, &environment)
            .map_err(|errors| Failure::Configuration(errors.to_string()))?;
        let serving = Serving::start(compiled, 1, Inherited::default()).await?;
        let address = *serving.addresses().first().ok_or_else(|| Failure::Runtime("nothing listens".to_owned()))?;
        let stage = Stage { gateway: address.to_string(), admin: serving.admin_address().to_string() };
        if self.smoke {
            let outcome = stage.play().await;
            serving.drain().await;
            return outcome;
        }
        print(&stage.script())?;
        serving.until_told(None, Signals::listen()?).await
    }
}

/// A folder of our own, readable by nobody else.
fn scratch() -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = std::env::temp_dir().join(format!("bearward-demo-{:016x}", fastrand::u64(..)));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    made.map_err(|error| Failure::Runtime(format!("{}: {error}", folder.display())))?;
    Ok(folder)
}

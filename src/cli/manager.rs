//! What the service manager is told (`sd_notify(3)`): systemd with `Type=notify`, podman, and whoever else names a socket in
//! `NOTIFY_SOCKET`. Where there is none, nobody is told.
//!
//! 1. That it serves, and by which configuration; that it reads another one, and why that was not taken.
//! 2. Which process has taken its place: that one is the service from then on, and this one may end.
//! 3. That it drains, and for how long that may take.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long a manager that takes nothing is waited for.
const TAKES: Duration = Duration::from_secs(1);
/// What an end takes beside the drain: threads, the store's lease, the last lines.
const BESIDE: Duration = Duration::from_secs(5);

/// It serves by this configuration.
pub async fn serves(generation: u64) {
    tell(vec![Said::Ready, Said::Status(format!("serving, configuration {generation}"))]).await;
}

/// It reads another configuration.
pub async fn reads_again() {
    tell(vec![Said::Reloading]).await;
}

/// It serves as before, since the other configuration was refused.
pub async fn goes_on(reason: &str) {
    tell(vec![Said::Ready, Said::Status(format!("configuration refused: {reason}"))]).await;
}

/// Another process is the service from now on.
pub async fn is_replaced_by(process: u32) {
    tell(vec![Said::MainPid(process)]).await;
}

/// It drains, for at most `limit`.
pub async fn drains(limit: Duration) {
    tell(vec![Said::Stopping, Said::Within(limit + BESIDE), Said::Status("draining".to_owned())]).await;
}

/// One line of a message.
enum Said {
    Ready,
    Reloading,
    Stopping,
    Within(Duration),
    MainPid(u32),
    /// For people; its first line counts, since the next one would be another word of ours.
    Status(String),
}

impl Said {
    fn states(&self) -> Vec<NotifyState<'_>> {
        match self {
            Self::Ready => vec![NotifyState::Ready],
            // `Type=notify-reload` wants to know when.
            Self::Reloading => {
                std::iter::once(NotifyState::Reloading).chain(NotifyState::monotonic_usec_now()).collect()
            }
            Self::Stopping => vec![NotifyState::Stopping],
            Self::Within(limit) => {
                vec![NotifyState::ExtendTimeoutUsec(u32::try_from(limit.as_micros()).unwrap_or(u32::MAX))]
            }
            Self::MainPid(process) => vec![NotifyState::MainPid(*process)],
            Self::Status(text) => text.lines().next().map(NotifyState::Status).into_iter().collect(),
        }
    }
}

/// Beside the runtime: a manager that takes nothing holds up nobody.
async fn tell(said: Vec<Said>) {
    let told = spawn_blocking(move || {
        let states: Vec<_> = said.iter().flat_map(Said::states).collect();
        sd_notify::notify(&states)
    });
    match timeout(TAKES, told).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the service manager (NOTIFY_SOCKET) cannot be told"),
        Ok(Err(error)) => tracing::warn!(%error, "the service manager (NOTIFY_SOCKET) cannot be told"),
        Err(_) => tracing::warn!("the service manager (NOTIFY_SOCKET) takes nothing"),
    }
}

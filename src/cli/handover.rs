//! Another process takes the place of this one, and no connection is lost.
//!
//! 1. On USR2 the program is started again, from where it was started (there may be a new one by now), with
//!    the same arguments, and given the sockets that clients connect to (`LISTEN_FDS`).
//! 2. When it serves it says so, on the other end of its standard input; then this one drains.
//! 3. If it ends before that, or takes too long, nothing has changed. If this one is told to end meanwhile, both do.
//! 4. A service manager that is told of such things (`manager`) hears it from the one that it knows.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::accept::listen::ADMIN;

/// Set for a process that takes the place of another one.
const REPLACES: &str = "BEARWARD_REPLACES";
/// What it says once it serves.
const SERVES: &[u8] = b"serves\n";
/// How long it may take until then.
const READY: Duration = Duration::from_secs(60);
/// First processes of containers that end with the one that they were told to start.
const INITS: [&str; 4] = ["tini", "docker-init", "dumb-init", "catatonit"];
/// The first file descriptor that is given (`sd_listen_fds`).
const FIRST: i32 = 3;

/// How this program was started.
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Looks now: the file may be another one later.
    pub fn of_this_process() -> Option<Self> {
        let mut arguments = std::env::args_os();
        let called = arguments.next();
        let path = called.and_then(|called| named(Path::new(&called))).or_else(|| std::env::current_exe().ok())?;
        Some(Self { path, arguments: arguments.collect() })
    }

    /// Whether a process with this id, below one of this name where that is the first, may leave its place to another one.
    ///
    /// # Errors
    /// Why not: the container would end with it.
    pub fn may_be_replaced(id: u32, first: Option<&str>) -> Result<(), String> {
        let reason = match first {
            _ if id == 1 => "this is the first process (PID 1), and its container would end with it".to_owned(),
            Some(name) if INITS.contains(&name) => {
                format!("`{name}` ends when this process does, and its container with it")
            }
            Some(_) | None => return Ok(()),
        };
        Err(format!("{reason}: start another container beside this one"))
    }

    /// What the first process is called, where this one is its child.
    pub fn first_above() -> Option<String> {
        let name = (std::os::unix::process::parent_id() == 1).then(|| std::fs::read_to_string("/proc/1/comm").ok());
        name.flatten().map(|name| name.trim_end().to_owned())
    }

    /// Starts the program again with these sockets; not for an async thread.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub fn start_again(&self, sockets: Vec<TcpListener>, admin: TcpListener) -> Result<Successor, String> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| format!("no socket to talk by: {error}"))?;
        ours.set_nonblocking(true).map_err(|error| format!("no socket to wait by: {error}"))?;
        let count = sockets.len() + 1;
        // Those of clients have no name.
        let names = format!("{}{ADMIN}", ":".repeat(sockets.len()));
        let mappings = sockets.into_iter().chain([admin]).zip(FIRST..);
        let mappings = mappings.map(|(socket, child_fd)| FdMapping { parent_fd: OwnedFd::from(socket), child_fd });
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env("LISTEN_FDS", count.to_string())
            .env_remove("LISTEN_PID")
            .env("LISTEN_FDNAMES", names)
            .env(REPLACES, "1")
            .stdin(OwnedFd::from(theirs))
            .fd_mappings(mappings.collect())
            .map_err(|error| error.to_string())?;
        let child = command.spawn().map_err(|error| format!("{}: {error}", self.path.display()))?;
        // Our copies of what it was given, its end of the talk among them.
        drop(command);
        Ok(Successor { child, talk: Some(ours), serves: false })
    }
}

/// The file that a program was called by, as it was named: what a link leads to may be another one next time.
fn named(called: &Path) -> Option<PathBuf> {
    if called.components().count() > 1 {
        return std::path::absolute(called).ok().filter(|path| path.exists());
    }
    let this = std::env::current_exe().ok()?;
    let is_this = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path == this);
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(called)).find(is_this)
}

/// A process that was started to take the place of this one. Dropping it before it serves ends it.
pub struct Successor {
    child: Child,
    talk: Option<UnixStream>,
    serves: bool,
}

impl Successor {
    /// Waits until it serves; its id.
    ///
    /// # Errors
    /// Why it does not; then it has ended.
    pub async fn serves(mut self) -> Result<u32, String> {
        let mut said = [0; SERVES.len()];
        let talk = self.talk.take().and_then(|talk| tokio::net::UnixStream::from_std(talk).ok());
        let mut talk = talk.ok_or("it cannot be listened to")?;
        match timeout(READY, talk.read_exact(&mut said)).await {
            Ok(Ok(_)) if said == *SERVES => {
                self.serves = true;
                Ok(self.child.id())
            }
            Ok(Ok(_)) => Err("it did not say that it serves".to_owned()),
            Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Err(format!("it ended: {}", self.end())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it did not serve within {READY:?}")),
        }
    }

    /// Ends it; how it ended.
    fn end(&mut self) -> String {
        drop(self.child.kill());
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.serves {
            let _status = self.end();
        }
    }
}

/// The process whose place this one takes, if it takes any.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// The one at the other end of the standard input.
    pub fn find() -> Option<Self> {
        std::env::var_os(REPLACES)?;
        let input = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
        Some(Self(UnixStream::from(input)))
    }

    /// Says that this process serves: the other one drains.
    pub fn serves(mut self) {
        if let Err(error) = self.0.write_all(SERVES) {
            tracing::warn!(%error, "the process before this one cannot be told to end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_of_a_container_stays() {
        assert!(Program::may_be_replaced(1, None).is_err_and(|reason| reason.contains("PID 1")));
        assert!(Program::may_be_replaced(7, Some("docker-init")).is_err_and(|reason| reason.contains("docker-init")));
        assert_eq!(Program::may_be_replaced(7, Some("systemd")), Ok(()));
        assert_eq!(Program::may_be_replaced(7, None), Ok(()));
    }
}

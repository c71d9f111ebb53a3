//! Another process takes the place of this one, and no connection is lost.
//!
//! 1. On USR2 the program is started again, from where it was started (there may be a new one by now), with
//!    the same arguments, and given the sockets that clients connect to (`LISTEN_FDS`).
//! 2. When it serves it says so, on the other end of its standard input; then this one drains.
//! 3. If it ends before that, or takes too long, nothing has changed.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};

use crate::accept::listen::ADMIN;

/// Set for a process that takes the place of another one.
const REPLACES: &str = "BEARWARD_REPLACES";
/// What it says once it serves.
const SERVES: &[u8] = b"serves\n";
/// How long it may take until then.
const READY: Duration = Duration::from_secs(60);
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
        Some(Self { path: std::env::current_exe().ok()?, arguments: std::env::args_os().skip(1).collect() })
    }

    /// Starts the program again with these sockets, and waits until it serves; not for an async thread.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub fn start_again(&self, sockets: Vec<TcpListener>, admin: TcpListener) -> Result<(), String> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| format!("no socket to talk by: {error}"))?;
        ours.set_read_timeout(Some(READY)).map_err(|error| format!("no limit of time: {error}"))?;
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
        wait(ours, child)
    }
}

fn wait(mut talk: UnixStream, mut child: Child) -> Result<(), String> {
    let mut said = [0; SERVES.len()];
    let heard = talk.read_exact(&mut said);
    if heard.is_ok() && said == *SERVES {
        return Ok(());
    }
    drop(child.kill());
    let ended = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    Err(match heard {
        Ok(()) => "it did not say that it serves".to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => format!("it ended: {ended}"),
        Err(_) => format!("it did not serve within {READY:?}"),
    })
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

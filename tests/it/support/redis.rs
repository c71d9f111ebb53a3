//! A real Redis as a child process.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::gateway::signal;
use super::{secrets, until};

/// A redis-server of this test alone; dropping it ends it.
pub struct Redis {
    child: Child,
    pub port: u16,
    folder: tempfile::TempDir,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_on(port: u16) -> Self {
        Self::start_on_with(port, &[])
    }

    /// With settings of its own.
    pub fn start_with(settings: &[&str]) -> Self {
        // Between a look for a port that is free and its use somebody else may take it: then it ends, and another one is tried.
        let mut tries = (0..5).map(|_| {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
            Self::start_loading(free.port(), settings)
        });
        tries.find_map(Self::answering).expect("redis-server starts on one of five ports")
    }

    /// Itself, once it answers; nothing when it has ended.
    fn answering(mut self) -> Option<Self> {
        let mut has_ended = false;
        until("redis answers, or ends", || {
            let answers = self.try_command(&["PING"]).as_deref() == Some("PONG");
            // Looked at last: whoever answers may be somebody else.
            has_ended = !matches!(self.child.try_wait(), Ok(None));
            answers || has_ended
        });
        (!has_ended).then_some(self)
    }

    pub fn start_on_with(port: u16, settings: &[&str]) -> Self {
        Self::start_loading(port, settings).answering().expect("redis-server starts")
    }

    /// The same without waiting for it.
    pub fn start_loading(port: u16, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--rdbcompression", "no"])
            .args(settings)
            // What it writes when a replica comes is not for this folder.
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (tests/run.sh installs it)");
        Self { child, port, folder }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command with redis-cli, as an operator would.
    pub fn command(&self, arguments: &[&str]) -> String {
        self.try_command(arguments).expect("redis-cli")
    }

    /// How often a command was sent to it so far.
    pub fn calls(&self, command: &str) -> usize {
        let info = self.command(&["INFO", "commandstats"]);
        let line = info.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        line.and_then(|line| line.split(['=', ',']).nth(1)).map_or(0, |calls| calls.parse().expect("a number"))
    }

    pub fn try_command(&self, arguments: &[&str]) -> Option<String> {
        let out = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// Stops the process without closing anything: silence.
    pub fn freeze(&self) {
        signal(self.child.id(), "STOP");
    }

    pub fn thaw(&self) {
        signal(self.child.id(), "CONT");
    }

    /// Ends it and leaves its port.
    pub fn kill(mut self) -> u16 {
        drop(self.child.kill());
        drop(self.child.wait());
        self.port
    }
}

impl Redis {
    /// Nothing that a gateway has issued is in it as it is. Where it lets nobody in there is nothing to see.
    fn keeps_nothing_in_clear(&self) {
        self.thaw();
        if self.try_command(&["SAVE"]).is_some() {
            secrets::not_kept(&self.folder.path().join("dump.rdb"));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let is_running = matches!(self.child.try_wait(), Ok(None));
        if is_running && !std::thread::panicking() {
            self.keeps_nothing_in_clear();
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

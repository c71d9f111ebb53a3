//! The files that a configuration was read from, and whether they have changed.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::clock;

/// The file that a running gateway was made of, as it was when it was read.
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    is_watched: bool,
    files: Vec<PathBuf>,
    begun: SystemTime,
    seen: Vec<Stamp>,
    read: Vec<Stamp>,
}

/// What is seen of a file without reading it; nothing where there is none.
type Stamp = Option<(u64, u64, SystemTime)>;

impl ConfigFile {
    /// A file that is read now; whether its changes count.
    pub fn new(path: &Path, is_watched: bool) -> Self {
        let (path, begun) = (path.to_owned(), clock::wall());
        let mut file = Self { path, is_watched, files: Vec::new(), begun, seen: Vec::new(), read: Vec::new() };
        file.begin();
        file
    }

    /// Whether changes of it count.
    pub const fn is_watched(&self) -> bool {
        self.is_watched
    }

    fn stamps(&self) -> Vec<Stamp> {
        std::iter::once(&self.path).chain(&self.files).map(|path| stamp(path)).collect()
    }

    /// Whether it is another one than was read, and has stood still since the last look.
    pub fn has_changed(&mut self) -> bool {
        if !self.is_watched {
            return false;
        }
        let now = self.stamps();
        let stands_still = now == self.seen;
        self.seen = now;
        stands_still && self.seen != self.read
    }

    /// It is read now, as it stands.
    pub fn begin(&mut self) {
        self.begun = clock::wall();
        self.seen = self.stamps();
        self.read.clone_from(&self.seen);
    }

    /// It was taken: these are its files from now on. What was seen of them before they were read counts,
    /// since they may have changed again.
    pub fn taken(&mut self, files: Vec<PathBuf>) {
        if files == self.files {
            return;
        }
        self.files = files;
        let begun = self.begun;
        let is_older = |stamp: &(u64, u64, SystemTime)| stamp.2 < begun;
        let files = self.stamps().into_iter().skip(1).map(|stamp| stamp.filter(is_older));
        self.read = self.read.iter().take(1).copied().chain(files).collect();
    }
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let seen = std::fs::metadata(path).ok()?;
    Some((seen.ino(), seen.len(), seen.modified().ok()?))
}

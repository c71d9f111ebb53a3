//! gateway.yaml becomes a gateway: text → tree with places → file as written → compiled snapshot.
//!
//! Every step finds all the mistakes that it can see; a file with one makes nothing.

pub mod access;
pub mod compile;
pub mod count;
pub mod file;
pub mod header;
pub mod mistake;
pub mod node;
pub mod origin;
pub mod place;
pub mod policy;
mod rate;
pub mod schema;
pub mod section;
pub mod target;
pub mod unit;
pub mod value;
pub mod words;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use self::compile::{Compiled, Kept};
use self::file::{Admin, Config};
use self::mistake::{Mistake, Mistakes};
use self::node::{Node, Value};
use self::section::Read;

/// What was wrong with a file.
#[derive(Debug)]
pub struct ConfigErrors {
    file: String,
    source: String,
    mistakes: Mistakes,
}

impl ConfigErrors {
    /// The mistakes of a text, which is called `file`.
    fn new(file: String, source: String, mut mistakes: Mistakes) -> Self {
        mistakes.sort();
        Self { file, source, mistakes }
    }

    /// How many mistakes there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.mistakes.len()
    }

    /// The list for machines.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.mistakes.to_json(&self.file)
    }
}

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.mistakes.render(&self.file, &self.source))
    }
}

impl std::error::Error for ConfigErrors {}

/// Loads a file with the process's environment.
///
/// # Errors
/// All mistakes of the file, or that it cannot be read.
pub fn load(path: &Path) -> Result<Compiled, ConfigErrors> {
    load_again(path, &Kept::default())
}

/// Loads a file that takes the place of another one, of which `before` is there.
///
/// # Errors
/// All mistakes of the file, or that it cannot be read.
pub fn load_again(path: &Path, before: &Kept) -> Result<Compiled, ConfigErrors> {
    let name = path.display().to_string();
    let source = match std::fs::read_to_string(path) {
        Ok(source) => source,
        Err(error) => return Err(unreadable(&name, &error)),
    };
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    compiled(&name, source, &folder, before, &|name| std::env::var(name).ok())
}

/// What there is to say of a file that cannot be read.
fn unreadable(name: &str, error: &std::io::Error) -> ConfigErrors {
    let mut mistakes = Mistakes::default();
    let place = place::Place { line: 1, column: 1, length: 1 };
    mistakes.add(Mistake::new(place, "", format!("the file cannot be read: {error}")));
    ConfigErrors::new(name.to_owned(), String::new(), mistakes)
}

/// Where operators connect, by a file whose other parts may hold mistakes, and name keys that cannot be read here: who takes
/// something back has no need of them.
///
/// # Errors
/// What is wrong with the file where it cannot be read that far.
pub fn admin_address(path: &Path) -> Result<SocketAddr, ConfigErrors> {
    let name = path.display().to_string();
    let source = std::fs::read_to_string(path).map_err(|error| unreadable(&name, &error))?;
    let mut mistakes = Mistakes::default();
    let env = |name: &str| std::env::var(name).ok();
    let Some(node) = node::parse(&source, &env, &mut mistakes) else {
        return Err(ConfigErrors::new(name, source, mistakes));
    };
    let elsewhere = mistakes.len();
    let nothing = Node { value: Value::Map(Vec::new()), place: node.place };
    let members = if let Value::Map(members) = &node.value { members.as_slice() } else { &[] };
    let section = members.iter().find(|(key, _)| key.name == "admin").map_or(&nothing, |(_, section)| section);
    match Admin::read(section, "admin", &mut mistakes) {
        Some(admin) if mistakes.len() == elsewhere => Ok(*admin.address),
        _ => Err(ConfigErrors::new(name, source, mistakes)),
    }
}

/// Loads a text as the file `name`, whose relative paths are found from `folder`.
///
/// # Errors
/// All mistakes of the text.
pub fn load_text(
    name: &str,
    source: String,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Compiled, ConfigErrors> {
    compiled(name, source, folder, &Kept::default(), env)
}

fn compiled(
    name: &str,
    source: String,
    folder: &Path,
    before: &Kept,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Compiled, ConfigErrors> {
    let mut mistakes = Mistakes::default();
    let compiled = node::parse(&source, env, &mut mistakes)
        .and_then(|node| Config::read(&node, "", &mut mistakes))
        .and_then(|config| compile::compile(&config, folder, before, &mut mistakes));
    match compiled {
        Some(compiled) if mistakes.is_empty() => Ok(compiled),
        _ => Err(ConfigErrors::new(name.to_owned(), source, mistakes)),
    }
}

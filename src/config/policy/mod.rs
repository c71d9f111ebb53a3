//! Policy tests as written: requests, who sends them, and what has to come of that (`bearward test`).
//!
//! The same reader as of gateway.yaml, with the same kind of mistakes. Whether its names are those of a configuration is
//! looked at once that is there ([`PolicyFile::check`]).

mod value;

use std::path::{Path, PathBuf};

use http::{HeaderName, HeaderValue};

pub use self::value::{Claims, Expected, OneOrMore, RequestLine, Said, target};
use super::mistake::{Mistake, Mistakes};
use super::place::At;
use super::section::{Named, Read, section};
use super::{ConfigErrors, node, unreadable};
use crate::gateway::Gateway;

section! {
    /// The whole file.
    pub struct PolicyTests {
        /// The configuration that is tested, beside this file unless it begins with `/`. Left out: as for other commands.
        optional config: PathBuf,
        /// Who sends requests, by names of your own.
        default callers: Named<CallerSource> = "{}",
        /// The tests.
        required tests: Vec<At<PolicyTest>>,
    }
}

section! {
    /// Somebody who sends requests.
    pub struct CallerSource {
        /// What proves who it is: a name of `issuers`, `sessions`, `introspection` or `client_certificates`.
        required by: String,
        /// What that says: the claims of a token, the members of a session's record. `iss`, `aud`, `iat`, `exp` and `jti` are
        /// there as they should be, unless they are given; `null` is not there.
        default claims: Claims = "{}",
        /// Whether it has been taken back.
        default revoked: bool = "false",
    }
}

section! {
    /// Requests, and what has to come of each.
    pub struct PolicyTest {
        /// What is shown of it.
        required name: String,
        /// `GET /orders/42`, or several.
        required request: OneOrMore<RequestLine>,
        /// Who sends it: a name of `callers`, or several. Left out: nobody that is known.
        optional r#as: OneOrMore<String>,
        /// The host that is asked for.
        optional host: String,
        /// Header fields of the request.
        default headers: Named<String> = "{}",
        /// What has to come of it: `allowed`; `preflight`, where a browser only asks; `refused`, by the route that it comes to; a
        /// status such as `403`; or a reason as logs have it: `missing_role`.
        required expect: Expected,
        /// The route that it has to come to.
        optional route: String,
        /// The service that it has to lead to.
        optional upstream: String,
        /// Identity headers that the service has to get; `null`: it must not get that one.
        default identity: Named<Said> = "{}",
    }
}

/// A file of policy tests.
#[derive(Debug)]
pub struct PolicyFile {
    /// What it holds.
    pub tests: PolicyTests,
    name: String,
    source: String,
    /// What came from the environment.
    hidden: Vec<String>,
}

impl PolicyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// All mistakes of the file, or that it cannot be read.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        let source = std::fs::read_to_string(path).map_err(|error| unreadable(&name, &error))?;
        Self::load_text(&name, source, &|name| std::env::var(name).ok())
    }

    /// Reads a text as the file `name`.
    ///
    /// # Errors
    /// All mistakes of the text.
    pub fn load_text(name: &str, source: String, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut mistakes = Mistakes::default();
        let tests =
            node::parse(&source, env, &mut mistakes).and_then(|node| PolicyTests::read(&node, "", &mut mistakes));
        let name = name.to_owned();
        match tests {
            Some(tests) if mistakes.is_empty() => {
                let hidden = mistakes.hidden().to_vec();
                Ok(Self { tests, name, source, hidden })
            }
            _ => Err(ConfigErrors::new(name, source, mistakes)),
        }
    }

    /// A text that may be shown: without what came from the environment.
    #[must_use]
    pub fn shown(&self, text: &str) -> String {
        self.mistakes().without_secrets(text)
    }

    /// No mistakes yet, and what none of them may show.
    fn mistakes(&self) -> Mistakes {
        let mut mistakes = Mistakes::default();
        self.hidden.iter().for_each(|secret| mistakes.hide(secret));
        mistakes
    }

    /// Where its configuration is, if it names one.
    #[must_use]
    pub fn config(&self) -> Option<PathBuf> {
        let folder = Path::new(&self.name).parent().map_or_else(PathBuf::new, Path::to_path_buf);
        self.tests.config.as_ref().map(|path| folder.join(&path.value))
    }

    /// Whether its names are those of a configuration, or its own.
    ///
    /// # Errors
    /// All that are not.
    pub fn check(&self, gateway: &Gateway) -> Result<(), ConfigErrors> {
        let mut mistakes = self.mistakes();
        let tests = &self.tests;
        if tests.tests.is_empty() {
            mistakes
                .add(Mistake::at(&tests.tests, "the list is empty: nothing would be tested").allowed("at least one"));
        }
        let headers: Vec<&str> = gateway.authenticator.identity_headers().map(HeaderName::as_str).collect();
        let vouchers: Vec<&str> = gateway.authenticator.vouchers().map(|(name, _)| name).collect();
        for (_, caller) in &tests.callers.entries {
            known(&caller.by, &vouchers, "nobody in the configuration is called", &mut mistakes);
        }
        let callers: Vec<&str> = tests.callers.declared.iter().map(|name| name.value.as_str()).collect();
        let routes: Vec<&str> = gateway.routes.all().iter().map(|route| &*route.id).collect();
        let upstreams: Vec<&str> = gateway.forwarder.upstreams().iter().map(|upstream| &*upstream.name).collect();
        for test in tests.tests.iter() {
            for (name, value) in &test.headers.entries {
                fit_for_a_head(name, value, &mut mistakes);
            }
            if let Some(host) = test.host.as_ref().filter(|host| HeaderValue::try_from(host.as_str()).is_err()) {
                mistakes.add(
                    Mistake::at(host, "this cannot be a host").allowed("`shop.example.com`, with a port or without"),
                );
            }
            for (name, _) in &test.identity.entries {
                let lower = name.with(name.value.to_ascii_lowercase());
                known(&lower, &headers, "no identity header is called", &mut mistakes);
            }
            for name in test.r#as.iter().flat_map(|names| &names.value.0) {
                known(name, &callers, "unknown caller", &mut mistakes);
            }
            for (name, all, what) in
                [(&test.route, &routes, "unknown route"), (&test.upstream, &upstreams, "unknown upstream")]
            {
                if let Some(name) = name {
                    known(name, all, what, &mut mistakes);
                }
            }
        }
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(ConfigErrors::new(self.name.clone(), self.source.clone(), mistakes))
    }
}

/// A header field has to be one.
fn fit_for_a_head(name: &At<String>, value: &At<String>, mistakes: &mut Mistakes) {
    if HeaderName::try_from(name.value.as_str()).is_err() {
        let mistake = Mistake::at(name, format!("`{}` is no name of a header", name.value.escape_debug()));
        mistakes.add(mistake.allowed("letters, digits and `-`: `Origin`"));
    }
    if HeaderValue::try_from(value.value.as_str()).is_err() {
        let mistake = Mistake::at(value, "this cannot be the value of a header");
        mistakes.add(mistake.allowed("text without line breaks and other control characters"));
    }
}

/// A name has to be one of these.
fn known(name: &At<String>, all: &[&str], what: &str, mistakes: &mut Mistakes) {
    if !all.contains(&name.value.as_str()) {
        let list = all.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let mistake = Mistake::at(name, format!("{what} `{}`", name.value.escape_debug()));
        mistakes.add(mistake.allowed(format!("one of {list}")).near(name, all.iter().copied()));
    }
}

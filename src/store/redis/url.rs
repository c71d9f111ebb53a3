//! Where the primary is: at an address, or where the Sentinels say.

use std::fmt;
use std::time::Duration;

use ::redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, cmd};
use tokio::time::timeout;

/// Longest wait for one Sentinel.
const SENTINEL: Duration = Duration::from_millis(300);
/// Where Sentinels listen unless said otherwise.
const SENTINEL_PORT: u16 = 26379;

/// Where Redis is; `Debug` and `Display` leave the password out.
#[derive(Clone)]
pub struct RedisUrl {
    /// The address, or what holds at whatever address: user, password, database.
    info: ConnectionInfo,
    sentinels: Option<Sentinels>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sentinels {
    addresses: Vec<(String, u16)>,
    /// What they call the primary and its replicas.
    service: String,
}

impl RedisUrl {
    /// Reads `redis://[user:password@]host[:port][/db]`, the same with `rediss://`, or
    /// `redis+sentinel://[user:password@]host[:port],host[:port],.../service[/db]`.
    ///
    /// # Errors
    /// What is wrong, without the password.
    pub fn parse(url: &str) -> Result<Self, String> {
        if let Some(rest) = url.strip_prefix("redis+sentinel://") {
            return Self::behind_sentinels(rest);
        }
        if !(url.starts_with("redis://") || url.starts_with("rediss://")) {
            return Err("the scheme is none of `redis://`, `rediss://`, `redis+sentinel://`".to_owned());
        }
        Ok(Self { info: info(url)?, sentinels: None })
    }

    fn behind_sentinels(rest: &str) -> Result<Self, String> {
        let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(user, rest)| (user, rest));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (service, database) = path.split_once('/').unwrap_or((path, "0"));
        if service.is_empty() {
            return Err("the name of the service is missing: `redis+sentinel://host:26379/service`".to_owned());
        }
        let addresses = hosts.split(',').map(address).collect::<Option<Vec<_>>>();
        let addresses = addresses.ok_or("a Sentinel's address is not `host` or `host:port`")?;
        let at = if user.is_empty() { "" } else { "@" };
        let info = info(&format!("redis://{user}{at}primary:6379/{database}"))?;
        Ok(Self { info, sentinels: Some(Sentinels { addresses, service: service.to_owned() }) })
    }

    /// Where the primary is now.
    ///
    /// # Errors
    /// Why the Sentinels do not say: more than half of those that are named have to agree.
    pub(super) async fn primary(&self) -> Result<ConnectionInfo, String> {
        let Some(sentinels) = &self.sentinels else { return Ok(self.info.clone()) };
        let (host, port) = sentinels.agreed().await?;
        Ok(self.info.clone().set_addr(ConnectionAddr::Tcp(host, port)))
    }

    /// Whether the Sentinels agree on another primary than this one. Without an agreement it stays:
    /// a primary that was left behind takes no leases, where `min-replicas-to-write` is set.
    pub(super) async fn has_moved_from(&self, present: &ConnectionInfo) -> bool {
        match &self.sentinels {
            None => false,
            Some(_) => self.primary().await.is_ok_and(|now| now.addr().to_string() != present.addr().to_string()),
        }
    }
}

impl Sentinels {
    async fn agreed(&self) -> Result<(String, u16), String> {
        let mut asking = tokio::task::JoinSet::new();
        for address in &self.addresses {
            asking.spawn(timeout(SENTINEL, ask(address.clone(), self.service.clone())));
        }
        let mut said: Vec<(String, u16)> = Vec::new();
        while let Some(answer) = asking.join_next().await {
            let Ok(Ok(Some(primary))) = answer else { continue };
            said.push(primary);
            let votes = said.iter().filter(|other| Some(*other) == said.last()).count();
            if votes * 2 > self.addresses.len() {
                return said.pop().ok_or_else(String::new);
            }
        }
        Err(format!(
            "{} of {} Sentinels answered, and more than half have to agree on a primary of `{}`",
            said.len(),
            self.addresses.len(),
            self.service
        ))
    }
}

/// What one Sentinel says; nothing when it does not.
async fn ask((host, port): (String, u16), service: String) -> Option<(String, u16)> {
    let info = ConnectionAddr::Tcp(host, port).into_connection_info().ok()?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(SENTINEL)).set_response_timeout(Some(SENTINEL));
    let mut connection = Client::open(info).ok()?.get_multiplexed_async_connection_with_config(&config).await.ok()?;
    let mut question = cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(service);
    let (host, port): (String, u16) = question.query_async(&mut connection).await.ok()?;
    Some((host, port))
}

fn info(url: &str) -> Result<ConnectionInfo, String> {
    let info = url.into_connection_info().map_err(|error| error.detail().unwrap_or("it cannot be read").to_owned())?;
    let settings = ::redis::io::tcp::TcpSettings::default().set_nodelay(true);
    Ok(info.set_tcp_settings(settings))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn address(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        Some(_) | None => (text, SENTINEL_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sentinels {
            None => write!(f, "{}", self.info.addr()),
            Some(sentinels) => write!(f, "`{}` behind {} Sentinels", sentinels.service, sentinels.addresses.len()),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_redis_or_its_sentinels_and_shows_no_password() {
        let url = RedisUrl::parse("redis+sentinel://gw:s3cret@a:1,b,[::1]:3/shop/2").expect("a URL");
        let sentinels = url.sentinels.as_ref().expect("Sentinels");
        assert_eq!(sentinels.service, "shop");
        let named = [("a", 1), ("b", SENTINEL_PORT), ("::1", 3)].map(|(host, port)| (host.to_owned(), port));
        assert_eq!(sentinels.addresses, named);
        let settings = url.info.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("gw"), Some("s3cret"), 2));
        assert!(!format!("{url} {url:?}").contains("s3cret"));
        assert!(RedisUrl::parse("redis+sentinel://a/shop").is_ok());
        for bad in [
            "redis+sentinel://a",
            "redis+sentinel:///shop",
            "redis+sentinel://a:x/shop",
            "redis+sentinel://a,/s",
            "http://a",
        ] {
            let why = RedisUrl::parse(bad).expect_err(bad);
            assert!(!why.is_empty());
        }
    }
}

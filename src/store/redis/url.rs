//! Where the primary is: at an address, or where the Sentinels say. Of a cluster: where to begin to ask.

use std::fmt;
use std::time::Duration;

use ::redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, cmd};
use tokio::time::timeout;

use super::cluster::Address;
use super::hello::Mode;

/// Longest wait for one Sentinel.
const SENTINEL: Duration = Duration::from_millis(300);
/// Where Sentinels listen unless said otherwise.
const SENTINEL_PORT: u16 = 26379;
/// Where nodes of a cluster listen unless said otherwise.
const NODE_PORT: u16 = 6379;

/// Where Redis is; `Debug` and `Display` leave the password out.
#[derive(Clone)]
pub struct RedisUrl {
    /// The address, or what holds at whatever address: user, password, database.
    info: ConnectionInfo,
    place: Place,
}

#[derive(Clone)]
enum Place {
    /// At the address, and it stands alone.
    Alone,
    Sentinels(Sentinels),
    /// These are asked first for the primaries of a cluster.
    Cluster(Vec<Address>),
    /// At the address, and it is one of a cluster, and has to have this id, where it is known.
    Part {
        id: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sentinels {
    addresses: Vec<(String, u16)>,
    /// What they call the primary and its replicas.
    service: String,
}

impl RedisUrl {
    /// Reads `redis://[user:password@]host[:port][/db]`, the same with `rediss://`,
    /// `redis+sentinel://[user:password@]host[:port],host[:port],.../service[/db]`, or
    /// `redis+cluster://[user:password@]host[:port],host[:port],...`.
    ///
    /// # Errors
    /// What is wrong, without the password.
    pub fn parse(url: &str) -> Result<Self, String> {
        if let Some(rest) = url.strip_prefix("redis+sentinel://") {
            return Self::behind_sentinels(rest);
        }
        if let Some(rest) = url.strip_prefix("redis+cluster://") {
            return Self::of_a_cluster(rest);
        }
        if !(url.starts_with("redis://") || url.starts_with("rediss://")) {
            let schemes = "`redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`";
            return Err(format!("the scheme is none of {schemes}"));
        }
        Ok(Self { info: info(url)?, place: Place::Alone })
    }

    fn behind_sentinels(rest: &str) -> Result<Self, String> {
        let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(user, rest)| (user, rest));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (service, database) = path.split_once('/').unwrap_or((path, "0"));
        if service.is_empty() {
            return Err("the name of the service is missing: `redis+sentinel://host:26379/service`".to_owned());
        }
        let addresses = hosts.split(',').map(|text| address(text, SENTINEL_PORT)).collect::<Option<Vec<_>>>();
        let addresses = addresses.ok_or("a Sentinel's address is not `host` or `host:port`")?;
        let at = if user.is_empty() { "" } else { "@" };
        let info = info(&format!("redis://{user}{at}primary:6379/{database}"))?;
        Ok(Self { info, place: Place::Sentinels(Sentinels { addresses, service: service.to_owned() }) })
    }

    fn of_a_cluster(rest: &str) -> Result<Self, String> {
        let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(user, rest)| (user, rest));
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(database, "" | "0") {
            return Err("a cluster has only the database 0".to_owned());
        }
        let seeds = hosts.split(',').map(|text| address(text, NODE_PORT)).collect::<Option<Vec<_>>>();
        let seeds = seeds.ok_or("a node's address is not `host` or `host:port`")?;
        let seeds = seeds.into_iter().map(|(host, port)| Address { host, port }).collect();
        let at = if user.is_empty() { "" } else { "@" };
        Ok(Self { info: info(&format!("redis://{user}{at}primary:6379"))?, place: Place::Cluster(seeds) })
    }

    /// Where to begin to ask, where this is a cluster.
    pub(super) fn seeds(&self) -> Option<&[Address]> {
        if let Place::Cluster(seeds) = &self.place { Some(seeds) } else { None }
    }

    /// One node of the cluster.
    pub(super) fn node(&self, address: &Address) -> Self {
        let info = self.info.clone().set_addr(ConnectionAddr::Tcp(address.host.clone(), address.port));
        Self { info, place: Place::Part { id: None } }
    }

    /// The same, if it is the node that the cluster calls this.
    pub(super) fn with_id(self, id: &str) -> Self {
        Self { place: Place::Part { id: Some(id.to_owned()) }, ..self }
    }

    /// Which node has to be there, where that is known.
    pub(super) fn id(&self) -> Option<&str> {
        if let Place::Part { id } = &self.place { id.as_deref() } else { None }
    }

    /// What who answers there has to be.
    pub(super) const fn mode(&self) -> Mode {
        match self.place {
            Place::Alone | Place::Sentinels(_) => Mode::Alone,
            Place::Cluster(_) | Place::Part { .. } => Mode::Part,
        }
    }

    /// Where the primary is now.
    ///
    /// # Errors
    /// Why the Sentinels do not say: more than half of those that are named have to agree.
    pub(super) async fn primary(&self) -> Result<ConnectionInfo, String> {
        match &self.place {
            Place::Alone | Place::Part { .. } => Ok(self.info.clone()),
            Place::Sentinels(sentinels) => {
                let (host, port) = sentinels.agreed().await?;
                Ok(self.info.clone().set_addr(ConnectionAddr::Tcp(host, port)))
            }
            Place::Cluster(_) => Err("a cluster has many primaries".to_owned()),
        }
    }

    /// Whether the Sentinels agree on another primary than this one. Without an agreement it stays:
    /// a primary that was left behind takes no leases, where `min-replicas-to-write` is set.
    pub(super) async fn has_moved_from(&self, present: &ConnectionInfo) -> bool {
        match &self.place {
            Place::Alone | Place::Part { .. } | Place::Cluster(_) => false,
            Place::Sentinels(_) => {
                self.primary().await.is_ok_and(|now| now.addr().to_string() != present.addr().to_string())
            }
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
fn address(text: &str, otherwise: u16) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        Some(_) | None => (text, otherwise),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Alone | Place::Part { .. } => write!(f, "{}", self.info.addr()),
            Place::Sentinels(sentinels) => {
                write!(f, "`{}` behind {} Sentinels", sentinels.service, sentinels.addresses.len())
            }
            Place::Cluster(seeds) => {
                let seeds: Vec<String> = seeds.iter().map(Address::to_string).collect();
                write!(f, "the cluster of {}", seeds.join(", "))
            }
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
        let Place::Sentinels(sentinels) = &url.place else { panic!("Sentinels") };
        assert_eq!(sentinels.service, "shop");
        let named = [("a", 1), ("b", SENTINEL_PORT), ("::1", 3)].map(|(host, port)| (host.to_owned(), port));
        assert_eq!(sentinels.addresses, named);
        let settings = url.info.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("gw"), Some("s3cret"), 2));
        assert!(!format!("{url} {url:?}").contains("s3cret"));
        assert!(RedisUrl::parse("redis+sentinel://a/shop").is_ok());
        let url = RedisUrl::parse("redis+cluster://gw:s3cret@a:7001,b,[::1]:3").expect("a URL");
        assert_eq!(url.to_string(), "the cluster of a:7001, b:6379, ::1:3");
        let node = url.node(&url.seeds().expect("seeds")[0]);
        assert_eq!((node.to_string(), node.info.redis_settings().password()), ("a:7001".to_owned(), Some("s3cret")));
        for bad in [
            "redis+sentinel://a",
            "redis+sentinel:///shop",
            "redis+sentinel://a:x/shop",
            "redis+sentinel://a,/s",
            "redis+cluster://",
            "redis+cluster://a,",
            "redis+cluster://a/1",
            "http://a",
        ] {
            let why = RedisUrl::parse(bad).expect_err(bad);
            assert!(!why.is_empty());
        }
    }
}

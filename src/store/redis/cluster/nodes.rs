//! What a node of a cluster says: the lines of `CLUSTER NODES`, and redirects.
//!
//! A node is believed about itself alone: what it says of others may be old, and is only where to ask.

use std::fmt;

use ::redis::{Cmd, Value, cmd};

use super::slots::{COUNT, Slots};

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::store::redis) struct Address {
    pub(in crate::store::redis) host: String,
    pub(in crate::store::redis) port: u16,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::redis) struct Line {
    /// What the cluster calls it.
    pub(in crate::store::redis) id: String,
    /// Nothing where a node does not know its own.
    pub(in crate::store::redis) address: Option<Address>,
    /// The same with its host's name, where it has one: redirects may use that.
    pub(in crate::store::redis) named: Option<Address>,
    /// Whether it is about the node that says it.
    pub(in crate::store::redis) is_own: bool,
    /// A primary, and not one that is known to have failed.
    pub(in crate::store::redis) is_primary: bool,
    /// It is known to have failed, or not known yet.
    pub(in crate::store::redis) is_away: bool,
    /// The higher one wins where two claim a slot.
    pub(in crate::store::redis) epoch: u64,
    /// What it claims.
    pub(in crate::store::redis) slots: Slots,
    /// Of these, what is not on its way to or from another node.
    pub(in crate::store::redis) settled: Slots,
}

/// Another node is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::redis) struct Redirect {
    /// `ASK`: for this one key; it has to be told that it was asked for.
    pub(in crate::store::redis) is_asking: bool,
    /// Nothing where the node that answered does not know.
    pub(in crate::store::redis) address: Option<Address>,
}

impl Address {
    /// `host:port`; the host may be an IPv6 address without brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (!host.is_empty() && host != "?").then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Asks for all lines.
pub(in crate::store::redis) fn ask() -> Cmd {
    let mut nodes = cmd("CLUSTER");
    nodes.arg("NODES");
    nodes
}

/// All lines.
///
/// # Errors
/// What was answered instead.
#[allow(clippy::wildcard_enum_match_arm, reason = "an open enum of another crate; what is not listed is no text")]
pub(in crate::store::redis) fn read(reply: Option<&Value>) -> Result<Vec<Line>, String> {
    let odd = || "an odd answer to CLUSTER NODES".to_owned();
    let text = match reply {
        Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).map_err(|_| odd())?,
        Some(Value::VerbatimString { text, .. }) => text,
        Some(Value::ServerError(error)) => return Err(format!("CLUSTER NODES is refused: {}", error.code())),
        _ => return Err(odd()),
    };
    text.lines().map(|line| Line::parse(line).ok_or_else(odd)).collect()
}

/// The line about the node that says it.
///
/// # Errors
/// What was answered instead.
pub(in crate::store::redis) fn own(reply: Option<&Value>) -> Result<Line, String> {
    read(reply)?.into_iter().find(|line| line.is_own).ok_or_else(|| "a node that does not know itself".to_owned())
}

impl Line {
    /// `id ip:port@bus[,hostname] flags primary ping pong epoch link slot slot-slot [slot->-id]`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (id, place, flags) = (words.next()?, words.next()?, words.next()?);
        let epoch = words.nth(3)?.parse().ok()?;
        let _link = words.next()?;
        let address = Address::parse(place.split(['@', ',']).next()?);
        let host = place.split(',').nth(1).filter(|host| !host.is_empty() && !host.contains('='));
        let named = host.zip(address.as_ref());
        let named = named.map(|(host, address)| Address { host: host.to_owned(), port: address.port });
        let has = |flag: &str| flags.split(',').any(|known| known == flag);
        let (mut slots, mut settled) = (Slots::new(), Slots::new());
        let mut moving = Vec::new();
        for word in words.filter(|word| !word.is_empty()) {
            if let Some(way) = word.strip_prefix('[') {
                moving.push(slot(way.split('-').next()?)?);
                continue;
            }
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            for slot in slot(first)?..=slot(last)? {
                slots.insert(slot);
                settled.insert(slot);
            }
        }
        for slot in moving {
            settled.remove(slot);
        }
        let is_away = ["fail", "handshake", "noaddr"].into_iter().any(has);
        let (is_own, is_primary) = (has("myself"), has("master") && !is_away);
        Some(Self { id: id.to_owned(), address, named, is_own, is_primary, is_away, epoch, slots, settled })
    }
}

fn slot(text: &str) -> Option<u16> {
    text.parse().ok().filter(|slot| *slot < COUNT)
}

/// What an error says of where else to ask: `MOVED 3999 127.0.0.1:6381`, `ASK ...`.
pub(in crate::store::redis) fn redirect(reply: &Value) -> Option<Redirect> {
    let Value::ServerError(error) = reply else { return None };
    let is_asking = match error.code() {
        "ASK" => true,
        "MOVED" => false,
        _ => return None,
    };
    let address = error.details().and_then(|details| details.split(' ').nth(1)).and_then(Address::parse);
    Some(Redirect { is_asking, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "\
07c37dfeb235213a872192d90877d0cd55635b91 127.0.0.1:30004@31004,hostname4 slave e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 0 1426238317239 4 connected
67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 127.0.0.1:30002@31002,hostname2 master - 0 1426238316232 2 connected 5461-10922
292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f 2001:db8::1:30003@31003 master,fail - 0 1426238318243 3 connected
e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 127.0.0.1:30001@31001,hostname1 myself,master - 0 0 1 connected 0-5460 7000 [42->-292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f] [93-<-67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1]
";

    #[test]
    fn a_node_is_read_with_what_it_claims_and_what_is_on_its_way() {
        let lines = read(Some(&Value::BulkString(LINES.into()))).expect("lines");
        let told: Vec<_> = lines.iter().map(|line| (line.is_own, line.is_primary, line.epoch)).collect();
        assert_eq!(told, [(false, false, 4), (false, true, 2), (false, false, 3), (true, true, 1)]);
        assert_eq!(lines[1].named.as_ref().map(Address::to_string).as_deref(), Some("hostname2:30002"));
        assert_eq!(lines[2].address, Some(Address { host: "2001:db8::1".to_owned(), port: 30003 }));
        let own = own(Some(&Value::BulkString(LINES.into()))).expect("its own");
        assert_eq!((own.slots.iter().count(), own.settled.iter().count()), (5462, 5460));
        assert!(own.slots.contains(42) && !own.settled.contains(42) && !own.settled.contains(93));
        assert!(own.settled.contains(7000) && !own.slots.contains(5461));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([a-z0-9:@,\\[\\]<>-]{0,12} ){0,12}\\PC{0,20}") {
            for line in read(Some(&Value::BulkString(text.into_bytes()))).unwrap_or_default() {
                assert!(line.settled.iter().all(|slot| line.slots.contains(slot)));
            }
        }

        #[test]
        fn what_a_node_claims_is_what_is_read(first in 0..COUNT, more in 0..COUNT, moving in 0..COUNT, epoch: u64) {
            let last = first.saturating_add(more).min(COUNT - 1);
            let text = format!("id 10.0.0.1:6379@16379 myself,master - 0 0 {epoch} connected {first}-{last} [{moving}->-x]");
            let line = own(Some(&Value::BulkString(text.into_bytes()))).expect("a line");
            assert_eq!((line.epoch, line.slots.iter().count()), (epoch, usize::from(last - first) + 1));
            assert!(line.slots.iter().all(|slot| slot >= first && slot <= last));
            assert!((first..=last).all(|slot| line.settled.contains(slot) == (slot != moving)));
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for odd in
            ["a", "a b c d e f g h", "a :1@2 master - 0 0 1 connected 16384", "a :1@2 master - 0 0 1 connected 3-x"]
        {
            assert!(read(Some(&Value::BulkString(odd.into()))).is_err(), "{odd}");
        }
        for odd in [None, Some(&Value::Nil), Some(&Value::Okay), Some(&Value::BulkString(vec![0xff]))] {
            assert!(own(odd).is_err(), "{odd:?}");
        }
        assert!(own(Some(&Value::BulkString(Vec::new()))).is_err());
    }
}

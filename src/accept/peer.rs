//! Who is on the other end of a connection.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::certificate::ClientCertificate;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of one client connection; made once per connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address; an IPv4 address in IPv6 clothes counts as the IPv4 address.
    pub address: IpAddr,
    /// Whether what it says of clients before it is believed (`trusted_proxies`).
    pub is_trusted: bool,
    /// Its address as text.
    pub forwarded_for: Rc<str>,
    /// Its address as a node of `Forwarded` (RFC 7239 §6): an IPv6 address in brackets and quotes.
    pub forwarded_node: String,
    /// `http`, or `https` where the listener speaks TLS.
    pub scheme: HeaderValue,
    /// The certificate that it has proved to be its own.
    pub certificate: Option<Arc<ClientCertificate>>,
}

impl Peer {
    /// The peer of a connection, over TLS or plain.
    #[must_use]
    pub fn new(address: IpAddr, trusted: &[IpNet], is_tls: bool) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            is_trusted: trusted.iter().any(|network| network.contains(&address)),
            forwarded_for: address.to_string().into(),
            forwarded_node: match address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("\"[{address}]\""),
            },
            scheme: HeaderValue::from_static(if is_tls { "https" } else { "http" }),
            certificate: None,
        }
    }

    /// The client's address for the log: the last one that a trusted proxy names and that is not
    /// itself a trusted proxy; without such a proxy the connection's own.
    #[must_use]
    pub fn client(&self, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
        if !self.is_trusted {
            return self.address;
        }
        // SECURITY: a field that cannot be read is the end of what is known: the one before it may be the client's own.
        let fields = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let fields = fields.map_while(|field| field.to_str().ok());
        let mut client = self.address;
        for address in fields.flat_map(|field| field.rsplit(',')) {
            let Some(address) = address_of(address.trim()) else { break };
            client = address.to_canonical();
            if !trusted.iter().any(|network| network.contains(&client)) {
                break;
            }
        }
        client
    }

    /// An address as text; most often it is the connection's own.
    #[must_use]
    pub fn text_of(&self, address: IpAddr) -> Rc<str> {
        if address == self.address { Rc::clone(&self.forwarded_for) } else { address.to_string().into() }
    }
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Row 42: only a trusted proxy says who the client is, and only up to the first stranger.
    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
        let proxy = Peer::new("::ffff:10.0.0.1".parse().expect("an address"), &trusted, false);
        let stranger = Peer::new("192.0.2.9".parse().expect("an address"), &trusted, false);
        assert!(proxy.is_trusted && !stranger.is_trusted);
        let mut headers = HeaderMap::new();
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("1.1.1.1, 198.51.100.7"));
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("10.9.9.9"));
        assert_eq!(proxy.client(&headers, &trusted).to_string(), "198.51.100.7");
        assert_eq!(stranger.client(&headers, &trusted).to_string(), "192.0.2.9");
        for (written, address) in
            [("203.0.113.1:5001", "203.0.113.1"), ("[2001:db8::1]:44", "2001:db8::1"), ("[2001:db8::2]", "2001:db8::2")]
        {
            let mut headers = HeaderMap::new();
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(written));
            assert_eq!(proxy.client(&headers, &trusted).to_string(), address);
        }
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("rubbish"));
        assert_eq!(proxy.client(&headers, &trusted).to_string(), "10.0.0.1");
        // What the proxy wrote, behind a byte of the client's that is no text, in a field of its own or not.
        for last in [&b"\xe9, 203.0.113.9"[..], b"\xe9"] {
            let mut headers = HeaderMap::new();
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static("66.6.6.6"));
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(last).expect("a value"));
            assert_eq!(proxy.client(&headers, &trusted).to_string(), "10.0.0.1");
        }
    }
}

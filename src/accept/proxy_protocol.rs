//! The PROXY protocol: a load balancer says, before anything else, who has connected to it.
//!
//! 1. It is read from the networks that the listener names, and has to be there; from nobody else is one taken,
//!    so that no client says where it comes from. Nothing is guessed.
//! 2. Version 1 is one line of at most 107 bytes, version 2 a block with a length; both are read to their last
//!    byte and no further, since TLS may begin there.
//! 3. A balancer that asks for itself (`LOCAL`), or does not know (`UNKNOWN`, `UNSPEC`), speaks for itself.
//!
//! Source: the PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What version 2 begins with (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with (§2.1).
const WORD: &[u8] = b"PROXY ";
/// Longest header of version 1, with its line end.
const MAX_LINE: usize = 107;
/// Longest block of version 2: addresses, and what else a balancer has to say.
const MAX_BLOCK: usize = 2 * 1024;

/// What comes is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads the header; the address of who has connected, `None` where the balancer speaks for itself.
///
/// # Errors
/// Those of the connection; `InvalidData` for what is no header.
pub(super) async fn read(socket: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let malformed = |Malformed| io::Error::from(io::ErrorKind::InvalidData);
    // No header of either version is shorter.
    let mut header = vec![0; SIGNATURE.len()];
    socket.read_exact(&mut header).await?;
    if header == SIGNATURE {
        let mut rest = [0; 4];
        socket.read_exact(&mut rest).await?;
        let [kind, family, high, low] = rest;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_BLOCK {
            return Err(malformed(Malformed));
        }
        let mut block = vec![0; length];
        socket.read_exact(&mut block).await?;
        return version_2(kind, family, &block).map_err(malformed);
    }
    if !header.starts_with(WORD) {
        return Err(malformed(Malformed));
    }
    let mut here = [0; MAX_LINE];
    while !header.ends_with(b"\n") {
        let room = here.get_mut(..MAX_LINE.saturating_sub(header.len())).unwrap_or_default();
        if room.is_empty() {
            return Err(malformed(Malformed));
        }
        // What follows the line is left where it is.
        let come = socket.peek(room).await?;
        let come = room.get(..come).unwrap_or_default();
        if come.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = memchr::memchr(b'\n', come).map_or(come.len(), |end| end + 1);
        let taken = room.get_mut(..line).unwrap_or_default();
        socket.read_exact(taken).await?;
        header.extend_from_slice(taken);
    }
    version_1(&header).map_err(malformed)
}

/// Reads `PROXY TCP4 192.0.2.7 198.51.100.1 5000 443` CRLF.
///
/// # Errors
/// [`Malformed`].
pub fn version_1(line: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok()).ok_or(Malformed)?;
    let mut words = line.split(' ');
    if words.next() != Some("PROXY") {
        return Err(Malformed);
    }
    let is_v4 = match words.next() {
        Some("UNKNOWN") => return Ok(None),
        Some("TCP4") => true,
        Some("TCP6") => false,
        Some(_) | None => return Err(Malformed),
    };
    let [source, target, from, to] = <[&str; 4]>::try_from(words.collect::<Vec<_>>()).map_err(|_| Malformed)?;
    let address = |text: &str| -> Result<IpAddr, Malformed> {
        let address: IpAddr = text.parse().map_err(|_| Malformed)?;
        if address.is_ipv4() == is_v4 { Ok(address) } else { Err(Malformed) }
    };
    let port = |text: &str| {
        let is_plain = text == "0" || !text.starts_with(['0', '+']);
        text.parse::<u16>().ok().filter(|_| is_plain).ok_or(Malformed)
    };
    address(target)?;
    port(from)?;
    port(to)?;
    address(source).map(Some)
}

/// Reads the block that follows the signature, the version with its command, the family and the length.
///
/// # Errors
/// [`Malformed`].
pub fn version_2(kind: u8, family: u8, block: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    match (kind, family) {
        // LOCAL: whatever else is said.
        (0x20, _) => Ok(None),
        (0x21, 0x11) if block.len() >= 12 => {
            let source: [u8; 4] = block.get(..4).and_then(|bytes| bytes.try_into().ok()).ok_or(Malformed)?;
            Ok(Some(Ipv4Addr::from(source).into()))
        }
        (0x21, 0x21) if block.len() >= 36 => {
            let source: [u8; 16] = block.get(..16).and_then(|bytes| bytes.try_into().ok()).ok_or(Malformed)?;
            Ok(Some(Ipv6Addr::from(source).into()))
        }
        // UNSPEC, and streams of a Unix socket.
        (0x21, 0x00 | 0x31) => Ok(None),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_version_1_names_the_client() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n", Ok(Some("192.0.2.7"))),
            ("PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n", Ok(Some("2001:db8::7"))),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", Ok(None)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7  198.51.100.1 5000 443\r\n", Err(Malformed)),
            ("PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", Err(Malformed)),
            ("PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 01 443\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 1 443 x\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n", Err(Malformed)),
            ("PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n", Err(Malformed)),
            ("PROXY \r\n", Err(Malformed)),
            ("proxy UNKNOWN\r\n", Err(Malformed)),
        ] {
            let expected = expected.map(|address: Option<&str>| address.map(|it| it.parse().expect("an address")));
            assert_eq!(version_1(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn a_block_of_version_2_names_the_client() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x13, 0x88, 1, 0xbb];
        let v6 = [&[0x20, 1, 0xd, 0xb8], &[0; 11][..], &[7], &[0; 20]].concat();
        let with_more = [&v4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        for (kind, family, block, expected) in [
            (0x21, 0x11, &v4[..], Ok(Some("192.0.2.7"))),
            (0x21, 0x11, &with_more, Ok(Some("192.0.2.7"))),
            (0x21, 0x21, &v6, Ok(Some("2001:db8::7"))),
            (0x20, 0x11, &v4, Ok(None)),
            (0x20, 0x00, &[], Ok(None)),
            (0x21, 0x00, &[], Ok(None)),
            (0x21, 0x31, &[0; 216], Ok(None)),
            (0x21, 0x11, &v4[..11], Err(Malformed)),
            (0x21, 0x21, &v6[..35], Err(Malformed)),
            (0x21, 0x12, &v4, Err(Malformed)),
            (0x11, 0x11, &v4, Err(Malformed)),
            (0x22, 0x11, &v4, Err(Malformed)),
        ] {
            let expected = expected.map(|address: Option<&str>| address.map(|it| it.parse().expect("an address")));
            assert_eq!(version_2(kind, family, block), expected, "{kind:x} {family:x}");
        }
    }
}

//! Listening sockets: opened here, or given open.
//!
//! 1. Each worker has sockets of its own, so that the kernel spreads connections; where fewer are given than
//!    there are workers, some share one.
//! 2. Sockets are given by who starts the program (`LISTEN_FDS`, as systemd does it) or by the gateway that this
//!    one replaces: connections that wait in them are not lost when the process that has them changes.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel keeps while a worker is busy.
const BACKLOG: i32 = 4096;

/// The name of the operators' socket among those that are given (`LISTEN_FDNAMES`).
pub const ADMIN: &str = "admin";

/// Sockets that were given open, each with the address that it listens on.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(SocketAddr, TcpListener)>,
    admin: Option<(SocketAddr, TcpListener)>,
    is_handed_over: bool,
}

impl Inherited {
    /// Takes those that the environment names; call it before anything else opens files or starts threads.
    /// `is_handed_over` where they come from a process whose place this one takes.
    #[must_use]
    pub fn from_env(is_handed_over: bool) -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut given = ListenFd::from_env();
        let mut inherited = Self { is_handed_over, ..Self::default() };
        for place in 0..given.len() {
            let name = names.next().unwrap_or_default();
            let Some(socket) = given.take_tcp_listener(place).ok().flatten() else { continue };
            let Ok(address) = socket.local_addr() else { continue };
            if name == ADMIN {
                inherited.admin = Some((address, socket));
            } else {
                inherited.sockets.push((address, socket));
            }
        }
        inherited
    }

    /// Takes those that listen on an address; for port 0 those on the first port of that address.
    pub fn take(&mut self, wanted: SocketAddr) -> Vec<TcpListener> {
        let Some(found) = self.sockets.iter().map(|(address, _)| *address).find(|address| fits(*address, wanted))
        else {
            return Vec::new();
        };
        let (taken, left) = std::mem::take(&mut self.sockets).into_iter().partition(|(address, _)| *address == found);
        self.sockets = left;
        taken.into_iter().map(|(_, socket)| socket).collect()
    }

    /// Takes the operators' socket, if it listens on this address.
    pub fn take_admin(&mut self, wanted: SocketAddr) -> Option<TcpListener> {
        self.admin.take_if(|(address, _)| fits(*address, wanted)).map(|(_, socket)| socket)
    }

    /// Whether they come from a process whose place this one takes.
    #[must_use]
    pub const fn is_handed_over(&self) -> bool {
        self.is_handed_over
    }

    /// Takes back what was taken, for a later listener. Who gave them has them too and keeps their address
    /// in use; only a process that has been replaced has not.
    pub fn put_back(&mut self, address: SocketAddr, sockets: Vec<TcpListener>) {
        if !self.is_handed_over {
            self.sockets.extend(sockets.into_iter().map(|socket| (address, socket)));
        }
    }

    /// Takes the operators' socket back, for a later address of theirs.
    pub fn put_admin_back(&mut self, socket: TcpListener) {
        if let Some(address) = socket.local_addr().ok().filter(|_| !self.is_handed_over) {
            self.admin = Some((address, socket));
        }
    }

    /// Closes what nobody has taken, where nobody else will take it: connections would wait in it for ever.
    pub fn close_rest(&mut self) {
        if self.is_handed_over {
            self.sockets.clear();
            self.admin = None;
        }
    }

    /// The addresses of those that nobody has taken.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().chain(&self.admin).map(|(address, _)| *address)
    }
}

fn fits(address: SocketAddr, wanted: SocketAddr) -> bool {
    address.ip() == wanted.ip() && (wanted.port() == 0 || address.port() == wanted.port())
}

/// Sockets on one address: `given`, or one for each of `count` workers.
///
/// # Errors
/// When the address is in use or not of this machine.
pub fn open(address: SocketAddr, given: Vec<TcpListener>, count: usize) -> io::Result<Vec<TcpListener>> {
    if !given.is_empty() {
        given.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        return Ok(given);
    }
    // SECURITY: with SO_REUSEPORT a second gateway on the same port would silently share its
    // connections. A socket without it fails where another listens.
    let address = bind(address, false)?.local_addr()?.as_socket().unwrap_or(address);
    (0..count).map(|_| bind(address, true).map(TcpListener::from)).collect()
}

/// The sockets of each worker: every socket has one at the least, and every worker has one.
///
/// # Errors
/// When there is no file descriptor left.
pub fn spread(sockets: &[TcpListener], count: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut spread: Vec<Vec<TcpListener>> = (0..count).map(|_| Vec::new()).collect();
    for place in 0..sockets.len().max(count) {
        let socket = sockets.get(place % sockets.len().max(1));
        if let (Some(socket), Some(worker)) = (socket, spread.get_mut(place % count.max(1))) {
            worker.push(socket.try_clone()?);
        }
    }
    Ok(spread)
}

fn bind(address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if is_shared || address.port() != 0 {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(count: usize) -> Vec<TcpListener> {
        open("127.0.0.1:0".parse().expect("an address"), Vec::new(), count).expect("sockets")
    }

    #[test]
    fn every_socket_has_a_worker_and_every_worker_a_socket() {
        for (given, workers, expected) in
            [(3, 3, vec![1, 1, 1]), (1, 3, vec![1, 1, 1]), (5, 2, vec![3, 2]), (2, 3, vec![1; 3])]
        {
            let spread = spread(&sockets(given), workers).expect("sockets");
            assert_eq!(spread.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn sockets_are_taken_by_their_address_and_for_port_0_those_of_one_port() {
        let (two, one) = (sockets(2), sockets(1));
        let address = |sockets: &[TcpListener]| sockets[0].local_addr().expect("an address");
        let (first, second) = (address(&two), address(&one));
        let named = |socket: TcpListener| (socket.local_addr().expect("an address"), socket);
        let sockets = two.into_iter().chain(one).map(named).collect();
        let mut given = Inherited { sockets, ..Inherited::default() };
        assert!(given.take_admin(first).is_none(), "that one has a name");
        assert!(given.take("127.0.0.2:0".parse().expect("an address")).is_empty());
        assert_eq!(given.take("127.0.0.1:0".parse().expect("an address")).len(), 2);
        assert_eq!(given.addresses().collect::<Vec<_>>(), [second]);
        assert!(given.take(first).is_empty());
        let taken = given.take(second);
        assert_eq!(taken.len(), 1);
        given.close_rest();
        given.put_back(second, taken);
        assert_eq!(given.take(second).len(), 1, "a listener that is gone may come back");
        given.is_handed_over = true;
        given.put_back(second, self::sockets(1));
        assert_eq!(given.addresses().count(), 0);
    }
}

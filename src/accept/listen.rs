//! Listening sockets: one for each worker on the same address.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel keeps while a worker is busy.
const BACKLOG: i32 = 4096;

/// `count` sockets on one address; port 0 takes a free port, the same for all.
///
/// # Errors
/// When the address is in use or not of this machine.
pub fn open(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    // SECURITY: with SO_REUSEPORT a second gateway on the same port would silently share its
    // connections. A socket without it fails where another listens.
    let address = bind(address, false)?.local_addr()?.as_socket().unwrap_or(address);
    (0..count).map(|_| bind(address, true).map(TcpListener::from)).collect()
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

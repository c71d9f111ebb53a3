//! A network between a gateway and its Redis that fails as it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the network does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Carries everything.
    Whole,
    /// Carries nothing and says nothing: what is sent waits.
    Silent,
    /// Carries nothing to the gateway; what the gateway sends arrives.
    Deaf,
    /// Resets what there is, and takes nothing new.
    Cut,
}

/// Stands before one Redis. Dropping it cuts everything.
pub struct Fault {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    network: AtomicU8,
    delay: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

impl Fault {
    pub fn before(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State { network: AtomicU8::new(0), delay: AtomicU64::new(0), streams: Mutex::default() });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.network() == Network::Cut {
                    reset(&client);
                } else if let Ok(server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], redis))) {
                    shared.join(client, server);
                }
            }
        });
        Self { port, state }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, network: Network) {
        self.state.network.store(network as u8, Ordering::SeqCst);
        if network == Network::Cut {
            self.state.streams.lock().expect("a list").drain(..).for_each(|stream| reset(&stream));
        }
    }

    /// How much later everything arrives, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.state.delay.store(u64::try_from(delay.as_millis()).expect("small"), Ordering::SeqCst);
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.set(Network::Cut);
    }
}

/// Closes it with a RST, as a machine that has forgotten the connection does.
fn reset(stream: &TcpStream) {
    drop(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
    drop(stream.shutdown(std::net::Shutdown::Both));
}

impl State {
    fn network(&self) -> Network {
        match self.network.load(Ordering::SeqCst) {
            0 => Network::Whole,
            1 => Network::Silent,
            2 => Network::Deaf,
            _ => Network::Cut,
        }
    }

    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("no delay");
            stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a time limit");
        }
        let twin = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        self.streams.lock().expect("a list").extend([twin(&client), twin(&server)]);
        let pairs = [(twin(&client), twin(&server), false), (server, client, true)];
        for (from, to, is_to_gateway) in pairs {
            let state = Arc::clone(self);
            std::thread::spawn(move || state.carry(from, to, is_to_gateway));
        }
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, is_to_gateway: bool) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => break,
            };
            std::thread::sleep(Duration::from_millis(self.delay.load(Ordering::SeqCst)));
            while matches!((self.network(), is_to_gateway), (Network::Silent, _) | (Network::Deaf, true)) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if self.network() == Network::Cut || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        drop(to.shutdown(std::net::Shutdown::Both));
    }
}

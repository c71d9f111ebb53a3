//! A client that writes bytes and reads one answer at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::secrets;

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).expect("the gateway takes connections"))
    }

    /// `None` when nobody listens.
    pub fn try_connect(address: SocketAddr) -> Option<Self> {
        TcpStream::connect(address).ok().map(Self::on)
    }

    pub fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        stream.set_nodelay(true).expect("no delay");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Self { stream, reader }
    }

    /// `None` when the connection is gone.
    pub fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        secrets::sent(bytes.as_ref());
        self.stream.write_all(bytes.as_ref()).ok()
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).expect("the connection is open");
    }

    /// Sends bytes and reads the answer to them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.write(bytes);
        self.read()
    }

    pub fn read(&mut self) -> Answer {
        self.try_read(false).expect("an answer")
    }

    pub fn read_to_head(&mut self) -> Answer {
        self.try_read(true).expect("an answer")
    }

    /// `None` when the connection was closed before an answer.
    pub fn try_read(&mut self, is_head: bool) -> Option<Answer> {
        let mut line = String::new();
        if !matches!(self.reader.read_line(&mut line), Ok(n) if n > 0) {
            return None;
        }
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).ok()?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':')?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if is_head || status == 204 || status == 304 || status == 100 {
            secrets::received(&answer);
            return Some(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut line = String::new();
                self.reader.read_line(&mut line).ok()?;
                let size = usize::from_str_radix(line.trim(), 16).ok()?;
                let start = answer.body.len();
                answer.body.resize(start + size, 0);
                self.reader.read_exact(&mut answer.body[start..]).ok()?;
                let mut end = String::new();
                self.reader.read_line(&mut end).ok()?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = answer.header("content-length").and_then(|text| text.parse().ok()) {
            answer.body.resize(length, 0);
            self.reader.read_exact(&mut answer.body).ok()?;
        } else {
            self.reader.read_to_end(&mut answer.body).ok()?;
        }
        secrets::received(&answer);
        Some(answer)
    }

    /// The very next bytes are these.
    #[track_caller]
    pub fn hear(&mut self, wanted: &str) {
        let mut heard = vec![0; wanted.len()];
        self.reader.read_exact(&mut heard).expect("more to read");
        assert_eq!(String::from_utf8_lossy(&heard), wanted);
    }

    /// Whether the other side closes, with nothing more to read.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

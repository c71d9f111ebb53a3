//! Fetches one small document, or asks one question after another, over HTTP/1.1: no redirect, no proxy, no cache, a cap on
//! the size of answers.
//!
//! `https://` with the system's roots (`SSL_CERT_FILE` names others); `http://` only to a loopback
//! address, because who can change the document can sign tokens.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

/// Where a document is.
#[derive(Clone)]
pub struct Source {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Source {
    /// Whether it is the same URL.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.uri == other.uri
    }

    /// Reads a URL; `roots` is asked for only where the URL is `https://`.
    ///
    /// # Errors
    /// What is wrong with the URL or the roots.
    pub fn new(url: &str, roots: impl FnOnce() -> Result<Arc<rustls::ClientConfig>, String>) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| "it is no URL".to_owned())?;
        let host = uri.host().ok_or("it names no host")?.to_owned();
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("it holds credentials".to_owned());
        }
        let (tls, port) = match uri.scheme_str() {
            Some("https") => (Some(roots()?), 443),
            Some("http") if is_loopback(&host) => (None, 80),
            Some("http") => return Err("`http://` is taken only for a loopback address; use `https://`".to_owned()),
            _ => return Err("the scheme is neither `https://` nor `http://`".to_owned()),
        };
        let after_host = uri.authority().map_or("", |authority| authority.as_str());
        let after_host = after_host.rsplit_once(']').map_or(after_host, |(_, rest)| rest);
        // The library passes over a port that is none.
        if uri.port_u16().is_none() && after_host.contains(':') {
            return Err("its port is no port".to_owned());
        }
        let port = uri.port_u16().unwrap_or(port);
        Ok(Self { uri, host, port, tls })
    }

    /// Reads the document, at most `limit` bytes of it.
    ///
    /// # Errors
    /// What went wrong, for the log.
    pub async fn fetch(&self, limit: usize) -> Result<Bytes, String> {
        let head = self.head(Method::GET).header(header::CONNECTION, HeaderValue::from_static("close"));
        let request = head.body(Full::default()).map_err(|error| format!("HTTP: {error}"))?;
        match self.connect().await?.send(request, limit).await.map_err(|fault| fault.to_string())? {
            (StatusCode::OK, document) => Ok(document),
            (status, _) => Err(format!("the answer is {status}")),
        }
    }

    /// A form to post.
    ///
    /// # Errors
    /// What is wrong with it, for the log.
    pub fn form(&self, authorization: &HeaderValue, form: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let head = self.head(Method::POST).header(header::AUTHORIZATION, authorization);
        let head = head.header(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        head.body(Full::new(form)).map_err(|error| format!("HTTP: {error}"))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// What went wrong, for the log.
    pub async fn connect(&self) -> Result<Connection, String> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await.map_err(|error| format!("cannot connect: {error}"))?;
        let Some(config) = &self.tls else { return Connection::over(stream).await };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| "no name for TLS".to_owned())?;
        let connector = TlsConnector::from(Arc::clone(config));
        Connection::over(connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?).await
    }

    fn head(&self, method: Method) -> http::request::Builder {
        let target = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let host = self.uri.authority().map_or(self.host.as_str(), http::uri::Authority::as_str);
        Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, host)
            .header(header::ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"))
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is one, of this status, and it is longer than it may be.
    TooLong(StatusCode),
    /// What went wrong, for the log.
    Failed(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(status) => write!(f, "the answer, {status}, is longer than it may be"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

/// A connection over which one request goes after another. Whoever drops it closes it.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Connection {
    async fn over<S>(stream: S) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("HTTP: {error}"))?;
        Ok(Self { sender, driver: tokio::spawn(connection).abort_handle() })
    }

    /// Sends a request and reads the answer, whatever its status is, at most `limit` bytes of it.
    ///
    /// # Errors
    /// [`Fault`]; nothing else can be sent then.
    pub async fn send(&mut self, request: Request<Full<Bytes>>, limit: usize) -> Result<(StatusCode, Bytes), Fault> {
        self.sender.ready().await.map_err(|error| format!("HTTP: {error}"))?;
        let response = self.sender.send_request(request).await.map_err(|error| format!("HTTP: {error}"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => Fault::TooLong(status),
            Err(error) => Fault::Failed(format!("the body cannot be read: {error}")),
        })?;
        Ok((status, body.to_bytes()))
    }

    /// Whether the other side has closed it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}{}", self.uri.scheme_str().unwrap_or_default(), self.host, self.port, self.uri.path())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

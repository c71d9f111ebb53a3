//! Fetches one small document, or posts a question, over HTTP/1.1: no redirect, no proxy, no cache, a cap on its size.
//!
//! `https://` with the system's roots (`SSL_CERT_FILE` names others); `http://` only to a loopback
//! address, because who can change the document can sign tokens.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
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
        match self.send(self.head(Method::GET).body(Full::default()), limit).await? {
            (StatusCode::OK, document) => Ok(document),
            (status, _) => Err(format!("the answer is {status}")),
        }
    }

    /// Posts a form, and reads the answer, whatever its status is, at most `limit` bytes of it.
    ///
    /// # Errors
    /// What went wrong, for the log.
    pub async fn post(
        &self,
        authorization: &HeaderValue,
        form: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), String> {
        let head = self.head(Method::POST).header(header::AUTHORIZATION, authorization);
        let head = head.header(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.send(head.body(Full::new(form)), limit).await
    }

    async fn send(
        &self,
        request: http::Result<Request<Full<Bytes>>>,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), String> {
        let request = request.map_err(|error| format!("HTTP: {error}"))?;
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await.map_err(|error| format!("cannot connect: {error}"))?;
        match &self.tls {
            None => Self::request(stream, request, limit).await,
            Some(config) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|_| "no name for TLS".to_owned())?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
                Self::request(stream, request, limit).await
            }
        }
    }

    async fn request<S>(stream: S, request: Request<Full<Bytes>>, limit: usize) -> Result<(StatusCode, Bytes), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("HTTP: {error}"))?;
        let connection = tokio::spawn(connection);
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| format!("HTTP: {error}"))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), limit).collect().await;
            let body = body.map_err(|error| format!("the body cannot be read: {error}"))?;
            Ok((status, body.to_bytes()))
        };
        let document = answer.await;
        connection.abort();
        document
    }

    fn head(&self, method: Method) -> http::request::Builder {
        let target = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let host = self.uri.authority().map_or(self.host.as_str(), http::uri::Authority::as_str);
        Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, host)
            .header(header::ACCEPT, HeaderValue::from_static("application/json, application/jwk-set+json"))
            .header(header::CONNECTION, HeaderValue::from_static("close"))
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

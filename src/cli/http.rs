//! A small HTTP/1.1 client for commands: one request, one answer, one connection.

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Failure;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Asks for a page of `address`, and reads the whole answer.
///
/// # Errors
/// `Usage` where that is no address; `Runtime` for what [`send`] says.
pub async fn get(address: &str, target: &str) -> Result<Response<Bytes>, Failure> {
    let request = Request::builder().uri(target).header(HOST, address).body(Full::new(Bytes::new()));
    let request = request.map_err(|error| Failure::Usage(format!("`{address}` is no address: {error}")))?;
    send(address, request).await.map_err(Failure::Runtime)
}

/// Sends a request to `address` and reads the whole answer.
///
/// # Errors
/// What went wrong, as a sentence.
pub async fn send(address: &str, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("{address} cannot be reached: {error}"))?;
    let broken = |error: hyper::Error| format!("{address} gave no usable answer: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    connection.abort();
    let body = body.map_err(|error| format!("{address} broke off: {error}"))?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

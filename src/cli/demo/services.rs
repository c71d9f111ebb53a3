//! The three services of the demo: they answer with what they saw, and the member service knows who may log in.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::cli::{Failure, print};

/// The password of everybody: this is a demo.
pub const PASSWORD: &str = "demo";

/// Starts all three on their usual ports, for ever.
pub async fn serve_alone() -> Result<(), Failure> {
    for (name, port) in [("order", 9101), ("payment", 9201), ("member", 9301)] {
        let address = start(name, SocketAddr::from(([127, 0, 0, 1], port))).await?;
        print(&format!("{name} service on http://{address}\n"))?;
    }
    std::future::pending().await
}

/// Starts one.
pub async fn start(name: &'static str, address: SocketAddr) -> Result<SocketAddr, Failure> {
    let failed = |error| Failure::Runtime(format!("{name} service on {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(name, request).await) });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}

async fn answer(name: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if name == "member" && head.uri.path() == "/auth/login" {
        return log_in(&body);
    }
    let headers: Map<String, Value> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into()))
        .collect();
    let seen = json!({
        "service": name, "method": head.method.as_str(), "path": head.uri.to_string(), "body_bytes": body.len(), "headers": headers,
    });
    json_answer(StatusCode::OK, &seen)
}

/// Who logs in with `{"id": ..., "password": ...}`: what the gateway makes credentials of.
fn log_in(body: &[u8]) -> Response<Full<Bytes>> {
    let sent: Value = serde_json::from_slice(body).unwrap_or_default();
    let member = match (sent.get("id").and_then(Value::as_str), sent.get("password").and_then(Value::as_str)) {
        (Some("hong"), Some(PASSWORD)) => {
            Some(json!({ "sub": "hong", "name": "홍길동", "roles": ["customer"], "scope": "payments:write" }))
        }
        (Some("root"), Some(PASSWORD)) => Some(json!({ "sub": "root", "name": "관리자", "roles": ["admin"] })),
        _ => None,
    };
    member.map_or_else(
        || json_answer(StatusCode::UNAUTHORIZED, &json!({ "message": "wrong id or password" })),
        |member| json_answer(StatusCode::OK, &member),
    )
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body:#}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

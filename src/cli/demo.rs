//! `bearward demo`: the whole story on one machine, with nothing else installed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use super::serving::{Serving, Signals};
use super::token::sign;
use super::{Failure, keys, print};
use crate::accept::listen::Inherited;
use crate::clock;
use crate::observe::log;

const CONFIG: &str = include_str!("../../examples/demo/gateway.yaml");

/// Start order, payment and member services and a gateway before them, and print what to try.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  bearward demo\n  bearward demo --smoke       sends the requests itself; exits 0 if each came as expected\n  bearward demo --services    only the three services, on 127.0.0.1:9101, :9201 and :9301"
)]
pub struct Demo {
    /// Send the requests, print each expectation with what came, and end.
    #[arg(long, conflicts_with = "services")]
    smoke: bool,
    /// Start only the three services, for `examples/shop`.
    #[arg(long)]
    services: bool,
    /// Where the gateway listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where its admin pages are.
    #[arg(long, default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
}

/// What the printed lines need.
struct Stage {
    gateway: SocketAddr,
    admin: SocketAddr,
    customer: String,
    admin_token: String,
}

impl Demo {
    /// Shows it.
    pub fn run(self) -> Result<(), Failure> {
        if !self.smoke {
            log::start(log::Format::Auto).map_err(Failure::Usage)?;
        }
        super::runtime()?.block_on(async {
            if self.services {
                return serve_alone().await;
            }
            let folder = scratch()?;
            let outcome = self.show(&folder).await;
            // The keys were for this run alone.
            drop(std::fs::remove_dir_all(&folder));
            outcome
        })
    }

    async fn show(&self, folder: &Path) -> Result<(), Failure> {
        let key = keys::write(Algorithm::ES256, "demo", folder)?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listen, admin) = if self.smoke { (any, any) } else { (self.listen, self.admin) };
        let mut variables = HashMap::from([
            ("DEMO_LISTEN".to_owned(), listen.to_string()),
            ("DEMO_ADMIN".to_owned(), admin.to_string()),
            ("DEMO_KEYS".to_owned(), folder.display().to_string()),
        ]);
        for name in ["order", "payment", "member"] {
            let address = start_service(name, any).await?;
            variables.insert(format!("DEMO_{}", name.to_uppercase()), address.to_string());
        }
        let environment = |name: &str| variables.get(name).cloned();
        let compiled = crate::config::load_text("examples/demo/gateway.yaml", CONFIG.to_owned(), folder, &environment)
            .map_err(|errors| Failure::Configuration(errors.to_string()))?;
        let serving = Serving::start(compiled, 1, Inherited::default()).await?;
        let private = key.first().ok_or_else(|| Failure::Runtime("no key was made".to_owned()))?;
        let stage = Stage {
            gateway: *serving.addresses().first().ok_or_else(|| Failure::Runtime("nothing listens".to_owned()))?,
            admin: serving.admin_address(),
            customer: token(private, "hong", "홍길동", &["customer"], "payments:write")?,
            admin_token: token(private, "root", "관리자", &["admin"], "")?,
        };
        if self.smoke {
            let outcome = stage.smoke().await;
            serving.drain().await;
            return outcome;
        }
        print(&stage.script())?;
        serving.until_told(None, Signals::listen()?).await
    }
}

/// A folder of our own, readable by nobody else.
fn scratch() -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = std::env::temp_dir().join(format!("bearward-demo-{:016x}", fastrand::u64(..)));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    made.map_err(|error| Failure::Runtime(format!("{}: {error}", folder.display())))?;
    Ok(folder)
}

fn token(key: &Path, subject: &str, name: &str, roles: &[&str], scope: &str) -> Result<String, Failure> {
    let pem = std::fs::read(key).map_err(|error| Failure::Runtime(format!("{}: {error}", key.display())))?;
    let now = clock::unix_seconds(clock::wall());
    let claims = json!({
        "iss": "https://auth.demo.test", "aud": "shop-api", "sub": subject, "name": name, "roles": roles,
        "scope": scope, "iat": now, "exp": now + 3600, "jti": format!("{:032x}", fastrand::u128(..)),
    });
    sign(Algorithm::ES256, Some("demo"), &pem, &claims)
}

async fn serve_alone() -> Result<(), Failure> {
    for (name, port) in [("order", 9101), ("payment", 9201), ("member", 9301)] {
        let address = start_service(name, SocketAddr::from(([127, 0, 0, 1], port))).await?;
        print(&format!("{name} service on http://{address}\n"))?;
    }
    std::future::pending().await
}

/// A service that answers with what it saw.
async fn start_service(name: &'static str, address: SocketAddr) -> Result<SocketAddr, Failure> {
    let failed = |error| Failure::Runtime(format!("{name} service on {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| async move { Ok::<_, Infallible>(tell(name, request).await) });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}

async fn tell(name: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let length = body.collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
    let headers: Map<String, Value> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into()))
        .collect();
    let seen = json!({
        "service": name, "method": head.method.as_str(), "path": head.uri.to_string(), "body_bytes": length, "headers": headers,
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{seen:#}\n"))));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// One request of the story.
struct Scene {
    what: &'static str,
    method: Method,
    path: &'static str,
    token: Token,
    expected: StatusCode,
    holds: fn(&str) -> bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    None,
    Customer,
    Admin,
}

const fn scene(what: &'static str, method: Method, path: &'static str, token: Token, expected: StatusCode) -> Scene {
    Scene { what, method, path, token, expected, holds: |_| true }
}

/// The story: before the forced logout, and after it.
fn story() -> (Vec<Scene>, Vec<Scene>) {
    let seen = |body: &str| body.contains("\"x-user-id\": \"hong\"") && body.contains("%ED%99%8D%EA%B8%B8%EB%8F%99");
    let before = vec![
        scene("anyone sees the products", Method::GET, "/products", Token::None, StatusCode::OK),
        scene("no token, no order", Method::GET, "/orders/42", Token::None, StatusCode::UNAUTHORIZED),
        Scene {
            holds: seen,
            ..scene(
                "홍길동 sees an order; the service sees who asks",
                Method::GET,
                "/orders/42",
                Token::Customer,
                StatusCode::OK,
            )
        },
        scene("홍길동 sees the orders of hong", Method::GET, "/members/hong/orders", Token::Customer, StatusCode::OK),
        scene("but not those of kim", Method::GET, "/members/kim/orders", Token::Customer, StatusCode::FORBIDDEN),
        scene("an admin sees those of kim", Method::GET, "/members/kim/orders", Token::Admin, StatusCode::OK),
        scene("홍길동 pays", Method::POST, "/payments/card", Token::Customer, StatusCode::OK),
        scene("a customer may not refund", Method::POST, "/refunds", Token::Customer, StatusCode::FORBIDDEN),
        scene("an admin may", Method::POST, "/refunds", Token::Admin, StatusCode::OK),
        scene(
            "a doubtful path is refused",
            Method::GET,
            "/orders/..%2f..%2frefunds",
            Token::Customer,
            StatusCode::BAD_REQUEST,
        ),
    ];
    let after = vec![
        scene(
            "홍길동 is out, with the same token, at once",
            Method::GET,
            "/orders/42",
            Token::Customer,
            StatusCode::UNAUTHORIZED,
        ),
        scene("the admin is not", Method::GET, "/orders/42", Token::Admin, StatusCode::OK),
    ];
    (before, after)
}

impl Stage {
    fn token(&self, token: Token) -> Option<&str> {
        match token {
            Token::None => None,
            Token::Customer => Some(&self.customer),
            Token::Admin => Some(&self.admin_token),
        }
    }

    /// What to paste.
    fn script(&self) -> String {
        let Self { gateway, admin, .. } = self;
        let curl = |scene: &Scene| {
            let method = if scene.method == Method::GET { String::new() } else { format!("-X {} ", scene.method) };
            let token = match scene.token {
                Token::None => "",
                Token::Customer => "-H \"Authorization: Bearer $HONG\" ",
                Token::Admin => "-H \"Authorization: Bearer $ADMIN\" ",
            };
            format!(
                "# {}: {}\ncurl -i {method}{token}http://{gateway}{}\n",
                scene.what,
                scene.expected.as_u16(),
                scene.path
            )
        };
        let (before, after) = story();
        let lines = |scenes: &[Scene]| scenes.iter().map(curl).collect::<String>();
        format!(
            "\nBearward demo: gateway http://{gateway}, admin http://{admin}. Paste into another terminal:\n\n\
             HONG={}\nADMIN={}\n\n{}\n\
             # forced logout of 홍길동: every token issued up to now\n\
             curl -i -H 'content-type: application/json' -d '{{\"sub\":\"hong\"}}' http://{admin}/revocations\n{}\n\
             # load (wrk has to be installed); the customer is out by now, the admin is not\n\
             wrk -t1 -c64 -d10s -H \"Authorization: Bearer $ADMIN\" http://{gateway}/orders/42\n\n\
             Ctrl-C ends it.\n\n",
            self.customer,
            self.admin_token,
            lines(&before),
            lines(&after),
        )
    }

    /// Plays the story.
    async fn smoke(&self) -> Result<(), Failure> {
        let (before, after) = story();
        let mut failed = 0;
        for scene in &before {
            failed += usize::from(!self.play(scene).await?);
        }
        let order = Request::builder()
            .method(Method::POST)
            .uri("/revocations")
            .header(HOST, self.admin.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from_static(b"{\"sub\":\"hong\"}")));
        let order = order.map_err(|error| Failure::Runtime(error.to_string()))?;
        let status = super::http::send(&self.admin.to_string(), order).await.map_err(Failure::Runtime)?.status();
        failed += usize::from(!verdict("forced logout of 홍길동", "POST /revocations", StatusCode::OK, status, true)?);
        for scene in &after {
            failed += usize::from(!self.play(scene).await?);
        }
        if failed > 0 {
            return Err(Failure::Runtime(format!("{failed} did not come as expected")));
        }
        print("all came as expected\n")
    }

    async fn play(&self, scene: &Scene) -> Result<bool, Failure> {
        let mut request =
            Request::builder().method(scene.method.clone()).uri(scene.path).header(HOST, self.gateway.to_string());
        if let Some(token) = self.token(scene.token) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::default()).map_err(|error| Failure::Runtime(error.to_string()))?;
        let answer = super::http::send(&self.gateway.to_string(), request).await.map_err(Failure::Runtime)?;
        let holds = (scene.holds)(&String::from_utf8_lossy(answer.body()));
        verdict(scene.what, &format!("{} {}", scene.method, scene.path), scene.expected, answer.status(), holds)
    }
}

fn verdict(what: &str, request: &str, expected: StatusCode, came: StatusCode, holds: bool) -> Result<bool, Failure> {
    let is_right = expected == came && holds;
    let mark = if is_right { "ok  " } else { "FAIL" };
    let more = if holds { "" } else { ", but the service did not see what it should" };
    print(&format!("{mark} {what}: {request}: expected {}, came {}{more}\n", expected.as_u16(), came.as_u16()))?;
    Ok(is_right)
}

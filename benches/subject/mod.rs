//! What both benchmarks of the way of a request measure: the stages one by one, and a whole request
//! on real sockets, with the worker, its upstream and its client on one thread.

use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bearward::accept::connection::{self, Client};
use bearward::accept::phase::Watch;
use bearward::accept::{Limits, Peer};
use bearward::admit::Admitted;
use bearward::authenticate::Caller;
use bearward::authenticate::bearer::Bearer;
use bearward::authenticate::issuer::VerifiedToken;
use bearward::authenticate::token::UnverifiedToken;
use bearward::authorize::{self, Permit};
use bearward::clock;
use bearward::config;
use bearward::forward::headers::{BodyFraming, HeaderPlan, Sources};
use bearward::forward::leash::Leashes;
use bearward::forward::trace::{self, RequestId};
use bearward::gateway::{Gateway, LiveGateway, Worker};
use bearward::observe::metrics::Counters;
use bearward::store::Asker;
use http::request::Parts;
use http::{HeaderName, Request};
use jsonwebtoken::{Algorithm, EncodingKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// What a browser or an app sends beside the credential.
const FIELDS: [(&str, &str); 6] = [
    ("host", "shop.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "ko-KR,ko;q=0.9,en;q=0.8"),
    ("cookie", "theme=dark; locale=ko"),
];

/// What the upstream answers, with 1 KB.
fn answer() -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1024\r\n\r\n";
    [head.as_bytes(), &[b'x'; 1024]].concat()
}

/// A gateway, and a request with a good token.
pub struct Subject {
    gateway: Arc<Gateway>,
    limits: Limits,
    now: clock::Moment,
    head: Parts,
    plan: HeaderPlan,
    request_id: RequestId,
    peer: Peer,
    asker: Asker,
    runtime: LocalRuntime,
}

/// How the token is signed.
#[derive(Clone, Copy)]
pub enum Signed {
    Hs256,
    Rs256,
    Es256,
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
}

/// A key of its kind in `folder`, and what signs with it.
fn key(folder: &std::path::Path, signed: Signed) -> EncodingKey {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    let write = |content: &[u8]| std::fs::write(folder.join(signed.name()), content).expect("a file");
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match signed {
        Signed::Hs256 => {
            let secret = b"0123456789abcdef0123456789abcdef-bench";
            write(secret);
            EncodingKey::from_secret(secret)
        }
        Signed::Rs256 => {
            let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
            let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
            let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
            let jwk = serde_json::json!({ "kty": "RSA", "n": part(n), "e": part(e) });
            write(serde_json::json!({ "keys": [jwk] }).to_string().as_bytes());
            let der: Pkcs8V1Der<'_> = pair.as_der().expect("a private key");
            EncodingKey::from_rsa_pem(pem(der.as_ref()).as_bytes()).expect("a key")
        }
        Signed::Es256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
            let point = pair.public_key().as_ref();
            let jwk =
                serde_json::json!({ "kty": "EC", "crv": "P-256", "x": part(&point[1..33]), "y": part(&point[33..]) });
            write(serde_json::json!({ "keys": [jwk] }).to_string().as_bytes());
            EncodingKey::from_ec_pem(pem(pair.to_pkcs8v1().expect("a private key").as_ref()).as_bytes()).expect("a key")
        }
    }
}

fn yaml(upstream: std::net::SocketAddr, routes: usize, signed: Signed) -> String {
    let (name, algorithm) = (signed.name(), signed.algorithm());
    let source = if matches!(signed, Signed::Hs256) { "secret_file" } else { "jwks_file" };
    let mut text = format!(
        r#"
version: 1
listeners: [{{ address: "127.0.0.1:0" }}]
store: {{ url: "memory:" }}
issuers:
  shop: {{ issuer: https://auth.test, audiences: [api], algorithms: [{algorithm:?}], {source}: {name} }}
revocation: {{ keys: {{ jti: "blacklist:{{jti}}", sub: "logout:{{sub}}", sid: "session-revoked:{{sid}}" }} }}
identity: {{ headers: {{ X-User-Id: sub, X-User-Roles: roles, X-User-Name: name }} }}
upstreams: {{ order: {{ targets: ["http://{upstream}"] }} }}
defaults: {{ auth: [shop] }}
routes:
  - {{ id: read, match: {{ path: "/orders/{{id}}", methods: [GET] }}, upstream: order, access: {{ roles: [customer] }} }}
"#
    );
    for number in 1..routes {
        text.push_str(&format!(
            "  - {{ id: r{number}, match: {{ path: \"/r{number}/{{id}}/items\" }}, upstream: order, access: authenticated }}\n"
        ));
    }
    text
}

impl Signed {
    const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "hs256.secret",
            Self::Rs256 => "rs256.json",
            Self::Es256 => "es256.json",
        }
    }

    const fn algorithm(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
        }
    }
}

impl Subject {
    /// A gateway with so many routes, to an upstream at `address`.
    fn at(address: std::net::SocketAddr, routes: usize, signed: Signed) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = key(folder.path(), signed);
        let compiled = config::load_text("bench.yaml", yaml(address, routes, signed), folder.path(), &|_| None)
            .unwrap_or_else(|errors| panic!("{errors}"));
        let now = clock::now();
        let claims = serde_json::json!({
            "iss": "https://auth.test", "aud": "api", "sub": "hong", "name": "홍길동", "roles": ["customer"],
            "iat": now.unix, "exp": now.unix + 3600, "jti": "7a6cb7f25b7f4b0fa0f31e11f9c1b7a8", "sid": "5f0c2a7e1d"
        });
        let header = jsonwebtoken::Header::new(signed.algorithm());
        let token = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
        let request = Request::get("/orders/42?expand=items");
        let request = FIELDS.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.header("authorization", format!("Bearer {token}")).body(()).expect("a request");
        let names = ["x-user-id", "x-user-roles", "x-user-name"].map(HeaderName::from_static);
        let gateway = Arc::new(compiled.gateway);
        Self {
            limits: compiled.limits,
            now,
            head: request.into_parts().0,
            plan: HeaderPlan::new(names.iter(), false, Vec::new()),
            request_id: trace::new_id(),
            peer: Peer::new([192, 0, 2, 7].into(), &[], false),
            asker: gateway.authenticator.store().map_or(Asker::None, |store| store.asker().0),
            runtime: Builder::new_current_thread().build_local(LocalOptions::default()).expect("a runtime"),
            gateway,
        }
    }

    /// A gateway with so many routes that is asked about requests and sends none. The token is
    /// remembered.
    pub fn new(routes: usize, signed: Signed) -> Self {
        let subject = Self::at(([127, 0, 0, 1], 9).into(), routes, signed);
        assert!(matches!(subject.identify(subject.admit()), Caller::Known(_)));
        subject
    }

    /// `admit`: sizes, host, canonical path, route.
    pub fn admit(&self) -> Admitted<'_> {
        self.gateway.routes.admit(&self.head).expect("admitted")
    }

    /// `authenticate` with a token that is not remembered: taken apart, signature and claims checked.
    pub fn verify(&self) -> VerifiedToken {
        let bearer = Bearer::of(&self.head).expect("a token");
        let issuer = self.gateway.authenticator.issuers().first().expect("an issuer");
        UnverifiedToken::parse(bearer).and_then(|token| issuer.verify(token, self.now.unix)).expect("a good token")
    }

    /// `authenticate` with a token that is remembered: times and standing.
    pub fn identify(&self, admitted: Admitted<'_>) -> Caller {
        let identified = self.gateway.authenticator.identify(&admitted, (&self.head, None), self.now, &self.asker);
        self.runtime.block_on(identified).expect("a caller")
    }

    /// What `decide` gets.
    pub fn arrived(&self) -> (Admitted<'_>, Caller) {
        (self.admit(), self.identify(self.admit()))
    }

    /// `authorize`.
    pub fn decide<'g>(&self, (admitted, caller): (Admitted<'g>, Caller)) -> Permit<'g> {
        authorize::decide(admitted, caller).expect("a permit")
    }

    /// The head of the request to the upstream.
    pub fn write(&self, permit: &Permit<'_>) -> Vec<u8> {
        self.plan.write(Sources {
            upgrade: None,
            head: &self.head,
            target: permit.admitted().path.target().as_str(),
            caller: permit.caller(),
            peer: &self.peer,
            request_id: &self.request_id,
            framing: BodyFraming::Empty,
            is_read: false,
            assertion: None,
        })
    }
}

/// A worker with an upstream and a client: all on one thread, on real sockets.
pub struct Whole {
    runtime: LocalRuntime,
    client: TcpStream,
    request: Vec<u8>,
    read: Vec<u8>,
}

impl Whole {
    /// Connected, and warm: the token is remembered, the upstream's connection open.
    pub fn new() -> Self {
        let upstream = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        upstream.set_nonblocking(true).expect("a socket");
        let subject = Subject::at(upstream.local_addr().expect("an address"), 10, Signed::Es256);
        let fields = subject.head.headers.iter();
        let fields = fields.map(|(name, value)| format!("{name}: {}\r\n", value.to_str().expect("text")));
        let request = format!("GET {} HTTP/1.1\r\n{}\r\n", subject.head.uri, fields.collect::<String>());
        let Subject { gateway, limits, peer, asker, .. } = subject;
        let counters = Arc::new(Counters::new(gateway.routes.all().iter().map(|route| &route.id)));
        let (store, leashes, counters) = (Rc::new(asker), Leashes::default(), Rc::new(counters));
        let worker = Rc::new(Worker::new(LiveGateway { number: 1, gateway, store, counters, limits, leashes }));
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
        let client = runtime.block_on(async {
            let upstream = TcpListener::from_std(upstream).expect("a listener");
            tokio::task::spawn_local(serve_upstream(upstream));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
            let (stream, _) = listener.accept().await.expect("accepted");
            for socket in [&client, &stream] {
                socket.set_nodelay(true).expect("no delay");
            }
            let client_of = Client::new(peer.address, false, &worker.live());
            let entry = Rc::new(Watch::default()).enter(0);
            tokio::task::spawn_local(async move { connection::serve(stream, None, client_of, worker, entry).await });
            client
        });
        let mut whole = Self { runtime, client, request: request.into_bytes(), read: vec![0; 8192] };
        (0..10).for_each(|_| whole.exchange());
        whole
    }

    /// One request and its whole answer.
    pub fn exchange(&mut self) {
        let Self { runtime, client, request, read } = self;
        runtime.block_on(async {
            client.write_all(request).await.expect("sent");
            let mut got = 0;
            // The body is the same byte over and over, and no head ends like it.
            while got < 1024 || !read[..got].ends_with(&[b'x'; 1024]) {
                got += client.read(&mut read[got..]).await.expect("an answer");
            }
            assert!(read.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", read[..got].escape_ascii());
        });
    }
}

async fn serve_upstream(listener: TcpListener) {
    let answer = answer();
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut buffer = vec![0; 8192];
        stream.set_nodelay(true).expect("no delay");
        while let Ok(1..) = stream.read(&mut buffer).await {
            stream.write_all(&answer).await.expect("answered");
        }
    }
}

//! What happens in the demo, scene by scene: to be played, and to be pasted.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, ORIGIN, SET_COOKIE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::services::PASSWORD;
use crate::cli::{Failure, http as client, print};

/// A page of the shop.
const PAGE: &str = "https://shop.demo.test";

/// One request of the story.
struct Scene {
    what: &'static str,
    method: Method,
    path: &'static str,
    with: With,
    expected: StatusCode,
    /// Something that has to be in the answer.
    shows: &'static [&'static str],
    then: Then,
}

/// What a request is sent with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    Nothing,
    /// The access token of this member.
    Token(&'static str),
    /// The cookie of this member's browser.
    Cookie(&'static str),
    /// The same, from a page.
    CookieFrom(&'static str, &'static str),
    /// An id and this password.
    Password(&'static str, &'static str),
    /// The refresh token of this member.
    Refresh(&'static str),
    /// An order of the operator's.
    Order(&'static str),
}

/// What is kept of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// The credentials of this member.
    Keep(&'static str),
}

const fn scene(what: &'static str, method: Method, path: &'static str, with: With, expected: StatusCode) -> Scene {
    Scene { what, method, path, with, expected, shows: &[], then: Then::Nothing }
}

fn log_in(what: &'static str, id: &'static str) -> Scene {
    let with = With::Password(id, PASSWORD);
    Scene { then: Then::Keep(id), ..scene(what, Method::POST, "/auth/login", with, StatusCode::OK) }
}

/// The story.
fn story() -> Vec<Scene> {
    [comes_in(), may(), goes_out()].into_iter().flatten().collect()
}

const APP: With = With::Token("hong");
const BROWSER: With = With::Cookie("hong");
const OK: StatusCode = StatusCode::OK;
const OUT: StatusCode = StatusCode::UNAUTHORIZED;

/// 홍길동 comes in.
fn comes_in() -> Vec<Scene> {
    vec![
        scene("anyone sees the products", Method::GET, "/products", With::Nothing, OK),
        scene("no credential, no order", Method::GET, "/orders/42", With::Nothing, OUT),
        scene(
            "a wrong password is the member service's to refuse",
            Method::POST,
            "/auth/login",
            With::Password("hong", "guess"),
            OUT,
        ),
        log_in("홍길동 logs in: a pair of tokens for the app, a cookie for the browser", "hong"),
        log_in("so does an admin", "root"),
        Scene {
            shows: &["\"x-user-id\": \"hong\"", "%ED%99%8D%EA%B8%B8%EB%8F%99"],
            ..scene("홍길동's app sees an order; the service sees who asks", Method::GET, "/orders/42", APP, OK)
        },
        Scene {
            shows: &["\"x-user-id\": \"hong\"", "%ED%99%8D%EA%B8%B8%EB%8F%99"],
            ..scene("홍길동's browser does; the service sees the same", Method::GET, "/orders/42", BROWSER, OK)
        },
    ]
}

/// What 홍길동 may, and what not.
fn may() -> Vec<Scene> {
    vec![
        scene("홍길동 sees the orders of hong", Method::GET, "/members/hong/orders", APP, OK),
        scene("but not those of kim", Method::GET, "/members/kim/orders", APP, StatusCode::FORBIDDEN),
        scene("an admin sees those of kim", Method::GET, "/members/kim/orders", With::Token("root"), OK),
        scene("the app pays", Method::POST, "/payments/card", APP, OK),
        scene(
            "the browser pays from a page of the shop",
            Method::POST,
            "/payments/card",
            With::CookieFrom("hong", PAGE),
            OK,
        ),
        scene(
            "from a page of somebody else it does not",
            Method::POST,
            "/payments/card",
            With::CookieFrom("hong", "https://evil.test"),
            StatusCode::FORBIDDEN,
        ),
        scene("a customer may not refund", Method::POST, "/refunds", APP, StatusCode::FORBIDDEN),
        scene("an admin may", Method::POST, "/refunds", With::Token("root"), OK),
        scene("a doubtful path is refused", Method::GET, "/orders/..%2f..%2frefunds", APP, StatusCode::BAD_REQUEST),
    ]
}

/// 홍길동 goes, in each way.
fn goes_out() -> Vec<Scene> {
    vec![
        Scene {
            then: Then::Keep("hong"),
            ..scene("the app gets the next pair", Method::POST, "/auth/refresh", With::Refresh("hong"), OK)
        },
        scene("홍길동 logs out in the app", Method::POST, "/auth/logout", APP, StatusCode::NO_CONTENT),
        scene("the app is out, at once", Method::GET, "/orders/42", APP, OUT),
        scene("and so is the browser: it was one login", Method::GET, "/orders/42", BROWSER, OUT),
        scene(
            "and what it would have refreshed",
            Method::POST,
            "/auth/refresh",
            With::Refresh("hong"),
            StatusCode::BAD_REQUEST,
        ),
        log_in("홍길동 logs in again", "hong"),
        scene("the app is in", Method::GET, "/orders/42", APP, OK),
        scene(
            "an operator logs 홍길동 out everywhere",
            Method::POST,
            "/revocations",
            With::Order(r#"{"sub":"hong"}"#),
            OK,
        ),
        scene("홍길동 is out, with the same token, at once", Method::GET, "/orders/42", APP, OUT),
        scene("in the browser too", Method::GET, "/orders/42", BROWSER, OUT),
        scene("the admin is not", Method::GET, "/orders/42", With::Token("root"), OK),
        log_in("the next login works, in the same second or not", "hong"),
        scene("the app is in", Method::GET, "/orders/42", APP, OK),
        scene(
            "홍길동 ends every login of 홍길동's",
            Method::POST,
            "/auth/logout?everywhere",
            APP,
            StatusCode::NO_CONTENT,
        ),
        scene("the app is out", Method::GET, "/orders/42", APP, OUT),
        scene("and the browser", Method::GET, "/orders/42", BROWSER, OUT),
    ]
}

/// What one member's clients hold.
#[derive(Default)]
struct Held {
    access: String,
    refresh: String,
    cookie: String,
}

/// Where the story takes place.
pub struct Stage {
    /// The gateway.
    pub gateway: String,
    /// Its admin pages.
    pub admin: String,
}

/// Credentials by the id that logged in.
type Pockets = std::collections::HashMap<&'static str, Held>;

impl Stage {
    /// What to paste.
    pub fn script(&self) -> String {
        let Self { gateway, admin } = self;
        let lines: String = story().iter().map(|scene| self.pasted(scene)).collect();
        format!(
            "\nBearward demo: gateway http://{gateway}, admin http://{admin}. Paste into another terminal:\n\n\
             cd \"$(mktemp -d)\"\n\
             keep() {{ cat > $1.new && mv $1.new $1.json; }}                 # what one member's app holds\n\
             held() {{ sed -n 's/.*\"'$2'\":\"\\([^\"]*\\)\".*/\\1/p' $1.json; }}\n\n\
             {lines}\n\
             # load (wrk has to be installed), as the admin\n\
             wrk -t1 -c64 -d10s -H \"Authorization: Bearer $(held root access_token)\" http://{gateway}/orders/42\n\n\
             Ctrl-C ends it.\n\n"
        )
    }

    /// One scene as a line for a shell.
    fn pasted(&self, scene: &Scene) -> String {
        let method = if scene.method == Method::GET { String::new() } else { format!("-X {} ", scene.method) };
        let json = "-H 'content-type: application/json' ";
        let with = match scene.with {
            With::Nothing => String::new(),
            With::Token(id) => format!("-H \"Authorization: Bearer $(held {id} access_token)\" "),
            With::Cookie(id) => format!("-b {id}.cookies "),
            With::CookieFrom(id, page) => format!("-b {id}.cookies -H 'Origin: {page}' "),
            With::Password(id, password) => {
                format!("{json}-d '{}' ", json!({ "id": id, "password": password }))
            }
            With::Refresh(id) => format!("-d \"refresh_token=$(held {id} refresh_token)\" "),
            With::Order(order) => format!("{json}-d '{order}' "),
        };
        let address = if matches!(scene.with, With::Order(_)) { &self.admin } else { &self.gateway };
        let (options, then) = match (scene.then, scene.with) {
            (Then::Nothing, _) => ("-i ".to_owned(), String::new()),
            (Then::Keep(id), With::Password(..)) => (format!("-s -c {id}.cookies "), format!(" | keep {id}")),
            (Then::Keep(id), _) => ("-s ".to_owned(), format!(" | keep {id}")),
        };
        format!(
            "# {}: {}\ncurl {options}{method}{with}'http://{address}{}'{then}\n",
            scene.what,
            scene.expected.as_u16(),
            scene.path
        )
    }

    /// Plays the story.
    pub async fn play(&self) -> Result<(), Failure> {
        let (mut failed, mut pockets) = (0, Pockets::new());
        for scene in story() {
            failed += usize::from(!self.play_one(&scene, &mut pockets).await?);
        }
        if failed > 0 {
            return Err(Failure::Runtime(format!("{failed} did not come as expected")));
        }
        print("all came as expected\n")
    }

    async fn play_one(&self, scene: &Scene, pockets: &mut Pockets) -> Result<bool, Failure> {
        let address = if matches!(scene.with, With::Order(_)) { &self.admin } else { &self.gateway };
        let mut request = Request::builder().method(scene.method.clone()).uri(scene.path).header(HOST, address);
        let none = Held::default();
        let held = |id: &str| pockets.get(id).unwrap_or(&none);
        let mut body = String::new();
        let mut kind = None;
        match scene.with {
            With::Nothing => {}
            With::Token(id) => request = request.header(AUTHORIZATION, format!("Bearer {}", held(id).access)),
            With::Cookie(id) => request = request.header(COOKIE, &held(id).cookie),
            With::CookieFrom(id, page) => {
                request = request.header(COOKIE, &held(id).cookie).header(ORIGIN, page);
            }
            With::Password(id, password) => {
                body = json!({ "id": id, "password": password }).to_string();
                kind = Some("application/json");
            }
            With::Refresh(id) => {
                body = format!("refresh_token={}", held(id).refresh);
                kind = Some("application/x-www-form-urlencoded");
            }
            With::Order(order) => {
                order.clone_into(&mut body);
                kind = Some("application/json");
            }
        }
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| Failure::Runtime(error.to_string()))?;
        let answer = client::send(address, request).await.map_err(Failure::Runtime)?;
        if let Then::Keep(id) = scene.then {
            keep(pockets.entry(id).or_default(), &answer);
        }
        let text = String::from_utf8_lossy(answer.body());
        let holds = scene.shows.iter().all(|part| text.contains(part));
        verdict(scene, answer.status(), holds)
    }
}

/// Keeps what an answer gives.
fn keep(held: &mut Held, answer: &Response<Bytes>) {
    let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    (held.access, held.refresh) = (text("access_token"), text("refresh_token"));
    let cookie = answer.headers().get(SET_COOKIE).and_then(|value| value.to_str().ok());
    if let Some(pair) = cookie.and_then(|cookie| cookie.split(';').next()) {
        pair.clone_into(&mut held.cookie);
    }
}

fn verdict(scene: &Scene, came: StatusCode, holds: bool) -> Result<bool, Failure> {
    let Scene { what, method, path, expected, .. } = scene;
    let is_right = *expected == came && holds;
    let mark = if is_right { "ok  " } else { "FAIL" };
    let more = if holds { "" } else { ", but the service did not see what it should" };
    print(&format!("{mark} {what}: {method} {path}: expected {}, came {}{more}\n", expected.as_u16(), came.as_u16()))?;
    Ok(is_right)
}

//! Random logins, refreshes, replays and logouts at random gateways, held against a model that knows what each
//! credential has to be worth. `BEARWARD_TURNS` sets how many.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::fault::Fault;
use crate::support::logins::{Login, Setup, body, by_cookie, by_token, login_to, member, post_to, refresh, try_post};
use crate::support::redis::Redis;
use crate::support::{Answer, Gateway, until};

/// What is known of one login.
struct Known {
    subject: usize,
    is_alive: bool,
    /// Whether it may be dead already without our knowing: it was ended by the way, and others are told within a second.
    is_ending: bool,
    /// Every refresh token, the current one last.
    refresh: Vec<String>,
    /// Every access token.
    access: Vec<String>,
    cookie: String,
}

struct World {
    gateways: Vec<Gateway>,
    logins: Vec<Known>,
    random: fastrand_like::Random,
    /// Whether a token that was turned on becomes the same one again.
    has_grace: bool,
    counts: HashMap<&'static str, usize>,
}

/// A generator of its own, so that a run can be repeated.
mod fastrand_like {
    pub struct Random(pub u64);

    impl Random {
        pub fn below(&mut self, most: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % most as u64).expect("small")
        }
    }
}

const SUBJECTS: usize = 4;
/// Turns of one token that a login remembers.
const REMEMBERED: usize = 16;

impl World {
    fn at(&mut self) -> usize {
        let count = self.gateways.len();
        self.random.below(count)
    }

    fn some_login(&mut self) -> Option<usize> {
        let count = self.logins.len();
        // Mostly of the last ones: those are alive.
        (count > 0).then(|| count - 1 - self.random.below(count.min(12)))
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn log_in(&mut self) {
        let (subject, at) = (self.random.below(SUBJECTS), self.at());
        let who = json!({ "sub": format!("member-{subject}"), "roles": ["customer"] });
        let Some(answer) = login_to(&self.gateways[at], &who) else { return self.count("login lost") };
        let Login { access, refresh, cookie } = answer;
        self.logins.push(Known {
            subject,
            is_alive: true,
            is_ending: false,
            refresh: vec![refresh],
            access: vec![access],
            cookie,
        });
        self.count("login");
    }

    /// The current token, or one before it.
    fn refresh(&mut self) {
        let Some(number) = self.some_login() else { return };
        let at = self.at();
        let address = self.gateways[at].address;
        let login = &self.logins[number];
        let last = login.refresh.len() - 1;
        let back = if self.random.below(3) == 0 { self.random.below(login.refresh.len()) } else { 0 };
        let login = &mut self.logins[number];
        let token = login.refresh[last - back].clone();
        let answer = send_until_told(|| refresh(address, &token));
        if !login.is_alive {
            assert_eq!(answer.status, 400, "a dead login was refreshed");
            return self.count("refresh of a dead login");
        }
        let is_known = back == 0 || (self.has_grace && back <= REMEMBERED);
        if !is_known {
            assert_eq!(answer.status, 400, "a copy was refreshed");
            (login.is_alive, login.is_ending) = (false, true);
            return self.count("replay");
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        let pair = body(&answer);
        let text = |name: &str| pair[name].as_str().expect("text").to_owned();
        login.access.push(text("access_token"));
        let next = text("refresh_token");
        if back == 0 {
            assert!(!login.refresh.contains(&next), "a token came twice");
            login.refresh.push(next);
            self.count("refresh");
        } else {
            assert_eq!(next, login.refresh[last], "not the one that is good now");
            self.count("refresh again");
        }
    }

    fn log_out(&mut self) {
        let Some(number) = self.some_login() else { return };
        let at = self.at();
        let address = self.gateways[at].address;
        let way = self.random.below(4);
        let login = &mut self.logins[number];
        let everywhere = if way == 3 { "?everywhere" } else { "" };
        let fields = match way {
            0 | 3 => format!("authorization: Bearer {}\r\n", login.access.last().expect("one")),
            1 => format!("cookie: SID={}\r\norigin: https://shop.test\r\n", login.cookie),
            _ => String::new(),
        };
        let answer = send_until_told(|| match way {
            2 => post_to(
                address,
                "/auth/revoke",
                "",
                "application/x-www-form-urlencoded",
                &format!("token={}", login.refresh.last().expect("one")),
            ),
            _ => post_to(address, &format!("/auth/logout{everywhere}"), &fields, "", ""),
        });
        match (login.is_alive, way) {
            (_, 2) => assert_eq!(answer.status, 200, "{}", answer.text()),
            (true, _) => assert!([204, 401].contains(&answer.status), "{}", answer.text()),
            // One that is ending may be alive for who was not told yet.
            (false, _) => assert!(answer.status == 401 || login.is_ending, "{}", answer.text()),
        }
        let (subject, was_alive) = (login.subject, login.is_alive);
        login.is_alive = false;
        // One that is refused now was taken back by the try before, whose answer was lost.
        if way == 3 && (answer.status == 204 || was_alive) {
            for other in self.logins.iter_mut().filter(|other| other.subject == subject) {
                other.is_alive = false;
            }
        }
        self.count(if way == 3 { "logout everywhere" } else { "logout" });
    }

    /// What every credential of a login is worth, at every gateway.
    fn probe(&mut self) {
        let Some(number) = self.some_login() else { return };
        let pick = self.random.below(64);
        let login = &mut self.logins[number];
        let token = &login.access[pick % login.access.len()];
        for gateway in &self.gateways {
            let is_right = |answer: &Answer| answer.status == if login.is_alive { 200 } else { 401 };
            let ask = |by: usize| match by {
                0 => by_token(gateway, "/me/x", token),
                1 => by_token(gateway, "/money", token),
                _ => by_cookie(gateway, "/me/x", &login.cookie),
            };
            for by in 0..3 {
                if login.is_ending {
                    until("others are told", || is_right(&ask(by)));
                } else {
                    let answer = send_until_told(|| ask(by));
                    assert!(is_right(&answer), "login {number}, by {by}: {} {}", answer.status, login.is_alive);
                }
            }
        }
        login.is_ending = false;
        self.count("probe");
    }

    fn turn(&mut self) {
        match self.random.below(20) {
            0..5 => self.log_in(),
            5..11 => self.refresh(),
            11..13 => self.log_out(),
            _ => self.probe(),
        }
    }
}

/// The answer of a store that is back: what came meanwhile was 503, and said nothing.
fn send_until_told(send: impl Fn() -> Answer) -> Answer {
    let mut answer = send();
    until("the store says something", || {
        if answer.status == 503 {
            answer = send();
        }
        answer.status != 503
    });
    answer
}

fn turns(usual: usize) -> usize {
    std::env::var("BEARWARD_TURNS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn seed() -> u64 {
    let seed = std::env::var("BEARWARD_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    println!("BEARWARD_SEED={seed}");
    seed
}

fn run(gateways: Vec<Gateway>, has_grace: bool, turns: usize, mut between: impl FnMut(&mut World, usize)) {
    let random = fastrand_like::Random(seed());
    let mut world = World { gateways, logins: Vec::new(), random, has_grace, counts: HashMap::new() };
    for turn in 0..turns {
        between(&mut world, turn);
        world.turn();
    }
    println!("{:?}", world.counts);
}

const GRACE: &str = "refresh: { ttl: 1h, reuse_grace: 5m }";
const NO_GRACE: &str = "refresh: { ttl: 1h, reuse_grace: 0s }";

#[test]
fn three_gateways_on_one_redis_follow_the_model_through_kills_of_everything_between() {
    let (redis, member) = (Redis::start(), member());
    let url = redis.url();
    for (refresh, has_grace) in [(GRACE, true), (NO_GRACE, false)] {
        let setup = Setup { store: &url, refresh, ..Setup::default() };
        let first = setup.start(member.address);
        let second = setup.start_beside(&first, member.address);
        let third = setup.start_beside(&first, member.address);
        run(vec![first, second, third], has_grace, turns(300), |world, turn| {
            // An answer that is lost is a copy where there is no grace.
            if turn % 60 == 59 && has_grace {
                redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
            }
            if turn % 150 == 149 {
                let place = world.at();
                let keeper = (place + 1) % 3;
                world.gateways[place].signal("KILL");
                world.gateways[place] = setup.start_beside(&world.gateways[keeper], member.address);
            }
        });
    }
}

#[test]
fn one_gateway_on_a_file_follows_the_model_through_kills() {
    let member = member();
    for (refresh, has_grace) in [(GRACE, true), (NO_GRACE, false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = format!("file:{}", folder.path().join("issued.db").display());
        let setup = Setup { store: &file, refresh, ..Setup::default() };
        run(vec![setup.start(member.address)], has_grace, turns(300), |world, turn| {
            if turn % 100 == 99 {
                let mut last = world.gateways.pop().expect("one");
                last.signal("KILL");
                last.wait();
                world.gateways.push(setup.start_beside(&last, member.address));
            }
        });
    }
}

/// A gateway that is killed in the middle of a refresh leaves a login that goes on.
#[test]
fn a_refresh_that_is_cut_off_by_a_kill_can_be_sent_again() {
    let (redis, member) = (Redis::start(), member());
    let url = redis.url();
    let setup = Setup { store: &url, refresh: GRACE, ..Setup::default() };
    let keeper = setup.start(member.address);
    for _ in 0..5 {
        let victim = setup.start_beside(&keeper, member.address);
        let Some(one) = login_to(&keeper, &json!({ "sub": "kim" })) else { panic!("it logs in") };
        let (address, token) = (victim.address, one.refresh.clone());
        let asks = std::thread::spawn(move || {
            let mut token = token;
            // For as long as somebody answers; a try that was cut off is the last.
            while let Some(answer) = try_post(address, "/auth/refresh", &format!("refresh_token={token}")) {
                let pair: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let Some(next) = pair["refresh_token"].as_str() else { break };
                next.clone_into(&mut token);
            }
            token
        });
        std::thread::sleep(std::time::Duration::from_millis(40));
        victim.signal("KILL");
        let token = asks.join().expect("a token");
        let answer = refresh(keeper.address, &token);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(by_token(&keeper, "/me/x", body(&answer)["access_token"].as_str().expect("text")).status, 200);
    }
}

/// Whatever is issued while a logout everywhere is under way is as dead as what was issued before it: at the turn of a
/// second, where times that are read too early would say otherwise.
#[test]
fn nothing_that_is_issued_beside_a_logout_everywhere_outlives_it() {
    let (redis, member) = (Redis::start(), member());
    let url = redis.url();
    let setup = Setup { store: &url, refresh: GRACE, ..Setup::default() };
    let first = setup.start(member.address);
    // The one that is asked to log out has a long way to the store: a time that it reads is old when its mark is there.
    let fault = Fault::before(redis.port);
    let far = fault.url();
    let second = Setup { store: &far, ..setup }.start_beside(&first, member.address);
    fault.delay(std::time::Duration::from_millis(150));
    for round in 0..turns(2) {
        let who = json!({ "sub": format!("member-{round}") });
        let logins: Vec<Login> = (0..4).map(|_| login_to(&first, &who).expect("it logs in")).collect();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let issued: Vec<(String, String)> = std::thread::scope(|scope| {
            let refreshers = logins.iter().map(|login| {
                let address = first.address;
                let is_over = &is_over;
                scope.spawn(move || {
                    let (mut token, mut issued) = (login.refresh.clone(), Vec::new());
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        let answer = refresh(address, &token);
                        if answer.status != 200 {
                            break;
                        }
                        let pair = body(&answer);
                        pair["refresh_token"].as_str().expect("text").clone_into(&mut token);
                        issued.push((pair["access_token"].as_str().expect("text").to_owned(), token.clone()));
                    }
                    issued
                })
            });
            let refreshers: Vec<_> = refreshers.collect();
            until("the second is over while the mark is on its way", || {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
                (380..480).contains(&(now.as_millis() % 1000))
            });
            let fields = format!("authorization: Bearer {}\r\n", logins[0].access);
            assert_eq!(post_to(second.address, "/auth/logout?everywhere", &fields, "", "").status, 204);
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            refreshers.into_iter().flat_map(|thread| thread.join().expect("a list")).collect()
        });
        assert!(issued.len() > 8, "{}", issued.len());
        for (access, token) in issued.iter().rev().take(40) {
            assert_eq!(by_token(&first, "/me/x", access).status, 401, "round {round}");
            assert_eq!(refresh(first.address, token).status, 400, "round {round}");
        }
    }
}

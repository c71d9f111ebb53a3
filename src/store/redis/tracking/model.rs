//! The rules of this room, tried in thousands of orders that a network and a scheduler could bring:
//! a Redis of a few lines, messages under way, tasks that run late, connections that break.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::generation::{Found, Generation, Key};
use super::tracked::{Tracked, Verdict};
use crate::clock;
use crate::store::{Standing, StandingKeys};

const MAX_STALENESS: Duration = Duration::from_millis(100);
const KEYS: usize = 3;
const SCHEDULES: u64 = 4_000;
const STEPS: usize = 150;

/// When a reply may be kept.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// As it is: only what no change overtook.
    NotOvertaken,
    /// Broken on purpose: whatever comes is kept.
    Whatever,
    /// Broken on purpose: a proof counts from when its reply came.
    ProvedOnArrival,
}

/// What goes to the gateway on one connection, in this order.
enum Message {
    Changed(String),
    AllChanged,
    Reply(Read, Vec<bool>),
}

/// What goes to Redis.
#[derive(Clone)]
struct Read {
    generation: Arc<Generation>,
    keys: Vec<(Arc<Key>, u64)>,
    sent: Instant,
}

struct World {
    rule: Rule,
    rng: fastrand::Rng,
    now: Instant,
    /// Redis: which keys are there and since when, and what it would tell of.
    there: HashMap<String, Instant>,
    tracked: HashSet<String>,
    to_redis: VecDeque<Read>,
    to_gateway: VecDeque<Message>,
    /// Replies that were read from the socket, for tasks that have not run yet.
    late: Vec<(Read, Vec<bool>)>,
    generation: Arc<Generation>,
    tokens: Vec<Tracked>,
    /// The same on the connection before.
    outlived: Vec<Tracked>,
    /// Requests that were answered from what is known.
    served: usize,
}

fn keys(token: usize) -> StandingKeys {
    // Tokens share keys, as those of one login do.
    let present = vec![name(token).into(), name((token + 1) % KEYS).into()];
    StandingKeys { present, ..StandingKeys::default() }
}

fn name(number: usize) -> String {
    format!("blacklist:{number}")
}

impl World {
    fn new(seed: u64, rule: Rule) -> Self {
        let generation = Generation::new();
        let tokens = (0..KEYS).map(|token| generation.track(&keys(token))).collect();
        Self {
            rule,
            rng: fastrand::Rng::with_seed(seed),
            now: clock::monotonic(),
            there: HashMap::new(),
            tracked: HashSet::new(),
            to_redis: VecDeque::new(),
            to_gateway: VecDeque::new(),
            late: Vec::new(),
            generation,
            tokens,
            outlived: Vec::new(),
            served: 0,
        }
    }

    /// One thing happens; what that must never lead to is told.
    fn step(&mut self) -> Result<(), String> {
        match self.rng.u32(0..100) {
            0..10 => self.write(),
            10..25 => self.look_up(),
            25..35 => self.send(Vec::new()),
            35..55 => self.redis_answers(),
            55..72 => self.gateway_reads(),
            72..85 => self.task_runs(),
            85..93 => self.now += Duration::from_millis(self.rng.u64(1..40)),
            93..95 => self.redis_forgets(),
            95..97 => self.flush(),
            97..98 => self.connection_breaks(),
            _ => {
                let token = self.rng.usize(0..KEYS);
                self.tokens[token] = self.generation.track(&keys(token));
            }
        }
        self.judge()
    }

    /// A service revokes, or takes a revocation back.
    fn write(&mut self) {
        let name = name(self.rng.usize(0..KEYS));
        if self.there.remove(&name).is_none() {
            self.there.insert(name.clone(), self.now);
        }
        self.tell(name);
    }

    fn tell(&mut self, name: String) {
        if self.tracked.remove(&name) {
            self.to_gateway.push_back(Message::Changed(name));
        }
    }

    fn look_up(&mut self) {
        let token = &self.tokens[self.rng.usize(0..KEYS)];
        let unknown = token.keys().filter(|key| key.is_unknown());
        let keys = unknown.map(|key| (Arc::clone(key), self.generation.version(key))).collect();
        self.send(keys);
    }

    fn send(&mut self, keys: Vec<(Arc<Key>, u64)>) {
        self.to_redis.push_back(Read { generation: Arc::clone(&self.generation), keys, sent: self.now });
    }

    fn redis_answers(&mut self) {
        let Some(read) = self.to_redis.pop_front() else { return };
        self.tracked.extend(read.keys.iter().map(|(key, _)| key.name.to_string()));
        let found = read.keys.iter().map(|(key, _)| self.there.contains_key(&*key.name)).collect();
        self.to_gateway.push_back(Message::Reply(read, found));
    }

    fn gateway_reads(&mut self) {
        match self.to_gateway.pop_front() {
            None => {}
            Some(Message::Changed(name)) => self.generation.changed(&name),
            Some(Message::AllChanged) => self.generation.all_changed(),
            Some(Message::Reply(read, found)) => self.late.push((read, found)),
        }
    }

    fn task_runs(&mut self) {
        if self.late.is_empty() {
            return;
        }
        // Tasks run in any order.
        let (read, found) = self.late.swap_remove(self.rng.usize(0..self.late.len()));
        for ((key, version), is_there) in read.keys.iter().zip(found) {
            let version = if self.rule == Rule::Whatever { read.generation.version(key) } else { *version };
            read.generation.learn(key, version, if is_there { Found::Present } else { Found::Absent });
        }
        read.generation.prove(if self.rule == Rule::ProvedOnArrival { self.now } else { read.sent });
    }

    /// Its table is full.
    fn redis_forgets(&mut self) {
        let name = name(self.rng.usize(0..KEYS));
        self.tell(name);
    }

    fn flush(&mut self) {
        self.there.clear();
        self.tracked.clear();
        self.to_gateway.push_back(Message::AllChanged);
    }

    fn connection_breaks(&mut self) {
        self.to_redis.clear();
        self.to_gateway.clear();
        self.tracked.clear();
        // Tasks of the old connection still run, and requests still hold what it said.
        self.generation.end();
        let generation = Generation::new();
        self.now = self.now.max(clock::monotonic());
        let tokens = (0..KEYS).map(|token| generation.track(&keys(token))).collect();
        self.generation = generation;
        self.outlived = std::mem::replace(&mut self.tokens, tokens);
    }

    /// Nobody is let in who was revoked for longer than the limit, and nobody is kept out for nothing.
    fn judge(&mut self) -> Result<(), String> {
        for token in self.tokens.iter().chain(&self.outlived) {
            let Verdict::Known(standing) = token.judge(self.now, MAX_STALENESS) else { continue };
            self.served += 1;
            let since = token.keys().filter_map(|key| self.there.get(&*key.name)).min();
            if let (Standing::Clear, Some(since)) = (standing, since) {
                let late = self.now.saturating_duration_since(*since);
                if late > MAX_STALENESS {
                    return Err(format!("a token is let in {late:?} after it was revoked"));
                }
            }
        }
        Ok(())
    }

    /// Everything arrives and every task runs: then what is known is what holds.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            (0..KEYS * 4).for_each(|_| self.look_up());
            self.send(Vec::new());
            while !(self.to_redis.is_empty() && self.to_gateway.is_empty() && self.late.is_empty()) {
                self.redis_answers();
                self.gateway_reads();
                self.task_runs();
            }
        }
        for token in &self.tokens {
            let is_revoked = token.keys().any(|key| self.there.contains_key(&*key.name));
            let holds = if is_revoked { Standing::Revoked } else { Standing::Clear };
            if let Verdict::Known(known) = token.judge(self.now, MAX_STALENESS)
                && known != holds
            {
                return Err(format!("{known:?} is kept where {holds:?} holds"));
            }
        }
        Ok(())
    }
}

/// The first thing that goes wrong in any order, and how many requests were judged.
fn explore(rule: Rule) -> (Option<String>, usize) {
    let mut served = 0;
    for seed in 0..SCHEDULES {
        let mut world = World::new(seed, rule);
        let ran = (0..STEPS).try_for_each(|_| world.step()).and_then(|()| world.settle());
        served += world.served;
        if let Err(wrong) = ran {
            return (Some(format!("order {seed}: {wrong}")), served);
        }
    }
    (None, served)
}

#[test]
fn in_no_order_of_events_is_a_revoked_token_let_in_after_the_limit() {
    let (wrong, served) = explore(Rule::NotOvertaken);
    assert_eq!(wrong, None);
    assert!(served > 100_000, "most of it was judged: {served}");
}

#[test]
fn the_model_finds_a_rule_that_was_broken_on_purpose() {
    assert!(explore(Rule::Whatever).0.is_some(), "an overtaken reply was kept");
    assert!(explore(Rule::ProvedOnArrival).0.is_some(), "a proof counted from its arrival");
}

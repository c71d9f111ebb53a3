//! One suite for every store: what holds of one holds of the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bearward::store::{
    Ack, Asker, File, KeyPattern, Kind, Link, Mark, Memory, RedisUrl, Slot, Standing, StandingKeys, Store, Trouble,
};

use crate::sentinel::Sentinel;
use crate::support::cluster::Cluster;
use crate::support::now;
use crate::support::redis::Redis;

/// Runs the suite on a store of each kind.
fn on_each_store(suite: impl AsyncFn(&Store, &Asker)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let memory = Store::Memory(Arc::new(Memory::default()));
        let (asker, none) = memory.asker();
        assert!(none.is_none());
        suite(&memory, &asker).await;

        let folder = tempfile::tempdir().expect("a folder");
        let (file, writer) = File::new(folder.path().join("store.db"));
        let file = Store::File(Arc::new(file));
        assert_eq!(file.trouble(), Some(Trouble::Away), "it is not open");
        writer.start().expect("a file");
        assert_eq!(file.trouble(), None);
        suite(&file, &file.asker().0).await;

        let redis = Redis::start();
        on_redis(&redis.url(), &suite).await;
        redis.command(&["FLUSHALL"]);
        let sentinel = Sentinel::start(redis.port);
        on_redis(&format!("redis+sentinel://127.0.0.1:{}/shop", sentinel.port), &suite).await;
        let cluster = Cluster::start(3, 0);
        on_redis(&cluster.url(), &suite).await;
    });
}

async fn on_redis(url: &str, suite: &impl AsyncFn(&Store, &Asker)) {
    let url = RedisUrl::parse(url).expect("a URL");
    let (link, driver) = Link::new(url, Duration::from_secs(5), Duration::from_secs(5), StandingKeys::default());
    tokio::spawn(driver.run());
    let store = Store::Redis(Box::new(link));
    let (asker, driver) = store.asker();
    tokio::spawn(driver.expect("a driver").run());
    // In a cluster these are in parts of all three.
    let names: Vec<String> = (0..50).map(|number| format!("probe-{number}")).collect();
    let probe = Arc::new(keys(&names.iter().map(String::as_str).collect::<Vec<_>>(), None));
    for _ in 0..1000 {
        if store.trouble().is_none() && asker.standing(&probe).await == Standing::Clear {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    suite(&store, &asker).await;
}

fn keys(present: &[&str], not_before: Option<(&str, i64)>) -> StandingKeys {
    StandingKeys {
        present: present.iter().map(|&key| key.into()).collect(),
        times: not_before.iter().map(|(key, _)| (*key).into()).collect(),
        issued_at: not_before.map_or(0, |(_, issued_at)| issued_at),
        record: None,
    }
}

fn in_millis(millis: i64) -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    u64::try_from(i128::try_from(since).expect("small") + i128::from(millis)).expect("positive")
}

const HOUR: i64 = 3_600_000;

#[test]
fn what_is_written_is_seen_by_the_next_look_up() {
    on_each_store(async |store, asker| {
        let token = Arc::new(keys(&["jti:a", "sid:s"], Some(("sub:kim", 100))));
        assert_eq!(asker.standing(&token).await, Standing::Clear);
        let slot = Slot::default();
        for key in ["jti:a", "sid:s"] {
            store.mark(key, Mark::Presence, in_millis(200)).await.expect("written");
            assert_eq!(asker.standing(&token).await, Standing::Revoked, "{key}");
            assert_eq!(asker.tracked(&token, &slot, Instant::now()).await, Standing::Revoked, "{key}");
            // It leaves by itself when its time is over.
            for _ in 0..1000 {
                if asker.standing(&token).await == Standing::Clear {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(asker.standing(&token).await, Standing::Clear, "{key}");
            assert_eq!(asker.tracked(&token, &slot, Instant::now()).await, Standing::Clear, "{key}");
        }
    });
}

#[test]
fn a_time_ends_what_was_issued_at_or_before_it() {
    on_each_store(async |store, asker| {
        for (written, expected) in [(99, Standing::Clear), (100, Standing::Revoked), (101, Standing::Revoked)] {
            let key = format!("sub:{written}");
            store.mark(&key, Mark::NotBefore(written), in_millis(HOUR)).await.expect("written");
            assert_eq!(asker.standing(&Arc::new(keys(&[], Some((&key, 100))))).await, expected, "{written}");
            // Revoked by one key is revoked, whatever another key says.
            store.mark("jti:x", Mark::Presence, in_millis(HOUR)).await.expect("written");
            assert_eq!(asker.standing(&Arc::new(keys(&["jti:x"], Some((&key, 100))))).await, Standing::Revoked);
        }
        // One of several times is enough, and one that cannot be read leaves nothing clear.
        store.mark("iss:i", Mark::NotBefore(50), in_millis(HOUR)).await.expect("written");
        let several = |issued_at| {
            let times = ["sub:nobody", "iss:i", "all"].map(Arc::from).to_vec();
            Arc::new(StandingKeys { present: Vec::new(), times, issued_at, record: None })
        };
        assert_eq!(asker.standing(&several(51)).await, Standing::Clear);
        assert_eq!(asker.standing(&several(50)).await, Standing::Revoked);
        store.mark("all", Mark::Presence, in_millis(HOUR)).await.expect("written");
        assert_eq!(asker.standing(&several(0)).await, Standing::Revoked);
        store.mark("all", Mark::NotBefore(70), in_millis(HOUR)).await.expect("written");
        assert_eq!(asker.standing(&several(70)).await, Standing::Revoked);
        assert_eq!(asker.standing(&several(71)).await, Standing::Clear);
        // Nothing to ask is nothing known.
        assert_eq!(asker.standing(&Arc::new(keys(&[], None))).await, Standing::Unknown);
    });
}

// A revocation that was there must not be weakened by a later one: a ban without end stays one.
#[test]
fn a_mark_only_ever_strengthens_what_is_there() {
    on_each_store(async |store, _| {
        let life = async |key: &str| store.read(key).await.expect("an answer").expect("an entry").remaining;
        store.mark("sub:k", Mark::NotBefore(200), in_millis(2 * HOUR)).await.expect("written");
        store.mark("sub:k", Mark::NotBefore(100), in_millis(HOUR)).await.expect("written");
        assert_eq!(store.read("sub:k").await.expect("an answer").expect("an entry").value, "200");
        assert!(life("sub:k").await > Some(5_000_000));
        store.mark("sub:k", Mark::NotBefore(300), in_millis(HOUR)).await.expect("written");
        assert_eq!(store.read("sub:k").await.expect("an answer").expect("an entry").value, "300");
        assert!(life("sub:k").await > Some(5_000_000));
        store.mark("jti:k", Mark::Presence, in_millis(HOUR)).await.expect("written");
        store.mark("jti:k", Mark::Presence, in_millis(2 * HOUR)).await.expect("written");
        assert!(life("jti:k").await > Some(5_000_000));
        store.mark("jti:k", Mark::Presence, in_millis(1000)).await.expect("written");
        assert!(life("jti:k").await > Some(5_000_000));
    });
}

#[test]
fn what_was_written_can_be_read_with_its_remaining_life() {
    on_each_store(async |store, _| {
        assert_eq!(store.read("k").await, Ok(None));
        store.mark("k", Mark::NotBefore(now()), in_millis(60_000)).await.expect("written");
        let entry = store.read("k").await.expect("an answer").expect("an entry");
        assert_eq!(entry.value.parse::<i64>().map(|at| (now() - at).abs() < 5), Ok(true));
        assert!(entry.remaining.is_some_and(|left| (50_000..=60_000).contains(&left)), "{entry:?}");
        store.mark("past", Mark::Presence, in_millis(-1000)).await.expect("written");
        assert_eq!(store.read("past").await, Ok(None), "already over");
    });
}

#[test]
fn what_a_pattern_gives_is_listed_page_by_page_and_nothing_else() {
    on_each_store(async |store, _| {
        let pattern = KeyPattern::parse(Kind::Jti, "list*:{jti}").expect("a pattern");
        let mut written: Vec<String> = (0..2500).map(|number| format!("list*:{number}")).collect();
        for key in &written {
            store.mark(key, Mark::Presence, in_millis(HOUR)).await.expect("written");
        }
        for other in ["listed:1", "list*", "xlist*:1"] {
            store.mark(other, Mark::Presence, in_millis(HOUR)).await.expect("written");
        }
        store.mark("list*:over", Mark::Presence, in_millis(-1)).await.expect("written");
        let (mut keys, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = store.list(&pattern, &after).await.expect("a page");
            keys.extend(page.keys);
            pages += 1;
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        keys.sort();
        keys.dedup();
        written.sort();
        assert!(keys == written && pages >= 3, "{} in {pages}", keys.len());
    });
}

#[test]
fn what_takes_the_place_of_another_does_so_in_one_step_and_in_time_or_not_at_all() {
    on_each_store(async |_, asker| {
        asker.put("swapped", "one", 60_000).await.expect("written");
        let swap = async |old, new, by| asker.swap("swapped", (old, new), 60_000, in_millis(by)).await;
        let there = async || asker.timed("swapped").await.expect("an answer").text;
        // Who has given it up for lost may have sent it again.
        let late = swap("one", "late", -1000).await;
        assert!(!matches!(late, Ok(true)), "{late:?}");
        assert_eq!(there().await.as_deref(), Some("one"));
        assert_eq!(swap("another", "two", 60_000).await, Ok(false));
        assert_eq!(swap("one", "two", 60_000).await, Ok(true));
        assert_eq!(there().await.as_deref(), Some("two"));
    });
}

#[test]
fn many_look_ups_at_once_each_get_their_own_answer() {
    on_each_store(async |store, asker| {
        for number in (0..1000).step_by(3) {
            store.mark(&format!("n:{number}"), Mark::Presence, in_millis(HOUR)).await.expect("written");
        }
        let look_ups: Vec<Arc<StandingKeys>> =
            (0..1000).map(|number| Arc::new(keys(&[&format!("n:{number}")], None))).collect();
        let answers = join_all(look_ups.iter().map(|keys| asker.standing(keys))).await;
        for (number, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer, if number % 3 == 0 { Standing::Revoked } else { Standing::Clear }, "{number}");
        }
    });
}

/// All of them at once, in their order.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(move |cx| {
        let mut is_done = true;
        for (future, output) in pending.iter_mut().filter(|(_, output)| output.is_none()) {
            match future.as_mut().poll(cx) {
                std::task::Poll::Ready(value) => *output = Some(value),
                std::task::Poll::Pending => is_done = false,
            }
        }
        if !is_done {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(pending.drain(..).filter_map(|(_, output)| output).collect())
    })
    .await
}

// The clock of the gateway may be behind that of the store: an end that has passed there ends no ban.
#[test]
fn waiting_for_replicas_never_ends_a_ban() {
    let redis = Redis::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let url = RedisUrl::parse(&redis.url()).expect("a URL");
        let (link, driver) = Link::new(url, Duration::from_secs(5), Duration::from_secs(5), StandingKeys::default());
        tokio::spawn(driver.run());
        let store = Store::Redis(Box::new(link));
        redis.command(&["SET", "for-ever", "1"]);
        redis.command(&["SET", "for-long", "1", "EX", "1000"]);
        for key in ["for-ever", "for-long"] {
            let before: i64 = redis.command(&["TTL", key]).parse().expect("a time");
            // There is no replica, so it is never confirmed; it is written all the same.
            let refused = store.revoke(key, Mark::Presence, 1, Ack::Replica).await.expect_err("no replica");
            assert!(refused.is_written(), "{refused}");
            assert_eq!(redis.command(&["EXISTS", key]), "1", "{key}");
            let after: i64 = redis.command(&["TTL", key]).parse().expect("a time");
            assert!(after == before || (after > 0 && before - after < 9), "{key}: {before}, then {after}");
        }
    });
}

//! What one tracking connection has been told, step by step.

use super::super::tracked::Verdict;
use super::*;
use crate::store::Standing;

const MAX: Duration = Duration::from_secs(1);

fn keys() -> StandingKeys {
    StandingKeys { present: vec!["blacklist:a".into()], times: vec!["logout:kim".into()], issued_at: 100, record: None }
}

fn learn(generation: &Generation, key: &Key, found: Found) {
    assert_ne!(generation.learn(key, generation.version(key), found), Learned::Overtaken);
}

#[test]
fn a_token_is_known_when_all_its_keys_are_and_stale_with_its_connection() {
    let generation = Generation::new();
    let now = clock::monotonic();
    generation.prove(now);
    let tracked = generation.track(&keys());
    let (presence, time) = (&tracked.present[0], &tracked.times[0]);
    assert_eq!(tracked.judge(now, MAX), Verdict::Ask);
    learn(&generation, presence, Found::Absent);
    assert_eq!(tracked.judge(now, MAX), Verdict::Ask);
    for (found, standing) in [
        (Found::Absent, Standing::Clear),
        (Found::Time(99), Standing::Clear),
        (Found::Time(100), Standing::Revoked),
        (Found::Time(i64::MIN), Standing::Clear),
        (Found::Unreadable, Standing::Unknown),
    ] {
        learn(&generation, time, found);
        assert_eq!(tracked.judge(now, MAX), Verdict::Known(standing), "{found:?}");
    }
    // A key that kills is enough, whatever is not known of the other.
    learn(&generation, presence, Found::Present);
    assert_eq!(tracked.judge(now, MAX), Verdict::Known(Standing::Revoked));
    let late = now + Duration::from_millis(999);
    assert_eq!(tracked.judge(late, MAX), Verdict::Known(Standing::Revoked));
    assert_eq!(tracked.judge(now + MAX + Duration::from_millis(1), MAX), Verdict::Stale);
    generation.end();
    assert_eq!(tracked.judge(now, MAX), Verdict::Stale);
}

#[test]
fn a_primary_speaks_only_for_slots_that_are_settled() {
    let generation = Generation::of_a_part();
    let tracked = generation.track(&keys());
    let (presence, time) = (&tracked.present[0], &tracked.times[0]);
    let slots = |names: &[&str]| {
        let mut slots = Slots::new();
        for name in names {
            slots.insert(slot_of(name));
        }
        slots
    };
    let ask = |key: &Key| generation.learn(key, generation.version(key), Found::Absent);
    assert_eq!(ask(presence), Learned::Overtaken, "it has said nothing of slots");
    generation.settle(slots(&["blacklist:a", "logout:kim"]));
    assert_eq!((ask(presence), ask(time)), (Learned::Kept, Learned::Kept));
    // The other slot is on its way: what was said of it, and what was asked before, is void.
    let asked_at = generation.version(time);
    generation.settle(slots(&["blacklist:a"]));
    assert!(!presence.is_unknown() && time.is_unknown());
    assert_eq!(generation.learn(time, asked_at, Found::Absent), Learned::Overtaken);
    assert_eq!(ask(time), Learned::Overtaken, "nobody has said that it can speak for it");
    // It is back, and with it what was written meanwhile: only a new answer counts.
    generation.settle(slots(&["blacklist:a", "logout:kim"]));
    assert!(time.is_unknown());
    assert_eq!(ask(time), Learned::Kept);
}

#[test]
fn a_reply_that_a_change_overtook_is_not_kept() {
    let generation = Generation::new();
    let tracked = generation.track(&keys());
    let presence = &tracked.present[0];
    let asked_at = generation.version(presence);
    generation.changed("blacklist:a");
    generation.learn(presence, asked_at, Found::Absent);
    assert!(presence.is_unknown());
    let asked_at = generation.version(presence);
    generation.all_changed();
    assert_eq!(generation.learn(presence, asked_at, Found::Absent), Learned::Overtaken);
    assert!(presence.is_unknown());
    learn(&generation, presence, Found::Absent);
    assert!(!presence.is_unknown());
    generation.changed("blacklist:b");
    assert!(!presence.is_unknown());
}

// What a read for its presence said of a name is nothing to go by where its time counts.
#[test]
fn a_name_that_is_a_presence_and_a_time_is_two_keys() {
    let generation = Generation::new();
    let now = clock::monotonic();
    generation.prove(now);
    let name = || vec![Arc::from("revoked:kim")];
    let presence = generation.track(&StandingKeys { present: name(), ..StandingKeys::default() });
    let time = generation.track(&StandingKeys { times: name(), issued_at: 100, ..StandingKeys::default() });
    learn(&generation, &presence.present[0], Found::Present);
    assert_eq!(presence.judge(now, MAX), Verdict::Known(Standing::Revoked));
    assert_eq!(time.judge(now, MAX), Verdict::Ask);
    learn(&generation, &time.times[0], Found::Time(100));
    assert_eq!(time.judge(now, MAX), Verdict::Known(Standing::Revoked));
    generation.changed("revoked:kim");
    assert_eq!((presence.judge(now, MAX), time.judge(now, MAX)), (Verdict::Ask, Verdict::Ask));
    learn(&generation, &time.times[0], Found::Present);
    assert_eq!(time.judge(now, MAX), Verdict::Known(Standing::Unknown), "a time that is no time");
}

#[test]
fn every_key_is_read_again_in_turn_and_a_change_that_was_not_told_is_found() {
    let generation = Generation::new();
    let tokens: Vec<Tracked> = (0..10)
        .map(|n| StandingKeys { present: vec![format!("k:{n}").into()], ..StandingKeys::default() })
        .map(|keys| generation.track(&keys))
        .collect();
    let mut names: Vec<Arc<str>> =
        (0..5).flat_map(|_| generation.next_round(2)).map(|key| Arc::clone(&key.name)).collect();
    names.sort();
    names.dedup();
    assert_eq!((names.len(), generation.next_round(100).len()), (10, 10));
    let tokens: Vec<Tracked> = tokens.into_iter().take(1).collect();
    let due = generation.next_round(100);
    let [key] = &due[..] else { panic!("{}", due.len()) };
    let version = generation.version(key);
    assert_eq!(generation.learn(key, version, Found::Absent), Learned::Kept);
    assert_eq!(generation.learn(key, version, Found::Absent), Learned::Kept);
    assert_eq!(generation.learn(key, version, Found::Present), Learned::Untold);
    assert_eq!(generation.learn(key, version, Found::Absent), Learned::Kept, "it may have ended");
    assert_eq!(tokens.len(), 1);
}

#[test]
fn a_client_is_the_same_as_long_as_redis_calls_it_so() {
    let generation = Generation::new();
    assert!(generation.is_client(7) && generation.is_client(7));
    assert!(!generation.is_client(8));
}

#[test]
fn tokens_share_what_is_known_of_a_key_and_leave_nothing_behind() {
    let generation = Generation::new();
    let (one, two) = (generation.track(&keys()), generation.track(&keys()));
    learn(&generation, &one.present[0], Found::Present);
    assert!(!two.present[0].is_unknown());
    assert_eq!(generation.len(), 2);
    drop(one);
    assert_eq!(generation.len(), 2);
    drop(two);
    assert_eq!(generation.len(), 0);
}

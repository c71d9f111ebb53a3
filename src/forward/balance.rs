//! Which target a request goes to.
//!
//! 1. Targets take turns, as often as their weights say.
//! 2. With `least_requests` a second one is drawn, and has the turn where it has less to do for its weight:
//!    two choices keep the load of all close together (Mitzenmacher, "The Power of Two Choices"), and
//!    where there is nothing to choose the turns are kept.
//! 3. Requests that stick to a target (`sticky`) go to the one that they score highest with.
//! 4. Who is down gets nothing; who is ejected nothing while another one is not.
//!
//! Pure but for the draw: no IO, and what the time is comes from outside.

use std::time::Instant;

use smallvec::SmallVec;

use super::health::Standing;
use super::sticky::Key;
use super::target::Target;

/// How a target is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// In turn, unless another one has less to do.
    LeastRequests,
    /// In turn.
    RoundRobin,
}

/// Targets that have been tried, or take nothing now.
pub type Passed = SmallVec<[usize; 4]>;

/// The turns of an upstream's targets.
#[derive(Debug)]
pub struct Balance {
    choice: Choice,
    /// Places of targets: each as often as its weight says, spread evenly.
    turns: Vec<usize>,
}

impl Balance {
    /// The turns of targets with these weights.
    #[must_use]
    pub fn new(choice: Choice, weights: &[u32]) -> Self {
        let divisor = weights.iter().copied().reduce(greatest_common_divisor).unwrap_or(1).max(1);
        let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
        let all: i64 = weights.iter().sum();
        // Each turn everybody gains its weight, and the one with the most pays for all: nginx's smooth turns.
        let mut gains = vec![0_i64; weights.len()];
        let turn = |_| {
            gains.iter_mut().zip(&weights).for_each(|(gain, weight)| *gain += weight);
            // The first of those with the most.
            let (place, gain) = gains.iter_mut().enumerate().rev().max_by_key(|(_, gain)| **gain)?;
            *gain -= all;
            Some(place)
        };
        Self { choice, turns: (0..all).filter_map(turn).collect() }
    }

    /// The target that has this turn; `None` where none is left that could be asked.
    #[must_use]
    pub fn choose(
        &self,
        targets: &[Target],
        (turn, key): (usize, Option<Key>),
        passed: &Passed,
        now: Instant,
    ) -> Option<usize> {
        if let ([only], true) = (targets, passed.is_empty()) {
            return (only.health.standing(now) != Standing::Down).then_some(0);
        }
        let is_open = |place: usize| match targets.get(place).map(|target| target.health.standing(now)) {
            Some(Standing::Open | Standing::Trial) => !passed.contains(&place),
            Some(Standing::Ejected | Standing::Down) | None => false,
        };
        let next = |may_be: &dyn Fn(usize) -> bool| match key {
            None => self.from(turn, may_be),
            Some(key) => highest(targets, key, may_be),
        };
        let Some(first) = next(&is_open) else {
            let is_up = |place: usize| {
                targets.get(place).is_some_and(|target| target.health.standing(now) == Standing::Ejected)
            };
            return next(&|place| is_up(place) && !passed.contains(&place));
        };
        if key.is_some() || self.choice == Choice::RoundRobin {
            return Some(first);
        }
        let second = self.from(fastrand::usize(..self.turns.len()), is_open).unwrap_or(first);
        let (one, other) = (targets.get(first)?, targets.get(second)?);
        let load = |target: &Target| u64::from(target.health.requests());
        let is_less = load(other) * u64::from(one.weight) < load(one) * u64::from(other.weight);
        Some(if is_less { second } else { first })
    }

    /// The first one from this turn on that may be chosen.
    fn from(&self, turn: usize, may_be: impl Fn(usize) -> bool) -> Option<usize> {
        let start = turn.checked_rem(self.turns.len())?;
        let (before, after) = self.turns.split_at_checked(start)?;
        after.iter().chain(before).copied().find(|place| may_be(*place))
    }
}

/// The one that a request scores highest with, of those that may be chosen.
fn highest(targets: &[Target], key: Key, may_be: impl Fn(usize) -> bool) -> Option<usize> {
    let open = targets.iter().enumerate().filter(|(place, _)| may_be(*place));
    let scored = open.map(|(place, target)| (place, key.score(&target.address, target.weight)));
    scored.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(place, _)| place)
}

fn greatest_common_divisor(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::forward::health::{Checked, Ejection, Health, InFlight};
    use crate::forward::target::Speaks;

    const EJECTION: Ejection =
        Ejection { failures: 1, time: Duration::from_secs(10), max_time: Duration::from_secs(30) };

    fn targets(weights: &[u32]) -> Vec<Target> {
        let target = |weight: &u32| Target {
            address: "127.0.0.1:80".into(),
            key: "".into(),
            tls: None,
            speaks: Speaks::Http1,
            weight: *weight,
            health: Arc::new(Health::default()),
        };
        weights.iter().map(target).collect()
    }

    fn turns(choice: Choice, targets: &[Target], most: usize) -> Vec<Option<usize>> {
        let weights: Vec<u32> = targets.iter().map(|target| target.weight).collect();
        let (balance, now) = (Balance::new(choice, &weights), clock::monotonic());
        (0..most).map(|turn| balance.choose(targets, (turn, None), &Passed::new(), now)).collect()
    }

    #[test]
    fn targets_take_turns_as_often_as_their_weights_say() {
        for choice in [Choice::RoundRobin, Choice::LeastRequests] {
            assert_eq!(turns(choice, &targets(&[1, 1, 1]), 4), [Some(0), Some(1), Some(2), Some(0)]);
            assert_eq!(turns(choice, &targets(&[20, 10]), 4), [Some(0), Some(1), Some(0), Some(0)]);
            assert_eq!(turns(choice, &targets(&[7]), 2), [Some(0), Some(0)]);
            let counted = turns(choice, &targets(&[5, 1, 4]), 1000);
            let of = |place| counted.iter().filter(|turn| **turn == Some(place)).count();
            assert_eq!([of(0), of(1), of(2)], [500, 100, 400]);
        }
    }

    #[test]
    fn who_is_down_gets_nothing_and_who_is_ejected_nothing_while_another_is_not() {
        let targets = targets(&[1, 1, 1]);
        let now = clock::monotonic();
        targets[0].health.check(Checked::Down);
        assert!(turns(Choice::LeastRequests, &targets, 50).iter().all(|turn| *turn != Some(0)));
        targets[1].health.failed(EJECTION, now);
        assert!(turns(Choice::LeastRequests, &targets, 50).iter().all(|turn| *turn == Some(2)));
        targets[2].health.check(Checked::Down);
        assert!(turns(Choice::LeastRequests, &targets, 50).iter().all(|turn| *turn == Some(1)), "better than none");
        targets[1].health.check(Checked::Down);
        assert!(turns(Choice::LeastRequests, &targets, 3).iter().all(Option::is_none));
    }

    #[test]
    fn who_has_less_to_do_is_preferred_and_turns_are_kept_without_a_difference() {
        let targets = targets(&[1, 1, 2]);
        let busy: Vec<InFlight> = (0..10).filter_map(|_| targets[0].health.begin(100, false)).collect();
        let counted = turns(Choice::LeastRequests, &targets, 1000);
        let idle = counted.iter().filter(|turn| **turn == Some(0)).count();
        // Only where the draw falls on itself: once in sixteen.
        assert!(idle < 150, "{idle}");
        assert_eq!(busy.len(), 10);
        let robin = turns(Choice::RoundRobin, &targets, 1000);
        assert_eq!(robin.iter().filter(|turn| **turn == Some(0)).count(), 250);
    }
}

//! What the loop measures, for `GET /metrics`: counted where it happens, read whenever somebody asks. No locks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use patroni_core::server::Role;
use patroni_core::time::Moment;

/// Upper ends of the buckets of all histograms, in milliseconds.
pub(crate) const BUCKETS_MS: [u64; 14] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000];

/// All measurements of this agent.
#[derive(Debug, Default)]
pub struct Metrics {
    /// How long ticks took, from the first look to the last word.
    pub ticks: Histogram,
    /// How long the store took to answer the loop, by operation.
    pub store: [Histogram; StoreCall::ALL.len()],
    /// How long the cluster was without a primary each time this node became it.
    pub failovers: Histogram,
}

/// What the loop asks of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreCall {
    /// Reading the cluster.
    Load,
    /// Renewing the lease.
    Renew,
    /// Taking the lease.
    Acquire,
    /// Giving it up.
    Release,
    /// Any other key.
    Write,
}

impl StoreCall {
    /// All of them, in the order of their numbers.
    pub const ALL: [StoreCall; 5] =
        [StoreCall::Load, StoreCall::Renew, StoreCall::Acquire, StoreCall::Release, StoreCall::Write];

    /// The value of the label `operation`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            StoreCall::Load => "load",
            StoreCall::Renew => "renew",
            StoreCall::Acquire => "acquire",
            StoreCall::Release => "release",
            StoreCall::Write => "write",
        }
    }
}

impl Metrics {
    /// The times of one kind of call to the store.
    pub fn store(&self, call: StoreCall) -> &Histogram {
        &self.store[call as usize]
    }
}

/// Durations, counted in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_MS.len()],
    beyond: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let bucket = BUCKETS_MS.iter().position(|end| duration <= Duration::from_millis(*end));
        bucket.map_or(&self.beyond, |index| &self.buckets[index]).fetch_add(1, Relaxed);
        self.sum_us.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How many were at most as long as each bucket's end; then how many there were, and their sum in seconds.
    pub(crate) fn read(&self) -> ([u64; BUCKETS_MS.len()], u64, f64) {
        let mut count = 0;
        let cumulative = std::array::from_fn(|index| {
            count += self.buckets[index].load(Relaxed);
            count
        });
        (cumulative, count + self.beyond.load(Relaxed), self.sum_us.load(Relaxed) as f64 / 1e6)
    }
}

/// Notes when the cluster was without leader, and when this node became primary after that.
#[derive(Debug, Default)]
pub(crate) struct Takeover {
    leaderless_since: Option<Moment>,
    was_following: bool,
}

impl Takeover {
    /// After a tick: the announced role, whether the store named no leader (`None`: it could not be read), whether this
    /// node has the lease. Gives how long there was no primary, once, when this node has become it.
    pub(crate) fn after_tick(
        &mut self,
        role: Role,
        unlocked: Option<bool>,
        leads: bool,
        now: Moment,
    ) -> Option<Duration> {
        let was_following = std::mem::replace(&mut self.was_following, is_following(role));
        if role == Role::Primary {
            return self.leaderless_since.take().filter(|_| was_following).map(|since| now.since(since));
        }
        match unlocked {
            Some(true) => {
                self.leaderless_since.get_or_insert(now);
            }
            Some(false) if !leads => self.leaderless_since = None,
            Some(false) | None => {}
        }
        None
    }
}

/// It was a member before: a bootstrap is no failover.
fn is_following(role: Role) -> bool {
    match role {
        Role::Replica | Role::Promoted | Role::Demoted | Role::StandbyLeader => true,
        Role::Uninitialized | Role::Primary => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_up_to_the_end_of_their_bucket() {
        let histogram = Histogram::default();
        for ms in [0, 1, 2, 3, 30_000, 30_001] {
            histogram.record(Duration::from_millis(ms));
        }
        let (cumulative, count, sum_s) = histogram.read();
        assert_eq!((cumulative[0], cumulative[1], cumulative[2], cumulative[13], count), (2, 3, 4, 5, 6));
        assert!((sum_s - 60.007).abs() < 1e-9, "{sum_s}");
    }

    #[test]
    fn calls_have_places_of_their_own() {
        let metrics = Metrics::default();
        for call in StoreCall::ALL {
            metrics.store(call).record(Duration::ZERO);
        }
        assert!(metrics.store.iter().all(|histogram| histogram.read().1 == 1));
    }

    #[test]
    fn a_takeover_is_counted_once_and_a_bootstrap_not() {
        use Role::{Demoted, Primary, Promoted, Replica, Uninitialized};
        let at = |seconds| Moment(Duration::from_secs(seconds));
        // Role, unlocked, leads, second; the duration that is told then.
        let rows: [&[(Role, Option<bool>, bool, u64, Option<u64>)]; 5] = [
            &[
                (Replica, Some(false), false, 1, None),
                (Replica, Some(true), false, 2, None),
                (Promoted, Some(true), true, 3, None),
                (Promoted, Some(false), true, 4, None),
                (Primary, Some(false), true, 7, Some(5)),
                (Primary, Some(false), true, 8, None),
                (Demoted, Some(false), false, 9, None),
                (Replica, Some(false), false, 10, None),
            ],
            // Bootstrap, and a start of the agent beside a primary.
            &[(Uninitialized, Some(true), false, 1, None), (Primary, Some(false), true, 2, None)],
            &[(Primary, Some(false), true, 1, None)],
            // Another node was faster.
            &[
                (Replica, Some(true), false, 1, None),
                (Replica, Some(false), false, 2, None),
                (Replica, None, false, 3, None),
                (Replica, Some(true), false, 20, None),
                (Primary, Some(true), true, 21, Some(1)),
            ],
            // A primary that was started again without losing the lease.
            &[(Demoted, Some(false), true, 1, None), (Primary, Some(false), true, 2, None)],
        ];
        for row in rows {
            let mut takeover = Takeover::default();
            for (role, unlocked, leads, second, expected) in row {
                let told = takeover.after_tick(*role, *unlocked, *leads, at(*second));
                assert_eq!(told, expected.map(Duration::from_secs), "{role} at {second}");
            }
        }
    }
}

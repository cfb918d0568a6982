//! The time of the consensus, as a member knows it.
//!
//! The clock of a leader runs with the monotonic clock of its machine. The others follow it by its messages: what they
//! know is at most what the leader's clock says, by the time the message took. A new leader goes on from there, so its
//! clock is never ahead of the old one's, and no lease ends earlier than it would have.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::state::Time;
use super::types::Reign;

/// The clock of one member.
#[derive(Debug)]
pub(crate) struct Clock(Mutex<Known>);

#[derive(Clone, Copy, Debug)]
struct Known {
    reign: Reign,
    time: Time,
    at: Instant,
    /// When the leader of this reign was last heard of.
    heard: Option<Instant>,
}

impl Known {
    fn now(&self) -> Time {
        Time(self.time.0 + u64::try_from(self.at.elapsed().as_millis()).unwrap_or(0))
    }
}

impl Clock {
    /// Nothing is known.
    pub(crate) fn new() -> Self {
        Clock(Mutex::new(Known { reign: Reign::default(), time: Time(0), at: Instant::now(), heard: None }))
    }

    /// The leader of this reign said this time, and it is the leader that this member follows. Gives the time since it was
    /// last heard of.
    ///
    /// A later reign's clock counts even where it is behind: entries of that reign are stamped by it.
    pub(crate) fn hear(&self, reign: Reign, time: Time) -> Option<Duration> {
        let mut known = self.known();
        if reign < known.reign {
            return None;
        }
        let last = known.heard.filter(|_| reign == known.reign);
        if reign > known.reign || time > known.now() {
            *known = Known { reign, time, at: Instant::now(), heard: None };
        }
        known.heard = Some(Instant::now());
        last.map(|last| last.elapsed())
    }

    /// The time by the clock of this member, which leads in this reign; `None`: a later reign is known. `applied` is
    /// the time of the last entry that it applied.
    pub(crate) fn lead(&self, reign: Reign, applied: Time) -> Option<Time> {
        let mut known = self.known();
        if reign > known.reign {
            // What was known before anybody led is the age of this process, and means nothing.
            let heard = if known.reign == Reign::default() { Time(0) } else { known.now() };
            *known = Known { reign, time: heard.max(applied), at: Instant::now(), heard: None };
        }
        (reign == known.reign).then(|| known.now())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reign(term: u64) -> Reign {
        Reign { term, member: 1 }
    }

    async fn pass(milliseconds: u64) {
        tokio::time::advance(Duration::from_millis(milliseconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_goes_on_from_what_it_heard() {
        let clock = Clock::new();
        pass(5000).await;
        clock.hear(reign(1), Time(100));
        pass(1000).await;
        clock.hear(reign(1), Time(900));
        pass(1000).await;
        assert_eq!(clock.lead(reign(2), Time(50)), Some(Time(2100)), "a delayed message does not set it back");
        pass(10).await;
        assert_eq!(clock.lead(reign(2), Time(9999)), Some(Time(2110)), "it is set once for a reign");
        assert_eq!(clock.lead(reign(1), Time(0)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_reign_counts_even_if_it_is_behind() {
        let clock = Clock::new();
        clock.hear(reign(1), Time(5000));
        clock.hear(reign(2), Time(3000));
        clock.hear(reign(1), Time(9000));
        assert_eq!(clock.lead(reign(3), Time(0)), Some(Time(3000)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_silence_of_one_leader_is_measured() {
        let clock = Clock::new();
        assert_eq!(clock.hear(reign(1), Time(100)), None);
        pass(300).await;
        // Its clock is behind what is known, and it is heard all the same.
        assert_eq!(clock.hear(reign(1), Time(200)), Some(Duration::from_millis(300)));
        pass(900).await;
        assert_eq!(clock.hear(reign(1), Time(2000)), Some(Duration::from_millis(900)));
        assert_eq!(clock.hear(reign(2), Time(2000)), None, "another leader");
        assert_eq!(clock.hear(reign(1), Time(3000)), None, "it does not lead any more");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_restart_time_goes_on_from_the_last_entry() {
        let clock = Clock::new();
        pass(60_000).await;
        assert_eq!(clock.lead(reign(7), Time(1000)), Some(Time(1000)));
        pass(5).await;
        assert_eq!(clock.lead(reign(7), Time(1000)), Some(Time(1005)));
    }
}

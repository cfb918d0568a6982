//! A session as a client and the servers know it, and for how long it surely lasts.

use std::collections::VecDeque;
use std::time::Duration;

use patroni_core::time::Moment;

/// One session, across all connections.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// 0: there is none yet.
    pub(super) id: i64,
    /// What proves to the servers that it is ours.
    pub(super) password: Vec<u8>,
    /// The last transaction that was seen: a server that is behind it is not talked to.
    pub(super) seen: i64,
    /// How long it was to last without a word.
    pub(super) wanted: Duration,
    /// How long the servers agreed to.
    pub(super) agreed: Duration,
    /// When a server was heard last.
    pub(super) heard: Moment,
    sure: Moment,
    /// Pings that were answered: when each was sent, and when the answer came.
    pings: VecDeque<(Moment, Moment)>,
}

impl Session {
    /// One that is yet to begin.
    pub(super) fn wanted(wanted: Duration) -> Self {
        Session { wanted, ..Session::default() }
    }

    /// A server took the connection that was asked for at `sent`. It asks the leader of the servers first, who counts anew.
    pub(super) fn connected(&mut self, sent: Moment, now: Moment) {
        self.pings.clear();
        (self.sure, self.heard) = (self.sure.max(sent), now);
    }

    /// A ping was answered.
    pub(super) fn pinged(&mut self, sent: Moment, now: Moment) {
        self.pings.push_back((sent, now));
    }

    /// A moment from which the servers surely count, if they still know the session after `asked`: it lasts for the time agreed
    /// from then on.
    ///
    /// The leader of the servers ends sessions. What another server hears it passes on with the next half of a tick, and a tick
    /// is half of the shortest session at most. So what was answered a quarter of a session ago was passed on; what came later
    /// may be lost with a server that is cut off from the others right after its answer.
    pub(super) fn surely_counted_from(&mut self, asked: Moment) -> Moment {
        let delay = self.agreed / 4;
        while let Some((sent, _)) = self.pings.front().copied().filter(|(_, answered)| *answered + delay <= asked) {
            self.sure = self.sure.max(sent);
            self.pings.pop_front();
        }
        self.sure
    }

    /// How often it is pinged: often enough that it is sure to last for two thirds of the time agreed.
    pub(super) fn pause(&self) -> Duration {
        (self.agreed / 25).max(Duration::from_millis(50))
    }

    /// Whether the servers may have ended it: nothing was heard of them for the whole time.
    pub(super) fn may_have_ended(&self, now: Moment) -> bool {
        self.id != 0 && now.since(self.heard) >= self.agreed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    fn session(seconds: u64) -> Session {
        Session { id: 1, agreed: Duration::from_secs(seconds), ..Session::default() }
    }

    #[test]
    fn only_what_the_leader_of_the_servers_has_heard_of_counts() {
        let mut session = session(20);
        session.connected(at(1000), at(1010));
        assert_eq!(session.surely_counted_from(at(1020)), at(1000), "the connection itself");
        session.pinged(at(2000), at(2010));
        session.pinged(at(3000), at(3500));
        assert_eq!(session.surely_counted_from(at(7009)), at(1000), "this may not have been passed on");
        assert_eq!(session.surely_counted_from(at(7010)), at(2000));
        assert_eq!(session.surely_counted_from(at(7010)), at(2000));
        // A process that stood still asks late; its last ping was long ago.
        assert_eq!(session.surely_counted_from(at(60_000)), at(3000));
        // Another server: what the first one heard may be lost, but the connection itself counts.
        session.pinged(at(61_000), at(61_001));
        session.connected(at(62_000), at(62_001));
        assert_eq!(session.surely_counted_from(at(90_000)), at(62_000));
    }

    #[test]
    fn in_use_it_lasts_for_two_thirds_at_least() {
        for seconds in [1, 3, 20, 30, 300] {
            let mut session = session(seconds);
            session.connected(at(0), at(0));
            let pause = session.pause();
            let mut now = at(0);
            for _ in 0..100 {
                now = now + pause;
                session.pinged(now, now);
                let counted = session.surely_counted_from(now + pause);
                assert!((now + pause).since(counted) <= session.agreed / 3, "{seconds} s: {counted:?} at {now:?}");
            }
        }
    }

    #[test]
    fn silence_for_the_whole_time_may_be_the_end() {
        let mut session = session(3);
        session.connected(at(0), at(100));
        assert!(!session.may_have_ended(at(3099)));
        assert!(session.may_have_ended(at(3100)));
        assert!(!Session::default().may_have_ended(at(9000)), "it has not begun");
    }
}

//! What this node agreed to: that a primary which cannot reach the store goes on (`POST /failsafe`).
//!
//! The answer is given while the loop may be in the middle of a tick, so two things exclude each other here: to agree,
//! and to take the lease.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use patroni_core::facts::{Answer, Facts, Op, Outcome};
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::time::Moment;

/// The word of this node.
#[derive(Debug, Default)]
pub struct Agreement(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// With whom, and when.
    given: Option<(MemberName, Moment)>,
    /// Where that primary's slots are, by its own word.
    slots: BTreeMap<String, Lsn>,
    /// This node is about to lead, and that is not published yet.
    claiming: bool,
}

impl Agreement {
    /// Agrees, from now on for a `ttl`. False: this node is about to lead itself. `slots`: where the replication slots of `leader` are, by its own
    /// word.
    pub fn give(&self, leader: MemberName, slots: BTreeMap<String, Lsn>, now: Moment) -> bool {
        let mut state = self.state();
        if !state.claiming {
            state.given = Some((leader, now));
            state.slots = slots;
        }
        !state.claiming
    }

    /// With whom, and until when.
    pub fn given(&self, ttl: Duration, now: Moment) -> Option<(MemberName, Moment)> {
        self.state().given(ttl, now)
    }

    /// Where the slots of the primary are that goes on without the store; `None`: there is no such primary.
    pub fn slots(&self, ttl: Duration, now: Moment) -> Option<BTreeMap<String, Lsn>> {
        let state = self.state();
        state.given(ttl, now).map(|_| state.slots.clone())
    }

    /// The answer to an operation by which this node would come to lead although it agreed that somebody else goes on. `None`:
    /// nothing stands against it. Then it agrees to nothing until [`Agreement::settle`].
    pub fn refuses(&self, op: &Op, facts: &Facts, now: Moment) -> Option<Answer> {
        let refused = match op {
            Op::AcquireLease => Answer::Acquire(Outcome::Refused),
            // By it a standby is promoted.
            Op::RenewLease if facts.server.is_standby() => Answer::Renew(Outcome::Refused),
            _ => return None,
        };
        (!self.claim(facts.settings.ttl, now)).then_some(refused)
    }

    /// False: this node agreed not to lead. After true it agrees to nothing.
    fn claim(&self, ttl: Duration, now: Moment) -> bool {
        let mut state = self.state();
        state.claiming = state.given(ttl, now).is_none();
        state.claiming
    }

    /// What became of the claim is published.
    pub fn settle(&self) {
        self.state().claiming = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn given(&self, ttl: Duration, now: Moment) -> Option<(MemberName, Moment)> {
        let (leader, at) = self.given.as_ref()?;
        let until = *at + ttl;
        (now < until).then(|| (leader.clone(), until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn who_agreed_does_not_claim_and_who_claims_does_not_agree() {
        let agreement = Agreement::default();
        assert!(agreement.claim(TTL, at(1)));
        assert!(!agreement.give("b".into(), BTreeMap::new(), at(2)));
        agreement.settle();
        assert!(agreement.give("b".into(), BTreeMap::new(), at(3)));
        assert!(!agreement.claim(TTL, at(4)));
        assert_eq!(agreement.given(TTL, at(5)), Some(("b".into(), at(33))));
        let slots = BTreeMap::from([("l".to_owned(), Lsn(7))]);
        assert!(agreement.give("b".into(), slots.clone(), at(10)), "a claim that was refused is none");
        assert_eq!((agreement.slots(TTL, at(39)), agreement.slots(TTL, at(40))), (Some(slots), None));
        assert!(agreement.claim(TTL, at(40)), "the word is kept for a ttl");
        assert_eq!(agreement.given(TTL, at(40)), None);
    }
}

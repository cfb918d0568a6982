//! The lease: taking it, keeping it, giving it up.

use std::time::Duration;

use super::{Needs, Tick, ask};
use crate::cluster::Cluster;
use crate::facts::{Op, Outcome};
use crate::lsn::Lsn;
use crate::memory::StepDown;
use crate::time::Moment;
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    /// Prolongs the lease. `Done` is the only proof that it is held.
    pub(super) fn renew(&mut self) -> Needs<Outcome<()>> {
        let outcome = ask(&self.facts.answers.renew, || Op::RenewLease)?;
        Ok(self.take_lease(outcome.clone()))
    }

    pub(super) fn acquire(&mut self) -> Needs<Outcome<()>> {
        let outcome = ask(&self.facts.answers.acquire, || Op::AcquireLease)?;
        Ok(self.take_lease(outcome.clone()))
    }

    fn take_lease(&mut self, outcome: Outcome<Moment>) -> Outcome<()> {
        match outcome {
            Outcome::Done(sent_at) => {
                self.memory.lease_until = Some(sent_at + self.settings.ttl);
                self.memory.leads_by_agreement = false;
                Outcome::Done(())
            }
            Outcome::Refused => {
                self.memory.lease_until = None;
                Outcome::Refused
            }
            Outcome::Failed(why) => Outcome::Failed(why),
            Outcome::Unknown(why) => Outcome::Unknown(why),
        }
    }

    /// Gives the lease up. Whatever the outcome, this node does not count on it any more.
    pub(super) fn release(&mut self, last_lsn: Option<Lsn>) -> Needs<Outcome<()>> {
        let outcome = ask(&self.facts.answers.release, || Op::ReleaseLease(last_lsn))?.clone();
        self.memory.lease_until = None;
        let unanswered = match outcome {
            Outcome::Unknown(_) => true,
            Outcome::Failed(_) => self.memory.stepped_down.is_some_and(|earlier| earlier.unanswered),
            Outcome::Done(()) | Outcome::Refused => false,
        };
        self.memory.stepped_down = Some(StepDown { at: self.facts.now.boot, last_lsn, unanswered });
        match &outcome {
            Outcome::Done(()) => self.note(Level::Info, "Leader key released"),
            other => self.note_failure("release the leader key", other),
        }
        Ok(outcome)
    }

    /// A lease whose release was not answered is not renewed: the request may still be on its way, and would take the
    /// renewed lease away. It is given up again.
    pub(super) fn give_up_again(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        let Some(given_up) = self.memory.stepped_down.filter(|given_up| given_up.unanswered) else {
            return Ok(None);
        };
        if !self.has_lock(cluster) {
            // That lease is over. A release that comes late does not hit a later one.
            self.memory.stepped_down = Some(StepDown { unanswered: false, ..given_up });
            return Ok(None);
        }
        if self.is_or_may_become_primary() {
            // Started by somebody else since. It stops before the lease goes.
            return self.store_failure("it is not known for how long this node holds the leader key").map(Some);
        }
        match self.release(given_up.last_lsn)? {
            Outcome::Done(()) | Outcome::Refused => {
                self.wake_after = Duration::ZERO;
                Ok(Some(Verdict::AwaitingNewLeader))
            }
            Outcome::Failed(why) | Outcome::Unknown(why) => self.store_failure(&why).map(Some),
        }
    }
}

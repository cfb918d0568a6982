//! The leader key: acquiring, renewing and releasing it.

use std::time::Duration;

use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::time::Moment;
use tokio::time::Instant;

use super::client::messages::{Compare, KeyValue, RequestOp, TxnRequest, TxnResponse};
use super::lease::Lease;
use super::{Shared, first_key, revision, undecided};
use crate::attempts::Failure;
use crate::{LeaderUpdate, wire};

impl Shared {
    /// The lease is refreshed first, so that the key lives for a whole `ttl` from then on.
    pub(super) async fn acquire(&self) -> Result<Outcome<Moment>, Failure> {
        let deadline = self.deadline();
        let key = self.full_name(wire::LEADER);
        for _ in 0..2 {
            let lease = self.lease(deadline, Duration::ZERO).await.map_err(Failure::before_write)?;
            let txn = TxnRequest {
                compare: vec![Compare::create_revision(&key, 0)],
                success: vec![RequestOp::put(&key, self.name.as_str(), lease.id)],
                failure: vec![RequestOp::get(&key)],
            };
            let (answer, repeated) = match self.transact(txn, deadline).await {
                Err(Failure::LeaseNotFound) => {
                    self.forget_lease(lease.id);
                    continue;
                }
                other => other?,
            };
            let present = first_key(&answer);
            let created = match &present {
                _ if answer.succeeded => answer.header.as_ref().map(|header| header.revision),
                Some(kv) if self.is_mine(kv, lease) => Some(kv.create_revision),
                Some(_) if !repeated => return Ok(Outcome::Refused),
                Some(_) => return Err(undecided(&key)),
                None => return Err(Failure::Unknown("etcd did not tell who holds the leader key".into())),
            };
            self.state().leader_created = created;
            return Ok(Outcome::Done(lease.refreshed));
        }
        Err(Failure::LeaseNotFound)
    }

    /// The key must be there with this member's name. If it is attached to another lease it is that of an earlier
    /// run of this agent, or of our own before `ttl` changed: it is attached to the present one, as the reference
    /// does. Unlike the reference, a key that is absent is never created here: then others may have been told so.
    pub(super) async fn renew(&self, update: &LeaderUpdate) -> Result<Outcome<Moment>, Failure> {
        let deadline = self.deadline();
        let lease = self.lease(deadline, Duration::ZERO).await?;
        let key = self.full_name(wire::LEADER);
        let texts = Texts::of(update);
        let check = vec![Compare::value(&key, self.name.as_str()), Compare::lease(&key, lease.id)];
        let (answer, texts) = match self.renewal(check.clone(), Vec::new(), &texts, deadline).await {
            Ok((answer, _)) => (answer, texts),
            // An etcd that is full, say, keeps leases and takes no values. The lease is worth more than they are.
            Err(Failure::NotDone(why)) => {
                let bare = Texts::default();
                match self.renewal(check, Vec::new(), &bare, deadline).await {
                    Ok((answer, _)) => {
                        tracing::warn!("the leader key is renewed, /status and /failsafe cannot be written: {why}");
                        (answer, bare)
                    }
                    Err(_) => return Err(Failure::NotDone(why)),
                }
            }
            Err(failure) => return Err(failure),
        };
        if answer.succeeded {
            return Ok(self.renewed(&answer, lease, texts));
        }
        let Some(present) = first_key(&answer).filter(|kv| kv.value == self.name.as_str().as_bytes()) else {
            self.state().leader_created = None;
            return Ok(Outcome::Refused);
        };
        tracing::info!("the leader key is attached to another lease of this member; attaching it to the present one");
        self.attach(&present, lease, texts, deadline).await
    }

    async fn attach(
        &self,
        present: &KeyValue,
        lease: Lease,
        texts: Texts,
        deadline: Instant,
    ) -> Result<Outcome<Moment>, Failure> {
        let key = self.full_name(wire::LEADER);
        let check = vec![Compare::mod_revision(&key, present.mod_revision), Compare::value(&key, self.name.as_str())];
        let put = RequestOp::put(&key, self.name.as_str(), lease.id);
        let (answer, _) = match self.renewal(check, vec![put], &texts, deadline).await {
            Err(Failure::LeaseNotFound) => {
                self.forget_lease(lease.id);
                return Err(Failure::LeaseNotFound);
            }
            other => other?,
        };
        // An earlier attempt may have done it.
        if answer.succeeded || first_key(&answer).is_some_and(|kv| self.is_mine(&kv, lease)) {
            return Ok(self.renewed(&answer, lease, texts));
        }
        Ok(Outcome::Refused)
    }

    async fn renewal(
        &self,
        compare: Vec<Compare>,
        mut actions: Vec<RequestOp>,
        texts: &Texts,
        deadline: Instant,
    ) -> Result<(TxnResponse, bool), Failure> {
        let key = self.full_name(wire::LEADER);
        let known = {
            let state = self.state();
            [state.status.clone(), state.failsafe.clone()]
        };
        for ((name, text), known) in texts.named().into_iter().zip(known) {
            if let Some(text) = text.filter(|text| known.as_deref() != Some(text.as_bytes())) {
                actions.push(RequestOp::put(&self.full_name(name), text, 0));
            }
        }
        actions.push(RequestOp::get_revisions(&key));
        let txn = TxnRequest { compare, success: actions, failure: vec![RequestOp::get(&key)] };
        let result = self.transact(txn, deadline).await;
        if result.is_err() {
            let mut state = self.state();
            (state.status, state.failsafe) = (None, None);
        }
        result
    }

    fn renewed(&self, answer: &TxnResponse, lease: Lease, texts: Texts) -> Outcome<Moment> {
        let created = first_key(answer).map(|kv| kv.create_revision);
        self.state().leader_created = created;
        self.remember(revision(&answer.header), |state| {
            let written = answer.succeeded;
            for (place, text) in [(&mut state.status, texts.status), (&mut state.failsafe, texts.failsafe)] {
                if let Some(text) = text {
                    *place = written.then(|| text.into_bytes());
                }
            }
        });
        Outcome::Done(lease.refreshed)
    }

    /// Without a lease of ours there is nothing that could be ours: a restarted agent renews first.
    pub(super) async fn release(&self, last_lsn: Option<Lsn>) -> Result<Outcome<()>, Failure> {
        let deadline = self.deadline();
        let key = self.full_name(wire::LEADER);
        let (lease, created, status) = {
            let state = self.state();
            (state.lease, state.leader_created, state.status.clone())
        };
        let Some(lease) = lease else { return Ok(Outcome::Refused) };
        let mut compare = vec![Compare::value(&key, self.name.as_str()), Compare::lease(&key, lease.id)];
        compare.extend(created.map(|created| Compare::create_revision(&key, created)));
        let mut success = vec![RequestOp::delete(&key)];
        let status = last_lsn.map(|lsn| wire::status_with_lsn(status.as_deref(), lsn));
        success.extend(status.map(|text| RequestOp::put(&self.full_name(wire::STATUS), &text, 0)));
        let txn = TxnRequest { compare, success, failure: vec![RequestOp::get(&key)] };
        let (answer, repeated) = self.transact(txn, deadline).await?;
        let mut state = self.state();
        state.status = None;
        state.leader_created = None;
        // Not ours any more after an attempt that may have been carried out: that is what was asked for.
        Ok(if answer.succeeded || repeated { Outcome::Done(()) } else { Outcome::Refused })
    }

    fn is_mine(&self, kv: &KeyValue, lease: Lease) -> bool {
        kv.value == self.name.as_str().as_bytes() && kv.lease == lease.id
    }
}

/// What goes into `/status` and `/failsafe`.
#[derive(Default)]
struct Texts {
    status: Option<String>,
    failsafe: Option<String>,
}

impl Texts {
    fn of(update: &LeaderUpdate) -> Self {
        Texts { status: wire::status(update), failsafe: update.failsafe.as_ref().map(wire::failsafe) }
    }

    fn named(&self) -> [(&'static str, Option<&str>); 2] {
        [(wire::STATUS, self.status.as_deref()), (wire::FAILSAFE, self.failsafe.as_deref())]
    }
}

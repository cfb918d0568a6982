//! The lease of this member: one, shared by its member key and its leader key, as in the reference.

use std::time::Duration;

use patroni_core::time::Moment;
use tokio::time::Instant;

use super::client::Error;
use super::requests::Attempt;
use super::{Shared, failure};
use crate::attempts::{Failure, Fate};
use crate::boot_time::boot_time;

/// A lease that was alive at `refreshed`, and lasts `ttl` longer than that at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: i64,
    pub(super) ttl: Duration,
    /// Before the request was sent that was answered.
    pub(super) refreshed: Moment,
}

impl Lease {
    /// As it is written in a snapshot of the cluster.
    pub(super) fn session(id: i64) -> Option<String> {
        (id != 0).then(|| id.to_string())
    }
}

impl Shared {
    /// A lease that was refreshed no longer than `max_age` ago; a new one where there is none, where it has ended, or
    /// where `ttl` is another.
    pub(super) async fn lease(&self, deadline: Instant, max_age: Duration) -> Result<Lease, Failure> {
        let ttl = self.timing().ttl;
        let known = self.state().lease.filter(|lease| lease.ttl == ttl);
        if let Some(lease) = known {
            if boot_time().since(lease.refreshed) < max_age {
                return Ok(lease);
            }
            match self.keep_alive(lease, deadline).await {
                Err(Failure::LeaseNotFound) => self.forget_lease(lease.id),
                kept => return kept,
            }
        }
        self.grant(ttl, deadline).await
    }

    /// The store said that this lease does not exist.
    pub(super) fn forget_lease(&self, id: i64) {
        let mut state = self.state();
        if state.lease.is_some_and(|lease| lease.id == id) {
            tracing::error!("Our lease disappeared from Etcd");
            state.lease = None;
        }
    }

    async fn keep_alive(&self, lease: Lease, deadline: Instant) -> Result<Lease, Failure> {
        let refreshed = self
            .endpoints
            .request(deadline, |attempt| async move {
                let before = boot_time();
                attempt.client.lease_keep_alive(lease.id).await?;
                Ok(before)
            })
            .await?;
        let mut state = self.state();
        match &mut state.lease {
            Some(known) if known.id == lease.id => {
                known.refreshed = known.refreshed.max(refreshed);
                Ok(*known)
            }
            Some(_) | None => Ok(Lease { refreshed, ..lease }),
        }
    }

    async fn grant(&self, ttl: Duration, deadline: Instant) -> Result<Lease, Failure> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let lease = self
            .endpoints
            .request(deadline, |attempt| async move {
                let refreshed = boot_time();
                let id = attempt.client.lease_grant(seconds).await?;
                Ok(Lease { id, ttl, refreshed })
            })
            .await?;
        let known = {
            let mut state = self.state();
            let known = state.lease.filter(|known| known.ttl == ttl).unwrap_or(lease);
            state.lease = Some(known);
            known
        };
        if known.id != lease.id {
            // Another operation was faster; nothing is attached to ours. If this fails it ends by itself.
            let revoke = |attempt: Attempt| async move {
                match attempt.client.lease_revoke(lease.id).await {
                    Err(error) if failure::fate(&error) != Fate::LeaseNotFound => Err(error),
                    Ok(_) | Err(_) => Ok::<_, Error>(()),
                }
            };
            if self.endpoints.request(deadline, revoke).await.is_err() {
                tracing::debug!("a spare lease could not be revoked; it will expire");
            }
        }
        Ok(known)
    }
}

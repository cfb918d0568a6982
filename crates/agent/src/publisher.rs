//! Writes this member's key. The loop orders the latest content and goes on; a slow store delays nobody. When it is written
//! is decided by [`MemberKey`], which is told here what became of each write.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::MemberData;
use patroni_core::facts::Outcome;
use patroni_core::member_key::MemberKey;
use patroni_core::time::Moment;
use patroni_core::units::in_words;
use patroni_dcs::Dcs;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock;

/// The writer of one member's key.
pub struct Publisher {
    known: MemberKey,
    latest: watch::Sender<Option<Order>>,
    ended: mpsc::Receiver<Ended>,
    task: JoinHandle<()>,
}

/// What to write, and how long that may take.
#[derive(Clone)]
struct Order {
    data: Arc<MemberData>,
    limit: Duration,
}

/// What became of it.
struct Ended {
    data: Arc<MemberData>,
    outcome: Outcome<()>,
    sent_at: Moment,
    at: Moment,
}

impl Publisher {
    /// Starts the writer. `woken` is notified when a write did not succeed, so that it is tried again soon.
    pub fn start(dcs: Arc<dyn Dcs>, woken: Arc<Notify>) -> Self {
        let (latest, orders) = watch::channel(None);
        // A tick orders one write at most, and reads of all that have ended.
        let (outcomes, ended) = mpsc::channel(4);
        let task = tokio::spawn(write_latest(dcs, orders, outcomes, woken));
        Publisher { known: MemberKey::default(), latest, ended, task }
    }

    /// What is known of the key by now.
    pub fn known(&mut self) -> MemberKey {
        while let Ok(Ended { data, outcome, sent_at, at }) = self.ended.try_recv() {
            self.known.ended(&data, &outcome, sent_at, at);
        }
        self.known.clone()
    }

    /// Writes `data`, once the write that is under way has ended. `limit` bounds it.
    pub fn order(&mut self, data: &Arc<MemberData>, limit: Duration) {
        self.known.order(Arc::clone(data));
        self.latest.send_replace(Some(Order { data: Arc::clone(data), limit }));
    }

    /// Writes what is still to be written, at the latest within `limit`, and ends.
    pub async fn finish(self, limit: Duration) {
        let Publisher { latest, task, .. } = self;
        drop(latest);
        if tokio::time::timeout(limit, task).await.is_err() {
            tracing::warn!("the last state of this member could not be written to the store in time");
        }
    }
}

async fn write_latest(
    dcs: Arc<dyn Dcs>,
    mut orders: watch::Receiver<Option<Order>>,
    outcomes: mpsc::Sender<Ended>,
    woken: Arc<Notify>,
) {
    while orders.changed().await.is_ok() {
        let Some(Order { data, limit }) = orders.borrow_and_update().clone() else { continue };
        let sent_at = clock::boot();
        let outcome = match tokio::time::timeout(limit, dcs.touch_member(&data)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown(format!("no answer within {}", in_words(limit))),
        };
        match &outcome {
            Outcome::Done(()) => {}
            Outcome::Refused => tracing::warn!("the store refused the key of this member"),
            Outcome::Failed(why) | Outcome::Unknown(why) => {
                tracing::warn!("failed to write the key of this member: {why}");
            }
        }
        let done = outcome.is_done();
        // The loop may have ended: then nobody asks any more.
        let _ = outcomes.send(Ended { data, outcome, sent_at, at: clock::boot() }).await;
        if !done {
            woken.notify_one();
        }
    }
}

//! Writes this member's key. The loop hands over the latest content and goes on; a slow store delays nobody.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::MemberData;
use patroni_core::facts::Outcome;
use patroni_core::view::without_positions;
use patroni_dcs::Dcs;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The writer of one member's key.
pub struct Publisher {
    latest: watch::Sender<Option<MemberData>>,
    published: Option<MemberData>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Starts the writer. `limit` bounds each write.
    pub fn start(dcs: Arc<dyn Dcs>, limit: Duration) -> Self {
        let (latest, receiver) = watch::channel(None);
        Publisher { latest, published: None, task: tokio::spawn(write_latest(dcs, receiver, limit)) }
    }

    /// Publishes `data`. Positions change with every byte of WAL: by themselves they are written only when the tick
    /// came by its timer, or members would wake each other without end.
    pub fn publish(&mut self, data: MemberData, timer: bool) {
        let news = self.published.as_ref().is_none_or(|old| without_positions(old) != without_positions(&data));
        if timer || news {
            self.published = Some(data.clone());
            self.latest.send_replace(Some(data));
        }
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

async fn write_latest(dcs: Arc<dyn Dcs>, mut latest: watch::Receiver<Option<MemberData>>, limit: Duration) {
    while latest.changed().await.is_ok() {
        let data = latest.borrow_and_update().clone();
        let Some(data) = data else { continue };
        match tokio::time::timeout(limit, dcs.touch_member(&data)).await {
            Ok(Outcome::Done(())) => {}
            Ok(Outcome::Refused) => tracing::warn!("the store refused the key of this member"),
            Ok(Outcome::Failed(why) | Outcome::Unknown(why)) => {
                tracing::warn!("failed to write the key of this member: {why}");
            }
            Err(_) => tracing::warn!("failed to write the key of this member within {limit:?}"),
        }
    }
}

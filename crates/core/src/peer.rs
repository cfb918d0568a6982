//! What another member answered to `GET /patroni`.

use serde_json::Value;

use crate::JsonMap;
use crate::decide::title;
use crate::disk::{DISK_KEY, Space, space_by_document};
use crate::job::Job;
use crate::lsn::{Lsn, Timeline};
use crate::tags::{Tags, truthy};
use crate::view::JOB_KEY;

/// The answer of a peer, or that there was none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// No answer in time, or none that could be read; the text says why.
    Unreachable(String),
    /// It answered.
    Status(PeerStatus),
}

/// The part of a peer's status that elections look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerStatus {
    /// Runs as a standby. A primary, a node that says it is one, and one that is becoming one are not.
    pub in_recovery: bool,
    /// The larger of its received and replayed position; 0 where PostgreSQL does not run.
    pub wal_position: Lsn,
    /// How far a primary has written. Elections do not go by it, as in 4.1.5.
    pub location: Option<Lsn>,
    /// Its timeline, where known.
    pub timeline: Option<Timeline>,
    /// `replication_state` (`streaming`, ...).
    pub replication_state: Option<String>,
    /// Its tags.
    pub tags: Tags,
    /// A watchdog is required there and does not work.
    pub watchdog_failed: bool,
    /// Whether its PostgreSQL has room to write.
    pub space: Space,
}

/// How a node replicates that holds other WAL than the primary on the same timeline (`replication_state`).
pub const DIVERGED: &str = "diverged";

impl PeerStatus {
    /// It has the tag `nofailover` or its like, or is kept out.
    pub fn may_not_lead(&self) -> bool {
        self.tags.nofailover() || self.is_kept_out()
    }

    /// It found out that what it holds is of another history: its position says nothing of what the cluster acknowledged.
    pub fn is_kept_out(&self) -> bool {
        self.replication_state.as_deref() == Some(DIVERGED)
    }

    /// Reads the answer to `GET /patroni`.
    ///
    /// # Errors
    /// It has no positions: nothing can be said about a node whose PostgreSQL does not run.
    pub fn of_document(document: &JsonMap) -> Result<Self, String> {
        let given = |key: &str| document.get(key).filter(|value| truthy(value));
        let wal = given("wal").or_else(|| document.get("xlog")).ok_or("neither wal nor xlog in the answer")?;
        let wal = wal.as_object().ok_or("wal or xlog is not an object")?;
        let position = |key: &str| wal.get(key).and_then(Value::as_u64).unwrap_or(0);
        let says_primary = matches!(document.get("role").and_then(Value::as_str), Some("primary" | "master"));
        // Only the answer of a primary has a location.
        let location = Some(Lsn(position("location"))).filter(|location| *location > Lsn(0));
        // By the leave of others (failsafe mode) it may go on with that although its lease has ended.
        let job = document.get(JOB_KEY).and_then(|job| job.get("title")).and_then(Value::as_str);
        let becomes_primary = job.is_some_and(|job| job == title(&Job::Promote));
        let in_recovery = !(location.is_some() || says_primary || becomes_primary);
        let received = position("received_location").max(position("replayed_location"));
        let timeline = document.get("timeline").and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        Ok(PeerStatus {
            in_recovery,
            wal_position: Lsn(if in_recovery { received } else { 0 }),
            location,
            timeline: timeline.filter(|number| *number > 0).map(Timeline),
            replication_state: document.get("replication_state").and_then(Value::as_str).map(str::to_owned),
            tags: Tags(document.get("tags").and_then(Value::as_object).cloned().unwrap_or_default()),
            watchdog_failed: document.get("watchdog_failed").is_some_and(truthy),
            space: space_by_document(document.get(DISK_KEY).and_then(Value::as_object)),
        })
    }

    /// Its PostgreSQL runs, as far as its position tells.
    pub fn is_running(&self) -> bool {
        !self.in_recovery || self.wal_position > Lsn(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn statuses_as_patroni_reads_them() {
        let standby = |position| PeerStatus {
            in_recovery: true,
            wal_position: Lsn(position),
            location: None,
            timeline: None,
            replication_state: None,
            tags: Tags::default(),
            watchdog_failed: false,
            space: Space::Unknown,
        };
        let primary = PeerStatus { in_recovery: false, ..standby(0) };
        let rows = [
            (json!({"xlog": {"received_location": 5, "replayed_location": 3}, "role": "replica"}), standby(5)),
            (json!({"wal": {"replayed_location": 7}, "xlog": {"location": 1}}), standby(7)),
            (json!({"wal": null, "xlog": {"replayed_location": 7}}), standby(7)),
            (
                json!({"xlog": {"location": 9}, "role": "replica"}),
                PeerStatus { location: Some(Lsn(9)), ..primary.clone() },
            ),
            (json!({"xlog": {"received_location": 9}, "role": "master"}), primary.clone()),
            (
                json!({"xlog": {"received_location": 9}, "role": "replica", "job": {"title": "promote", "seconds": 3}}),
                primary,
            ),
            (
                json!({"xlog": {"received_location": 9}, "role": "replica", "job": {"title": "reinitialize"}}),
                standby(9),
            ),
            (json!({"xlog": {}}), standby(0)),
            (
                json!({"xlog": {"received_location": null, "replayed_location": 2}, "timeline": 4,
                       "replication_state": "streaming", "tags": {"nofailover": true}, "watchdog_failed": true,
                       "disk": {"data": {"state": "ok"}, "wal": {"state": "full"}}}),
                PeerStatus {
                    timeline: Some(Timeline(4)),
                    replication_state: Some("streaming".to_owned()),
                    tags: Tags(json!({"nofailover": true}).as_object().unwrap().clone()),
                    watchdog_failed: true,
                    space: Space::Full,
                    ..standby(2)
                },
            ),
        ];
        for (document, expected) in rows {
            let map = document.as_object().unwrap();
            assert_eq!(PeerStatus::of_document(map), Ok(expected), "{document}");
        }
        for bad in [json!({}), json!({"state": "starting", "role": "replica"}), json!({"xlog": 5})] {
            assert!(PeerStatus::of_document(bad.as_object().unwrap()).is_err(), "{bad}");
        }
    }
}

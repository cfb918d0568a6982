//! The life of a node: opening its files, founding a cluster or being taken into one, and beginning again after trouble.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use patroni_core::units::in_words;
use tokio::time::Instant;

use super::links::Links;
use super::{Condition, ELECTION, HEARTBEAT, Node, Running, lock, membership, random};
use crate::raft::admin::{Phase, StoreStatus};
use crate::raft::protocol::{ClusterId, MemberId};
use crate::raft::storage::records::FileError;
use crate::raft::storage::{Files, Identity, LogStore, Machine};
use crate::raft::types::{self, Raft};

/// The pause before files that cannot be used are tried again.
const AGAIN: Duration = Duration::from_secs(3);
/// The pause between attempts to find a cluster.
const LOOKING: Duration = Duration::from_secs(1);
/// How long a node without partners listens before it founds a cluster alone: if it was a member of one and lost its
/// files, the others reach for it.
const LISTENING: Duration = Duration::from_secs(3);
/// How often what a node waits for is told.
const TELLING: Duration = Duration::from_secs(10);
/// An election that takes longer is told to be late.
const LATE: Duration = Duration::from_secs(5);
/// Entries between two snapshots.
const SNAPSHOT_AFTER: u64 = if cfg!(test) { 40 } else { 1000 };
/// Bytes of the log after which a snapshot is made, however few entries there are.
const SNAPSHOT_BYTES: u64 = 8 * 1024 * 1024;
/// Entries that are kept for members that lag behind.
const KEPT: u64 = if cfg!(test) { 8 } else { 200 };

/// Why a running node stopped.
enum End {
    /// It cannot go on as it is.
    Failed(String),
    /// It is no member any more.
    Removed,
}

impl Node {
    /// Runs the node until the future is dropped.
    pub(crate) async fn run(self: Arc<Self>, files: Arc<Files>) {
        loop {
            let running = match self.open(&files).await {
                Ok(running) => running,
                Err(why) => {
                    tracing::error!("embedded store: {why}");
                    *lock(&self.condition) = Condition::Broken(why);
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            let identity = running.log.identity();
            if !identity.removed {
                *lock(&self.condition) = Condition::Running(Arc::clone(&running));
                let end = self.work(&running).await;
                let _ = running.raft.shutdown().await;
                match end {
                    End::Failed(why) => {
                        tracing::error!("embedded store: {why}; its files are opened again");
                        *lock(&self.condition) = Condition::Broken(why);
                        drop(running);
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                    End::Removed => {
                        if let Err(error) = running.log.set_identity(Identity { removed: true, ..identity }).await {
                            tracing::error!("embedded store: that it was removed cannot be written down: {error}");
                        }
                    }
                }
            } else {
                let _ = running.raft.shutdown().await;
            }
            tracing::error!(
                "embedded store: the member {} was removed from the store, and only uses it now; to take it in again, move \
                 its files out of {} and restart",
                self.address,
                self.options.data_dir.display()
            );
            *lock(&self.condition) = Condition::Removed(identity);
            return std::future::pending().await;
        }
    }

    async fn open(self: &Arc<Self>, files: &Arc<Files>) -> Result<Arc<Running>, String> {
        let new = MemberId(random().map_err(|error| error.to_string())?);
        let (opening, alone) = (Arc::clone(files), self.options.partner_addrs.is_empty());
        let opened = tokio::task::spawn_blocking(move || match opening.open(new) {
            Err(error @ FileError::Damaged { .. }) if alone => Err(format!(
                "{error}; there is no partner to fetch the contents from: move the files away and restore a backup"
            )),
            Err(error @ FileError::Damaged { .. }) => {
                let kept = opening.set_aside().map_err(|error| error.to_string())?;
                tracing::error!(
                    "embedded store: {error}; kept as {}, and this node is taken in anew with the contents of the others",
                    kept.display()
                );
                opening.open(new).map_err(|error| error.to_string())
            }
            other => other.map_err(|error| error.to_string()),
        });
        let opened = opened.await.map_err(|error| error.to_string())??;
        if opened.new {
            tracing::info!("embedded store: {} has no store yet", self.address);
        }
        let log = LogStore::new(Arc::clone(files), opened.records, opened.logged);
        let machine = Machine::new(Arc::clone(files), opened.snapshot, self.events.clone());
        let id = log.identity().member.0;
        let links = Links(Arc::downgrade(self));
        let raft = Raft::new(id, Arc::new(config()?), links, log.clone(), machine.clone()).await;
        Ok(Arc::new(Running { raft: raft.map_err(|error| error.to_string())?, log, machine }))
    }

    async fn work(&self, running: &Running) -> End {
        let failed = async {
            let mut metrics = running.raft.metrics();
            loop {
                if let Err(error) = &metrics.borrow_and_update().running_state {
                    return error.to_string();
                }
                if metrics.changed().await.is_err() {
                    return "the consensus ended".to_owned();
                }
            }
        };
        tokio::select! {
            why = failed => End::Failed(why),
            () = self.told_removed.notified() => End::Removed,
            why = self.find_cluster(running) => End::Failed(why),
            () = self.end_leases(running) => End::Failed("leases are not ended any more".to_owned()),
            () = keep_small(running) => End::Failed("snapshots are not made any more".to_owned()),
            () = tell_leader(running) => End::Failed("the leader is not followed any more".to_owned()),
        }
    }

    /// Founds a cluster or gets into one; then there is nothing more to do. Comes back only with a reason to begin again.
    async fn find_cluster(&self, running: &Running) -> String {
        let began = Instant::now();
        let mut told = None;
        loop {
            let identity = running.log.identity();
            if membership::votes(running, identity.member) {
                // A member that is replaced or removed hears of it from the leader.
                return std::future::pending().await;
            }
            let initialized = running.raft.is_initialized().await.unwrap_or(false);
            if identity.founder && !initialized {
                // It had decided to before it ended.
                if let Err(why) = self.found(running, identity).await {
                    return why;
                }
                continue;
            }
            let outcome = self.look(running, identity, began.elapsed()).await;
            if let Err(why) = outcome
                && told.is_none_or(|at: Instant| at.elapsed() >= TELLING)
            {
                tracing::info!("embedded store: {} waits: {why}", self.address);
                told = Some(Instant::now());
            }
            tokio::time::sleep(LOOKING).await;
        }
    }

    /// One attempt to find a cluster. The error says what is waited for.
    async fn look(&self, running: &Running, identity: Identity, since: Duration) -> Result<(), String> {
        let mut partners: BTreeSet<String> = self.options.partner_addrs.iter().cloned().collect();
        partners.extend(lock(&self.expected_by).iter().cloned());
        let asking =
            partners.iter().map(|address| async move { (address, membership::status_of(self, address).await) });
        let answers = futures_util::future::join_all(asking).await;
        let member = |status: &StoreStatus| status.phase == Phase::Member && status.cluster.is_some();
        let ours = |status: &StoreStatus| identity.cluster.is_none() || status.cluster == identity.cluster;
        let mut members = answers.iter().filter_map(|(address, answer)| {
            let status = answer.as_ref().ok()?;
            (member(status) && ours(status)).then_some(*address)
        });
        if let Some(partner) = members.next() {
            return membership::ask_to_be_taken_in(self, partner).await;
        }
        if identity.cluster.is_some() {
            return Err("no member of its cluster answers".to_owned());
        }
        if partners.is_empty() && since < LISTENING {
            return Err("it listens whether another member expects it".to_owned());
        }
        let addresses = self.founding_addresses();
        let waits =
            |status: &StoreStatus| status.phase == Phase::Waiting(addresses.clone()) && status.cluster.is_none();
        for (address, answer) in &answers {
            match answer {
                Ok(status) if waits(status) => {}
                Ok(status) => return Err(disagreement(address, status, &addresses)),
                Err(why) => {
                    return Err(format!(
                        "a new store needs all its members to begin with, and {address} does not answer ({why})"
                    ));
                }
            }
        }
        if addresses.first() != Some(&self.address) {
            return Err(format!("{} is to found the store", addresses.first().map_or("nobody", String::as_str)));
        }
        let cluster = Some(ClusterId(random().map_err(|error| error.to_string())?));
        self.found(running, Identity { cluster, founder: true, ..identity }).await
    }

    /// Founds a cluster of one.
    async fn found(&self, running: &Running, identity: Identity) -> Result<(), String> {
        let _changing = self.changing.lock().await;
        let present = running.log.identity();
        if present.cluster.is_some() && present != identity {
            return Err("another cluster has taken it in meanwhile".to_owned());
        }
        tracing::info!("embedded store: {} founds a new store", self.address);
        running.log.set_identity(identity).await.map_err(|error| error.to_string())?;
        let node = types::Node { addr: self.address.clone() };
        let members = std::collections::BTreeMap::from([(identity.member.0, node)]);
        running.raft.initialize(members).await.map_err(|error| error.to_string())
    }
}

fn disagreement(address: &str, status: &StoreStatus, addresses: &[String]) -> String {
    match &status.phase {
        Phase::Waiting(others) if status.cluster.is_none() => format!(
            "{address} is configured with the members {}, this node with {}: make raft.partner_addrs agree",
            others.join(", "),
            addresses.join(", ")
        ),
        Phase::Waiting(_) | Phase::Member => format!("{address} belongs to a store that has no leader now"),
        Phase::Removed => format!("{address} was removed from its store"),
        Phase::Broken(why) => format!("{address} does not run: {why}"),
    }
}

fn config() -> Result<Config, String> {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        heartbeat_interval: milliseconds(HEARTBEAT),
        election_timeout_min: milliseconds(ELECTION.0),
        election_timeout_max: milliseconds(ELECTION.1),
        install_snapshot_timeout: 30_000,
        max_payload_entries: 32,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER),
        replication_lag_threshold: SNAPSHOT_AFTER * 2,
        max_in_snapshot_log_to_keep: KEPT,
        purge_batch_size: 1,
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

/// Makes snapshots of a log that has become large with few entries.
async fn keep_small(running: &Running) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        if running.log.bytes() > SNAPSHOT_BYTES {
            let _ = running.raft.trigger().snapshot().await;
        }
    }
}

/// Tells who leads, whenever that changes, and how long nobody did if that was long.
async fn tell_leader(running: &Running) {
    let mut metrics = running.raft.server_metrics();
    let mut last = None;
    let mut nobody_since = None;
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            let leader = metrics.current_leader;
            let address =
                leader.and_then(|id| Some(metrics.membership_config.membership().get_node(&id)?.addr.clone()));
            (leader, address, metrics.vote.leader_id().term)
        };
        if last.as_ref() != Some(&now.1) {
            match &now {
                (Some(_), Some(address), term) => {
                    tracing::info!("embedded store: {address} leads (term {term})");
                    let without = nobody_since.take().map(|since: Instant| since.elapsed());
                    if let Some(without) = without.filter(|without| *without > LATE) {
                        tracing::warn!("embedded store: nobody led it for {}", in_words(without));
                    }
                }
                (_, _, term) if *term > 0 => {
                    tracing::info!("embedded store: no leader (term {term})");
                    nobody_since.get_or_insert_with(Instant::now);
                }
                _ => {}
            }
            last = Some(now.1);
        }
        if metrics.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

//! A member that leads and is about to end makes another one lead.
//!
//! Followers refuse their vote for as long as they may hear of the leader they have (openraft's leader lease), so that without this the store
//! has no leader for some seconds when its leader ends. Here that leader itself says whom to vote for in the next term.

use std::time::Duration;

use openraft::{ServerState, Snapshot, SnapshotMeta, Vote};
use tokio::time::{Instant, timeout_at};

use super::{Node, Running, lock};
use crate::raft::net::{Call, Return};
use crate::raft::protocol::Answer;

/// How long the successor may take to receive the last entries.
const CATCHING_UP: Duration = Duration::from_millis(300);
/// How long a member may take to answer.
const ASKING: Duration = Duration::from_millis(200);
/// Whoever answered within this time lives.
const LIVING: Duration = Duration::from_secs(1);

/// Whom the lead goes to.
struct Successor {
    id: u64,
    address: String,
    /// The vote that makes it the leader.
    vote: Vote<u64>,
}

impl Node {
    /// Makes the living member that has most of the log the leader, if this one leads. Done: another member leads.
    pub(super) async fn hand_over(&self, budget: Duration) -> Answer {
        let until = Instant::now() + budget;
        let running = match self.running() {
            Ok(running) => running,
            Err(why) => return Answer::Failed(why),
        };
        if running.reign().is_none() {
            return Answer::Refused(format!("{} does not lead the store", self.address));
        }
        // Members that are on their way would be left half-way.
        let Ok(_changing) = self.changing.try_lock() else {
            return Answer::Failed("the members of the store are being changed".to_owned());
        };
        let Some(successor) = self.successor(&running) else {
            return Answer::Refused("no other member of the store lives, and votes".to_owned());
        };
        caught_up(&running, successor.id, until.min(Instant::now() + CATCHING_UP)).await;
        self.make_way(&running, &successor).await;
        let mut metrics = running.raft.server_metrics();
        let leads = metrics.wait_for(|metrics| metrics.current_leader == Some(successor.id));
        match timeout_at(until, leads).await {
            Ok(Ok(_)) => {
                tracing::info!("embedded store: the lead was handed over to {}", successor.address);
                Answer::Done
            }
            Ok(Err(_)) => Answer::Failed("the consensus ended".to_owned()),
            Err(_) => Answer::Unknown(format!("{} did not take over the lead of the store in time", successor.address)),
        }
    }

    fn successor(&self, running: &Running) -> Option<Successor> {
        let metrics = running.raft.metrics().borrow().clone();
        let (membership, matched) = (metrics.membership_config.membership(), metrics.replication?);
        let answered = lock(&self.answered);
        let lives = |id: &u64| answered.get(id).is_some_and(|at| at.elapsed() < LIVING);
        let voters = membership.voter_ids().filter(|id| *id != metrics.id && lives(id));
        let id = voters.max_by_key(|id| matched.get(id).copied().flatten().map(|log_id| log_id.index))?;
        let address = membership.get_node(&id)?.addr.clone();
        Some(Successor { id, address, vote: Vote::new(metrics.current_term + 1, id) })
    }

    /// All give their vote to the successor, this member too; then it asks for them.
    async fn make_way(&self, running: &Running, successor: &Successor) {
        let others: Vec<(u64, String)> = {
            let metrics = running.raft.server_metrics();
            let metrics = metrics.borrow();
            let nodes = metrics.membership_config.membership().nodes();
            let others = nodes.filter(|(id, _)| **id != metrics.id && **id != successor.id);
            others.map(|(id, node)| (*id, node.addr.clone())).collect()
        };
        let asked = others.iter().map(|(id, address)| self.ask_to_make_way(running, *id, address, successor.vote));
        futures_util::future::join_all(asked).await;
        if let Err(why) = give_vote(running, successor.vote).await {
            tracing::info!("embedded store: {why}");
        }
        self.ask_to_make_way(running, successor.id, &successor.address, successor.vote).await;
    }

    /// One that does not know this, or does not answer, votes when it has not heard of a leader for a while, as always.
    async fn ask_to_make_way(&self, running: &Running, id: u64, address: &str, vote: Vote<u64>) {
        let identity = running.log.identity();
        let Some(cluster) = identity.cluster else { return };
        let peer = self.as_member(cluster, identity.member, id);
        match self.pool.call(address, peer, &Call::MakeWay(vote), ASKING).await {
            Ok(Return::MakeWay(Ok(()))) => {}
            Ok(Return::MakeWay(Err(why))) => tracing::info!("embedded store: {address} does not make way: {why}"),
            Ok(Return::Client(_) | Return::Append(_) | Return::Vote(_) | Return::Snapshot(_)) => {
                tracing::info!("embedded store: {address} gave an answer to another question");
            }
            Err(error) => tracing::info!("embedded store: {error}"),
        }
    }

    /// The leader asks for this: a member stands for election if it is the one to vote for, and gives its vote to it otherwise.
    pub(super) async fn give_way(&self, vote: Vote<u64>) -> Result<(), String> {
        let running = self.running()?;
        if running.log.identity().member.0 != vote.leader_id().node_id {
            return give_vote(&running, vote).await;
        }
        running.raft.trigger().elect().await.map_err(|error| error.to_string())
    }
}

/// Takes the vote over, which ends following, or being, the leader of this term: with it goes the promise to vote for nobody else for a while.
/// openraft takes a vote from any message of a leader; the snapshot in this one is older than everything, and not installed. Whether the log of the
/// candidate is long enough is looked at when it asks for the vote.
async fn give_vote(running: &Running, vote: Vote<u64>) -> Result<(), String> {
    let nothing = Snapshot { meta: SnapshotMeta::default(), snapshot: Box::default() };
    match running.raft.install_full_snapshot(vote, nothing).await {
        Ok(response) if response.vote == vote => Ok(()),
        Ok(response) => Err(format!("it has voted already: {}", response.vote)),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until a member has all entries, and no longer than that makes sense.
async fn caught_up(running: &Running, id: u64, until: Instant) {
    let mut metrics = running.raft.metrics();
    let has_all = metrics.wait_for(|metrics| {
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        metrics.state != ServerState::Leader || matched.map(|log_id| log_id.index) >= metrics.last_log_index
    });
    if timeout_at(until, has_all).await.is_err() {
        tracing::info!("embedded store: the member that is to lead has not all entries yet");
    }
}

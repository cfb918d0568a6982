//! Changes of the membership, by the leader: one at a time, and only where a living majority remains.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use patroni_core::units::in_words;
use tokio::time::timeout;

use super::{Node, Running, SILENCE, lock};
use crate::raft::admin::{Phase, StoreStatus};
use crate::raft::net::{Call, Peer, Return};
use crate::raft::protocol::{Answer, MemberId, Request};
use crate::raft::types;

/// How long a new member may take to receive all entries.
const CATCHING_UP: Duration = Duration::from_secs(20);
/// How long a change may take to be agreed on.
const AGREEING: Duration = Duration::from_secs(10);
const ASKING: Duration = Duration::from_secs(3);

/// Takes in the node at an address: first it receives all entries, then it votes, in the place of an earlier member at
/// that address if there is one.
pub(super) async fn add(node: &Node, running: &Running, address: &str) -> Answer {
    let Ok(_changing) = node.changing.try_lock() else {
        return Answer::Failed("the members of the store are being changed already".to_owned());
    };
    let found = match status_of(node, address).await {
        Ok(found) => found,
        Err(why) => return Answer::Failed(format!("the node at {address} does not answer: {why}")),
    };
    let identity = running.log.identity();
    let id = found.member.0;
    let (voters, nodes) = members(running);
    if voters.contains(&id) {
        return Answer::Done;
    }
    if found.address != address {
        return Answer::Refused(format!("the node at {address} calls itself {} (raft.self_addr)", found.address));
    }
    match (&found.phase, found.cluster) {
        (Phase::Waiting(_), cluster) if cluster.is_none() || cluster == identity.cluster => {}
        (Phase::Broken(why), _) => return Answer::Failed(format!("the node at {address} does not run: {why}")),
        (Phase::Removed, _) => {
            return Answer::Refused(format!(
                "the node at {address} was removed: move its files out of its raft.data_dir and restart it to take it in again"
            ));
        }
        (Phase::Waiting(_) | Phase::Member, _) => {
            return Answer::Refused(format!(
                "the node at {address} belongs to another cluster of the embedded store: move its files out of its raft.data_dir if that one is to be given up"
            ));
        }
    }
    let earlier: BTreeSet<u64> =
        nodes.iter().filter(|(other, at)| at == address && *other != id).map(|(id, _)| *id).collect();
    tracing::info!("embedded store: the member {address} is taken in");
    if let Err(why) = take_in(running, id, address, &voters, &earlier, node).await {
        tracing::warn!("embedded store: the member {address} was not taken in: {why}");
        // It is not left half a member, if that can be helped: it asks again.
        let forget = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        let _ = timeout(AGREEING, running.raft.change_membership(forget, false)).await;
        return Answer::Failed(why);
    }
    tracing::info!("embedded store: the member {address} votes now");
    Answer::Done
}

async fn take_in(
    running: &Running,
    id: u64,
    address: &str,
    voters: &BTreeSet<u64>,
    earlier: &BTreeSet<u64>,
    node: &Node,
) -> Result<(), String> {
    let catching_up = running.raft.add_learner(id, types::Node { addr: address.to_owned() }, true);
    let late = |_| format!("it did not receive all entries within {}", in_words(CATCHING_UP));
    timeout(CATCHING_UP, catching_up).await.map_err(late)?.map_err(|error| error.to_string())?;
    lock(&node.answered).insert(id, tokio::time::Instant::now());
    let wanted: BTreeSet<u64> = voters.difference(earlier).copied().chain([id]).collect();
    living_majority(node, running, &wanted)?;
    agree(running, ChangeMembers::ReplaceAllVoters(wanted)).await?;
    let (_, nodes) = members(running);
    let left: BTreeSet<u64> = nodes.iter().map(|(id, _)| *id).filter(|id| earlier.contains(id)).collect();
    if left.is_empty() { Ok(()) } else { agree(running, ChangeMembers::RemoveNodes(left)).await }
}

/// Removes the member with an address, which is gone for good.
pub(super) async fn remove(node: &Node, running: &Running, address: &str) -> Answer {
    let Ok(_changing) = node.changing.try_lock() else {
        return Answer::Failed("the members of the store are being changed already".to_owned());
    };
    let (voters, nodes) = members(running);
    let gone: BTreeSet<u64> = nodes.iter().filter(|(_, at)| at == address).map(|(id, _)| *id).collect();
    if gone.is_empty() {
        let known: Vec<&str> = nodes.iter().map(|(_, address)| address.as_str()).collect();
        return Answer::Refused(format!("{address} is no member of the store; its members are {}", known.join(", ")));
    }
    if gone.contains(&running.log.identity().member.0) {
        return Answer::Refused(format!("{address} leads the store: stop it first, then another member leads"));
    }
    let wanted: BTreeSet<u64> = voters.difference(&gone).copied().collect();
    if let Err(why) = living_majority(node, running, &wanted) {
        return Answer::Refused(why);
    }
    let work = async {
        if wanted != voters {
            agree(running, ChangeMembers::ReplaceAllVoters(wanted)).await?;
        }
        let (_, nodes) = members(running);
        let left: BTreeSet<u64> = nodes.iter().map(|(id, _)| *id).filter(|id| gone.contains(id)).collect();
        if left.is_empty() { Ok(()) } else { agree(running, ChangeMembers::RemoveNodes(left)).await }
    };
    match work.await {
        Ok(()) => {
            tracing::info!("embedded store: the member {address} was removed");
            Answer::Done
        }
        Err(why) => Answer::Unknown(why),
    }
}

async fn agree(running: &Running, change: ChangeMembers<u64, types::Node>) -> Result<(), String> {
    let late = |_| format!("the members did not agree on the change within {}", in_words(AGREEING));
    timeout(AGREEING, running.raft.change_membership(change, false))
        .await
        .map_err(late)?
        .map_err(|error| error.to_string())?;
    Ok(())
}

/// The votes, and the addresses of all members.
fn members(running: &Running) -> (BTreeSet<u64>, Vec<(u64, String)>) {
    let metrics = running.raft.server_metrics();
    let metrics = metrics.borrow();
    let membership = metrics.membership_config.membership();
    let nodes = membership.nodes().map(|(id, node)| (*id, node.addr.clone()));
    (membership.voter_ids().collect(), nodes.collect())
}

/// Could these members decide with those of them that live now?
fn living_majority(node: &Node, running: &Running, wanted: &BTreeSet<u64>) -> Result<(), String> {
    let own = running.log.identity().member.0;
    let answered = lock(&node.answered);
    let lives = |id: &&u64| **id == own || answered.get(id).is_some_and(|at| at.elapsed() < SILENCE);
    let living = wanted.iter().filter(lives).count();
    if living * 2 > wanted.len() {
        return Ok(());
    }
    Err(format!(
        "of the {} members that would then be left only {living} answer, which is no majority: start the others first",
        wanted.len()
    ))
}

/// Asks a node about itself.
pub(super) async fn status_of(node: &Node, address: &str) -> Result<StoreStatus, String> {
    let call = Call::Client { request: Request::Status, budget_ms: 2000, forwarded: true };
    match node.pool.call(address, Peer::Client, &call, ASKING).await {
        Ok(Return::Client(Answer::Status(status))) => Ok(*status),
        Ok(_) => Err("it answers something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Asks a member to take in this node.
pub(super) async fn ask_to_be_taken_in(node: &Node, partner: &str) -> Result<(), String> {
    let patience = CATCHING_UP + AGREEING + ASKING;
    let budget_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let call = Call::Client { request: Request::Add { address: node.address.clone() }, budget_ms, forwarded: false };
    match node.pool.call(partner, Peer::Client, &call, patience).await {
        Ok(Return::Client(Answer::Done)) => Ok(()),
        Ok(Return::Client(Answer::Refused(why) | Answer::Failed(why) | Answer::Unknown(why))) => Err(why),
        Ok(_) => Err("it answers something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Is this member among the voters, by its own log?
pub(super) fn votes(running: &Running, member: MemberId) -> bool {
    members(running).0.contains(&member.0)
}

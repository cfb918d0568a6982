//! What changed between two pictures.

use super::picture::{Node, Picture};

/// How far a node may be behind before that is news, in bytes.
const NOTABLE_LAG: u64 = 16 << 20;

/// What happened from one picture to the next, in words.
pub(crate) fn between(before: &Picture, after: &Picture) -> Vec<String> {
    let mut told = Vec::new();
    if before.leader != after.leader {
        told.push(match (&before.leader, &after.leader) {
            (Some(old), Some(new)) => format!("the leader is {new} now, it was {old}"),
            (None, Some(new)) => format!("{new} is the leader now"),
            (Some(old), None) => format!("{old} gave up the leader key or lost it; there is no leader"),
            (None, None) => unreachable!("equal values"),
        });
    }
    if before.paused != after.paused {
        told.push(if after.paused { "the cluster is paused" } else { "the cluster is no longer paused" }.to_owned());
    }
    told.extend(after.notes.iter().filter(|note| !before.notes.contains(note)).cloned());
    for node in &after.nodes {
        match before.nodes.iter().find(|old| old.name == node.name) {
            Some(old) => told.extend(of_node(old, node)),
            None => told.push(format!("{} joined ({})", node.name, node.doing())),
        }
    }
    let gone = before.nodes.iter().filter(|old| !after.nodes.iter().any(|node| node.name == old.name));
    told.extend(gone.map(|old| format!("the member key of {} is gone", old.name)));
    told
}

fn of_node(old: &Node, new: &Node) -> Vec<String> {
    let name = &new.name;
    let mut told = Vec::new();
    if old.answers != new.answers {
        told.push(format!("{name} {}", if new.answers { "answers again" } else { "does not answer any more" }));
    }
    if old.state != new.state {
        told.push(format!("{name}: {} -> {}", old.state, new.state));
    }
    if old.role != new.role && !old.is_leader && !new.is_leader {
        told.push(format!("{name}: {} -> {}", old.role, new.role));
    }
    if let (Some(from), Some(to)) = (old.timeline, new.timeline)
        && from != to
    {
        told.push(format!("{name}: timeline {from} -> {to}"));
    }
    let job = |node: &Node| node.job.as_ref().map(|job| job.split(": ").next().unwrap_or_default().to_owned());
    match (job(old), job(new)) {
        (before, Some(now)) if before.as_ref() != Some(&now) => told.push(format!("{name}: {now}")),
        (Some(before), None) => told.push(format!("{name}: ended: {before}")),
        (_, _) => {}
    }
    let behind = |node: &Node| node.replay_lag.max(node.receive_lag).is_some_and(|lag| lag > NOTABLE_LAG);
    if behind(old) != behind(new) {
        told.push(format!("{name} {}", if behind(new) { "falls behind" } else { "has caught up" }));
    }
    told
}

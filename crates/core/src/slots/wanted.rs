//! Which slots a node should have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{is_physical, logical_kind, warning};
use crate::cluster::{Cluster, Member};
use crate::lsn::Lsn;
use crate::name::MemberName;
use crate::parameters::Note;
use crate::server::{Role, SlotKind};
use crate::settings::Settings;
use crate::tags::{Tags, truthy};

/// The node whose slots are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a MemberName,
    /// Its role.
    pub role: Role,
    /// Its tags.
    pub tags: &'a Tags,
}

/// A slot that should be there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Physical, or logical with plugin and database.
    pub kind: SlotKind,
    /// How far its reader is known to be.
    pub lsn: Option<Lsn>,
    /// Somebody should be reading it here; `None` where that is not known.
    pub expected_active: Option<bool>,
}

/// The slots of a node: for members that read from it or might after a failover, for members that are away and not yet
/// forgotten (`retain_slots`), and permanent ones. The notes tell what is wrong with names and settings.
pub fn wanted_slots(settings: &Settings, cluster: &Cluster, node: &Node<'_>) -> (BTreeMap<String, Wanted>, Vec<Note>) {
    let mut notes = Vec::new();
    if !settings.slots.use_slots {
        return (BTreeMap::new(), notes);
    }
    let mut slots = member_slots(settings, cluster, node, &mut notes);
    for (name, value) in permanent_slots(settings, cluster, node) {
        match permanent_slot(&name, &value, cluster, node) {
            Ok(None) => {}
            Ok(Some(wanted)) if wanted.kind == SlotKind::Physical => {
                slots.entry(name).or_insert(wanted);
            }
            Ok(Some(_)) if slots.contains_key(&name) => notes.push(warning(format!(
                "Permanent logical replication slot {{'{name}': {value}}} is conflicting with physical replication slot \
                 for cluster member"
            ))),
            Ok(Some(wanted)) => {
                slots.insert(name, wanted);
            }
            Err(problems) => notes.extend(problems.into_iter().map(warning)),
        }
    }
    (slots, notes)
}

fn member_slots(
    settings: &Settings,
    cluster: &Cluster,
    node: &Node<'_>,
    notes: &mut Vec<Note>,
) -> BTreeMap<String, Wanted> {
    let retain = !settings.slots.member_slots_ttl.is_zero();
    let others = cluster.members.values().filter(|member| member.name != *node.name && !member.data.tags.nostream());
    let members: Vec<&Member> = others
        .filter(|member| {
            if retain {
                // A node that can never lead serves only those that are told to read from it.
                !node.tags.nofailover() || member.data.tags.replicatefrom().as_ref() == Some(node.name)
            } else {
                reads_from(cluster, node, member)
            }
        })
        .collect();
    let mut slots = BTreeMap::new();
    for member in &members {
        let wanted = Wanted {
            kind: SlotKind::Physical,
            lsn: member_position(cluster, member),
            expected_active: Some(reads_from(cluster, node, member)),
        };
        slots.insert(member.name.slot_name(), wanted);
    }
    if slots.len() < members.len() {
        notes.push(warning(name_conflicts(&members)));
    }
    if !node.tags.nofailover() {
        let own = node.name.slot_name();
        for name in cluster.status.retain_slots.iter().filter(|name| **name != own) {
            let kept = Wanted { kind: SlotKind::Physical, lsn: None, expected_active: None };
            slots.entry(name.clone()).or_insert(kept);
        }
    }
    slots
}

/// The member should read from this node: from the leader, unless it is told to read from another one that exists.
fn reads_from(cluster: &Cluster, node: &Node<'_>, member: &Member) -> bool {
    let from = member.data.tags.replicatefrom();
    match node.role {
        Role::Primary | Role::StandbyLeader => {
            from.is_none_or(|from| from == *node.name || !cluster.members.contains_key(&from))
        }
        Role::Uninitialized | Role::Replica | Role::Promoted | Role::Demoted => {
            from.as_ref() == Some(node.name) && cluster.leader_name() != Some(&member.name)
        }
    }
}

/// The leader publishes the positions of its slots. That of a member which reads from another node does not move there: its own
/// word counts; so it does where the leader is too old to publish them.
fn member_position(cluster: &Cluster, member: &Member) -> Option<Lsn> {
    let published = cluster.status.slots.get(&member.name.slot_name()).copied();
    let leader_version = cluster.leader_member().and_then(|leader| major_version(leader.data.version.as_deref()?));
    let own = if member.data.tags.replicatefrom().is_some() || leader_version.is_some_and(|major| major < 4) {
        member.data.xlog_location
    } else {
        None
    };
    published.max(own).filter(|lsn| *lsn > Lsn(0))
}

fn major_version(text: &str) -> Option<u32> {
    text.split('.').next()?.parse().ok()
}

fn name_conflicts(members: &[&Member]) -> String {
    let mut by_slot: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for member in members {
        by_slot.entry(member.name.slot_name()).or_default().push(member.name.as_str());
    }
    let shared = by_slot.iter().filter(|(_, names)| names.len() > 1);
    let texts: Vec<_> = shared.map(|(slot, names)| format!("{} map to {slot}", names.join(", "))).collect();
    format!("Following cluster members share a replication slot name: {}", texts.join("; "))
}

/// The permanent slots of the configuration that concern this node. One that can never lead has none; in a standby cluster, and
/// behind a node that does not stream, only physical ones are safe.
fn permanent_slots(settings: &Settings, cluster: &Cluster, node: &Node<'_>) -> BTreeMap<String, Value> {
    if node.tags.nofailover() {
        return BTreeMap::new();
    }
    let all = settings.slots.permanent.iter().map(|(name, value)| (name.clone(), value.clone()));
    if settings.standby_cluster.is_none() && slot_on_primary(cluster, node).is_some() {
        return all.collect();
    }
    let other_type = if settings.standby_cluster.is_some() { "primary" } else { "standby" };
    let is_ours = |value: &Value| value.get("cluster_type").and_then(Value::as_str) != Some(other_type);
    all.filter(|(_, value)| is_physical(value) && is_ours(value)).collect()
}

/// Permanent physical slots, whoever asks.
pub(super) fn permanent_physical(settings: &Settings) -> BTreeSet<String> {
    let other_type = if settings.standby_cluster.is_some() { "primary" } else { "standby" };
    let is_ours = |value: &Value| value.get("cluster_type").and_then(Value::as_str) != Some(other_type);
    let slots = settings.slots.permanent.iter().filter(|(_, value)| is_physical(value) && is_ours(value));
    slots.map(|(name, _)| name.clone()).collect()
}

/// The slot through which this node's stream comes from the primary: its own, or that of the node it reads from. `None` if it does not
/// stream, or members read from each other in a circle.
pub fn slot_on_primary(cluster: &Cluster, node: &Node<'_>) -> Option<String> {
    let (mut name, mut tags) = (node.name, node.tags);
    let mut seen = BTreeSet::new();
    loop {
        seen.insert(name);
        if tags.nostream() {
            return None;
        }
        let from = tags.replicatefrom().filter(|from| from != name).and_then(|from| cluster.members.get(&from));
        match from {
            None => return Some(name.slot_name()),
            Some(member) if seen.contains(&member.name) => return None,
            Some(member) => (name, tags) = (&member.name, &member.data.tags),
        }
    }
}

fn permanent_slot(
    name: &str,
    value: &Value,
    cluster: &Cluster,
    node: &Node<'_>,
) -> Result<Option<Wanted>, Vec<String>> {
    let is_valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(is_valid) {
        return Err(vec![
            format!("Invalid permanent replication slot name '{name}'"),
            "Slot name may only contain lower case letters, numbers, and the underscore chars".to_owned(),
        ]);
    }
    let published = cluster.status.slots.get(name).copied().filter(|lsn| *lsn > Lsn(0));
    if let Some(kind) = logical_kind(value) {
        return Ok(Some(Wanted { kind, lsn: published, expected_active: None }));
    }
    if !is_physical(value) {
        let shown = if truthy(value) { value.to_string() } else { "None".to_owned() };
        return Err(vec![format!("Bad value for slot '{name}' in permanent_slots: {shown}")]);
    }
    if name == node.name.slot_name() {
        return Ok(None);
    }
    let mut cascading = cluster.members.values().filter(|m| m.data.tags.replicatefrom().is_some());
    let reader = cascading.find(|member| member.name.slot_name() == name);
    let leads = matches!(node.role, Role::Primary | Role::StandbyLeader);
    let lsn = published.max(reader.and_then(|member| member.data.xlog_location));
    Ok(Some(Wanted { kind: SlotKind::Physical, lsn, expected_active: Some(leads && reader.is_none()) }))
}

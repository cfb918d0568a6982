//! `hot_standby_feedback`: without it the primary removes rows of its catalog that logical slots of a standby need.

use std::collections::BTreeSet;

use super::wanted::{Node, slot_on_primary, wanted_slots};
use crate::cluster::Cluster;
use crate::name::MemberName;
use crate::server::{Role, SlotKind};
use crate::settings::Settings;

/// The node has logical slots when it is a standby, or hands on the feedback of one that has.
pub fn needs_feedback(settings: &Settings, cluster: &Cluster, node: &Node<'_>) -> bool {
    settings.standby_cluster.is_none()
        && settings.slots.use_slots
        && needs(settings, cluster, node, &mut BTreeSet::new())
}

fn needs<'a>(settings: &Settings, cluster: &'a Cluster, node: &Node<'a>, seen: &mut BTreeSet<&'a MemberName>) -> bool {
    if !seen.insert(node.name) {
        return false;
    }
    let as_standby = Node { role: Role::Replica, ..*node };
    let (wanted, _) = wanted_slots(settings, cluster, &as_standby);
    if wanted.values().any(|slot| slot.kind != SlotKind::Physical) {
        return true;
    }
    if slot_on_primary(cluster, &as_standby).is_none() {
        return false;
    }
    let readers = cluster.members.values().filter(|member| {
        member.data.tags.replicatefrom().as_ref() == Some(node.name) && cluster.leader_name() != Some(&member.name)
    });
    readers.into_iter().any(|member| {
        let reader = Node { name: &member.name, role: Role::Replica, tags: &member.data.tags };
        needs(settings, cluster, &reader, seen)
    })
}

//! Members that are lost: their keys are gone from the store, while the leader or the store still knows them.

use std::collections::BTreeSet;

use patroni_core::cluster::Cluster;
use patroni_core::name::MemberName;
use serde_json::Value;

use super::server::Facts;
use super::{Finding, finding};

/// All of it. `facts`: what the leader says, where it could be asked.
pub(crate) fn findings(cluster: &Cluster, facts: Option<&Facts>) -> Vec<Finding> {
    let there: BTreeSet<MemberName> = cluster.members.keys().chain(cluster.leader_name()).cloned().collect();
    let known = &names(cluster, facts) | &there;
    let lost = known.difference(&there).filter_map(|name| of_name(cluster, facts, name));
    lost.chain(of_slots_alone(cluster, &known)).collect()
}

/// Whoever is known to be or to have been a member. Somebody who streams is one if it uses the slot that a member of that
/// name has: others, such as pg_receivewal, may stream under any name.
fn names(cluster: &Cluster, facts: Option<&Facts>) -> BTreeSet<MemberName> {
    let promoted = cluster.history.iter().flat_map(|history| &history.lines).filter_map(|line| line.0.get(4));
    let promoted = promoted.filter_map(Value::as_str).map(MemberName::from);
    let streaming = facts.iter().flat_map(|facts| &facts.senders).map(|(name, slot)| (MemberName::from(&**name), slot));
    let streaming = streaming.filter(|(name, slot)| name.slot_name() == **slot).map(|(name, _)| name);
    let of_failsafe = cluster.failsafe.iter().flat_map(|members| members.keys().cloned());
    let synchronous = cluster.sync.leader.iter().chain(&cluster.sync.standbys).cloned();
    promoted.chain(streaming).chain(of_failsafe).chain(synchronous).collect()
}

/// Having been promoted once is no sign of life: who left long ago stays in the history.
fn of_name(cluster: &Cluster, facts: Option<&Facts>, name: &MemberName) -> Option<Finding> {
    let leader = cluster.leader_name().map_or("the leader", MemberName::as_str);
    let slot = name.slot_name();
    let mut signs = Vec::new();
    let streams = facts.is_some_and(|facts| facts.senders.iter().any(|(sender, _)| sender == name.as_str()));
    let uses_slot = facts.is_some_and(|facts| facts.slots.iter().any(|one| one.name == slot && one.active));
    if streams {
        signs.push(format!("its PostgreSQL still streams from {leader}"));
    } else if uses_slot {
        signs.push(format!("its slot on {leader} is still in use"));
    } else if cluster.status.retain_slots.contains(&slot) {
        signs.push(format!("{leader} still keeps its slot"));
    }
    if cluster.failsafe.as_ref().is_some_and(|members| members.contains_key(name)) {
        signs.push("the key failsafe still names it".to_owned());
    }
    let left = if streams || uses_slot {
        format!("if {name} has left for good, stop its PostgreSQL")
    } else {
        format!("if {name} has left for good, it is forgotten within member_slots_ttl")
    };
    (!signs.is_empty()).then(|| {
        finding(
            format!("{name} is not in the store any more, but {}", signs.join(", and ")),
            format!("start the agent of {name}, or look into its log for why it does not reach the store; {left}"),
        )
    })
}

/// Slots that are kept for members of whom nothing but the slot is known.
fn of_slots_alone(cluster: &Cluster, known: &BTreeSet<MemberName>) -> Vec<Finding> {
    let known: BTreeSet<String> = known.iter().map(MemberName::slot_name).collect();
    let alone = cluster.status.retain_slots.iter().filter(|slot| !known.contains(*slot));
    let leader = cluster.leader_name().map_or("the leader", MemberName::as_str);
    alone
        .map(|slot| {
            finding(
                format!("the member of the slot {slot} is not in the store any more, but {leader} still keeps its slot"),
                "start its agent, or look into its log for why it does not reach the store; if it has left for good, it is \
                 forgotten within member_slots_ttl",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use patroni_dcs::wire::{self, RawKey};
    use serde_json::json;

    use super::super::server::Slot;
    use super::*;

    fn found(keys: &[(&str, Value)], facts: Option<&Facts>) -> Vec<String> {
        let raw = |value: &Value| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            RawKey { value: text.into_bytes(), ..RawKey::default() }
        };
        let mut all = BTreeMap::from([
            ("members/a".to_owned(), raw(&json!({"state": "running", "role": "primary"}))),
            ("leader".to_owned(), raw(&json!("a"))),
            ("history".to_owned(), raw(&json!([[1, 2, "x", "y", "carol-1"], [2, 3, "x", "y", "a"]]))),
        ]);
        all.extend(keys.iter().map(|(name, value)| ((*name).to_owned(), raw(value))));
        findings(&wire::cluster(&all), facts).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn who_is_lost() {
        assert_eq!(found(&[], None), [""; 0], "the history alone names those who left long ago");
        let gone = "carol-1 is not in the store any more, but";
        let slot = |active| Facts {
            slots: vec![Slot { name: "carol_1".to_owned(), active, ..Slot::default() }],
            ..Facts::default()
        };
        assert_eq!(found(&[], Some(&slot(true))), [format!("{gone} its slot on a is still in use")]);
        assert_eq!(found(&[], Some(&slot(false))), [""; 0]);
        let streams =
            |name: &str, slot: &str| Facts { senders: vec![(name.to_owned(), slot.to_owned())], ..Facts::default() };
        assert_eq!(
            found(&[], Some(&streams("dave.2", "dave_2"))),
            ["dave.2 is not in the store any more, but its PostgreSQL still streams from a"]
        );
        for other in [streams("pg_receivewal", ""), streams("backup", "archive"), streams("a", "a")] {
            assert_eq!(found(&[], Some(&other)), [""; 0]);
        }
        let kept = ("status", json!({"optime": 1, "retain_slots": ["a", "carol_1", "erin"]}));
        assert_eq!(
            found(&[kept, ("failsafe", json!({"a": "", "carol-1": ""}))], None),
            [
                format!("{gone} a still keeps its slot, and the key failsafe still names it"),
                "the member of the slot erin is not in the store any more, but a still keeps its slot".to_owned()
            ]
        );
    }
}

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::cluster::{Cluster, Leader, Member, MemberData, Status, Version};
use crate::name::MemberName;
use crate::server::Role;
use crate::settings::{Dynamic, RewindSettings, Settings, SlotSettings, StandbyCluster};
use crate::tags::Tags;
use crate::time::Moment;

pub(super) fn settings(ttl: Duration, use_slots: bool, standby_cluster: bool, permanent: JsonMap) -> Settings {
    Settings {
        scope: "s".into(),
        name: "n1".into(),
        config_version: None,
        dynamic: Dynamic {
            standby_cluster: standby_cluster.then(StandbyCluster::default),
            slots: SlotSettings { use_slots, permanent, ignore: Vec::new(), member_slots_ttl: ttl },
            ..Dynamic::default()
        },
        unusable: Vec::new(),
        tags: Tags::default(),
        can_bootstrap: false,
        can_clone_without_leader: false,
        rewind: RewindSettings::default(),
    }
}

pub(super) fn object(value: &Value) -> JsonMap {
    value.as_object().cloned().unwrap_or_default()
}

fn member(name: &str, data: &Value) -> Member {
    let data = MemberData {
        version: Some(data["version"].as_str().unwrap_or("4.1.5").to_owned()),
        xlog_location: data["xlog"].as_u64().map(Lsn),
        tags: Tags(object(&data["tags"])),
        ..MemberData::default()
    };
    Member { name: name.into(), version: Version(1), session: None, data }
}

pub(super) fn cluster(members: &Value, leader: Option<&str>, published: &Value, retain: &Value) -> Cluster {
    let names = retain.as_array().into_iter().flatten().filter_map(Value::as_str);
    Cluster {
        leader: leader.map(|name| Leader { name: name.into(), version: Version(1), session: None }),
        members: object(members).iter().map(|(name, data)| (name.as_str().into(), member(name, data))).collect(),
        status: Status {
            last_lsn: Lsn(10),
            slots: object(published).iter().filter_map(|(n, v)| Some((n.clone(), Lsn(v.as_u64()?)))).collect(),
            retain_slots: names.map(str::to_owned).collect(),
        },
        ..Cluster::default()
    }
}

fn shown(wanted: &BTreeMap<String, Wanted>) -> Value {
    let slots = wanted.iter().map(|(name, slot)| {
        let mut map = JsonMap::new();
        match &slot.kind {
            SlotKind::Physical => drop(map.insert("type".into(), "physical".into())),
            SlotKind::Logical { plugin, database } => {
                map.insert("type".into(), "logical".into());
                map.insert("plugin".into(), plugin.as_str().into());
                map.insert("database".into(), database.as_str().into());
            }
        }
        map.extend(slot.lsn.map(|lsn| ("lsn".to_owned(), lsn.0.into())));
        map.extend(slot.expected_active.map(|active| ("expected_active".to_owned(), active.into())));
        (name.clone(), Value::Object(map))
    });
    Value::Object(slots.collect())
}

/// Results of Patroni 4.1.5 (`Cluster.get_replication_slots`) for many clusters, recorded.
#[test]
fn a_node_wants_the_slots_that_patroni_wants() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("recorded.json")).expect("recorded rows");
    assert!(rows.len() > 60);
    for row in rows {
        let ttl = Duration::from_secs(row["ttl"].as_u64().expect("ttl"));
        let flag = |name: &str| row[name].as_bool().expect("a boolean");
        let settings = settings(ttl, flag("use_slots"), flag("standby_cluster"), object(&row["permanent"]));
        let cluster = cluster(&row["members"], row["leader"].as_str(), &row["published"], &row["retain"]);
        let name = MemberName::new(row["name"].as_str().expect("name"));
        let role = match row["role"].as_str() {
            Some("primary") => Role::Primary,
            Some("replica") => Role::Replica,
            Some("promoted") => Role::Promoted,
            Some("demoted") => Role::Demoted,
            Some("standby_leader") => Role::StandbyLeader,
            other => panic!("role {other:?}"),
        };
        let tags = cluster.members.get(&name).map(|m| m.data.tags.clone()).unwrap_or_default();
        let (wanted, _) = wanted_slots(&settings, &cluster, &Node { name: &name, role, tags: &tags });
        assert_eq!(shown(&wanted), row["wanted"], "{row}");
    }
}

#[test]
fn conflicts_and_nonsense_are_told() {
    let permanent = json!({"Bad": null, "x": 5, "a_b": {"type": "logical", "database": "d", "plugin": "p"}});
    let settings = settings(Duration::from_secs(1), true, false, object(&permanent));
    let cluster = cluster(&json!({"n1": {}, "a-b": {}, "a.b": {}}), Some("n1"), &json!({}), &json!([]));
    let node = Node { name: &"n1".into(), role: Role::Primary, tags: &Tags::default() };
    let notes: Vec<_> = wanted_slots(&settings, &cluster, &node).1.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "Following cluster members share a replication slot name: a-b, a.b map to a_b",
            "Invalid permanent replication slot name 'Bad'",
            "Slot name may only contain lower case letters, numbers, and the underscore chars",
            "Permanent logical replication slot {'a_b': {\"type\":\"logical\",\"database\":\"d\",\"plugin\":\"p\"}} is \
             conflicting with physical replication slot for cluster member",
            "Bad value for slot 'x' in permanent_slots: 5",
        ]
    );
}

pub(super) fn physical(restart: Option<u64>) -> Slot {
    Slot {
        kind: SlotKind::Physical,
        active: false,
        restart_lsn: restart.map(Lsn),
        confirmed_flush_lsn: None,
        holds_xmin: false,
        catalog_xmin: None,
        lost: false,
        failover: false,
        synced: false,
        inactive_since: None,
    }
}

fn logical() -> Slot {
    Slot { kind: SlotKind::Logical { plugin: "p".into(), database: "d".into() }, ..physical(Some(5)) }
}

fn wanted(lsn: Option<u64>, expected_active: Option<bool>) -> Wanted {
    Wanted { kind: SlotKind::Physical, lsn: lsn.map(Lsn), expected_active }
}

fn dropped(reason: DropReason) -> Change {
    let keeps = reason != DropReason::KeepsNothing;
    let kept = Kept { from: keeps.then_some(Lsn(5)), bytes: if keeps { 95 } else { 0 }, inactive_since: None };
    Change::Drop { slot: "s".into(), reason, kept }
}

#[test]
fn changes_lead_from_what_is_to_what_is_wanted() {
    use DropReason::{Different, HoldsXmin, KeepsNothing, Lost, Unknown};
    let create = || Change::Create("s".into());
    let advance = |lsn| Change::Advance("s".into(), Lsn(lsn));
    let active = Situation { paused: false, clean_inactive: true, replayed: Some(Lsn(100)), position: Lsn(100) };
    let paused = Situation { paused: true, ..active };
    let unclear = Situation { clean_inactive: false, ..active };
    let lost = Slot { lost: true, ..physical(Some(5)) };
    let with_xmin = Slot { holds_xmin: true, ..physical(Some(5)) };
    let of_postgresql = Slot { failover: true, ..logical() };
    let synced = Slot { synced: true, ..logical() };
    let rows = [
        (Some(wanted(None, Some(true))), None, active, vec![create()]),
        (Some(wanted(None, Some(true))), Some(physical(Some(5))), active, vec![]),
        (Some(wanted(Some(9), Some(true))), Some(physical(Some(5))), active, vec![]),
        (Some(wanted(Some(9), Some(false))), Some(physical(Some(5))), active, vec![advance(9)]),
        (Some(wanted(Some(9), None)), Some(physical(Some(5))), active, vec![advance(9)]),
        (Some(wanted(Some(5), None)), Some(physical(Some(5))), active, vec![]),
        (Some(wanted(Some(4), None)), Some(physical(Some(5))), active, vec![]),
        (Some(wanted(Some(9), Some(false))), Some(physical(None)), active, vec![dropped(KeepsNothing)]),
        (Some(wanted(Some(9), Some(true))), Some(physical(None)), active, vec![]),
        (Some(wanted(Some(9), Some(false))), Some(with_xmin.clone()), active, vec![dropped(HoldsXmin), create()]),
        (Some(wanted(Some(9), Some(false))), Some(with_xmin.clone()), unclear, vec![]),
        (Some(wanted(Some(9), Some(true))), Some(with_xmin.clone()), active, vec![]),
        (Some(wanted(Some(9), None)), Some(with_xmin), active, vec![]),
        (Some(wanted(None, Some(true))), Some(lost.clone()), active, vec![dropped(Lost), create()]),
        (Some(wanted(None, Some(true))), Some(lost), paused, vec![]),
        (Some(wanted(None, Some(true))), Some(logical()), active, vec![dropped(Different), create()]),
        (Some(wanted(None, Some(true))), Some(logical()), paused, vec![dropped(Different), create()]),
        (None, Some(physical(Some(5))), active, vec![dropped(Unknown)]),
        (None, Some(physical(Some(5))), paused, vec![]),
        (None, Some(logical()), active, vec![dropped(Unknown)]),
        (None, Some(of_postgresql), active, vec![]),
        (None, Some(synced), active, vec![]),
        (Some(Wanted { kind: logical().kind, lsn: None, expected_active: None }), Some(logical()), active, vec![]),
        (Some(Wanted { kind: logical().kind, lsn: None, expected_active: None }), None, active, vec![]),
    ];
    let all = BTreeSet::from(["s".to_owned()]);
    for (wanted, actual, situation, expected) in rows {
        let row = format!("{wanted:?} {actual:?} {situation:?}");
        let wanted = wanted.map(|w| ("s".to_owned(), w)).into_iter().collect();
        let actual = actual.map(|a| ("s".to_owned(), a)).into_iter().collect();
        assert_eq!(plan(&wanted, &actual, &[], &all, situation), expected, "{row}");
    }
}

#[test]
fn slots_to_ignore_are_left_alone() {
    let rows = [
        (json!({"name": "s"}), physical(Some(1)), true),
        (json!({"name": "t"}), physical(Some(1)), false),
        (json!({"type": "physical"}), physical(Some(1)), true),
        (json!({"type": "logical"}), physical(Some(1)), false),
        (json!({"name": "s", "type": "logical", "database": "d", "plugin": "p"}), logical(), true),
        (json!({"database": "e"}), logical(), false),
        (json!({"database": "d"}), physical(Some(1)), false),
        (json!({"plugin": ""}), logical(), true),
        (json!({"name": null}), logical(), true),
    ];
    let situation = Situation { paused: false, clean_inactive: true, replayed: None, position: Lsn(100) };
    let all = BTreeSet::from(["s".to_owned()]);
    for (matcher, slot, ignored) in rows {
        let actual = BTreeMap::from([("s".to_owned(), slot)]);
        let changes = plan(&BTreeMap::new(), &actual, &[object(&matcher)], &all, situation);
        assert_eq!(changes.is_empty(), ignored, "{matcher}");
    }
}

fn published(settings: &Settings, cluster: &Cluster) -> Vec<(String, u64)> {
    let actual = BTreeMap::from([
        ("n2".to_owned(), physical(Some(50))),
        ("n3".to_owned(), physical(None)),
        ("stranger".to_owned(), physical(Some(51))),
        ("l".to_owned(), Slot { confirmed_flush_lsn: Some(Lsn(52)), ..logical() }),
        ("p".to_owned(), physical(Some(53))),
    ]);
    let node = Node { name: &"n1".into(), role: Role::Primary, tags: &Tags::default() };
    let (wanted, _) = wanted_slots(settings, cluster, &node);
    let slots = published_slots(settings, cluster, node.name, Lsn(100), &wanted, &actual);
    slots.into_iter().map(|(name, lsn)| (name, lsn.0)).collect()
}

#[test]
fn the_leader_publishes_its_slots_and_its_own_position() {
    let permanent = object(&json!({"p": null, "l": {"database": "d", "plugin": "p"}}));
    let cluster = cluster(&json!({"n1": {}, "n2": {}, "n3": {}}), Some("n1"), &json!({}), &json!([]));
    let slot = |name: &str, lsn| (name.to_owned(), lsn);
    let retaining = settings(Duration::from_secs(60), true, false, permanent.clone());
    assert_eq!(published(&retaining, &cluster), [slot("l", 52), slot("n1", 100), slot("n2", 50), slot("p", 53)]);
    let not_retaining = settings(Duration::ZERO, true, false, permanent);
    assert_eq!(published(&not_retaining, &cluster), [slot("l", 52), slot("p", 53)]);
}

#[test]
fn slots_of_absent_members_are_kept_for_their_time() {
    let settings = settings(Duration::from_secs(60), true, false, object(&json!({"p": null})));
    let at = |seconds| Moment(Duration::from_secs(seconds));
    let slots: BTreeMap<_, _> = ["n1", "n2", "n3", "p", "other"].map(|name| (name.to_owned(), Lsn(1))).into();
    let all = json!({"n1": {}, "n2": {}, "n3": {"tags": {"nostream": true}}, "p": {}});
    let full = cluster(&all, Some("n1"), &json!({}), &json!(["old"]));
    let mut retained = Retained::since_promotion(&full, at(0));
    assert_eq!(retained.names(), ["old"]);
    assert!(retained.update(&settings, &full, &"n1".into(), &slots, at(10)).is_empty());
    assert_eq!(retained.names(), ["n1", "n2", "old"]);
    let alone = cluster(&json!({}), Some("n1"), &json!({}), &json!([]));
    let notes = retained.update(&settings, &alone, &"n1".into(), &slots, at(60));
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].to_string(), "Replication slot 'old' for absent cluster member is expired after 60 sec.");
    assert_eq!(retained.names(), ["n1", "n2"]);
    retained.update(&settings, &alone, &"n1".into(), &slots, at(69));
    assert_eq!(retained.names(), ["n1", "n2"]);
    retained.update(&settings, &alone, &"n1".into(), &slots, at(70));
    assert_eq!(retained.names(), ["n1"]);
}

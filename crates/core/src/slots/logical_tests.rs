//! Rows about logical slots.

use serde_json::json;

use super::tests::{cluster, object, physical, settings};
use super::*;
use crate::cluster::Cluster;
use crate::server::{Role, Running, Wal, Xid};
use crate::settings::Settings;
use std::time::Duration;

fn kind(plugin: &str) -> SlotKind {
    SlotKind::Logical { plugin: plugin.into(), database: "d".into() }
}

fn slot(confirmed: u64) -> Slot {
    Slot { kind: kind("p"), confirmed_flush_lsn: Some(Lsn(confirmed)), ..physical(Some(1)) }
}

fn wanted(published: Option<u64>) -> Wanted {
    Wanted { kind: kind("p"), lsn: published.map(Lsn), expected_active: None }
}

fn map<T>(value: Option<T>) -> BTreeMap<String, T> {
    value.into_iter().map(|value| ("l".to_owned(), value)).collect()
}

#[test]
fn logical_slots_are_created_on_the_primary_and_moved_on_standbys() {
    let create = || Change::CreateLogical { slot: "l".into(), plugin: "p".into(), database: "d".into() };
    let advance = |lsn| Change::AdvanceLogical { slot: "l".into(), database: "d".into(), lsn: Lsn(lsn) };
    let drop = |reason, from| {
        let kept = Kept { from: Some(Lsn(from)), bytes: 100 - from, inactive_since: None };
        Change::Drop { slot: "l".into(), reason, kept }
    };
    let primary = Situation { paused: false, clean_inactive: true, replayed: None, position: Lsn(100) };
    let standby = |replayed| Situation { replayed: Some(Lsn(replayed)), ..primary };
    let other = Slot { kind: kind("q"), ..slot(5) };
    let lost = Slot { lost: true, ..slot(5) };
    let failover = Slot { failover: true, ..slot(5) };
    let synced = Slot { synced: true, ..slot(5) };
    let unknown_position = Slot { confirmed_flush_lsn: None, ..slot(5) };
    let rows = [
        (wanted(None), None, primary, vec![create()]),
        (wanted(Some(9)), Some(slot(5)), primary, vec![]),
        (wanted(None), Some(other.clone()), primary, vec![drop(DropReason::Different, 1), create()]),
        (wanted(None), Some(physical(Some(5))), primary, vec![drop(DropReason::Different, 5), create()]),
        (wanted(None), Some(lost.clone()), primary, vec![drop(DropReason::Lost, 1), create()]),
        // It is copied, not created.
        (wanted(Some(9)), None, standby(100), vec![]),
        (wanted(Some(9)), Some(slot(5)), standby(100), vec![advance(9)]),
        // Not past what is replayed, not past what the reader confirmed, never back.
        (wanted(Some(9)), Some(slot(5)), standby(7), vec![advance(7)]),
        (wanted(Some(9)), Some(slot(5)), standby(4), vec![]),
        (wanted(Some(9)), Some(slot(5)), standby(0), vec![]),
        (wanted(Some(5)), Some(slot(5)), standby(100), vec![]),
        (wanted(Some(4)), Some(slot(5)), standby(100), vec![]),
        (wanted(None), Some(slot(5)), standby(100), vec![]),
        (wanted(Some(9)), Some(unknown_position), standby(100), vec![]),
        (wanted(Some(9)), Some(lost), standby(100), vec![drop(DropReason::Lost, 1)]),
        (wanted(Some(9)), Some(other), standby(100), vec![drop(DropReason::Different, 1)]),
        // PostgreSQL's own synchronisation is left alone.
        (wanted(Some(9)), Some(failover.clone()), standby(100), vec![]),
        (wanted(Some(9)), Some(synced), standby(100), vec![]),
        (wanted(Some(9)), Some(Slot { kind: kind("q"), ..failover }), primary, vec![]),
    ];
    for (wanted, actual, situation, expected) in rows {
        let row = format!("{wanted:?} {actual:?} {situation:?}");
        assert_eq!(plan(&map(Some(wanted)), &map(actual), &[], &BTreeSet::new(), situation), expected, "{row}");
    }
}

#[test]
fn a_standby_copies_what_it_lacks_and_what_it_cannot_use() {
    let unusable = BTreeSet::from(["l".to_owned()]);
    let none = BTreeSet::new();
    let physical_wanted = Wanted { kind: SlotKind::Physical, lsn: Some(Lsn(9)), expected_active: None };
    let rows = [
        (wanted(Some(9)), None, &none, true),
        (wanted(None), None, &none, false),
        (physical_wanted, None, &none, false),
        (wanted(Some(9)), Some(slot(5)), &none, false),
        (wanted(Some(9)), Some(slot(5)), &unusable, true),
        (wanted(Some(9)), Some(Slot { lost: true, ..slot(5) }), &none, true),
        // Dropped first.
        (wanted(Some(9)), Some(Slot { kind: kind("q"), ..slot(5) }), &unusable, false),
        (wanted(Some(9)), Some(Slot { synced: true, lost: true, ..slot(5) }), &unusable, false),
    ];
    for (wanted, actual, unusable, copied) in rows {
        let row = format!("{wanted:?} {actual:?} {unusable:?}");
        assert_eq!(!to_copy(&map(Some(wanted)), &map(actual), unusable).is_empty(), copied, "{row}");
    }
}

#[test]
fn slots_of_postgresql_are_not_published() {
    let (settings, cluster) = with_slot(&json!({}), &json!({"n1": {}}));
    let failover = map(Some(Slot { failover: true, ..slot(5) }));
    let node = Node { name: &"n1".into(), role: Role::Primary, tags: &settings.tags };
    let (wanted, _) = wanted_slots(&settings, &cluster, &node);
    let publish = |actual| published_slots(&settings, &cluster, node.name, Lsn(100), &wanted, actual);
    assert!(!publish(&failover).contains_key("l"));
    assert_eq!(publish(&map(Some(slot(5))))["l"], Lsn(5));
}

fn running(start_time: &str, slots: BTreeMap<String, Slot>, standby: bool) -> Running {
    let position = Lsn(100);
    Running {
        statistics_reset: None,
        start_time: start_time.into(),
        server_version: 150_000,
        wal: if standby {
            Wal::Standby {
                received: Some(position),
                replayed: Some(position),
                replayed_timestamp: None,
                paused: false,
                latest_end: None,
                replication_state: None,
            }
        } else {
            Wal::Primary { location: position }
        },
        timeline: None,
        control_timeline: None,
        replication: Vec::new(),
        slots,
        pending_restart: JsonMap::new(),
    }
}

fn told(feedback: Option<u32>, original: u32) -> News {
    let logical = BTreeMap::from([("l".to_owned(), Xid(original))]);
    News { primary: Some(PrimarySlots { feedback: feedback.map(Xid), logical }), ..News::default() }
}

fn copy_with(xmin: u32) -> BTreeMap<String, Slot> {
    map(Some(Slot { catalog_xmin: Some(Xid(xmin)), ..slot(5) }))
}

#[test]
fn a_copy_is_ready_when_the_feedback_protects_what_it_needs() {
    let last = u32::MAX;
    // What the primary says and the catalog_xmin of the copy, one after the other; ready in the end?
    let rows: [(&[(Option<u32>, u32, u32)], bool); 10] = [
        (&[(None, 700, 700)], false),
        (&[(Some(700), 700, 700)], true),
        (&[(Some(699), 700, 700)], false),
        // The copy needs what the feedback does not protect.
        (&[(Some(701), 700, 700)], false),
        (&[(Some(700), 701, 700)], false),
        // The original had moved on before there was feedback; the copy follows.
        (&[(Some(700), 705, 700), (Some(704), 709, 704)], false),
        (&[(Some(700), 705, 700), (Some(706), 709, 706)], true),
        (&[(None, 705, 700), (Some(700), 700, 700)], true),
        // Numbers go round.
        (&[(Some(last), last, 3)], true),
        (&[(Some(3), 3, last)], false),
    ];
    for (answers, ready) in rows {
        let mut readiness = Readiness::default();
        let mut became = Vec::new();
        for (feedback, original, copy) in answers {
            became.extend(readiness.update(&running("t", copy_with(*copy), true), &told(*feedback, *original)));
        }
        assert_eq!(readiness.is_ready("l"), ready, "{answers:?}");
        assert_eq!(became.len(), usize::from(ready), "{answers:?}");
        assert_eq!(readiness.unready().count(), usize::from(!ready), "{answers:?}");
    }
}

#[test]
fn what_is_known_of_a_copy_ends_with_the_server_that_has_it() {
    let mut readiness = Readiness::default();
    readiness.update(&running("t", copy_with(7), true), &told(Some(7), 7));
    readiness.update(&running("t", copy_with(7), true), &News::default());
    assert!(readiness.is_ready("l"));
    readiness.update(&running("u", copy_with(7), true), &News::default());
    assert!(!readiness.is_ready("l"), "started anew");
    readiness.update(&running("u", copy_with(7), true), &told(Some(7), 7));
    readiness.update(&running("u", BTreeMap::new(), true), &News::default());
    readiness.update(&running("u", copy_with(7), true), &News::default());
    assert!(!readiness.is_ready("l"), "gone and back");
    readiness.update(&running("u", copy_with(7), false), &News::default());
    assert_eq!(readiness.unready().count(), 0, "promoted");
}

fn with_slot(tags: &Value, members: &Value) -> (Settings, Cluster) {
    let permanent = json!({"l": {"type": "logical", "database": "d", "plugin": "p"}});
    let mut settings = settings(Duration::from_secs(60), true, false, object(&permanent));
    settings.tags.0 = object(tags);
    (settings, cluster(members, Some("n2"), &json!({"l": 9}), &json!([])))
}

#[test]
fn slots_that_a_failover_would_lose_are_told() {
    use Risk::{Lost, NoFeedback, NotCopied, NotCreated, NotPermanent, NotReady};
    let none = BTreeMap::new;
    let stranger = |slot| BTreeMap::from([("x".to_owned(), slot), ("l".to_owned(), self::slot(5))]);
    let failover = Slot { failover: true, ..slot(5) };
    let rows = [
        (json!({}), true, none(), vec![("l", NotCopied)]),
        (json!({}), true, copy_with(7), vec![("l", NotReady)]),
        (json!({}), true, map(Some(Slot { lost: true, ..slot(5) })), vec![("l", Lost)]),
        (json!({}), true, map(Some(failover.clone())), vec![]),
        (json!({"nofailover": true}), true, none(), vec![]),
        (json!({"nostream": true}), true, none(), vec![("l", NoFeedback)]),
        (json!({}), false, none(), vec![("l", NotCreated)]),
        (json!({}), false, copy_with(7), vec![]),
        (json!({}), false, stranger(slot(5)), vec![("x", NotPermanent)]),
        (json!({}), false, stranger(failover), vec![]),
        (json!({}), false, stranger(physical(Some(5))), vec![]),
    ];
    for (tags, standby, slots, expected) in rows {
        let (settings, cluster) = with_slot(&tags, &json!({"n1": {"tags": tags}, "n2": {}}));
        let running = running("t", slots, standby);
        let mut readiness = Readiness::default();
        readiness.update(&running, &News::default());
        let expected: BTreeMap<_, _> = expected.into_iter().map(|(name, risk)| (name.to_owned(), risk)).collect();
        assert_eq!(at_risk(&settings, &cluster, &running, &readiness), expected, "{tags} {running:?}");
        readiness.update(&running, &told(Some(7), 7));
        let ready = running.slots.get("l").is_some_and(|slot| slot.catalog_xmin.is_some()) && standby;
        assert_eq!(at_risk(&settings, &cluster, &running, &readiness).is_empty(), ready || expected.is_empty());
    }
    let (mut settings, cluster) = with_slot(&json!({}), &json!({"n1": {}, "n2": {}}));
    settings.slots.ignore = vec![object(&json!({"name": "x"}))];
    let ignored = running("t", stranger(slot(5)), false);
    assert!(at_risk(&settings, &cluster, &ignored, &Readiness::default()).is_empty());
}

#[test]
fn feedback_is_needed_where_logical_slots_are_and_on_the_way_there() {
    let members = json!({
        "n1": {},
        "n2": {},
        "n3": {"tags": {"nofailover": true}},
        "n4": {"tags": {"replicatefrom": "n3"}},
        "n5": {"tags": {"nofailover": true}},
        "n6": {"tags": {"nostream": true}},
        "n7": {"tags": {"nofailover": true, "replicatefrom": "n8"}},
        "n8": {"tags": {"nofailover": true, "replicatefrom": "n7"}},
    });
    let (settings, cluster) = with_slot(&json!({}), &members);
    let needs = |settings: &Settings, name: &str| {
        let name = name.into();
        let tags = &cluster.members.get(&name).expect("a member").data.tags;
        needs_feedback(settings, &cluster, &Node { name: &name, role: Role::Replica, tags })
    };
    for (name, expected) in
        [("n1", true), ("n2", true), ("n3", true), ("n4", true), ("n5", false), ("n6", false), ("n7", false)]
    {
        assert_eq!(needs(&settings, name), expected, "{name}");
    }
    let mut without = settings.clone();
    without.standby_cluster = Some(Default::default());
    assert!(!needs(&without, "n1"));
    let mut physical_only = settings;
    physical_only.slots.permanent = object(&json!({"l": {"type": "physical"}}));
    assert!(!needs(&physical_only, "n1"));
}

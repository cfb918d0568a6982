//! Rows about slots that nobody wants: which of them may go.

use std::time::Duration;

use serde_json::json;

use super::tests::{cluster, physical, settings};
use super::*;
use crate::server::{Running, Wal};
use crate::time::Moment;

const LOOP_WAIT: u64 = 10;

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

/// A server with these slots; `?` marks one in use.
fn server(start: &str, is_standby: bool, slots: &[&str]) -> Running {
    let position = Some(Lsn(100));
    let wal = if is_standby {
        Wal::Standby {
            received: position,
            replayed: position,
            replayed_timestamp: None,
            paused: false,
            latest_end: None,
            replication_state: None,
        }
    } else {
        Wal::Primary { location: Lsn(100) }
    };
    let slot =
        |name: &str| (name.trim_end_matches('?').to_owned(), Slot { active: name.ends_with('?'), ..physical(Some(5)) });
    Running {
        start_time: start.to_owned(),
        server_version: 150_000,
        statistics_reset: None,
        wal,
        timeline: None,
        control_timeline: None,
        replication: Vec::new(),
        slots: slots.iter().map(|name| slot(name)).collect(),
        pending_restart: JsonMap::new(),
    }
}

struct Agent(Ownership);

impl Agent {
    fn new() -> Self {
        Agent(Ownership::default())
    }

    /// The slots that are dropped at that time.
    fn drops(&mut self, seconds: u64, running: &Running, wanted: &[&str], paused: bool) -> Vec<String> {
        let mut settings = settings(Duration::from_secs(60), true, false, JsonMap::new());
        settings.loop_wait = Duration::from_secs(LOOP_WAIT);
        settings.paused = paused;
        let published = json!({"kept": 1});
        let cluster = cluster(&json!({}), Some("n1"), &published, &json!(["retained"]));
        let one = Wanted { kind: SlotKind::Physical, lsn: None, expected_active: None };
        let wanted = wanted.iter().map(|name| ((*name).to_owned(), one.clone())).collect();
        let droppable = self.0.droppable(&wanted, &settings, &cluster, running, at(seconds));
        let situation = Situation { paused, clean_inactive: true, replayed: None, position: running.wal.position() };
        let changes = plan(&wanted, &running.slots, &[], &droppable, situation);
        let dropped = changes.into_iter().filter_map(|change| match change {
            Change::Drop { slot, .. } => Some(slot),
            _ => None,
        });
        dropped.collect()
    }
}

#[test]
fn slots_that_others_make_while_the_server_runs_stay() {
    let mut agent = Agent::new();
    assert!(agent.drops(0, &server("a", false, &["n2"]), &["n2"], false).is_empty());
    for seconds in [10, 20, 300] {
        let running = server("a", false, &["n2", "backup", "pg_16399_sync_16391_7433894621"]);
        assert!(agent.drops(seconds, &running, &["n2"], false).is_empty(), "{seconds}");
    }
}

#[test]
fn our_own_go_as_soon_as_they_are_not_wanted() {
    let mut agent = Agent::new();
    let both = server("a", false, &["n2", "mine"]);
    assert!(agent.drops(0, &both, &["n2", "mine"], false).is_empty());
    assert!(agent.drops(1, &both, &["n2", "mine"], true).is_empty());
    assert!(agent.drops(2, &both, &["n2"], true).is_empty(), "in pause");
    assert_eq!(agent.drops(3, &both, &["n2"], false), ["mine"]);
    // It could not be dropped at first.
    assert_eq!(agent.drops(4, &both, &["n2"], false), ["mine"]);
    assert!(agent.drops(5, &server("a", false, &["n2"]), &["n2"], false).is_empty());
    assert!(agent.drops(6, &both, &["n2"], false).is_empty(), "somebody else made one of that name");
}

#[test]
fn what_the_agent_before_wanted_is_ours() {
    let mut agent = Agent::new();
    let running = server("a", false, &["kept", "retained", "others?"]);
    assert_eq!(agent.drops(0, &running, &[], false), ["kept", "retained"]);
}

#[test]
fn those_of_others_go_where_they_were_left_unused_after_a_start_a_promotion_or_a_pause() {
    let slots = ["used?", "left", "comes_back", "pg_1_sync_2_3"];
    let back = ["used", "left", "comes_back?", "pg_1_sync_2_3"];
    type Begin = fn(&mut Agent) -> u64;
    let begins: [(&str, Begin); 4] = [
        ("the agent starts", |_| 0),
        ("PostgreSQL starts", |agent| {
            assert!(agent.drops(0, &server("before", false, &[]), &[], false).is_empty());
            1
        }),
        ("a promotion", |agent| {
            assert!(agent.drops(0, &server("a", true, &[]), &[], false).is_empty());
            1
        }),
        ("the end of a pause", |agent| {
            assert!(agent.drops(0, &server("a", false, &[]), &[], true).is_empty());
            1
        }),
    ];
    for (what, begin) in begins {
        let mut agent = Agent::new();
        let now = begin(&mut agent);
        assert!(agent.drops(now, &server("a", false, &slots), &[], false).is_empty(), "{what}");
        assert!(agent.drops(now + 5, &server("a", false, &back), &[], false).is_empty(), "{what}");
        let later = server("a", false, &["used", "left", "comes_back", "new", "pg_1_sync_2_3"]);
        assert_eq!(agent.drops(now + LOOP_WAIT, &later, &[], false), ["left"], "{what}");
    }
}

#[test]
fn a_slot_that_is_read_now_and_then_is_in_use() {
    let mut agent = Agent::new();
    let mut running = server("a", false, &["polled"]);
    assert!(agent.drops(0, &running, &[], false).is_empty());
    running.slots.insert("polled".to_owned(), physical(Some(6)));
    assert!(agent.drops(LOOP_WAIT, &running, &[], false).is_empty());
    assert!(agent.drops(10 * LOOP_WAIT, &running, &[], false).is_empty());
}

#[test]
fn a_demotion_or_a_pause_begins_nothing() {
    let mut agent = Agent::new();
    assert!(agent.drops(0, &server("a", false, &[]), &[], false).is_empty());
    let running = server("a", false, &["others"]);
    assert!(agent.drops(20, &running, &[], false).is_empty());
    assert!(agent.drops(40, &running, &[], true).is_empty());
    assert!(agent.drops(60, &running, &[], true).is_empty());
}

#[test]
fn names_of_table_copies() {
    for (name, is_one) in [
        ("pg_16399_sync_16391_7433894621", true),
        ("pg_16399_sync_16391", false),
        ("pg_16399_sync__1", false),
        ("pg__sync_1_1", false),
        ("pg_x_sync_1_1", false),
        ("pg_1_sync_1_1_1", false),
        ("a_pg_1_sync_1_1", false),
    ] {
        assert_eq!(ownership::is_of_table_copy(name), is_one, "{name}");
    }
}

#[test]
fn what_goes_with_a_slot_is_told() {
    let kept = |from: Option<u64>, bytes, since: Option<&str>| Kept {
        from: from.map(Lsn),
        bytes,
        inactive_since: since.map(str::to_owned),
    };
    let rows = [
        (kept(None, 0, None), None),
        (kept(Some(16), 0, Some("2026-01-01 00:00:00+00")), None),
        (kept(Some(16), 1000, None), Some("Replication slot 's' kept 1000 B of WAL, from 0/10 on")),
        (
            kept(Some(16), 5 << 20, Some("2026-01-01 00:00:00+00")),
            Some(
                "Replication slot 's' kept 5 MB of WAL, from 0/10 on, and has been unused since 2026-01-01 00:00:00+00",
            ),
        ),
    ];
    for (kept, sentence) in rows {
        assert_eq!(kept.sentence("s").as_deref(), sentence);
    }
}

//! Plans for replication slots on PostgreSQL.
#![allow(clippy::disallowed_methods)]

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Node, as_postgres};
use patroni_core::lsn::Lsn;
use patroni_core::slots::{Change, DropReason, Kept};
use patroni_postgres::slots::{SlotsDone, apply};
use patroni_postgres::sql::{Connection, DEFAULT_OPTIONS};

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn slots_are_created_moved_and_dropped() {
    as_postgres("slots_are_created_moved_and_dropped", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        let conninfo = node.options.borrow().local_superuser();
        let connection = Connection::open(&conninfo, "test", DEFAULT_OPTIONS).await.expect("connection");
        let create = |name: &str| Change::Create(name.to_owned());
        let drop =
            |name: &str| Change::Drop { slot: name.to_owned(), reason: DropReason::Unknown, kept: Kept::default() };

        let done = apply(&connection, &[create("one"), create("two"), create("one")], LIMIT).await;
        assert_eq!(done, SlotsDone::default());
        let names = "SELECT slot_name FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY 1";
        assert_eq!(node.sql(names).await, ["one", "two"].map(|name| Some(name.to_owned())));

        node.sql("SELECT pg_switch_wal()").await;
        node.sql("CREATE TABLE t ()").await;
        let now: Lsn =
            node.sql("SELECT pg_current_wal_flush_lsn()::text").await[0].as_deref().expect("lsn").parse().expect("lsn");
        assert_eq!(apply(&connection, &[Change::Advance("one".to_owned(), now)], LIMIT).await, SlotsDone::default());
        let position = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'one'";
        assert_eq!(node.sql(position).await, [Some(now.to_string())]);

        // A change that fails does not keep the others from being made; one that was made already is no failure.
        let plan =
            [create("Not a name"), Change::Advance("gone".to_owned(), now), drop("gone"), drop("one"), create("three")];
        let done = apply(&connection, &plan, LIMIT).await;
        assert_eq!(done.failed, BTreeSet::from(["Not a name".to_owned(), "gone".to_owned()]));
        assert!(!done.aborted);
        assert_eq!(node.sql(names).await, ["three", "two"].map(|name| Some(name.to_owned())));

        node.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test' AND pid <> pg_backend_pid()").await;
        let done = apply(&connection, &[create("four"), create("five")], LIMIT).await;
        assert!(done.aborted && done.failed == BTreeSet::from(["four".to_owned()]), "{done:?}");
    });
}

#[test]
fn a_slot_in_use_is_not_dropped_and_not_made_anew() {
    as_postgres("a_slot_in_use_is_not_dropped_and_not_made_anew", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        let conninfo = node.options.borrow().local_superuser();
        let connection = Connection::open(&conninfo, "test", DEFAULT_OPTIONS).await.expect("connection");
        apply(&connection, &[Change::Create("used".to_owned())], LIMIT).await;
        let replication = node.options.borrow().local_replication();
        let mut receiver = node.monitor.programs().command("pg_receivewal");
        let wal = node.dir.path().join("wal");
        std::fs::create_dir(&wal).expect("directory");
        receiver.args(["--slot", "used", "-D"]).arg(&wal).kill_on_drop(true);
        receiver.args(["-h", "127.0.0.1", "-p", replication.get("port").expect("port"), "-U", "replicator"]);
        receiver.env("PGPASSWORD", replication.get("password").expect("password"));
        let mut receiver = receiver.spawn().expect("pg_receivewal");
        let active = "SELECT active::text FROM pg_replication_slots";
        harness::until("an active slot", async || node.sql(active).await == [Some("true".to_owned())]).await;

        let dropped = Change::Drop { slot: "used".to_owned(), reason: DropReason::HoldsXmin, kept: Kept::default() };
        let done = apply(&connection, &[dropped, Change::Create("used".to_owned())], LIMIT).await;
        assert_eq!(done, SlotsDone { failed: BTreeSet::from(["used".to_owned()]), aborted: false });
        assert_eq!(node.sql(active).await, [Some("true".to_owned())]);
        receiver.kill().await.expect("kill");
    });
}

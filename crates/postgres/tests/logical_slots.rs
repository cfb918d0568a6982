//! Logical slots on real servers: created, copied to a standby, moved there.
#![allow(missing_docs, clippy::disallowed_methods)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use harness::{Node, as_postgres, until};
use patroni_core::job::{CloneFrom, CloneSource, Upstream, UpstreamMember};
use patroni_core::lsn::Lsn;
use patroni_core::server::{Role, SlotKind, Xid};
use patroni_core::slots::Change;
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::control::{Copied, Promoted, Started, StopOptions};
use patroni_postgres::slots::logical;
use serde_json::json;

fn with_logical_wal(node: &mut Node) {
    let conf = node.control.conf();
    let (server, mut files) = (Arc::clone(conf.server_options()), (**conf.file_options()).clone());
    files.parameters.insert("wal_level".to_owned(), json!("logical"));
    files.parameters.insert("max_prepared_transactions".to_owned(), json!(5));
    conf.set_options(server, Arc::new(files));
    conf.enforce_hot_standby_feedback(true);
}

fn kind(plugin: &str) -> SlotKind {
    SlotKind::Logical { plugin: plugin.into(), database: "postgres".into() }
}

async fn confirmed(node: &Node) -> Option<Lsn> {
    node.running().await.slots.get("cdc").and_then(|slot| slot.confirmed_flush_lsn)
}

fn source(primary: &Node) -> UpstreamMember {
    UpstreamMember { name: "a".into(), conn_url: primary.conn_url(), slot: None }
}

/// A primary with the slot `cdc`, and a standby that has the WAL it needs.
async fn pair() -> (Node, Node) {
    let (mut primary, mut standby) = (Node::new("a"), Node::new("b"));
    with_logical_wal(&mut primary);
    with_logical_wal(&mut standby);
    primary.bootstrap().await;
    let clone = CloneSource { name: "a".into(), conn_url: primary.conn_url(), is_leader: true };
    let (cancel, progress) = (Cancel::new(), Progress::ignored());
    standby.control.clone_from(&CloneFrom::Member(clone), &cancel, &progress).await.expect("clone");
    standby.start(Role::Replica, Some(Upstream::Member(source(&primary)))).await.expect("start");
    let create =
        Change::CreateLogical { slot: "cdc".into(), plugin: "test_decoding".into(), database: "postgres".into() };
    assert!(logical::apply(&primary.monitor, &[create.clone(), create]).await.is_empty());
    replayed(&primary, &standby).await;
    (primary, standby)
}

async fn replayed(primary: &Node, standby: &Node) {
    let position = primary.running().await.wal.position();
    until("the replay", async || standby.running().await.wal.position() >= position).await;
}

#[test]
fn a_logical_slot_is_created_copied_and_moved() {
    as_postgres("a_logical_slot_is_created_copied_and_moved", async {
        let (primary, mut standby) = pair().await;
        let source = source(&primary);
        let cancel = Cancel::new();
        let started_at = standby.running().await.start_time;

        // What is not as it should be, or not there, is not copied, and nothing is restarted for it.
        for (name, plugin) in [("cdc", "pgoutput"), ("other", "test_decoding")] {
            let slots = BTreeMap::from([(name.to_owned(), kind(plugin))]);
            let copied = standby.control.copy_slots(&source, &slots, &cancel, &Progress::ignored()).await;
            assert_eq!(copied.expect("copy"), Copied::Nothing, "{name} {plugin}");
        }
        assert_eq!(standby.running().await.start_time, started_at);

        let slots = BTreeMap::from([("cdc".to_owned(), kind("test_decoding"))]);
        for attempt in ["new", "over the old one"] {
            let copied = standby.control.copy_slots(&source, &slots, &cancel, &Progress::ignored()).await;
            assert_eq!(copied.expect(attempt), Copied::Done(Started::Running), "{attempt}");
            assert_eq!(confirmed(&standby).await, confirmed(&primary).await, "{attempt}");
        }

        primary.sql("CREATE TABLE t AS SELECT 1").await;
        primary.sql("SELECT pg_logical_slot_get_changes('cdc', NULL, NULL)").await;
        let lsn = confirmed(&primary).await.expect("a position");
        replayed(&primary, &standby).await;
        let advance = Change::AdvanceLogical { slot: "cdc".into(), database: "postgres".into(), lsn };
        until("the slot to move", async || {
            assert!(logical::apply(&standby.monitor, std::slice::from_ref(&advance)).await.is_empty());
            confirmed(&standby).await == Some(lsn)
        })
        .await;

        // Without a physical slot for the standby there is no feedback to ask about.
        let names = BTreeSet::from(["cdc".to_owned()]);
        assert_eq!(logical::ask_primary(&standby.monitor, &source, "b", &names).await.expect("answer"), None);
        primary.sql("SELECT pg_create_physical_replication_slot('b')").await;
        let answer = logical::ask_primary(&standby.monitor, &source, "b", &names).await.expect("answer");
        let answer = answer.expect("the slots");
        assert_eq!(answer.feedback, None);
        assert!(matches!(answer.logical.get("cdc"), Some(Xid(_))), "{answer:?}");
    });
}

/// Where a slot starts to decode, transactions were running. A primary that has just been promoted must know what it would find out only
/// once all of them have ended.
#[test]
fn a_copied_slot_misses_nothing_while_transactions_run() {
    as_postgres("a_copied_slot_misses_nothing_while_transactions_run", async {
        let (mut primary, mut standby) = pair().await;
        primary.sql("CREATE TABLE t (text text)").await;
        // A checkpoint tells the decoding which transactions run. The slot can start again at one once the transactions of the next have
        // begun after it.
        for (begun, ended) in [("first", None), ("second", Some("first"))] {
            primary.sql(&format!("BEGIN; INSERT INTO t VALUES ('{begun}'); PREPARE TRANSACTION '{begun}'")).await;
            if let Some(ended) = ended {
                primary.sql(&format!("COMMIT PREPARED '{ended}'")).await;
            }
            primary.sql("CHECKPOINT").await;
            primary.sql("SELECT pg_logical_slot_get_changes('cdc', NULL, NULL)").await;
        }
        replayed(&primary, &standby).await;
        let slots = BTreeMap::from([("cdc".to_owned(), kind("test_decoding"))]);
        let copied = standby.control.copy_slots(&source(&primary), &slots, &Cancel::new(), &Progress::ignored()).await;
        assert_eq!(copied.expect("copy"), Copied::Done(Started::Running));

        primary.sql("INSERT INTO t VALUES ('short')").await;
        replayed(&primary, &standby).await;
        let (cancel, progress) = (Cancel::new(), Progress::ignored());
        primary.control.stop(StopOptions::planned(), &cancel, &progress).await.expect("stop");
        let promoted = standby.control.promote(Duration::from_secs(30), &cancel, &progress).await;
        assert!(matches!(promoted, Ok(Promoted::Done)), "{promoted:?}");
        standby.sql("COMMIT PREPARED 'second'").await;
        let changes = standby.sql("SELECT data FROM pg_logical_slot_get_changes('cdc', NULL, NULL)").await;
        let changes: Vec<String> = changes.into_iter().flatten().filter(|data| data.contains("INSERT")).collect();
        assert_eq!(
            changes,
            ["short", "second"].map(|text| format!("table public.t: INSERT: text[text]:'{text}'")),
            "the snapshot to start with"
        );
    });
}

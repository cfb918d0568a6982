//! Logical slots on real servers: created, copied to a standby, moved there.
#![allow(missing_docs)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use harness::{Node, as_postgres, until};
use patroni_core::job::{CloneFrom, CloneSource, Upstream, UpstreamMember};
use patroni_core::lsn::Lsn;
use patroni_core::server::{Role, SlotKind, Xid};
use patroni_core::slots::Change;
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::control::{Copied, Started};
use patroni_postgres::slots::logical;
use serde_json::json;

fn with_logical_wal(node: &mut Node) {
    let conf = node.control.conf();
    let (server, mut files) = (Arc::clone(conf.server_options()), (**conf.file_options()).clone());
    files.parameters.insert("wal_level".to_owned(), json!("logical"));
    conf.set_options(server, Arc::new(files));
    conf.enforce_hot_standby_feedback(true);
}

fn kind(plugin: &str) -> SlotKind {
    SlotKind::Logical { plugin: plugin.into(), database: "postgres".into() }
}

async fn confirmed(node: &Node) -> Option<Lsn> {
    node.running().await.slots.get("cdc").and_then(|slot| slot.confirmed_flush_lsn)
}

#[test]
fn a_logical_slot_is_created_copied_and_moved() {
    as_postgres("a_logical_slot_is_created_copied_and_moved", async {
        let (mut primary, mut standby) = (Node::new("a"), Node::new("b"));
        with_logical_wal(&mut primary);
        with_logical_wal(&mut standby);
        primary.bootstrap().await;
        let source = UpstreamMember { name: "a".into(), conn_url: primary.conn_url(), slot: None };
        let clone = CloneSource { name: "a".into(), conn_url: primary.conn_url(), is_leader: true };
        let (cancel, progress) = (Cancel::new(), Progress::ignored());
        standby.control.clone_from(&CloneFrom::Member(clone), &cancel, &progress).await.expect("clone");
        standby.start(Role::Replica, Some(Upstream::Member(source.clone()))).await.expect("start");
        let create =
            Change::CreateLogical { slot: "cdc".into(), plugin: "test_decoding".into(), database: "postgres".into() };
        assert!(logical::apply(&primary.monitor, &[create.clone(), create]).await.is_empty());
        // A copy is of use only where its WAL is.
        let position = primary.running().await.wal.position();
        until("the WAL of the slot", async || standby.running().await.wal.position() >= position).await;
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
        until("the replay", async || standby.running().await.wal.position() >= lsn).await;
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

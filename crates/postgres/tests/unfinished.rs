//! Data directories that were half made when the agent was killed.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod harness;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use harness::{Node, as_postgres, bin_dir, until};
use patroni_core::job::{CloneFrom, CloneSource};
use patroni_core::server::{DataDir, Role};
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::control::StopOptions;
use patroni_postgres::options::ServerOptions;
use serde_json::json;

/// A script that copies what a data directory is known by, and does not end.
fn half(source: &Path) -> String {
    let source = source.display();
    format!(
        r#"sh -c 'for a; do case $a in --datadir=*) d=${{a#--datadir=}};; esac; done; mkdir -p $d/global
           cp {source}/PG_VERSION $d; cp {source}/global/pg_control $d/global; exec sleep 600' -"#
    )
}

fn change(node: &Node, change: impl FnOnce(&mut ServerOptions)) {
    let mut options = (**node.options.borrow()).clone();
    change(&mut options);
    node.options.send_replace(Arc::new(options));
}

async fn clone(node: &mut Node, primary: &Node) -> patroni_postgres::Result<()> {
    let source = CloneSource { name: "a".into(), conn_url: primary.conn_url(), is_leader: true };
    node.control.clone_from(&CloneFrom::Member(source), &Cancel::new(), &Progress::ignored()).await
}

async fn is_there(node: &Node) -> bool {
    match node.inspect().await.data_dir {
        DataDir::Present(_) => true,
        DataDir::Empty => false,
        other => panic!("{other:?}"),
    }
}

/// `pg_ctl`, as an operator calls it.
fn pg_ctl(node: &Node, action: &str) {
    let options = node.options.borrow().clone();
    let log = node.dir.path().join("log");
    let status = std::process::Command::new(format!("{}/pg_ctl", bin_dir()))
        .args([action, "-w", "-D"])
        .arg(&options.data_dir)
        .args(["-l", log.to_str().unwrap(), "-o", &format!("-p {}", options.port)])
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success(), "pg_ctl {action}: {}", fs::read_to_string(log).unwrap_or_default());
}

#[test]
fn half_a_copy_is_none_and_what_somebody_has_started_is_whole() {
    as_postgres("half_a_copy_is_none_and_what_somebody_has_started_is_whole", async {
        let mut primary = Node::new("a");
        primary.bootstrap().await;
        for keep_data in [false, true] {
            let mut replica = Node::with("b", |o| {
                o.create_replica_methods = vec!["half".into()];
                let method = json!({"command": half(&primary.data_dir()), "keep_data": keep_data});
                o.replica_methods.insert("half".into(), method);
            });
            let data_dir = replica.data_dir();
            let mark = data_dir.join("logrotate");
            tokio::select! {
                result = clone(&mut replica, &primary) => panic!("{result:?}"),
                () = until("the mark", async || mark.exists()) => {}
            }
            assert!(data_dir.join("global/pg_control").exists());
            assert!(!is_there(&replica).await, "half a copy, keep_data: {keep_data}");

            change(&replica, |o| o.create_replica_methods.clear());
            clone(&mut replica, &primary).await.unwrap();
            assert!(!mark.exists() && is_there(&replica).await);
            replica.start(Role::Replica, Some(primary.upstream())).await.unwrap();
            replica.control.stop(StopOptions::planned(), &Cancel::new(), &Progress::ignored()).await.unwrap();

            // An operator, or Patroni, has filled it and starts it: they know nothing of the marks.
            let inode = fs::metadata(&data_dir).unwrap().ino();
            let text = json!({"clone": {"directory": inode, "program": null}}).to_string();
            fs::write(&mark, &text).unwrap();
            fs::write(replica.dir.path().join("data.unfinished"), &text).unwrap();
            assert!(!is_there(&replica).await);
            pg_ctl(&replica, "start");
            assert!(is_there(&replica).await);
            pg_ctl(&replica, "stop");
            assert!(is_there(&replica).await, "PostgreSQL has removed the mark");
        }
    });
}

#[test]
fn a_new_cluster_that_was_half_made_is_put_aside() {
    as_postgres("a_new_cluster_that_was_half_made_is_put_aside", async {
        let mut other = Node::new("a");
        other.bootstrap().await;
        let mut node = Node::with("b", |o| {
            let method = json!({"command": half(&other.data_dir())});
            o.bootstrap.method = Some("half".into());
            o.bootstrap.methods.insert("half".into(), method.as_object().cloned().unwrap());
        });
        let mark = node.data_dir().join("logrotate");
        let (cancel, progress) = (Cancel::new(), Progress::ignored());
        tokio::select! {
            result = node.control.bootstrap(&cancel, &progress) => panic!("{result:?}"),
            () = until("the mark", async || mark.exists()) => {}
        }
        assert!(!is_there(&node).await);
        change(&node, |o| o.bootstrap.method = None);
        node.bootstrap().await;
        assert!(is_there(&node).await && !mark.exists());
        assert!(node.dir.path().join("data.failed/global/pg_control").exists());
    });
}

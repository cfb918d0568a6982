//! Members of etcd come and go while agents run.

use crate::etcd::Etcd;
use crate::faults::LONG;
use crate::{World, eventually};
use patroni_dcs::{LeaderUpdate, Timing};
use std::time::Duration;

#[tokio::test]
async fn other_members_of_etcd_are_found_by_one() {
    let mut etcd = Etcd::start(3).await;
    let a = etcd.handle(vec![etcd.urls()[0].clone()], "a", LONG);
    let changes = a.changes();
    eventually("a watches", || async { *changes.borrow() > 0 }).await;
    etcd.kill(0);
    eventually("another member is asked", || async { a.load().await.is_ok() }).await;
}

/// Each of the three in turn: another one comes in its place, under another address. Whoever was connected to it goes
/// on, and so does whoever was not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_of_etcd_are_replaced_one_by_one() {
    let mut etcd = Etcd::start(3).await;
    let quick = Timing { loop_wait: Duration::from_secs(1), ..LONG };
    let agents: Vec<_> = (0..3)
        .map(|number| {
            let mut urls = etcd.urls();
            urls.rotate_left(number);
            etcd.handle(urls, &format!("n{number}"), quick)
        })
        .collect();
    assert!(agents[0].acquire().await.is_done());
    for agent in &agents {
        eventually("it watches", || async { *agent.changes().borrow() > 0 }).await;
    }
    for _ in 0..3 {
        etcd.replace_first().await;
        let renewed = agents[0].renew(&LeaderUpdate::default()).await;
        assert!(renewed.is_done(), "{renewed:?}");
        for agent in &agents {
            let loaded = agent.load().await;
            assert!(loaded.is_ok(), "{loaded:?}");
        }
        // A human takes longer.
        etcd.pass(quick.loop_wait * 2).await;
    }
}

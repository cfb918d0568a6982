//! What etcd goes through while agents use version 2 of its API.

use std::time::{Duration, Instant};

use patroni_core::facts::Outcome;
use patroni_dcs::{Expected, Key, LeaderUpdate, Timing};
use patroni_ports::free_port;
use rustix::process::Signal;

use crate::etcd_v2::EtcdV2;
use crate::faults::{LONG, Lossy};
use crate::{TIMING, World, eventually, leader_of, load};

#[tokio::test]
async fn a_restart_of_etcd_is_survived() {
    let mut etcd = EtcdV2::start(1).await;
    let (a, b) = (etcd.member("a", LONG), etcd.member("b", LONG));
    assert!(a.acquire().await.is_done());
    let mut changes = b.changes();
    eventually("b watches", || async { *b.changes().borrow() > 0 }).await;
    etcd.0.kill(0);
    let asked = Instant::now();
    assert!(matches!(a.write(Key::Sync, "{}", Expected::Absent).await, Outcome::Failed(_)), "nobody is there");
    assert!(a.load().await.is_err());
    assert!(matches!(a.renew(&LeaderUpdate::default()).await, Outcome::Failed(_)), "nobody else has it");
    assert!(asked.elapsed() < LONG.retry_timeout * 4, "an operation outlasts its budget");
    changes.mark_unchanged();
    etcd.0.restart(0);
    etcd.0.ready().await;
    eventually("the lease is kept", || async { a.renew(&LeaderUpdate::default()).await.is_done() }).await;
    eventually("the watch goes on", || {
        let (mut changes, a) = (changes.clone(), a.clone());
        changes.mark_unchanged();
        async move {
            assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
            tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.is_ok()
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_server_does_not_eat_the_budget_and_others_are_found() {
    let etcd = EtcdV2::start(3).await;
    // It is configured with one of them.
    let a = etcd.handle(vec![etcd.0.urls()[0].clone()], "a", LONG);
    assert!(a.acquire().await.is_done());
    let changes = a.changes();
    eventually("a watches, and knows the others", || async { *changes.borrow() > 0 }).await;
    etcd.0.signal(0, Signal::STOP);
    let asked = Instant::now();
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    assert!(asked.elapsed() < LONG.retry_timeout, "took {:?}", asked.elapsed());
    let b = etcd.handle(etcd.0.urls()[1..].to_vec(), "b", LONG);
    assert_eq!(leader_of(&load(&b).await), Some("a"));
    etcd.0.signal(0, Signal::CONT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_are_unknown_and_never_guessed() {
    let etcd = EtcdV2::start(1).await;
    let lossy = Lossy::start(etcd.0.urls()[0].trim_start_matches("http://").parse().unwrap()).await;
    let quick = Timing { retry_timeout: Duration::from_secs(3), ..LONG };
    let a = etcd.handle(vec![lossy.url()], "a", quick);
    let version = a.write(Key::Sync, "1", Expected::Absent).await.done().expect("it is absent");
    lossy.lose(true);
    let written = a.write(Key::Sync, "2", Expected::Version(version)).await;
    assert!(matches!(written, Outcome::Unknown(_)), "{written:?}");
    eventually("it was carried out", || async { etcd.get_raw("sync").await.as_deref() == Some(b"2") }).await;
    assert!(matches!(a.renew(&LeaderUpdate::default()).await, Outcome::Unknown(_)), "nobody said that it is another's");
    assert!(a.load().await.is_err(), "a read is never unknown");

    // Now there is a second way that tells what happened.
    lossy.lose(false);
    let a = etcd.handle(vec![lossy.url(), etcd.0.urls()[0].clone()], "a", LONG);
    let version = load(&a).await.sync.version.expect("there is one");
    lossy.lose(true);
    assert!(a.write(Key::Sync, "3", Expected::Version(version)).await.is_done(), "what we wanted is there");
    lossy.lose(false);
    let a = etcd.handle(vec![lossy.url(), etcd.0.urls()[0].clone()], "a", LONG);
    load(&a).await;
    lossy.lose(true);
    assert!(a.acquire().await.is_done(), "a key with our name is ours");
    assert_eq!(leader_of(&load(&a).await), Some("a"));
}

#[tokio::test]
async fn nobody_there_and_silence() {
    let etcd = EtcdV2::start(1).await;
    let quick = Timing { retry_timeout: Duration::from_secs(2), ..TIMING };
    let port = free_port();
    let a = etcd.handle(vec![format!("http://127.0.0.1:{port}")], "a", quick);
    assert!(matches!(a.write(Key::Sync, "{}", Expected::Absent).await, Outcome::Failed(_)));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let a = etcd.handle(vec![format!("http://{}", silent.local_addr().unwrap())], "a", quick);
    let asked = Instant::now();
    assert!(matches!(a.write(Key::Sync, "{}", Expected::Absent).await, Outcome::Unknown(_)));
    assert!(matches!(a.write(Key::Sync, "{}", Expected::Anything).await, Outcome::Failed(_)), "the read came first");
    assert!(matches!(a.renew(&LeaderUpdate::default()).await, Outcome::Unknown(_)));
    assert!(asked.elapsed() < quick.retry_timeout * 4, "took {:?}", asked.elapsed());
}

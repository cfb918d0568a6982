//! What ZooKeeper goes through while agents use it.

use std::time::{Duration, Instant};

use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_dcs::{Expected, Key, LeaderUpdate, Timing};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::faults::{LONG, Lossy};
use crate::zookeeper::{USUAL, ZooKeeper, handle, node, section};
use crate::zookeeper_raw::Raw;
use crate::{TIMING, World, eventually, leader_of, load, member};

const NOTHING: LeaderUpdate =
    LeaderUpdate { last_lsn: None, slots: std::collections::BTreeMap::new(), retain_slots: Vec::new(), failsafe: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_are_unknown_and_never_guessed() {
    let Some(zookeeper) = ZooKeeper::start(1).await else { return };
    let lossy = Lossy::start(format!("127.0.0.1:{}", zookeeper.ports[0]).parse().unwrap()).await;
    let quick = Timing { retry_timeout: Duration::from_secs(3), ..LONG };
    let hosts = [lossy.url().trim_start_matches("http://").to_owned()];
    let a = handle(&section(&hosts, json!({})), "a", quick);
    assert!(a.acquire().await.is_done());
    let version = a.write(Key::Sync, "1", Expected::Absent).await.done().expect("it is absent");
    lossy.lose(true);
    // Only the read before it is lost: the write itself was never sent.
    let read = a.write(Key::Sync, "2", Expected::Version(version)).await;
    assert!(matches!(read, Outcome::Failed(_)), "{read:?}");
    let renewed = a.renew(&NOTHING).await;
    assert!(matches!(renewed, Outcome::Failed(_) | Outcome::Unknown(_)), "nobody said it is another's: {renewed:?}");
    assert!(a.load().await.is_err(), "a read is never unknown");
    lossy.lose(false);
    assert!(a.renew(&NOTHING).await.is_done());
    // Here the write is what comes first.
    assert!(load(&a).await.history.is_none());
    lossy.lose(true);
    let written = a.write(Key::History, "[]", Expected::Absent).await;
    assert!(matches!(written, Outcome::Unknown(_)), "{written:?}");
    assert_eq!(zookeeper.get_raw("history").await.as_deref(), Some(b"[]".as_slice()));
    lossy.lose(false);
    assert!(a.renew(&NOTHING).await.is_done());
    assert_eq!(a.release(Some(Lsn(7))).await, Outcome::Done(()));
    assert!(load(&a).await.is_unlocked());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zookeeper_that_hangs_costs_nothing_but_time() {
    let Some(zookeeper) = ZooKeeper::start(1).await else { return };
    let quick = Timing { retry_timeout: Duration::from_secs(2), ..LONG };
    let (a, b) = (zookeeper.member("a", quick), zookeeper.member("b", quick));
    assert!(a.acquire().await.is_done());
    eventually("b watches", || async { *b.changes().borrow() > 0 }).await;
    zookeeper.signal(0, Signal::STOP);
    let asked = Instant::now();
    assert!(a.load().await.is_err());
    let renewed = a.renew(&NOTHING).await;
    assert!(matches!(renewed, Outcome::Failed(_) | Outcome::Unknown(_)), "{renewed:?}");
    assert!(asked.elapsed() < quick.retry_timeout * 3, "took {:?}", asked.elapsed());
    zookeeper.signal(0, Signal::CONT);
    eventually("the lease is kept", || async { a.renew(&NOTHING).await.is_done() }).await;
    assert_eq!(leader_of(&load(&b).await), Some("a"));
    eventually("the watch goes on", || async {
        let mut changes = b.changes();
        changes.mark_unchanged();
        assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
        tokio::time::timeout(Duration::from_secs(1), changes.changed()).await.is_ok()
    })
    .await;
}

/// The server that a member is connected to stops; the others go on. The session moves to one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_server_of_three_is_left() {
    let Some(zookeeper) = ZooKeeper::start(3).await else { return };
    let hosts: Vec<String> = zookeeper.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let a = handle(&section(&hosts[..1], json!({})), "a", LONG);
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    let session = load(&a).await.leader.and_then(|leader| leader.session);
    // From now on it knows the others, too.
    let reloaded = json!({"zookeeper": section(&hosts, json!({}))}).as_object().cloned().unwrap();
    a.reload(&reloaded).expect("valid");
    for stopped in 0..3 {
        zookeeper.signal(stopped, Signal::STOP);
        // If it leads the others, they find another leader first.
        eventually("the others go on", || async {
            let renewed = a.renew(&NOTHING).await;
            assert_ne!(renewed, Outcome::Refused, "nobody else has it");
            renewed.is_done()
        })
        .await;
        let cluster = load(&a).await;
        assert_eq!(leader_of(&cluster), Some("a"));
        assert_eq!(cluster.leader.and_then(|leader| leader.session), session, "it is still the same session");
        zookeeper.signal(stopped, Signal::CONT);
        zookeeper.ready().await;
    }
}

/// The process stands still for longer than its session lasts.
#[tokio::test]
async fn a_session_that_ends_meanwhile_is_noticed() {
    let Some(zookeeper) = ZooKeeper::start(1).await else { return };
    let (a, b) = (zookeeper.member("a", TIMING), zookeeper.member("b", TIMING));
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    load(&b).await;
    std::thread::sleep(TIMING.ttl * 2);
    assert_eq!(a.renew(&NOTHING).await, Outcome::Refused, "the key is gone");
    assert!(b.acquire().await.is_done());
    assert_eq!(a.renew(&NOTHING).await, Outcome::Refused, "it is another's");
    assert!(a.touch_member(&member("running")).await.is_done(), "the member has another session");
    assert!(load(&b).await.members.contains_key("a"));
}

/// Somebody closes the session, or ZooKeeper does, while the connection is in use.
#[tokio::test]
async fn a_session_that_is_closed_is_noticed() {
    let Some(zookeeper) = ZooKeeper::start(1).await else { return };
    let (a, b) = (zookeeper.member("a", LONG), zookeeper.member("b", LONG));
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    let session = zookeeper.raw().await.owner(&node("leader")).await.expect("there is a leader");
    Raw::resume(zookeeper.ports[0], session).await.expect("the password is right").close().await;
    assert_eq!(a.renew(&NOTHING).await, Outcome::Refused, "the key is gone");
    assert!(b.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done(), "the member has another session");
    let cluster = load(&b).await;
    assert!(cluster.members["a"].session.as_deref().is_some_and(|now| now != session.to_string()), "{cluster:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlast_a_restart() {
    let Some(mut zookeeper) = ZooKeeper::start(1).await else { return };
    let (a, b) = (zookeeper.member("a", LONG), zookeeper.member("b", LONG));
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    let before = load(&a).await;
    let mut changes = b.changes();
    eventually("b watches", || async { *b.changes().borrow() > 0 }).await;
    zookeeper.kill(0);
    let quick = Timing { retry_timeout: Duration::from_secs(1), ..LONG };
    a.configure(quick);
    assert!(matches!(a.renew(&NOTHING).await, Outcome::Failed(_) | Outcome::Unknown(_)));
    a.configure(LONG);
    zookeeper.restart(0);
    zookeeper.ready().await;
    assert!(a.renew(&NOTHING).await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    let after = load(&a).await;
    assert_eq!((&after.leader, &after.members), (&before.leader, &before.members), "the same keys of the same session");
    changes.mark_unchanged();
    assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
    tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.expect("b was not woken").unwrap();
}

/// A restored backup, or another ZooKeeper in the place of the old one: older than what was read from it, so that it takes no
/// connection of the old session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_a_new_zookeeper_lacks_are_written_again() {
    let Some(mut zookeeper) = ZooKeeper::start(1).await else { return };
    let a = zookeeper.member("a", TIMING);
    let update = LeaderUpdate { last_lsn: Some(Lsn(7)), ..NOTHING };
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    assert!(a.renew(&update).await.is_done());
    zookeeper.kill(0);
    zookeeper.wipe(0);
    zookeeper.restart(0);
    zookeeper.ready().await;
    eventually("the old session is given up", || async { a.load().await.is_ok() }).await;
    assert_eq!(a.renew(&update).await, Outcome::Refused, "there is no key");
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    assert!(a.renew(&update).await.is_done());
    for key in ["leader", "status", "members/a"] {
        assert!(zookeeper.get_raw(key).await.is_some(), "{key} is missing");
    }
}

/// ZooKeeper may give a shorter session than it is asked for; then leases are shorter, too.
#[tokio::test]
async fn a_lease_is_no_longer_than_the_session() {
    let settings = USUAL.replace("maxSessionTimeout=600000", "maxSessionTimeout=4000");
    let Some(zookeeper) = ZooKeeper::start_with(1, &settings).await else { return };
    let a = zookeeper.member("a", LONG);
    // The same clock that moments are of.
    let now = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
    };
    let acquired = a.acquire().await.done().expect("nobody has it");
    assert!(acquired.0 + LONG.ttl <= now() + Duration::from_secs(4), "{acquired:?} at {:?}", now());
    let renewed = a.renew(&NOTHING).await.done().expect("it is ours");
    assert!(renewed.0 + LONG.ttl <= now() + Duration::from_secs(4), "{renewed:?} at {:?}", now());
    assert!(renewed.0 + LONG.ttl >= now() + Duration::from_secs(1), "{renewed:?} at {:?}", now());
}

/// A member whose loop stands still, in a process that lives on: its watch and what it asks for others do not keep its keys.
#[tokio::test]
async fn who_does_not_touch_its_keys_loses_them() {
    let Some(zookeeper) = ZooKeeper::start(1).await else { return };
    let (a, b) = (zookeeper.member("a", TIMING), zookeeper.member("b", TIMING));
    assert!(a.acquire().await.is_done());
    eventually("a watches", || async { *a.changes().borrow() > 0 }).await;
    eventually("the lease ends", || async {
        // Would wake a, which would look.
        assert!(b.write(Key::Config, "{}", Expected::Anything).await.is_done());
        load(&b).await.is_unlocked()
    })
    .await;
    assert_eq!(a.renew(&NOTHING).await, Outcome::Refused);
    assert!(a.touch_member(&member("running")).await.is_done());
    eventually("the watch goes on", || async {
        let mut changes = a.changes();
        changes.mark_unchanged();
        assert!(a.touch_member(&member("running")).await.is_done());
        assert!(b.write(Key::Config, "{}", Expected::Anything).await.is_done());
        tokio::time::timeout(Duration::from_secs(1), changes.changed()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn what_is_not_zookeeper_is_no_answer() {
    let quick = Timing { retry_timeout: Duration::from_secs(2), ..TIMING };
    // A greeting with a session, and then nonsense: answers to nothing, too short ones, a length beyond all measure.
    let session =
        [&[0, 0, 0, 37, 0, 0, 0, 0, 0, 0, 11, 184, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 16][..], &[0; 17]].concat();
    let no_session = [&[0, 0, 0, 37][..], &[0; 37]].concat();
    for (what, greeting, then) in [
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Vec::new()),
        ("silence", Vec::new(), Vec::new()),
        ("no session", no_session, Vec::new()),
        ("an answer to nothing", session.clone(), [&[0, 0, 0, 16, 0, 0, 0, 99][..], &[0; 12]].concat()),
        ("a short answer", session.clone(), vec![0, 0, 0, 1, 0]),
        ("an endless answer", session.clone(), vec![0x7f, 0xff, 0xff, 0xff]),
        ("an empty answer", session, [&[0, 0, 0, 16, 0, 0, 0, 1][..], &[0; 12]].concat()),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hosts = [listener.local_addr().unwrap().to_string()];
        let serving = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(&greeting).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = stream.write_all(&then).await;
                open.push(stream);
            }
        });
        let a = handle(&section(&hosts, json!({})), "a", quick);
        let asked = Instant::now();
        assert!(a.load().await.is_err(), "{what}");
        let renewed = a.renew(&NOTHING).await;
        assert!(matches!(renewed, Outcome::Failed(_) | Outcome::Unknown(_)), "{what}: {renewed:?}");
        assert!(asked.elapsed() < quick.retry_timeout * 3, "{what}: took {:?}", asked.elapsed());
        serving.abort();
    }
}

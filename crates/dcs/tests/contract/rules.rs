//! Rules that hold on every backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::{Initialize, Version};
use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::name::SystemId;
use patroni_dcs::{Dcs, Expected, Key, LeaderUpdate, Timing};

use crate::consul::Consul;
use crate::etcd::Etcd;
use crate::etcd_v2::EtcdV2;
use crate::kubernetes::{ApiServer, Kubernetes};
use crate::raft::Members;
use crate::zookeeper::ZooKeeper;
use crate::{InMemory, TIMING, World, eventually, leader_of, load, member};

macro_rules! on_every_store {
    ($($rule:ident),+ $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule(&super::InMemory::new()).await;
            })+
        }

        mod on_raft {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule(&super::Members::start(3).await).await;
            })+
        }

        mod on_etcd_v2 {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule(&super::EtcdV2::start(1).await).await;
            })+
        }

        mod on_consul {
            $(#[tokio::test]
            async fn $rule() {
                if let Some(consul) = super::Consul::start().await {
                    super::$rule(&consul).await;
                }
            })+
        }

        mod on_zookeeper {
            $(#[tokio::test]
            async fn $rule() {
                if let Some(zookeeper) = super::ZooKeeper::start(1).await {
                    super::$rule(&zookeeper).await;
                }
            })+
        }

        /// On one server, which takes its time to start, each in a namespace of its own; some at a time, because most of them wait.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn on_kubernetes() {
            let Some(server) = ApiServer::start().await else { return };
            let server = Arc::new(server);
            let places = Arc::new(tokio::sync::Semaphore::new(4));
            let mut rules = tokio::task::JoinSet::new();
            // As agents read with Endpoints, as patronictl does with ConfigMaps.
            $(for agents in [true, false] {
                let (server, places) = (server.clone(), places.clone());
                rules.spawn(async move {
                    let _place = places.acquire().await.unwrap();
                    let name = format!("{}-{agents}", stringify!($rule).replace('_', "-"));
                    println!("{name}");
                    let world = server.cluster(&name, agents, &["a", "b", "x"]).await;
                    $rule(&Kubernetes { follows: agents, ..world }).await;
                    println!("{name}: good");
                });
            })+
            while let Some(ended) = rules.join_next().await {
                ended.expect("a rule does not hold; the names of those that do are above");
            }
        }

        mod on_etcd {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule(&super::Etcd::start(1).await).await;
            })+
        }
    };
}

on_every_store!(
    one_leader_at_a_time,
    a_lease_ends,
    a_renewal_never_takes_over,
    status_and_failsafe_are_written_when_they_change,
    a_restarted_agent_goes_on,
    writes_compare_versions,
    deletes_compare_versions,
    members_live_as_long_as_they_are_touched,
    another_ttl_takes_another_lease,
    changes_wake_only_who_should_be_woken,
    garbage_does_not_fail_a_load,
    of_concurrent_writers_one_wins,
    a_cluster_can_be_deleted,
);

fn update(lsn: u64) -> LeaderUpdate {
    LeaderUpdate { last_lsn: Some(Lsn(lsn)), ..LeaderUpdate::default() }
}

async fn one_leader_at_a_time(world: &impl World) {
    let (a, b) = (world.member("a", TIMING), world.member("b", TIMING));
    assert!(a.acquire().await.is_done());
    assert_eq!(b.acquire().await, Outcome::Refused);
    assert!(a.acquire().await.is_done(), "whoever has it, has it");
    assert_eq!(b.renew(&update(1)).await, Outcome::Refused);
    assert_eq!(b.release(Some(Lsn(9))).await, Outcome::Refused);
    assert_eq!(world.get_raw("status").await, None, "only the leader writes the status");
    assert_eq!(leader_of(&load(&b).await), Some("a"));
    assert!(a.renew(&LeaderUpdate { retain_slots: vec!["b".into()], ..update(5) }).await.is_done());
    assert_eq!(a.release(Some(Lsn(7))).await, Outcome::Done(()));
    let cluster = load(&b).await;
    assert!(cluster.is_unlocked());
    assert_eq!((cluster.status.last_lsn, cluster.status.retain_slots), (Lsn(7), vec!["b".to_owned()]));
    assert_eq!(a.release(None).await, Outcome::Refused);
    assert!(b.acquire().await.is_done());
    assert_eq!(a.renew(&update(8)).await, Outcome::Refused);
}

async fn a_lease_ends(world: &impl World) {
    let (a, b) = (world.member("a", TIMING), world.member("b", TIMING));
    let first = a.acquire().await.done().expect("nobody has it");
    world.pass(TIMING.ttl / 2).await;
    let renewed = a.renew(&update(1)).await.done().expect("it is ours");
    assert!(renewed.since(first) >= TIMING.ttl / 2 - world.lag());
    world.pass(TIMING.ttl * 2 / 3).await;
    assert_eq!(leader_of(&load(&b).await), Some("a"), "it was renewed");
    for _ in 0..6 {
        world.pass(TIMING.ttl / 2).await;
    }
    eventually("the lease ends", || async { load(&b).await.is_unlocked() }).await;
    if world.keys_expire() {
        assert_eq!(a.renew(&update(2)).await, Outcome::Refused, "a lost lease is not won back by renewing");
        assert!(load(&b).await.is_unlocked());
    }
    assert!(b.acquire().await.is_done());
    assert_eq!(a.renew(&update(3)).await, Outcome::Refused);
    assert!(!a.release(None).await.is_done());
    assert_eq!(leader_of(&load(&a).await), Some("b"));
}

async fn a_renewal_never_takes_over(world: &impl World) {
    let a = world.member("a", TIMING);
    assert!(a.acquire().await.is_done());
    world.set_raw("leader", None).await;
    assert_eq!(a.renew(&update(1)).await, Outcome::Refused, "deleted by hand");
    assert_eq!(world.get_raw("leader").await, None);
    assert!(a.acquire().await.is_done());
    world.set_raw("leader", Some(b"x")).await;
    assert_eq!(a.renew(&update(2)).await, Outcome::Refused, "somebody else's");
    assert_eq!(world.get_raw("leader").await.as_deref(), Some(b"x".as_slice()));
    assert_eq!(world.get_raw("status").await, None, "who is not leader writes no status");
}

async fn status_and_failsafe_are_written_when_they_change(world: &impl World) {
    let a = world.member("a", TIMING);
    assert!(a.acquire().await.is_done());
    let full = LeaderUpdate {
        last_lsn: Some(Lsn(5)),
        slots: BTreeMap::from([("b".to_owned(), Lsn(5))]),
        retain_slots: vec!["b".into()],
        failsafe: Some(BTreeMap::from([("a".into(), "http://a".to_owned())])),
    };
    assert!(a.renew(&full).await.is_done());
    let status = br#"{"optime":5,"slots":{"b":5},"retain_slots":["b"]}"#;
    assert_eq!(world.get_raw("status").await.as_deref(), Some(status.as_slice()));
    assert_eq!(world.get_raw("failsafe").await.as_deref(), Some(br#"{"a":"http://a"}"#.as_slice()));
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    assert_eq!(world.get_raw("status").await.as_deref(), Some(status.as_slice()), "nothing was told");
    world.set_raw("status", Some(b"garbage")).await;
    load(&a).await;
    assert!(a.renew(&full).await.is_done());
    assert_eq!(world.get_raw("status").await.as_deref(), Some(status.as_slice()), "repaired");
    assert!(a.renew(&update(6)).await.is_done());
    assert_eq!(load(&a).await.status.last_lsn, Lsn(6));
}

async fn a_restarted_agent_goes_on(world: &impl World) {
    let before = world.member("a", TIMING);
    assert!(before.acquire().await.is_done());
    let created = load(&before).await.leader.expect("a leader").version;
    drop(before);
    let after = world.member("a", TIMING);
    assert!(after.renew(&update(1)).await.is_done());
    for _ in 0..4 {
        world.pass(TIMING.ttl / 2).await;
        assert!(after.renew(&update(1)).await.is_done(), "the key is attached to the lease of the new run");
    }
    if world.attaches_keys() {
        assert_eq!(load(&after).await.leader.expect("a leader").version, created, "the key was not created anew");
    }
    assert_eq!(after.release(None).await, Outcome::Done(()));
    assert!(load(&after).await.is_unlocked());
}

async fn writes_compare_versions(world: &impl World) {
    let (a, b) = (world.member("a", TIMING), world.member("b", TIMING));
    let first = a.write(Key::Initialize, "", Expected::Absent).await.done().expect("it is absent");
    assert_eq!(b.write(Key::Initialize, "", Expected::Absent).await, Outcome::Refused);
    assert_eq!(load(&b).await.initialize, Initialize::InProgress(first));
    let second =
        a.write(Key::Initialize, "7000000007", Expected::Version(first)).await.done().expect("it is that version");
    assert!(second > first);
    assert_eq!(b.write(Key::Initialize, "7000000008", Expected::Version(first)).await, Outcome::Refused);
    assert_eq!(load(&b).await.initialize, Initialize::Done(SystemId(7_000_000_007)));
    assert!(b.write(Key::Initialize, "7000000009", Expected::Anything).await.is_done());
    assert_eq!(load(&a).await.initialize, Initialize::Done(SystemId(7_000_000_009)));
    assert!(a.write(Key::Config, "{\"ttl\":30}", Expected::Anything).await.is_done());
    let config = load(&b).await.config.expect("it was written");
    assert!(b.write(Key::Config, "{}", Expected::Version(config.version)).await.is_done(), "versions of a load count");
    assert_eq!(b.write(Key::Sync, "{}", Expected::Version(Version(1))).await, Outcome::Refused, "it is absent");
}

async fn deletes_compare_versions(world: &impl World) {
    let (a, b) = (world.member("a", TIMING), world.member("b", TIMING));
    assert_eq!(a.delete(Key::Failover, Expected::Anything).await, Outcome::Done(()), "it is gone already");
    let version = a.write(Key::Failover, "{\"leader\":\"a\"}", Expected::Absent).await.done().expect("it is absent");
    assert_eq!(load(&b).await.failover.map(|request| request.version), Some(version));
    assert_eq!(b.delete(Key::Failover, Expected::Version(Version(version.0 + 1000))).await, Outcome::Refused);
    assert_eq!(b.delete(Key::Failover, Expected::Absent).await, Outcome::Refused);
    assert_eq!(b.delete(Key::Failover, Expected::Version(version)).await, Outcome::Done(()));
    assert_eq!(b.delete(Key::Failover, Expected::Version(version)).await, Outcome::Refused);
    assert_eq!(load(&a).await.failover, None);
}

async fn members_live_as_long_as_they_are_touched(world: &impl World) {
    let (a, b) = (world.member("a", TIMING), world.member("b", TIMING));
    assert!(a.touch_member(&member("running")).await.is_done());
    assert!(b.touch_member(&member("running")).await.is_done());
    let written = load(&b).await.members["a"].version;
    for _ in 0..6 {
        world.pass(TIMING.ttl / 2).await;
        assert!(a.touch_member(&member("running")).await.is_done());
        load(&a).await;
    }
    eventually("the other expires", || async {
        assert!(a.touch_member(&member("running")).await.is_done());
        let cluster = load(&a).await;
        assert!(cluster.members.contains_key("a"), "it was kept alive");
        !cluster.members.contains_key("b") || !world.keys_expire()
    })
    .await;
    if world.has_leases() {
        assert_eq!(load(&a).await.members["a"].version, written, "the same content is not written again");
    }
    assert!(a.touch_member(&member("stopped")).await.is_done());
    assert_eq!(load(&b).await.members["a"].data.state.as_deref(), Some("stopped"));
    world.set_raw("members/a", None).await;
    load(&a).await;
    assert!(a.touch_member(&member("stopped")).await.is_done());
    assert!(load(&b).await.members.contains_key("a"), "it is written again after somebody deleted it");
    assert!(b.touch_member(&member("running")).await.is_done(), "whose lease ended gets another");
    assert!(load(&a).await.members.contains_key("b"));
}

async fn another_ttl_takes_another_lease(world: &impl World) {
    let a = world.member("a", TIMING);
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    let before = load(&a).await.leader.expect("a leader");
    a.configure(Timing { ttl: TIMING.ttl * 3, ..TIMING });
    assert!(a.renew(&update(1)).await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    let cluster = load(&a).await;
    let after = cluster.leader.clone().expect("a leader");
    if world.has_leases() {
        assert_ne!(after.session, before.session);
        assert_eq!(cluster.members["a"].session, after.session, "one lease for both keys");
    }
    if world.attaches_keys() {
        assert_eq!(after.version, before.version, "the key was not created anew");
    }
    world.pass(TIMING.ttl * 2).await;
    let cluster = load(&a).await;
    assert_eq!(leader_of(&cluster), Some("a"), "the old lease has nothing attached");
    assert!(cluster.members.contains_key("a"));
    assert!(a.renew(&update(1)).await.is_done());
}

async fn changes_wake_only_who_should_be_woken(world: &impl World) {
    let (a, b) = (world.member("a", TIMING), world.member("b", TIMING));
    assert!(a.acquire().await.is_done());
    let (mut a_changes, mut b_changes) = (a.changes(), b.changes());
    // A watch that is being set up counts once; after that, a change of one's own tells that it is there.
    settle(&a, &mut a_changes).await;
    settle(&b, &mut b_changes).await;
    settle(&a, &mut a_changes).await;
    b_changes.mark_unchanged();
    assert!(a.touch_member(&member("running")).await.is_done());
    woken(&mut b_changes, "another member's key").await;
    let before = [*a_changes.borrow(), *b_changes.borrow()];
    for position in 1..11 {
        assert!(a.renew(&update(position)).await.is_done());
        let data = patroni_core::cluster::MemberData { xlog_location: Some(Lsn(position)), ..member("running") };
        assert!(a.touch_member(&data).await.is_done());
    }
    // What comes after the quiet ones is seen: then nothing of theirs is still on its way. What woke before them may still come, and
    // be taken for one of these: there are more of them than that can be.
    const LOUD: u64 = 4;
    for round in 0..LOUD {
        let seen = [*a_changes.borrow(), *b_changes.borrow()];
        assert!(a.write(Key::History, &format!("[{round}]"), Expected::Anything).await.is_done());
        eventually("a named key wakes", || async { *a_changes.borrow() > seen[0] && *b_changes.borrow() > seen[1] })
            .await;
    }
    let after = [*a_changes.borrow(), *b_changes.borrow()];
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + LOUD + LOUD, "20 quiet changes woke somebody {} times", after - before);
    }
    b_changes.mark_unchanged();
    assert!(a.touch_member(&member("stopped")).await.is_done());
    woken(&mut b_changes, "another state of another member").await;
    assert_eq!(a.release(None).await, Outcome::Done(()));
    woken(&mut b_changes, "the leader key is gone").await;
}

async fn settle(dcs: &Arc<dyn Dcs>, changes: &mut tokio::sync::watch::Receiver<u64>) {
    eventually("the watch is there", || {
        let mut changes = changes.clone();
        async move {
            assert!(dcs.write(Key::Config, "{}", Expected::Anything).await.is_done());
            changes.mark_unchanged();
            tokio::time::timeout(Duration::from_millis(300), changes.changed()).await.is_ok() || *changes.borrow() > 0
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    changes.mark_unchanged();
}

async fn woken(changes: &mut tokio::sync::watch::Receiver<u64>, why: &str) {
    let waiting = tokio::time::timeout(Duration::from_secs(5), changes.changed()).await;
    assert!(matches!(waiting, Ok(Ok(()))), "not woken by {why}");
}

async fn garbage_does_not_fail_a_load(world: &impl World) {
    let keys = [
        "initialize",
        "config",
        "leader",
        "members/x",
        "members/y/z",
        "status",
        "failover",
        "sync",
        "history",
        "failsafe",
        "optime/leader",
        "0/leader",
        "nonsense",
    ];
    let a = world.member("a", TIMING);
    for garbage in [b"\xff\xfe\x00".as_slice(), b"", b"{", b"[[]]", b"{\"leader\":5}", b"\"\\ud800\"", b"1e999"] {
        for key in keys {
            world.set_raw(key, Some(garbage)).await;
        }
        let cluster = load(&a).await;
        assert_eq!(cluster.members.len(), 1);
        assert!(!a.acquire().await.is_done(), "a leader key that nobody understands is still somebody's");
        assert_eq!(a.renew(&update(1)).await, Outcome::Refused);
        assert!(a.touch_member(&member("running")).await.is_done());
        assert!(load(&a).await.members.contains_key("a"));
        world.set_raw("members/a", None).await;
    }
}

async fn of_concurrent_writers_one_wins(world: &impl World) {
    let members: Vec<Arc<dyn Dcs>> = (0..8).map(|i| world.member(&format!("m{i}"), TIMING)).collect();
    let round = std::sync::atomic::AtomicU64::new(0);
    let race = |key: Key, expected: Expected| {
        // What is there already may count as written without a new version, as with Consul: each round has words of its own.
        let round = round.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let tasks: Vec<_> = members
            .iter()
            .cloned()
            .enumerate()
            .map(|(i, dcs)| tokio::spawn(async move { dcs.write(key, &format!("{round} {i}"), expected).await }))
            .collect();
        async move {
            let mut won = Vec::new();
            for task in tasks {
                match task.await.expect("a writer panicked") {
                    Outcome::Done(version) => won.push(version),
                    Outcome::Refused => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(won.len(), 1, "{won:?}");
            won[0]
        }
    };
    let mut version = race(Key::Sync, Expected::Absent).await;
    for _ in 0..5 {
        version = race(Key::Sync, Expected::Version(version)).await;
    }
    let tasks: Vec<_> =
        members.iter().cloned().map(|dcs| tokio::spawn(async move { dcs.acquire().await.is_done() })).collect();
    let mut leaders = 0;
    for task in tasks {
        leaders += usize::from(task.await.expect("a candidate panicked"));
    }
    assert_eq!(leaders, 1);
}

async fn a_cluster_can_be_deleted(world: &impl World) {
    let a = world.member("a", TIMING);
    assert!(a.touch_member(&member("running")).await.is_done());
    assert!(a.write(Key::Config, "{}", Expected::Absent).await.is_done());
    assert_eq!(world.member("patronictl", TIMING).delete_cluster().await, Outcome::Done(()));
    let mut left = load(&a).await;
    if !world.keys_expire() {
        left.members.clear();
    }
    assert_eq!(left, patroni_core::cluster::Cluster::default());
}

//! Divergence and pg_rewind on pairs of PostgreSQL servers.
#![allow(clippy::disallowed_methods)]

mod harness;

use std::time::Duration;

use harness::{Node, as_postgres, kill, until};
use patroni_core::facts::RewindCheck;
use patroni_core::job::{CloneFrom, CloneSource, RewindSource, Upstream, UpstreamMember};
use patroni_core::lsn::Timeline;
use patroni_core::name::SystemId;
use patroni_core::server::{DataDir, Postmaster, Role};
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::control::{Promoted, StopOptions};
use patroni_postgres::rewind::{self, RewindContext, RewindError, local_position};
use patroni_postgres::unfinished::Unfinished;
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(10);

async fn make_replica(primary: &Node, name: &str) -> Node {
    let mut replica = Node::new(name);
    let source = CloneFrom::Member(CloneSource { name: "a".into(), conn_url: primary.conn_url(), is_leader: true });
    replica.control.clone_from(&source, &Cancel::new(), &Progress::ignored()).await.expect("clone");
    replica.start(Role::Replica, Some(primary.upstream())).await.expect("start");
    until("streaming", async || {
        replica.sql("SELECT status FROM pg_stat_wal_receiver").await == [Some("streaming".to_owned())]
    })
    .await;
    replica
}

/// A primary and a replica that streams from it.
async fn pair() -> (Node, Node) {
    let mut primary = Node::new("a");
    primary.bootstrap().await;
    let replica = make_replica(&primary, "b").await;
    (primary, replica)
}

async fn promote(node: &mut Node) {
    let done = node.control.promote(Duration::from_secs(30), &Cancel::new(), &Progress::ignored()).await;
    assert!(matches!(done, Ok(Promoted::Done)), "{done:?}");
}

async fn stop(node: &mut Node) {
    node.control.stop(StopOptions::planned(), &Cancel::new(), &Progress::ignored()).await.expect("stop");
}

fn member(node: &Node) -> UpstreamMember {
    match node.upstream() {
        Upstream::Member(member) => member,
        other => panic!("{other:?}"),
    }
}

async fn context(node: &mut Node, system_id: Option<SystemId>) -> RewindContext {
    RewindContext::new(node.control.conf(), true, system_id, LIMIT)
}

async fn check(node: &mut Node, source: &UpstreamMember) -> RewindCheck {
    let DataDir::Present(system_id) = node.inspect().await.data_dir else { panic!("no data directory") };
    let context = context(node, Some(system_id)).await;
    let local = local_position(&context, &node.monitor).await.expect("position").expect("a position");
    rewind::check(&context, &RewindSource::Leader(source.clone()), &local).await
}

async fn caught_up(primary: &Node, replica: &Node) {
    let lsn = primary.sql("SELECT pg_current_wal_flush_lsn()::text").await.remove(0).expect("a position");
    let sql = format!("SELECT (pg_last_wal_replay_lsn() >= '{lsn}')::text");
    until("replay", async || replica.sql(&sql).await == [Some("true".to_owned())]).await;
}

#[test]
fn a_diverged_primary_is_rewound_and_follows() {
    as_postgres("a_diverged_primary_is_rewound_and_follows", async {
        let (mut old, mut new) = pair().await;
        old.sql("CREATE TABLE t (text text)").await;
        caught_up(&old, &new).await;
        promote(&mut new).await;
        old.sql("INSERT INTO t VALUES ('lost')").await;
        new.sql("INSERT INTO t VALUES ('kept')").await;
        stop(&mut old).await;

        let source = member(&new);
        assert_eq!(check(&mut old, &source).await, RewindCheck::Needed(Ok(())));
        let context = context(&mut old, None).await;
        let (cancel, progress) = (Cancel::new(), Progress::ignored());
        let early = rewind::run(&context, &RewindSource::Leader(source.clone()), Some(false), &cancel, &progress).await;
        assert!(matches!(early, Err(RewindError::NotYet(_))), "{early:?}");
        new.sql("CHECKPOINT").await;
        rewind::run(&context, &RewindSource::Leader(source), None, &cancel, &progress).await.expect("rewind");
        old.start(Role::Replica, Some(new.upstream())).await.expect("start");
        caught_up(&new, &old).await;
        assert_eq!(old.sql("SELECT text FROM t").await, [Some("kept".to_owned())]);
    });
}

#[test]
fn a_primary_that_stopped_before_the_promotion_need_not_be_rewound() {
    as_postgres("a_primary_that_stopped_before_the_promotion_need_not_be_rewound", async {
        let (mut old, mut new) = pair().await;
        let mut third = make_replica(&old, "c").await;
        stop(&mut old).await;
        promote(&mut new).await;
        new.sql("CREATE TABLE t ()").await;

        let source = member(&new);
        assert_eq!(check(&mut old, &source).await, RewindCheck::NotNeeded, "the old primary, stopped");
        assert_eq!(check(&mut third, &source).await, RewindCheck::NotNeeded, "a running standby");
        stop(&mut third).await;
        assert_eq!(check(&mut third, &source).await, RewindCheck::NotNeeded, "a stopped standby");
        old.start(Role::Replica, Some(new.upstream())).await.expect("start");
        caught_up(&new, &old).await;
        assert_eq!(check(&mut old, &source).await, RewindCheck::NotNeeded, "on the same timeline");
    });
}

#[test]
fn what_cannot_be_known_is_unclear() {
    as_postgres("what_cannot_be_known_is_unclear", async {
        let (mut old, new) = pair().await;
        stop(&mut old).await;
        let unclear = |check: RewindCheck| match check {
            RewindCheck::Unclear(why) => why,
            other => panic!("{other:?}"),
        };
        let in_recovery = unclear(check(&mut old, &member(&new)).await);
        assert!(in_recovery.contains("Leader is still in_recovery"), "{in_recovery}");
        let nowhere = UpstreamMember { conn_url: "postgres://127.0.0.1:1/postgres".into(), ..member(&new) };
        unclear(check(&mut old, &nowhere).await);
        let nonsense = UpstreamMember { conn_url: "nonsense".into(), ..member(&new) };
        assert!(unclear(check(&mut old, &nonsense).await).contains("no usable conn_url"));

        let mut stranger = Node::new("s");
        stranger.bootstrap().await;
        let foreign = unclear(check(&mut old, &member(&stranger)).await);
        assert!(foreign.contains("is no member of this cluster"), "{foreign}");
        let context = context(&mut stranger, None).await;
        let running =
            rewind::run(&context, &RewindSource::Leader(member(&new)), None, &Cancel::new(), &Progress::ignored())
                .await;
        assert!(matches!(running, Err(RewindError::Local(_))), "{running:?}");

        // Debian's default: the superuser has no password, and there is no user for pg_rewind.
        for password in [None, Some("wrong".to_owned())] {
            let mut options = patroni_postgres::options::ServerOptions::clone(&old.control.options());
            options.rewind.password = password;
            let files = old.control.conf().file_options().clone();
            old.control.conf().set_options(options.into(), files);
            let answer = check(&mut old, &member(&new)).await;
            assert!(matches!(answer, RewindCheck::Impossible(_)), "{answer:?}");
        }
    });
}

/// The primary loses the end of its WAL (a snapshot is restored, a disk lied) and is started as primary again: no new timeline.
#[test]
fn a_standby_ahead_of_its_primary_on_the_same_timeline_is_recognized() {
    as_postgres("a_standby_ahead_of_its_primary_on_the_same_timeline_is_recognized", async {
        let (mut primary, mut standby) = pair().await;
        stop(&mut primary).await;
        let (data, saved) = (primary.data_dir(), primary.dir.path().join("saved"));
        let copy = |from: &std::path::Path, to: &std::path::Path| {
            let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
            assert!(status.success());
        };
        copy(&data, &saved);
        primary.start(Role::Primary, None).await.expect("start");
        primary.sql("CREATE TABLE lost AS SELECT generate_series(1, 1000)").await;
        caught_up(&primary, &standby).await;
        assert_eq!(check(&mut standby, &member(&primary)).await, RewindCheck::NotNeeded);
        stop(&mut primary).await;
        std::fs::remove_dir_all(&data).expect("remove");
        copy(&saved, &data);
        primary.start(Role::Primary, None).await.expect("start");

        let why = |check: RewindCheck| match check {
            RewindCheck::OtherWal(why) => why,
            other => panic!("{other:?}"),
        };
        let ahead = why(check(&mut standby, &member(&primary)).await);
        assert!(ahead.contains("on the same timeline 1 only up to"), "{ahead}");
        // As soon as the primary has written more, only the content tells.
        primary.sql("CREATE TABLE other AS SELECT generate_series(1, 5000)").await;
        let differs = why(check(&mut standby, &member(&primary)).await);
        assert!(differs.contains("wrote other WAL on timeline 1"), "{differs}");
        stop(&mut standby).await;
        let stopped = why(check(&mut standby, &member(&primary)).await);
        assert!(stopped.contains("wrote other WAL on timeline 1"), "{stopped}");
    });
}

#[test]
fn wal_that_is_gone_from_the_primary_is_named() {
    as_postgres("wal_that_is_gone_from_the_primary_is_named", async {
        let (primary, mut standby) = pair().await;
        stop(&mut standby).await;
        for _ in 0..3 {
            write_and_remove_wal(&primary).await;
        }
        assert_eq!(check(&mut standby, &member(&primary)).await, RewindCheck::NotNeeded, "kept by wal_keep_size");
        keep_no_wal(&primary).await;
        until("the oldest WAL file is gone", async || {
            write_and_remove_wal(&primary).await;
            check(&mut standby, &member(&primary)).await
                == RewindCheck::WalGone { file: "000000010000000000000003".into(), archive: false }
        })
        .await;
    });
}

/// A standby that replays late needs no WAL that it has received already.
#[test]
fn wal_that_is_received_but_not_replayed_is_not_missed() {
    as_postgres("wal_that_is_received_but_not_replayed_is_not_missed", async {
        let (primary, mut standby) = pair().await;
        standby.sql("SELECT pg_wal_replay_pause()").await;
        keep_no_wal(&primary).await;
        let file = "SELECT pg_walfile_name(pg_current_wal_lsn())";
        let first = primary.sql(file).await.remove(0).expect("a name");
        until("the WAL to be replayed is gone", async || {
            primary.sql("SELECT txid_current(); SELECT pg_switch_wal()").await;
            // What is removed before it was sent is never received.
            receive_all(&primary, &standby).await;
            primary.sql("CHECKPOINT").await;
            !primary.data_dir().join("pg_wal").join(&first).exists()
        })
        .await;
        receive_all(&primary, &standby).await;
        assert_eq!(check(&mut standby, &member(&primary)).await, RewindCheck::NotNeeded);

        // Nobody starts it again while the replay is paused.
        let receiver = standby.sql("SELECT pid FROM pg_stat_wal_receiver").await.remove(0).expect("a pid");
        kill(receiver.parse().expect("a number"), Signal::TERM);
        until("the end of the stream", async || standby.sql("SELECT 1 FROM pg_stat_wal_receiver").await.is_empty())
            .await;
        let last = primary.sql(file).await.remove(0).expect("a name");
        until("the WAL to be received is gone", async || {
            write_and_remove_wal(&primary).await;
            !primary.data_dir().join("pg_wal").join(&last).exists()
        })
        .await;
        let gone = check(&mut standby, &member(&primary)).await;
        assert_eq!(gone, RewindCheck::WalGone { file: last, archive: false });
    });
}

async fn receive_all(primary: &Node, standby: &Node) {
    let end = primary.sql("SELECT pg_current_wal_flush_lsn()::text").await.remove(0).expect("a position");
    let received = format!("SELECT (pg_last_wal_receive_lsn() >= '{end}')::text");
    until("the WAL", async || standby.sql(&received).await == [Some("true".to_owned())]).await;
}

async fn keep_no_wal(primary: &Node) {
    primary.sql("ALTER SYSTEM SET wal_keep_size = 0").await;
    primary.sql("SELECT pg_reload_conf()").await;
}

/// As far as the settings allow.
async fn write_and_remove_wal(primary: &Node) {
    primary.sql("SELECT txid_current(); SELECT pg_switch_wal()").await;
    primary.sql("CHECKPOINT").await;
}

#[test]
fn a_rewind_that_was_interrupted_goes_on_with_the_same_primary_only() {
    as_postgres("a_rewind_that_was_interrupted_goes_on_with_the_same_primary_only", async {
        let (mut old, mut new) = pair().await;
        promote(&mut new).await;
        old.sql("CREATE TABLE lost ()").await;
        stop(&mut old).await;
        new.sql("CHECKPOINT").await;
        let data_dir = old.data_dir();
        for (mark, expected) in [("b", Ok(())), ("c", Err("pg_rewind from c on timeline 2 was interrupted"))] {
            Unfinished::rewind(&data_dir, mark, Timeline(2)).mark(&data_dir).expect("mark");
            let Postmaster::Stopped(Some(control)) = old.inspect().await.postmaster else { panic!("it runs") };
            assert!(control.torn, "not to be started");
            match (check(&mut old, &member(&new)).await, expected) {
                (RewindCheck::Needed(Ok(())), Ok(())) => {}
                (RewindCheck::Needed(Err(why)), Err(expected)) => assert!(why.contains(expected), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        Unfinished::rewind(&data_dir, "b", Timeline(2)).mark(&data_dir).expect("mark");
        let context = context(&mut old, None).await;
        rewind::run(&context, &RewindSource::Leader(member(&new)), None, &Cancel::new(), &Progress::ignored())
            .await
            .expect("rewind");
        assert_eq!(Unfinished::rewind_of(&data_dir), None);
        // As left by an agent that died while pg_rewind flushed what it had written.
        Unfinished::rewind(&data_dir, "b", Timeline(2)).mark(&data_dir).expect("mark");
        let Postmaster::Stopped(Some(control)) = old.inspect().await.postmaster else { panic!("it runs") };
        assert!(!control.torn, "it ended");
        assert_eq!(check(&mut old, &member(&new)).await, RewindCheck::NotNeeded);
        let again = rewind::can_rewind(&context).await.expect_err("is not to be recovered for it");
        assert!(again.contains("not yet replayed the WAL"), "{again}");
        let recovery = old.control.crash_recovery(&Cancel::new(), &Progress::ignored()).await;
        assert!(recovery.is_err(), "it would write WAL of its own on the timeline of the primary");
        old.start(Role::Replica, Some(new.upstream())).await.expect("start");
        caught_up(&new, &old).await;
    });
}

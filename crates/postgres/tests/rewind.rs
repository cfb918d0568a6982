//! Divergence and pg_rewind on pairs of PostgreSQL 15 servers.

mod harness;

use std::time::Duration;

use harness::{Node, as_postgres, until};
use patroni_core::facts::RewindCheck;
use patroni_core::job::{CloneSource, Upstream, UpstreamMember};
use patroni_core::name::SystemId;
use patroni_core::server::{DataDir, Role};
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::control::{Promoted, StopOptions};
use patroni_postgres::rewind::{self, RewindContext, RewindError, local_position};

const LIMIT: Duration = Duration::from_secs(10);

async fn make_replica(primary: &Node, name: &str) -> Node {
    let mut replica = Node::new(name);
    let source = CloneSource { name: "a".into(), conn_url: primary.conn_url(), is_leader: true };
    replica.control.clone_member(Some(&source), &Cancel::new(), &Progress::ignored()).await.expect("clone");
    replica.start(Role::Replica, Some(primary.upstream())).await.expect("start");
    until("streaming", async || {
        replica.sql("SELECT status FROM pg_stat_wal_receiver").await == [Some("streaming".to_owned())]
    })
    .await;
    replica
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
    rewind::check(&context, source, &local).await
}

async fn caught_up(primary: &Node, replica: &Node) {
    let lsn = primary.sql("SELECT pg_current_wal_flush_lsn()::text").await.remove(0).expect("a position");
    let sql = format!("SELECT (pg_last_wal_replay_lsn() >= '{lsn}')::text");
    until("replay", async || replica.sql(&sql).await == [Some("true".to_owned())]).await;
}

#[test]
fn a_diverged_primary_is_rewound_and_follows() {
    as_postgres("a_diverged_primary_is_rewound_and_follows", async {
        let mut old = Node::new("a");
        old.bootstrap().await;
        old.sql("CREATE TABLE t (text text)").await;
        let mut new = make_replica(&old, "b").await;
        caught_up(&old, &new).await;
        promote(&mut new).await;
        old.sql("INSERT INTO t VALUES ('lost')").await;
        new.sql("INSERT INTO t VALUES ('kept')").await;
        stop(&mut old).await;

        let source = member(&new);
        assert_eq!(check(&mut old, &source).await, RewindCheck::Needed(Ok(())));
        let context = context(&mut old, None).await;
        let (cancel, progress) = (Cancel::new(), Progress::ignored());
        let early = rewind::run(&context, &source, Some(false), &cancel, &progress).await;
        assert!(matches!(early, Err(RewindError::NotYet(_))), "{early:?}");
        new.sql("CHECKPOINT").await;
        rewind::run(&context, &source, None, &cancel, &progress).await.expect("rewind");
        old.start(Role::Replica, Some(new.upstream())).await.expect("start");
        caught_up(&new, &old).await;
        assert_eq!(old.sql("SELECT text FROM t").await, [Some("kept".to_owned())]);
    });
}

#[test]
fn a_primary_that_stopped_before_the_promotion_need_not_be_rewound() {
    as_postgres("a_primary_that_stopped_before_the_promotion_need_not_be_rewound", async {
        let mut old = Node::new("a");
        old.bootstrap().await;
        let mut new = make_replica(&old, "b").await;
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
        let mut old = Node::new("a");
        old.bootstrap().await;
        let new = make_replica(&old, "b").await;
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
        let running = rewind::run(&context, &member(&new), None, &Cancel::new(), &Progress::ignored()).await;
        assert!(matches!(running, Err(RewindError::Local(_))), "{running:?}");
    });
}

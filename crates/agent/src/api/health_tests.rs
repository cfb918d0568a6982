//! The rules of health checks, on the nodes of the sample cluster.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::SyncState;
use patroni_core::health::checks::{is_alive, passes, readiness};
use patroni_core::health::{NO_ANSWER, Query, Status};
use patroni_core::job::{DemoteMode, Job, JobView, Stage};
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::server::{Postmaster, Role, State, Wal};
use patroni_core::settings::{Settings, StandbyCluster, SynchronousMode};
use patroni_core::time::Now;
use patroni_core::view::View;
use serde_json::json;

use super::sample;

/// A node in some state, and which of these checks pass there.
struct Row {
    node: &'static str,
    view: View,
    server: Postmaster,
    passing: &'static str,
}

const CHECKS: [&str; 20] = [
    "/",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/read-only",
    "/synchronous",
    "/sync",
    "/read-only-sync",
    "/quorum",
    "/read-only-quorum",
    "/asynchronous",
    "/async",
    "/health",
    "/patroni-of-old",
    "/my/replica",
    "/sync/x",
];

fn with(view: &View, change: impl FnOnce(&mut Settings)) -> View {
    let mut view = view.clone();
    change(Arc::make_mut(&mut view.settings));
    view
}

fn sync(mut view: View) -> View {
    let mut cluster = sample::cluster();
    let (leader, standby) = (MemberName::from("postgresql0"), MemberName::from("postgresql1"));
    cluster.sync = SyncState { leader: Some(leader), standbys: vec![standby], ..SyncState::default() };
    view.cluster = Some(Arc::new(cluster));
    view
}

/// It has the lease, and was a standby in the last tick.
fn standby_of(primary: &View) -> View {
    View { lease_until: primary.lease_until, ..sample::view("postgresql0", sample::standby()) }
}

fn working(view: &View, job: Job) -> View {
    let stage = Stage::Committed("working".to_owned());
    View { job: Some(JobView { job, title: String::new(), since: sample::NOW.boot, stage }), ..view.clone() }
}

fn rows() -> Vec<Row> {
    let primary = sample::view("postgresql0", sample::primary());
    let standby = sample::view("postgresql1", sample::standby());
    let writes = "/ /primary /master /read-write /leader /read-only /read-only-sync /read-only-quorum /health";
    let reads = "/replica /read-only /asynchronous /async /health /my/replica";
    let row = |node, view: View, server, passing| Row { node, view, server, passing };
    let (up, follows) = (Postmaster::Running(sample::primary()), Postmaster::Running(sample::standby()));
    let silent = || NO_ANSWER.clone();
    let on = with(&standby, |s| s.synchronous.mode = SynchronousMode::On);
    let quorum = with(&standby, |s| s.synchronous.mode = SynchronousMode::Quorum);
    let paused = with(&primary, |s| s.paused = true);
    let remote = |view: &View| with(view, |s| s.standby_cluster = Some(StandbyCluster::default()));
    let standby_leader = View { lease_until: primary.lease_until, role: Role::StandbyLeader, ..remote(&standby) };
    let dark = |view: &View| View { dcs_last_seen: None, ..view.clone() };
    vec![
        row("primary", primary.clone(), up.clone(), writes),
        row("replica", standby.clone(), follows.clone(), reads),
        row("primary, silent", primary.clone(), silent(), &writes[..writes.len() - 8]),
        row("primary, promoted just now", standby_of(&primary), up.clone(), writes),
        row(
            "primary, not promoted yet",
            standby_of(&primary),
            follows.clone(),
            "/leader /replica /read-only /asynchronous /async /health /my/replica",
        ),
        row("primary, not promoted yet and silent", standby_of(&primary), silent(), "/leader"),
        row("primary, stopped", primary.clone(), Postmaster::Stopped(None), "/leader"),
        row("primary, starting", primary.clone(), Postmaster::Starting, "/leader"),
        row("primary, being stopped", working(&primary, Job::Demote(DemoteMode::Graceful)), up.clone(), "/leader"),
        row(
            "primary, restarting",
            working(&primary, Job::Restart { as_standby: false }),
            up.clone(),
            &writes[..writes.len() - 8],
        ),
        row("primary without lock", View { lease_until: None, ..primary.clone() }, up.clone(), "/health"),
        row("lease over", View { lease_until: Some(sample::NOW.boot), ..primary.clone() }, up.clone(), "/health"),
        row("replica, silent", standby.clone(), silent(), ""),
        row("starting", standby.clone(), Postmaster::Starting, ""),
        row("known as starting", View { state: State::Starting, ..standby.clone() }, follows.clone(), reads),
        row("stopped", standby.clone(), Postmaster::Stopped(None), ""),
        row("known as stopped", View { state: State::Stopped, ..standby.clone() }, follows.clone(), reads),
        row(
            "noloadbalance",
            with(&standby, |s| s.tags.0 = sample::map(json!({"noloadbalance": true}))),
            follows.clone(),
            "/health",
        ),
        row(
            "synchronous",
            sync(on.clone()),
            follows.clone(),
            "/replica /read-only /synchronous /sync /read-only-sync /health /my/replica",
        ),
        row("not synchronous", on, follows.clone(), reads),
        row(
            "quorum",
            sync(quorum),
            follows.clone(),
            "/replica /read-only /quorum /read-only-quorum /health /my/replica",
        ),
        row("sync key without mode", sync(standby.clone()), follows.clone(), reads),
        row(
            "standby leader",
            standby_leader.clone(),
            follows.clone(),
            "/leader /standby-leader /standby_leader /read-only /read-only-sync /read-only-quorum /health",
        ),
        row("replica of a standby cluster", remote(&standby), follows.clone(), reads),
        row("paused, no store", dark(&paused), up.clone(), "/ /primary /master /read-write /leader /read-only /health"),
        row(
            "paused, no store, no lock",
            View { lease_until: None, ..dark(&paused) },
            up,
            "/ /primary /master /read-write /leader /read-only /health",
        ),
        row("replica, no store", dark(&standby), follows.clone(), "/replica /read-only /health /my/replica"),
        row(
            "replica, store just gone",
            View { dcs_answers: false, ..standby },
            follows,
            "/replica /read-only /health /my/replica",
        ),
    ]
}

#[test]
fn each_check_in_each_state() {
    for row in rows() {
        let status = Status::new(&row.view, true, &row.server, sample::NOW);
        let passing: Vec<_> = CHECKS.into_iter().filter(|path| passes(path, &Query::default(), &status)).collect();
        assert_eq!(passing.join(" "), row.passing, "{}", row.node);
    }
}

/// What it left is known by the server's own word only.
#[test]
fn a_job_that_has_ended_since_the_last_tick() {
    let view = working(&sample::view("postgresql0", sample::primary()), Job::Restart { as_standby: true });
    let passing = |server: &Postmaster| {
        let status = Status::new(&view, false, server, sample::NOW);
        CHECKS.into_iter().filter(|path| passes(path, &Query::default(), &status)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(passing(&NO_ANSWER), "/leader");
    assert!(passing(&Postmaster::Running(sample::primary())).contains("/primary"));
}

/// It has to know that its own server is no primary before it agrees that another one goes on.
#[test]
fn who_does_not_agree_to_another_primary() {
    let (primary, standby) = (sample::view("postgresql0", sample::primary()), sample::view("a", sample::standby()));
    let unseen = View { ticks: 0, ..standby.clone() };
    let (up, follows) = (Postmaster::Running(sample::primary()), Postmaster::Running(sample::standby()));
    let leads = |view: &View, server: &Postmaster| Status::new(view, false, server, sample::NOW).leads();
    assert!(leads(&primary, &NO_ANSWER) && !leads(&standby, &NO_ANSWER));
    assert!(leads(&unseen, &up) && leads(&unseen, &NO_ANSWER) && leads(&unseen, &Postmaster::Starting));
    assert!(!leads(&unseen, &follows) && !leads(&unseen, &Postmaster::Stopped(None)));
}

#[test]
fn lag_and_tags() {
    let standby = sample::view("postgresql1", sample::standby());
    let mut behind = sample::standby();
    if let Wal::Standby { replayed, latest_end, .. } = &mut behind.wal {
        (*replayed, *latest_end) = (Some(Lsn(67_108_960 - 16 * 1024)), Some(Lsn(67_108_961)));
    }
    let rows = [
        ("lag=16385", true),
        ("lag=16384", false),
        ("lag=16kB", false),
        ("lag=17kB", true),
        ("lag=1MB", true),
        ("lag=1GB", true),
        ("lag=1TB", true),
        ("lag=0.5MB", true),
        ("lag=16KB", true),
        ("lag=nonsense", true),
        ("lag=", true),
        ("lag=-1", false),
        ("tag_rack=7", true),
        ("tag_rack=8", false),
        ("tag_rack=7.0", false),
        ("tag_clonefrom=true", true),
        ("tag_clonefrom=True", false),
        ("tag_datacenter=eu+1", true),
        ("tag_datacenter=eu+1&tag_rack=7", true),
        ("tag_datacenter=eu+1&tag_rack=8", false),
        ("tag_x=1", false),
        ("tag_x=", true),
        ("other=1", true),
    ];
    for (text, expected) in rows {
        let query = Query::parse(text);
        let server = sample::answer(Some(&behind));
        let status = Status::new(&standby, true, &server, sample::NOW);
        assert_eq!(passes("/replica", &query, &status), expected, "{text}");
        let primary = sample::view("postgresql0", sample::primary());
        let server = sample::answer(Some(&sample::primary()));
        assert!(passes("/primary", &query, &Status::new(&primary, true, &server, sample::NOW)), "{text}");
    }
}

#[test]
fn readiness_tells_why_not() {
    let standby = sample::view("postgresql1", sample::standby());
    let dark = View { dcs_last_seen: None, ..standby.clone() };
    let change = |change: fn(&mut Wal)| {
        let mut running = sample::standby();
        change(&mut running.wal);
        running
    };
    let behind = change(|wal| {
        if let Wal::Standby { replayed, .. } = wal {
            *replayed = Some(Lsn(60_000_000))
        }
    });
    let archive = change(|wal| {
        if let Wal::Standby { replication_state, .. } = wal {
            *replication_state = None
        }
    });
    let good = sample::standby();
    let rows = [
        (&standby, Some(&good), "", ""),
        (&standby, None, "", "PostgreSQL is not running"),
        (&standby, Some(&archive), "", "PostgreSQL replication state is not streaming"),
        (&dark, Some(&good), "", "DCS is not accessible"),
        (&standby, Some(&behind), "", "Replication apply lag 7108960 exceeds maximum allowable 1048576"),
        (&standby, Some(&behind), "lag=8000000", ""),
        (&standby, Some(&behind), "mode=write", ""),
        (&standby, Some(&behind), "mode=apply&lag=1kB", "Replication apply lag 7108960 exceeds maximum allowable 1024"),
    ];
    for (view, running, query, reason) in rows {
        let server = sample::answer(running);
        let found = readiness(&Query::parse(query), &Status::new(view, true, &server, sample::NOW));
        assert_eq!(found.unwrap_or_default(), reason, "{query}");
    }
    let leader = sample::view("postgresql0", sample::primary());
    assert_eq!(readiness(&Query::default(), &Status::new(&leader, true, &NO_ANSWER, sample::NOW)), None);
}

#[test]
fn a_loop_that_stands_still_is_not_alive() {
    let later = |seconds| Now { boot: sample::NOW.boot + Duration::from_secs(seconds), ..sample::NOW };
    let primary = sample::view("postgresql0", sample::primary());
    let standby = sample::view("postgresql1", sample::standby());
    assert!(is_alive(&primary, later(31)) && !is_alive(&primary, later(32)));
    assert!(is_alive(&standby, later(61)) && !is_alive(&standby, later(62)));
    assert!(is_alive(&with(&primary, |s| s.paused = true), later(9999)));
}

//! The two handles against PostgreSQL.
#![allow(clippy::disallowed_methods)]

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use harness::{Node, as_postgres, kill, until};
use patroni_core::job::{CloneFrom, CloneSource, Stage};
use patroni_core::lsn::Timeline;
use patroni_core::server::{ControlState, DataDir, Postmaster, Role, Wal};
use patroni_postgres::Error;
use patroni_postgres::callbacks::CallbackAction;
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::control::{Mode, Promoted, StartOptions, Started, StopOptions, Stopped};
use patroni_postgres::monitor::Pulse;
use patroni_postgres::sql::Connection;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, timeout};

fn script(path: &Path, text: &str) -> String {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
    path.display().to_string()
}

async fn make_replica(primary: &Node, name: &str) -> Node {
    let mut replica = Node::new(name);
    clone_from(primary, &mut replica, &Cancel::new()).await.expect("clone");
    replica.start(Role::Replica, Some(primary.upstream())).await.expect("start");
    replica
}

async fn clone_from(primary: &Node, replica: &mut Node, cancel: &Cancel) -> patroni_postgres::Result<()> {
    let source = CloneSource { name: "a".into(), conn_url: primary.conn_url(), is_leader: true };
    replica.control.clone_from(&CloneFrom::Member(source), cancel, &Progress::ignored()).await
}

#[test]
fn a_new_cluster_runs_is_seen_and_stops() {
    as_postgres("a_new_cluster_runs_is_seen_and_stops", async {
        let mut node = Node::new("a");
        assert_eq!(node.inspect().await.data_dir, DataDir::Empty);
        node.bootstrap().await;

        let server = node.inspect().await;
        let DataDir::Present(system) = server.data_dir else { panic!("{server:?}") };
        let running = node.running().await;
        assert!(matches!(running.wal, Wal::Primary { location } if location.0 > 0), "{running:?}");
        assert_eq!((running.timeline, running.control_timeline), (Some(Timeline(1)), Some(Timeline(1))));
        assert_eq!(running.server_version / 10_000, harness::major_version());
        assert!(running.start_time.starts_with("20") && running.start_time.contains("+"), "{}", running.start_time);
        let users = node.sql("SELECT rolname FROM pg_roles WHERE rolcanlogin ORDER BY 1").await;
        assert_eq!(users, ["postgres", "replicator", "rewinder"].map(|u| Some(u.to_owned())));
        let may = "SELECT has_function_privilege('rewinder', 'pg_read_binary_file(text)', 'execute')";
        assert_eq!(node.sql(may).await, [Some("t".to_owned())]);

        let (progress, stage) = Progress::new();
        let stop = StopOptions { report_shutdown: true, ..StopOptions::planned() };
        let stopped = node.control.stop(stop, &Cancel::new(), &progress).await.expect("stop");
        let Stopped::Gone(Some(end)) = stopped else { panic!("{stopped:?}") };
        let expected = Stage::ShutDown { checkpoint: end.checkpoint, previous: end.previous, exited: true };
        assert_eq!(*stage.borrow(), expected);
        let server = node.inspect().await;
        assert_eq!(server.data_dir, DataDir::Present(system));
        let Postmaster::Stopped(Some(control)) = server.postmaster else { panic!("{server:?}") };
        assert_eq!((control.state, control.checkpoint), (ControlState::ShutDown, end.checkpoint));
        assert!(!control.standby_signal && !control.backup_label);
        let again = node.control.stop(StopOptions::planned(), &Cancel::new(), &progress).await.expect("stop");
        assert_eq!(again, Stopped::WasNotRunning);
    });
}

#[test]
fn passwords_never_reach_the_log_of_the_server() {
    as_postgres("passwords_never_reach_the_log_of_the_server", async {
        let mut node = Node::with("a", |options| {
            let log = options.data_dir.with_file_name("output");
            let wrapper = options.data_dir.with_file_name("postgres-wrapper");
            let text = format!("exec {}/postgres \"$@\" -c log_statement=all 2>>{}", harness::bin_dir(), log.display());
            options.bin_name.insert("postgres".into(), script(&wrapper, &text));
            options.rewind.username = Some("odd \"name'".into());
        });
        node.bootstrap().await;
        let log = fs::read_to_string(node.dir.path().join("output")).expect("log");
        assert!(log.contains("statement: "), "log_statement had no effect: {log}");
        assert!(!log.contains(" password"), "{log}");
    });
}

#[test]
fn an_exit_is_noticed_at_once() {
    as_postgres("an_exit_is_noticed_at_once", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        let monitor = node.second_monitor();
        let exit = tokio::spawn(async move {
            monitor.exit_of_postmaster().await;
            Instant::now()
        });
        let child = node.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").await;
        let child: i32 = child[0].as_deref().and_then(|pid| pid.parse().ok()).expect("a process");
        kill(child, Signal::STOP);
        let before = timeout(Duration::from_millis(300), node.monitor.exit_of_postmaster()).await;
        assert!(before.is_err(), "exit was reported of a postmaster that lives");
        let killed = Instant::now();
        kill(node.postmaster_pid(), Signal::KILL);
        let noticed = exit.await.expect("task");
        assert!(noticed - killed < Duration::from_millis(100), "{:?}", noticed - killed);
        let Postmaster::Stopped(Some(control)) = node.inspect().await.postmaster else { panic!("not stopped") };
        assert_eq!(control.state, ControlState::InProduction);

        // A child that has not noticed yet would make PostgreSQL refuse the start.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            kill(child, Signal::CONT);
        });
        node.start(Role::Primary, None).await.expect("start after the crash");
        assert!(!node.running().await.wal.is_standby());
    });
}

/// Root may read everything, so this says something only because the tests of this file run as user postgres.
#[test]
fn a_server_whose_directory_cannot_be_read_is_known_by_its_process() {
    as_postgres("a_server_whose_directory_cannot_be_read_is_known_by_its_process", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        node.running().await;
        let data_dir = node.data_dir().to_owned();
        let mode = |mode| fs::set_permissions(&data_dir, fs::Permissions::from_mode(mode)).expect("mode");
        // Who has WAL to write and cannot open its file ends with PANIC, and the server with it.
        let writers =
            "SELECT pid FROM pg_stat_activity WHERE backend_type IN ('walwriter', 'background writer', 'checkpointer')";
        let writers = node.sql(writers).await;
        let writers: Vec<i32> = writers.iter().filter_map(|pid| pid.as_deref()?.parse().ok()).collect();
        assert_eq!(writers.len(), 3);
        writers.iter().for_each(|pid| kill(*pid, Signal::STOP));
        mode(0o000);
        let pid = node.postmaster_pid();
        // One that has never seen it finds it, too.
        for monitor in [node.monitor.clone(), node.second_monitor()] {
            let server = monitor.inspect(Instant::now() + Duration::from_secs(3)).await;
            assert!(matches!(server.data_dir, DataDir::Inaccessible(_)), "{server:?}");
            assert!(matches!(server.postmaster, Postmaster::Unreachable(_)), "{server:?}");
            assert_eq!(monitor.alive().await.expect("a look").map(|postmaster| postmaster.pid()), Some(pid));
        }
        writers.iter().for_each(|pid| kill(*pid, Signal::CONT));
        node.control.stop(StopOptions::immediate(), &Cancel::new(), &Progress::ignored()).await.expect("stop");
        let server = node.inspect().await;
        assert!(matches!(server.data_dir, DataDir::Inaccessible(_)), "{server:?}");
        assert_eq!(server.postmaster, Postmaster::Stopped(None));
        mode(0o700);
        assert!(matches!(node.inspect().await.data_dir, DataDir::Present(_)));
    });
}

#[test]
fn a_server_that_hangs_is_killed_when_it_does_not_stop() {
    as_postgres("a_server_that_hangs_is_killed_when_it_does_not_stop", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        // Those that do not end by themselves meanwhile.
        let lasting =
            "SELECT pid FROM pg_stat_activity WHERE backend_type NOT IN ('client backend', 'autovacuum worker')";
        let children = node.sql(lasting).await;
        let mut all: Vec<i32> = children.iter().filter_map(|pid| pid.as_deref()?.parse().ok()).collect();
        all.push(node.postmaster_pid());
        all.iter().for_each(|pid| kill(*pid, Signal::STOP));
        let stop = StopOptions { timeout: Some(Duration::from_millis(300)), ..StopOptions::immediate() };
        node.control.stop(stop, &Cancel::new(), &Progress::ignored()).await.expect("stop");
        // Killed, each can sleep in the kernel for a moment yet, while it gives its memory back.
        let is_left = |pid: &i32| Path::new(&format!("/proc/{pid}/fd/0")).exists();
        until("all are gone", async || !all.iter().any(is_left)).await;
        assert!(matches!(node.inspect().await.postmaster, Postmaster::Stopped(Some(_))));
    });
}

#[test]
fn a_server_without_its_directory_is_still_seen() {
    as_postgres("a_server_without_its_directory_is_still_seen", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        node.running().await;
        fs::rename(node.data_dir(), node.dir.path().join("elsewhere")).expect("rename");
        let server = node.inspect().await;
        assert_eq!(server.data_dir, DataDir::Empty);
        assert!(!matches!(server.postmaster, Postmaster::Stopped(_)), "{server:?}");
        let stop = StopOptions { timeout: Some(Duration::from_secs(5)), ..StopOptions::immediate() };
        node.control.stop(stop, &Cancel::new(), &Progress::ignored()).await.expect("stop");
        assert_eq!(node.inspect().await.postmaster, Postmaster::Stopped(None));
    });
}

#[test]
fn another_directory_in_the_place_of_its_own_is_noticed() {
    as_postgres("another_directory_in_the_place_of_its_own_is_noticed", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        node.running().await;
        let (own, copy) = (node.dir.path().join("own"), node.dir.path().join("copy"));
        let copied = std::process::Command::new("cp").arg("-r").arg(node.data_dir()).arg(&copy).status().expect("cp");
        assert!(copied.success());
        fs::rename(node.data_dir(), &own).expect("rename");
        fs::rename(&copy, node.data_dir()).expect("rename");
        let server = node.inspect().await;
        let DataDir::Inaccessible(why) = &server.data_dir else { panic!("{server:?}") };
        assert!(why.contains("another one, put or mounted in its place"), "{why}");
        // It can be stopped, and the directory that is there now is judged by itself.
        node.control.stop(StopOptions::immediate(), &Cancel::new(), &Progress::ignored()).await.expect("stop");
        let server = node.inspect().await;
        assert!(matches!(server.data_dir, DataDir::Present(_)), "{server:?}");
        assert!(matches!(server.postmaster, Postmaster::Stopped(Some(_))), "{server:?}");
    });
}

#[test]
fn a_second_agent_adopts_the_server() {
    as_postgres("a_second_agent_adopts_the_server", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        let running = node.running().await;
        let second = node.second_monitor();
        let Postmaster::Running(seen) = second.inspect(Instant::now() + Duration::from_secs(5)).await.postmaster else {
            panic!("it does not see the server")
        };
        // A server writes WAL by itself now and then.
        assert_eq!((seen.start_time, seen.wal.is_standby()), (running.start_time, false));
        assert_eq!(second.alive().await.expect("pid file").map(|p| p.pid()), Some(node.postmaster_pid()));
    });
}

#[test]
fn a_pid_file_of_another_process_is_no_postmaster() {
    as_postgres("a_pid_file_of_another_process_is_no_postmaster", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        node.control.stop(StopOptions::planned(), &Cancel::new(), &Progress::ignored()).await.expect("stop");
        let mut other = patroni_postgres::programs::command_for("sleep")
            .arg("60")
            .current_dir(node.data_dir())
            .spawn()
            .expect("sleep");
        let pid = other.id().expect("pid");
        for pid_file in [format!("{pid}\n"), "999999\n".to_owned(), "garbage".to_owned()] {
            fs::write(node.data_dir().join("postmaster.pid"), &pid_file).expect("pid file");
            let server = node.inspect().await;
            assert!(matches!(server.postmaster, Postmaster::Stopped(Some(_))), "{pid_file:?}: {server:?}");
        }
        let text = format!("{pid}\n{}\n1700000000\n5432\n/tmp\n\n  1 1\nready\n", node.data_dir().display());
        fs::write(node.data_dir().join("postmaster.pid"), text).expect("pid file");
        assert_eq!(node.start(Role::Primary, None).await.expect("start"), Started::Running);
        other.kill().await.expect("kill");
    });
}

/// The last thing that a postmaster does before it exits. Taken for a server that starts, it made an agent forget what it was stopped for.
#[test]
fn a_server_that_has_removed_its_pid_file_is_on_its_way_out() {
    as_postgres("a_server_that_has_removed_its_pid_file_is_on_its_way_out", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        // One that has no connection yet.
        let monitor = node.second_monitor();
        let postmaster = monitor.alive().await.expect("a look").expect("it runs").pid();
        let pid_file = node.data_dir().join("postmaster.pid");
        kill(postmaster, Signal::STOP);
        let text = fs::read(&pid_file).expect("a pid file");
        fs::remove_file(&pid_file).expect("removed");
        let server = monitor.inspect(Instant::now() + Duration::from_millis(500)).await;
        fs::write(&pid_file, text).expect("restored");
        kill(postmaster, Signal::CONT);
        assert!(matches!(server.postmaster, Postmaster::Stopping), "{server:?}");
    });
}

#[test]
fn a_hung_server_is_unreachable_at_the_deadline() {
    as_postgres("a_hung_server_is_unreachable_at_the_deadline", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        let monitor = node.second_monitor();
        let postmaster = node.postmaster_pid();
        kill(postmaster, Signal::STOP);
        let asked = Instant::now();
        let server = monitor.inspect(asked + Duration::from_millis(500)).await;
        let took = asked.elapsed();
        kill(postmaster, Signal::CONT);
        assert!(matches!(server.postmaster, Postmaster::Unreachable(_)), "{server:?}");
        assert!(took < Duration::from_millis(800), "{took:?}");
        until("the answer", async || matches!(node.inspect().await.postmaster, Postmaster::Running(_))).await;
    });
}

#[test]
fn a_failed_start_says_why() {
    as_postgres("a_failed_start_says_why", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        node.control.stop(StopOptions::planned(), &Cancel::new(), &Progress::ignored()).await.expect("stop");

        let port = patroni_ports::free_port();
        let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("bind");
        let own = node.options.borrow().clone();
        let mut options = (*own).clone();
        options.port = port;
        let options = std::sync::Arc::new(options);
        node.options.send_replace(options.clone());
        node.control.conf().set_options(options, std::sync::Arc::default());
        let error = node.start(Role::Primary, None).await.expect_err("the port is taken").to_string();
        assert!(error.contains(&format!("127.0.0.1:{port} is in use")), "{error}");

        node.options.send_replace(own.clone());
        node.control.conf().set_options(own, std::sync::Arc::default());
        fs::set_permissions(node.data_dir(), fs::Permissions::from_mode(0o777)).expect("mode");
        let error = node.start(Role::Primary, None).await.expect_err("everybody may write").to_string();
        assert!(error.contains("invalid permissions 777"), "{error}");

        fs::set_permissions(node.data_dir(), fs::Permissions::from_mode(0o700)).expect("mode");
        fs::write(node.data_dir().join("postgresql.base.conf"), "work_mem = 'nonsense'\n").expect("write");
        let error = node.start(Role::Primary, None).await.expect_err("the file is broken").to_string();
        assert!(error.contains("work_mem"), "{error}");
    });
}

#[test]
fn a_replica_is_cloned_streams_and_is_promoted() {
    as_postgres("a_replica_is_cloned_streams_and_is_promoted", async {
        let mut primary = Node::new("a");
        primary.bootstrap().await;
        let mut replica = make_replica(&primary, "b").await;
        primary.sql("CREATE TABLE t AS SELECT 42 AS x").await;
        until("streaming", async || primary.running().await.replication.iter().any(|r| r.state == "streaming")).await;
        until("the row", async || {
            replica.sql("SELECT count(*) FROM pg_class WHERE relname = 't'").await == [Some("1".to_owned())]
        })
        .await;
        let seen = replica.running().await;
        let Wal::Standby { received, replayed, replication_state, paused, .. } = &seen.wal else { panic!("{seen:?}") };
        assert_eq!((replication_state.as_deref(), *paused), (Some("streaming"), false));
        assert!(received.is_some() && replayed.is_some());
        assert_eq!(seen.timeline, Some(Timeline(1)));
        let connection = primary.running().await.replication;
        assert_eq!((connection[0].user.as_str(), connection[0].application_name.as_str()), ("replicator", "b"));

        let asked = Instant::now();
        let done = replica.control.promote(Duration::from_secs(20), &Cancel::new(), &Progress::ignored()).await;
        assert_eq!(done.expect("promote"), Promoted::Done);
        eprintln!("promotion took {:?}", asked.elapsed());
        let seen = replica.running().await;
        assert!(!seen.wal.is_standby());
        assert_eq!(seen.timeline, Some(Timeline(2)));
        assert_eq!(replica.sql("INSERT INTO t VALUES (43) RETURNING x").await, [Some("43".to_owned())]);
        assert!(!replica.data_dir().join("promote").exists());
    });
}

#[test]
fn a_planned_stop_is_short_and_ends_where_the_replica_is() {
    as_postgres("a_planned_stop_is_short_and_ends_where_the_replica_is", async {
        let mut primary = Node::new("a");
        primary.bootstrap().await;
        let replica = make_replica(&primary, "b").await;
        until("streaming", async || primary.running().await.replication.iter().any(|r| r.state == "streaming")).await;
        primary.sql("CREATE TABLE t AS SELECT 42 AS x").await;
        let stop = StopOptions { report_shutdown: true, ..StopOptions::planned() };
        let asked = Instant::now();
        let stopped = primary.control.stop(stop, &Cancel::new(), &Progress::ignored()).await.expect("stop");
        let took = asked.elapsed();
        let Stopped::Gone(Some(end)) = stopped else { panic!("{stopped:?}") };
        until("everything", async || replica.running().await.wal.position() >= end.previous).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        eprintln!("planned stop took {took:?}");
    });
}

#[test]
fn a_standby_follows_another_upstream() {
    as_postgres("a_standby_follows_another_upstream", async {
        let mut primary = Node::new("a");
        primary.bootstrap().await;
        let replica = make_replica(&primary, "b").await;
        let mut cascading = make_replica(&primary, "c").await;
        let (cancel, progress) = (Cancel::new(), Progress::ignored());
        for restart in [false, true] {
            let upstream = if restart { primary.upstream() } else { replica.upstream() };
            let source = if restart { &primary } else { &replica };
            cascading.control.follow(upstream, Role::Replica, restart, &cancel, &progress).await.expect("follow");
            let streams = |r: &patroni_core::server::Replication| r.application_name == "c" && r.state == "streaming";
            until("streaming", async || source.running().await.replication.iter().any(streams)).await;
        }
    });
}

/// The configuration has a new password that the server does not know yet.
#[test]
fn signs_of_life_are_asked_for_in_every_way() {
    as_postgres("signs_of_life_are_asked_for_in_every_way", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        let before = node.options.borrow().clone();
        let mut after = (*before).clone();
        after.superuser.password = Some("not yet".into());
        node.options.send_replace(after.or_as([&*before]));
        let signs = Pulse::new(node.monitor.clone()).look(|_| {}).await;
        assert!(signs.answer.as_ref().is_some_and(|answer| answer.flushed.is_some()), "{signs:?}");
    });
}

#[test]
fn a_failed_clone_leaves_nothing_and_a_cancelled_one_neither() {
    as_postgres("a_failed_clone_leaves_nothing_and_a_cancelled_one_neither", async {
        let mut primary = Node::new("a");
        primary.bootstrap().await;
        // The copy is endless: the client never gets to its end.
        let mut replica = Node::with("b", |o| {
            o.replica_methods.insert("basebackup".into(), json!([{"max-rate": "32k"}, {"checkpoint": "fast"}]));
        });
        let cancel = Cancel::new();
        let stopper = cancel.clone();
        let directory = replica.data_dir();
        let waits = async {
            until("the copy", async || directory.join("pg_wal").exists()).await;
            stopper.cancel();
        };
        let (result, ()) = tokio::join!(clone_from(&primary, &mut replica, &cancel), waits);
        let error = result.expect_err("cancelled");
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert!(!replica.data_dir().exists());
        until("the end of pg_basebackup", async || primary.running().await.replication.is_empty()).await;

        let mut methods = Node::with("c", |o| {
            o.create_replica_methods = vec!["broken".into(), "basebackup".into()];
            o.replica_methods.insert("broken".into(), json!({"command": "sh -c 'mkdir -p ${4#--datadir=}/x; exit 3'"}));
        });
        clone_from(&primary, &mut methods, &Cancel::new()).await.expect("the second method works");
        assert!(!methods.data_dir().join("x").exists());
        assert!(matches!(methods.inspect().await.data_dir, DataDir::Present(_)));
    });
}

#[test]
fn crash_recovery_ends_cleanly() {
    as_postgres("crash_recovery_ends_cleanly", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        node.control.stop(StopOptions::immediate(), &Cancel::new(), &Progress::ignored()).await.expect("stop");
        let ready = node.data_dir().join("pg_wal/archive_status/000000010000000000000000.ready");
        fs::write(&ready, "").expect("mark");
        fs::write(node.data_dir().join("standby.signal"), "").expect("signal");
        let state = |s: &Postmaster| if let Postmaster::Stopped(Some(c)) = s { Some(c.state) } else { None };
        assert_eq!(state(&node.inspect().await.postmaster), Some(ControlState::InProduction));
        node.control.crash_recovery(&Cancel::new(), &Progress::ignored()).await.expect("recovery");
        assert_eq!(state(&node.inspect().await.postmaster), Some(ControlState::ShutDown));
        assert!(!ready.exists());
    });
}

#[test]
fn a_stop_that_hangs_is_made_harder() {
    as_postgres("a_stop_that_hangs_is_made_harder", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        kill(node.postmaster_pid(), Signal::STOP);
        let stop = StopOptions {
            mode: Mode::Fast,
            checkpoint: false,
            report_shutdown: true,
            timeout: Some(Duration::from_millis(300)),
            callback: false,
        };
        let stopped = node.control.stop(stop, &Cancel::new(), &Progress::ignored()).await.expect("stop");
        assert_eq!(stopped, Stopped::Gone(None));
        assert!(matches!(node.inspect().await.postmaster, Postmaster::Stopped(_)));
    });
}

#[test]
fn a_failed_bootstrap_is_moved_away_and_a_full_directory_is_not_touched() {
    as_postgres("a_failed_bootstrap_is_moved_away_and_a_full_directory_is_not_touched", async {
        let mut node = Node::with("a", |o| o.bootstrap.post_bootstrap = Some("sh -c 'exit 7'".into()));
        let error = node.control.bootstrap(&Cancel::new(), &Progress::ignored()).await.expect_err("the script fails");
        assert!(error.to_string().contains("code=7"), "{error}");
        assert!(!node.data_dir().exists());
        assert!(node.dir.path().join("data.failed/PG_VERSION").exists());

        fs::create_dir(node.data_dir()).expect("directory");
        fs::write(node.data_dir().join("precious"), "x").expect("file");
        node.control.bootstrap(&Cancel::new(), &Progress::ignored()).await.expect_err("not empty");
        assert!(node.data_dir().join("precious").exists());
    });
}

#[test]
fn post_bootstrap_can_connect_with_what_it_is_given() {
    as_postgres("post_bootstrap_can_connect_with_what_it_is_given", async {
        let mut node = Node::with("a", |o| {
            let psql = format!("{}/psql -v ON_ERROR_STOP=1 -c 'CREATE DATABASE made'", harness::bin_dir());
            o.bootstrap.post_bootstrap = Some(psql);
            o.use_unix_socket = false;
        });
        node.bootstrap().await;
        assert_eq!(node.sql("SELECT 1 FROM pg_database WHERE datname = 'made'").await, [Some("1".to_owned())]);
    });
}

#[test]
fn a_custom_method_makes_the_cluster() {
    as_postgres("a_custom_method_makes_the_cluster", async {
        let mut node = Node::with("a", |o| {
            let text = format!(
                "for a in \"$@\"; do case $a in --datadir=*) d=${{a#--datadir=}};; --scope=test) s=1;; --x=1) x=1;; esac; done\n\
                 test -n \"$s$x\" && exec {}/initdb -N -A scram-sha-256 --pwfile=/proc/self/fd/0 -U postgres $d <<E\nunknown\nE",
                harness::bin_dir()
            );
            let command = script(&o.data_dir.with_file_name("method"), &text);
            let json = json!({"command": command, "x": 1});
            o.bootstrap.method = Some("own".into());
            o.bootstrap.methods.insert("own".into(), json.as_object().cloned().expect("object"));
        });
        node.bootstrap().await;
        // The password of the configuration is the one that works now, and nothing else does.
        assert_eq!(node.sql("SELECT current_user::text").await, [Some("postgres".to_owned())]);
        let hba = fs::read_to_string(node.data_dir().join("pg_hba.conf")).expect("pg_hba.conf");
        assert!(!hba.lines().any(|line| !line.starts_with('#') && line.contains("trust")), "{hba}");
    });
}

#[test]
fn a_running_server_keeps_its_directory() {
    as_postgres("a_running_server_keeps_its_directory", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        assert!(matches!(node.control.remove_data_directory().await, Err(Error::PostmasterRuns { .. })));
        assert!(matches!(node.control.move_data_directory().await, Err(Error::PostmasterRuns { .. })));
        assert!(node.data_dir().join("PG_VERSION").exists());

        node.control.stop(StopOptions::planned(), &Cancel::new(), &Progress::ignored()).await.expect("stop");
        let wal = node.dir.path().join("wal");
        fs::rename(node.data_dir().join("pg_wal"), &wal).expect("move");
        std::os::unix::fs::symlink(&wal, node.data_dir().join("pg_wal")).expect("link");
        let tablespace = node.dir.path().join("space");
        fs::create_dir(&tablespace).expect("directory");
        std::os::unix::fs::symlink(&tablespace, node.data_dir().join("pg_tblspc/16384")).expect("link");
        node.control.move_data_directory().await.expect("move");
        for name in ["data.failed/PG_VERSION", "wal.failed", "space.failed", "data.failed/pg_wal/archive_status"] {
            assert!(node.dir.path().join(name).exists(), "{name}");
        }
        for name in ["data", "wal", "space"] {
            assert!(!node.dir.path().join(name).exists(), "{name}");
            fs::rename(node.dir.path().join(format!("{name}.failed")), node.dir.path().join(name)).expect("back");
        }
        for (link, target) in [("pg_wal", &wal), ("pg_tblspc/16384", &tablespace)] {
            fs::remove_file(node.data_dir().join(link)).expect("remove");
            std::os::unix::fs::symlink(target, node.data_dir().join(link)).expect("link");
        }
        node.control.remove_data_directory().await.expect("remove");
        for name in ["data", "wal", "space"] {
            assert!(!node.dir.path().join(name).exists(), "{name}");
        }
    });
}

#[test]
fn the_next_callback_ends_the_one_before() {
    as_postgres("the_next_callback_ends_the_one_before", async {
        let mut node = Node::with("a", |o| {
            let out = o.data_dir.with_file_name("calls");
            let hang = script(
                &o.data_dir.with_file_name("hang"),
                &format!("echo begin \"$@\" >> {0}; sleep 60; echo end >> {0}", out.display()),
            );
            let note = script(&o.data_dir.with_file_name("note"), &format!("echo \"$@\" >> {}", out.display()));
            o.callbacks.insert(CallbackAction::OnStart, format!("{hang} 'one word'"));
            o.callbacks.insert(CallbackAction::OnStop, note.clone());
            o.callbacks.insert(CallbackAction::OnReload, note);
        });
        let calls = node.dir.path().join("calls");
        let text = || fs::read_to_string(&calls).unwrap_or_default();
        node.control.set_role(Role::Promoted);
        node.control.call_back(CallbackAction::OnStart);
        until("the first", async || text().contains("begin one word on_start primary test")).await;
        node.control.call_back(CallbackAction::OnReload);
        until("the reload beside it", async || text().contains("on_reload primary test")).await;
        let asked = Instant::now();
        node.control.call_back(CallbackAction::OnStop);
        until("the next", async || text().contains("on_stop primary test")).await;
        assert!(asked.elapsed() < Duration::from_secs(3), "it waited for the first one");
        assert!(!text().contains("end"), "{}", text());
        assert!(node.control.announced());
    });
}

#[test]
fn pre_promote_can_refuse_and_be_called_off() {
    as_postgres("pre_promote_can_refuse_and_be_called_off", async {
        let mut primary = Node::new("a");
        primary.bootstrap().await;
        let mut replica = make_replica(&primary, "b").await;
        let set = |node: &Node, command: &str| {
            let mut options = (**node.options.borrow()).clone();
            options.pre_promote = Some(command.to_owned());
            node.options.send_replace(std::sync::Arc::new(options));
        };
        set(&replica, "false");
        let limit = Duration::from_secs(20);
        let refused = replica.control.promote(limit, &Cancel::new(), &Progress::ignored()).await;
        assert_eq!(refused.expect("an answer"), Promoted::PrePromoteFailed);

        set(&replica, "sleep 60");
        let cancel = Cancel::new();
        let stopper = cancel.clone();
        let asked = Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stopper.cancel();
        });
        let cancelled = replica.control.promote(limit, &cancel, &Progress::ignored()).await;
        assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
        assert!(asked.elapsed() < Duration::from_secs(5));
        assert!(replica.running().await.wal.is_standby());
    });
}

#[test]
fn what_is_no_longer_allowed_when_its_moment_comes_is_not_done() {
    as_postgres("what_is_no_longer_allowed_when_its_moment_comes_is_not_done", async {
        let mut primary = Node::new("a");
        primary.bootstrap().await;
        let mut replica = make_replica(&primary, "b").await;
        let progress = Progress::with_condition(|| false).0;
        let promoted = replica.control.promote(Duration::from_secs(20), &Cancel::new(), &progress).await;
        assert!(matches!(promoted, Err(Error::Cancelled)), "{promoted:?}");
        assert!(replica.running().await.wal.is_standby());

        // The lease ends while the old server is being stopped.
        let asked = std::sync::atomic::AtomicU32::new(0);
        let progress =
            Progress::with_condition(move || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0).0;
        let restarted = primary.control.restart(None, None, &Cancel::new(), &progress).await;
        assert!(matches!(restarted, Err(Error::Cancelled)), "{restarted:?}");
        assert!(primary.monitor.alive().await.expect("a look").is_none(), "it was started again");
    });
}

#[test]
fn status_requests_share_queries() {
    as_postgres("status_requests_share_queries", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        node.running().await;
        let count = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'";
        let asks: Vec<_> = (0..200)
            .map(|_| {
                let monitor = node.monitor.clone();
                tokio::spawn(async move {
                    let state = monitor.postmaster_state(Instant::now() + Duration::from_secs(10)).await;
                    matches!(state, Postmaster::Running(_))
                })
            })
            .collect();
        for ask in asks {
            assert!(ask.await.expect("task"));
        }
        let connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'Patroni heartbeat'";
        assert_eq!(node.sql(connections).await, [Some("1".to_owned())]);
        let transactions: i64 = node.sql(count).await[0].as_deref().unwrap_or("0").parse().expect("a number");
        assert!(transactions < 150, "{transactions} transactions for 200 requests");
    });
}

#[test]
fn standby_settings_are_not_below_those_of_the_primary() {
    as_postgres("standby_settings_are_not_below_those_of_the_primary", async {
        let mut primary = Node::new("a");
        primary.bootstrap().await;
        let mut replica = Node::new("b");
        clone_from(&primary, &mut replica, &Cancel::new()).await.expect("clone");
        let options = replica.options.borrow().clone();
        let directory = replica.dir.path().display().to_string();
        let json = json!({"max_connections": 25, "unix_socket_directories": directory, "shared_buffers": "16MB"});
        let files = patroni_postgres::conf::FileOptions {
            parameters: json.as_object().cloned().expect("object"),
            ..Default::default()
        };
        replica.control.conf().set_options(options, std::sync::Arc::new(files));
        let started = replica.start(Role::Replica, Some(primary.upstream())).await.expect("start");
        assert_eq!(started, Started::Running);
        assert_eq!(replica.sql("SHOW max_connections").await, [Some("30".to_owned())]);
        assert!(replica.control.raised_settings().contains_key("max_connections"));
    });
}

#[test]
fn tls_is_used_and_checked_as_sslmode_says() {
    as_postgres("tls_is_used_and_checked_as_sslmode_says", async {
        let mut node = Node::new("a");
        node.bootstrap().await;
        let (key, cert) = (node.dir.path().join("key"), node.dir.path().join("cert"));
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=other", "-addext", "subjectAltName=DNS:other.example", "-keyout"])
            .args([key.as_os_str(), "-out".as_ref(), cert.as_os_str()])
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
        let mut options = (**node.options.borrow()).clone();
        options.use_unix_socket = false;
        let options = std::sync::Arc::new(options);
        let json = json!({
            "ssl": "on", "ssl_key_file": key, "ssl_cert_file": cert, "shared_buffers": "16MB", "max_connections": 30,
            "unix_socket_directories": node.dir.path(),
        });
        let files = patroni_postgres::conf::FileOptions {
            parameters: json.as_object().cloned().expect("object"),
            pg_hba: vec!["hostssl all all all scram-sha-256".into()],
            ..Default::default()
        };
        node.options.send_replace(options.clone());
        node.control.conf().set_options(options.clone(), std::sync::Arc::new(files));
        node.control.restart(None, None, &Cancel::new(), &Progress::ignored()).await.expect("restart");

        let root = cert.display().to_string();
        let rows = [
            (None, None, true),
            (Some("disable"), None, false),
            (Some("require"), None, true),
            (Some("require"), Some(&root), true),
            (Some("verify-ca"), Some(&root), true),
            (Some("verify-ca"), None, false),
            (Some("verify-full"), Some(&root), false),
        ];
        for (mode, root, works) in rows {
            let mut conninfo = options.local_superuser();
            for (keyword, value) in [("sslmode", mode), ("sslrootcert", root.map(String::as_str))] {
                if let Some(value) = value {
                    conninfo.set(keyword, value);
                }
            }
            let result = match Connection::open(&conninfo, "test", "").await {
                Ok(open) => open.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await,
                Err(error) => Err(error),
            };
            let uses_tls = result.as_ref().is_ok_and(|rows| rows[0].flag(0));
            assert_eq!(uses_tls, works, "{mode:?} {root:?}: {result:?}");
        }
    });
}

#[test]
fn a_start_that_takes_long_is_finished_later() {
    as_postgres("a_start_that_takes_long_is_finished_later", async {
        let mut node = Node::with("a", |o| {
            let out = o.data_dir.with_file_name("calls");
            let note = script(&o.data_dir.with_file_name("note"), &format!("echo \"$@\" >> {}", out.display()));
            o.callbacks.insert(CallbackAction::OnStart, note);
            let wrapper = o.data_dir.with_file_name("postgres-wrapper");
            let text = format!("test -e {} && sleep 1; exec {}/postgres \"$@\"", out.display(), harness::bin_dir());
            o.bin_name.insert("postgres".into(), script(&wrapper, &text));
        });
        node.bootstrap().await;
        node.control.stop(StopOptions::planned(), &Cancel::new(), &Progress::ignored()).await.expect("stop");
        let calls = node.dir.path().join("calls");
        fs::write(&calls, "").expect("file");
        let start = StartOptions {
            role: Role::Primary,
            follow: None,
            timeout: Some(Duration::from_millis(100)),
            callback: Some(CallbackAction::OnStart),
        };
        let started = node.control.start(start, &Cancel::new(), &Progress::ignored()).await.expect("start");
        assert_eq!(started, Started::StillStarting);
        assert_eq!(node.inspect().await.postmaster, Postmaster::Starting);
        until("running", async || matches!(node.inspect().await.postmaster, Postmaster::Running(_))).await;
        for _ in 0..2 {
            node.control.seen_running().await;
        }
        until("the callback", async || !fs::read_to_string(&calls).unwrap_or_default().is_empty()).await;
        assert_eq!(fs::read_to_string(&calls).expect("calls"), "on_start primary test\n");
    });
}

#[test]
fn a_directory_that_has_to_stay_is_emptied() {
    as_postgres("a_directory_that_has_to_stay_is_emptied", async {
        let mut node = Node::new("a");
        let data_dir = node.dir.path().join("parent/data");
        fs::create_dir_all(data_dir.join("base/1")).expect("directory");
        fs::write(data_dir.join("base/1/2"), "x").expect("file");
        let mut options = (**node.options.borrow()).clone();
        options.data_dir = data_dir.clone();
        node.options.send_replace(std::sync::Arc::new(options));
        let mode = |mode| fs::set_permissions(node.dir.path().join("parent"), fs::Permissions::from_mode(mode));
        mode(0o555).expect("mode");
        let result = node.control.remove_data_directory().await;
        mode(0o755).expect("mode");
        result.expect("emptied");
        assert_eq!(fs::read_dir(&data_dir).expect("it stays").count(), 0);
        for path in ["/", "relative", "/tmp/../tmp", ""] {
            assert!(patroni_postgres::data_dir::remove(Path::new(path)).await.is_err(), "{path:?}");
        }
    });
}

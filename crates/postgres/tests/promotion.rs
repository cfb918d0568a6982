//! Promotions that PostgreSQL notices late.
#![allow(clippy::disallowed_methods)]

mod harness;

use std::fs;
use std::time::Duration;

use harness::Node;
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::control::Promoted;

/// As recovery in its pause between attempts to connect: the request is there, and heeded only after a reload.
const SLEEPY: &str = r"
trap 'asked=yes' USR1
trap '[ $asked$(ls promote) = yespromote ] && mv promoted global/pg_control' HUP
touch traps-are-set
while :; do sleep 0.02; done
";

/// The part of `pg_control` that tells the state.
fn pg_control(state: u32) -> Vec<u8> {
    [[0; 16].as_slice(), &state.to_ne_bytes()].concat()
}

#[tokio::test]
async fn a_promotion_that_is_not_noticed_is_nudged_by_a_reload() {
    let mut node = Node::new("n");
    let data_dir = node.data_dir();
    fs::create_dir_all(data_dir.join("global")).expect("data directory");
    fs::write(data_dir.join("global/pg_control"), pg_control(5)).expect("in archive recovery");
    fs::write(data_dir.join("promoted"), pg_control(6)).expect("in production");
    // A process counts as a postmaster by its working directory and the name of its program.
    let program = node.dir.path().join("postgres");
    fs::copy("/bin/bash", &program).expect("a program");
    let mut command = patroni_postgres::programs::command_for(&program);
    let server = command.arg("-c").arg(SLEEPY).current_dir(&data_dir).kill_on_drop(true).spawn().expect("a server");
    harness::until("the server", async || data_dir.join("traps-are-set").exists()).await;
    fs::write(data_dir.join("postmaster.pid"), format!("{}\n", server.id().expect("it runs"))).expect("pid file");

    let promoted = node.control.promote(Duration::from_secs(10), &Cancel::new(), &Progress::ignored()).await;
    assert_eq!(promoted.expect("promotion"), Promoted::Done);
}

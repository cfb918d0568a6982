//! `patronictl explain`: why the present leader leads, and who could take over now.

use http::Method;
use patroni_core::cluster::{Cluster, Member};
use patroni_core::lsn::Lsn;
use patroni_core::settings::SynchronousMode;
use serde_json::Value;

use crate::cli::definition::{CLUSTER_NAME, Command, GROUP};
use crate::cli::parse::Matches;
use crate::context::{Context, QUICK, Store};
use crate::error::CtlError;
use crate::flags::{Flags, is_synchronous, settings};
use crate::output;

/// `maximum_lag_on_failover` where it is not set, in bytes.
const DEFAULT_MAXIMUM_LAG: u64 = 1_048_576;

pub(crate) const COMMAND: Command = Command {
    name: "explain",
    help: "Explain who leads, who could take over, and why the others could not",
    arguments: &[CLUSTER_NAME],
    options: &[GROUP],
    examples: &["patronictl explain batman"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_default(matches)?;
    let cluster = store.load().await?;
    let mut answers = Vec::new();
    for member in cluster.members.values() {
        answers.push((member, status(context, member).await));
    }
    output::write(&explain(&cluster, &store, &answers));
    Ok(())
}

/// What a member answers to `GET /patroni`; `Err` with the reason where it does not.
async fn status(context: &Context, member: &Member) -> Result<Value, String> {
    let answer = context.request(member, Method::GET, Some("patroni"), None, QUICK).await;
    let answer = answer.map_err(|error| error.to_string())?;
    serde_json::from_str(&answer.body).map_err(|error| format!("its answer is not JSON: {error}"))
}

/// The whole text.
fn explain(cluster: &Cluster, store: &Store, answers: &[(&Member, Result<Value, String>)]) -> String {
    let flags = Flags::of(cluster);
    let mut lines = vec![format!("Cluster {}", store.scope), String::new()];
    lines.push(leader_line(cluster, flags));
    lines.push(String::new());
    let mut able: Vec<(Lsn, i64, &str)> = Vec::new();
    for (member, answer) in answers.iter().filter(|(member, _)| Some(&member.name) != cluster.leader_name()) {
        let obstacles = obstacles(cluster, flags, member, answer);
        if obstacles.is_empty() {
            let lsn = position(member);
            able.push((lsn, member.data.tags.failover_priority(), member.name.as_str()));
            lines.push(format!("{} is a candidate: it has WAL up to {lsn}", member.name));
        } else {
            lines.push(format!("{} is no candidate: {}", member.name, obstacles.join("; ")));
        }
    }
    lines.push(String::new());
    lines.push(forecast(flags, able));
    lines.join("\n") + "\n"
}

fn leader_line(cluster: &Cluster, flags: Flags) -> String {
    let Some(leader) = cluster.leader_name() else { return "Nobody holds the leader key.".to_owned() };
    let kind = if flags.standby_cluster { "standby leader" } else { "leader" };
    let last = cluster.history.as_ref().and_then(|history| history.lines.last());
    let field = |index: usize| last.and_then(|line| line.0.get(index)).and_then(Value::as_str);
    let since = match (field(3), field(4) == Some(leader.as_str())) {
        (Some(time), true) => format!(": it was promoted at {time} ({})", field(2).unwrap_or("reason unknown")),
        (Some(_), false) | (None, _) => String::new(),
    };
    format!("{leader} is the {kind}, because it holds the leader key{since}.")
}

/// All that keeps a member from being promoted.
fn obstacles(cluster: &Cluster, flags: Flags, member: &Member, answer: &Result<Value, String>) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(reason) = answer {
        found.push(format!("its REST API does not answer ({reason})"));
    }
    if member.data.tags.nofailover() {
        found.push("it has the tag nofailover (or failover_priority 0)".to_owned());
    }
    if !member.data.is_running() {
        found.push(format!("PostgreSQL is in state {:?}", member.data.state.as_deref().unwrap_or("unknown")));
    }
    if flags.synchronous != SynchronousMode::Off && !is_synchronous(&cluster.sync, member.name.as_str()) {
        found.push("synchronous_mode is on and it is not a synchronous standby".to_owned());
    }
    let maximum = settings(cluster).and_then(|map| map.get("maximum_lag_on_failover")).and_then(Value::as_u64);
    let maximum = maximum.unwrap_or(DEFAULT_MAXIMUM_LAG);
    let lag = cluster.status.last_lsn.0.saturating_sub(position(member).0);
    if lag > maximum {
        found.push(format!("it is {lag} bytes behind, more than maximum_lag_on_failover ({maximum})"));
    }
    if answer.as_ref().is_ok_and(|status| status.get("watchdog_failed") == Some(&Value::Bool(true))) {
        found.push("its watchdog is required and does not work".to_owned());
    }
    found
}

fn position(member: &Member) -> Lsn {
    let data = &member.data;
    data.receive_lsn.max(data.replay_lsn).max(data.xlog_location).unwrap_or_default()
}

fn forecast(flags: Flags, mut able: Vec<(Lsn, i64, &str)>) -> String {
    if flags.paused {
        return "If the leader died now, nobody would take over: the cluster is paused (patronictl resume).".to_owned();
    }
    able.sort_by_key(|(lsn, priority, _)| std::cmp::Reverse((*lsn, *priority)));
    match able.as_slice() {
        [] => "If the leader died now, nobody could take over.".to_owned(),
        [(_, _, only)] => format!("If the leader died now, {only} would take over."),
        [first, second, ..] if (first.0, first.1) > (second.0, second.1) => {
            format!(
                "If the leader died now, {} would take over: it has the most WAL, or the highest priority.",
                first.2
            )
        }
        [first, ..] => {
            let equal = able.iter().filter(|other| (other.0, other.1) == (first.0, first.1));
            let names: Vec<&str> = equal.map(|(_, _, name)| *name).collect();
            format!("If the leader died now, the first of {} to take the leader key would take over.", names.join(", "))
        }
    }
}

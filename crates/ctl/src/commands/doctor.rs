//! `patronictl doctor`: what is wrong with a cluster or will bite, and the command that mends it.

use std::fmt;

use http::Method;
use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, Initialize, Member};
use serde_json::Value;

use crate::cli::definition::{CLUSTER_NAME, Command, GROUP};
use crate::cli::parse::Matches;
use crate::context::{Context, QUICK};
use crate::error::CtlError;
use crate::flags::{Flags, settings};
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "doctor",
    help: "Find what is wrong or will bite; exit code 1 if there is something",
    arguments: &[CLUSTER_NAME],
    options: &[GROUP],
    examples: &["patronictl doctor batman || echo look after batman"],
    run: |context, matches| Box::pin(run(context, matches)),
};

/// Something to look after.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    what: String,
    remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "* {}\n  remedy: {}", self.what, self.remedy)
    }
}

fn finding(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { what: what.into(), remedy: remedy.into() }
}

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_default(matches)?;
    let cluster = store.load().await?;
    let scope = store.scope.as_str();
    let mut findings = of_cluster(&cluster, scope);
    for member in cluster.members.values() {
        findings.extend(of_member(&cluster, member, scope));
        match context.request(member, Method::GET, Some("patroni"), None, QUICK).await {
            Ok(answer) => {
                let status = serde_json::from_str::<Value>(&answer.body).unwrap_or(Value::Null);
                findings.extend(of_status(&cluster, member, &status));
            }
            Err(error) => findings.push(finding(
                format!("{} does not answer: {error}", member.name),
                "start its agent, or open its REST port to this machine and the other members",
            )),
        }
    }
    if findings.is_empty() {
        output::echo(&format!("{scope}: nothing found"));
        return Ok(());
    }
    for finding in &findings {
        output::echo(&finding.to_string());
    }
    Err(CtlError::Reported)
}

fn of_cluster(cluster: &Cluster, scope: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    if cluster.is_unlocked() {
        found.push(finding("the cluster has no leader", format!("patronictl explain {scope}")));
    }
    if let Some(leader) = cluster.leader_name().filter(|_| cluster.leader_member().is_none()) {
        found.push(finding(
            format!("the leader {leader} has no member key"),
            format!("look into the log of the agent of {leader}"),
        ));
    }
    if Flags::of(cluster).paused {
        found.push(finding("the cluster is paused: nobody fails over", format!("patronictl resume {scope}")));
    }
    if let Initialize::Invalid(text) = &cluster.initialize {
        let what = format!("the key initialize holds {text:?}, which is no system identifier");
        found.push(finding(what, "write the identifier that pg_controldata shows on the leader"));
    }
    found.extend(settings(cluster).and_then(|config| of_timing(config, scope)));
    found
}

/// The lease must not end while an operation is still being retried.
fn of_timing(config: &JsonMap, scope: &str) -> Option<Finding> {
    let seconds = |name: &str, default| config.get(name).and_then(Value::as_u64).unwrap_or(default);
    let (ttl, loop_wait, retry_timeout) = (seconds("ttl", 30), seconds("loop_wait", 10), seconds("retry_timeout", 10));
    let needed = loop_wait + 2 * retry_timeout;
    (needed > ttl).then(|| {
        finding(
            format!("loop_wait + 2 * retry_timeout is {needed} s, more than ttl ({ttl} s)"),
            format!("patronictl edit-config {scope} -s ttl={needed}"),
        )
    })
}

fn of_member(cluster: &Cluster, member: &Member, scope: &str) -> Vec<Finding> {
    let (name, data) = (&member.name, &member.data);
    let mut found = Vec::new();
    if !data.is_running() && data.state.as_deref() != Some("creating replica") {
        let state = data.state.as_deref().unwrap_or("unknown");
        found.push(finding(
            format!("PostgreSQL of {name} is in state {state:?}"),
            format!("look into its log on {name}"),
        ));
    }
    if data.pending_restart {
        found.push(finding(
            format!("{name} has to be restarted for settings to take effect"),
            format!("patronictl restart {scope} {name} --pending"),
        ));
    }
    let is_leader = cluster.leader_name() == Some(name);
    let leader_timeline = cluster.leader_member().and_then(|leader| leader.data.timeline);
    if let (false, Some(own), Some(theirs)) = (is_leader, data.timeline, leader_timeline)
        && own != theirs
    {
        found.push(finding(
            format!("{name} is on timeline {own}, the leader on {theirs}"),
            format!("patronictl reinit {scope} {name}, if it does not catch up"),
        ));
    }
    let maximum = settings(cluster).and_then(|map| map.get("maximum_lag_on_failover")).and_then(Value::as_u64);
    let own = data.receive_lsn.max(data.replay_lsn).max(data.xlog_location).unwrap_or_default();
    let lag = cluster.status.last_lsn.0.saturating_sub(own.0);
    if !is_leader && lag > maximum.unwrap_or(1_048_576) {
        found.push(finding(
            format!("{name} is {lag} bytes behind: it would not take over"),
            format!("look at pg_stat_replication of the leader and the log of {name}"),
        ));
    }
    found
}

fn of_status(cluster: &Cluster, member: &Member, status: &Value) -> Vec<Finding> {
    let name = &member.name;
    let mut found = Vec::new();
    let identifier = status.get("database_system_identifier").and_then(Value::as_str);
    if let (Initialize::Done(id), Some(own)) = (&cluster.initialize, identifier)
        && id.to_string() != own
    {
        found.push(finding(
            format!("{name} has system identifier {own}, the cluster has {id}"),
            format!("{name} is a member of another cluster: give it another scope or an empty data directory"),
        ));
    }
    if status.get("watchdog_failed") == Some(&Value::Bool(true)) {
        found.push(finding(
            format!("the watchdog of {name} is required and does not work"),
            "make the device writable for the user of the agent",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_lease_that_ends_too_early() {
        let map = |value: Value| value.as_object().cloned().expect("object");
        assert_eq!(of_timing(&map(json!({})), "batman"), None);
        let found = of_timing(&map(json!({"ttl": 20})), "batman").expect("a finding");
        assert_eq!(found.remedy, "patronictl edit-config batman -s ttl=30");
    }
}

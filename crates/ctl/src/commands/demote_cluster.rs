//! `patronictl demote-cluster`, and what it shares with `promote-cluster`.

use std::time::Duration;

use http::Method;
use patroni_core::JsonMap;
use patroni_core::cluster::Cluster;
use serde_json::{Value, json};

use crate::cli::definition::{CLUSTER_NAME, Command, FORCE, Kind, Opt};
use crate::cli::parse::Matches;
use crate::context::{Context, SHORT, Store};
use crate::error::{CtlError, failed};
use crate::{output, prompt, remote};

pub(crate) const COMMAND: Command = Command {
    name: "demote-cluster",
    help: "Demote cluster to a standby cluster",
    arguments: &[CLUSTER_NAME],
    options: &[
        FORCE,
        Opt { names: &["--host"], key: "host", kind: Kind::Text, help: "Address of the remote node" },
        Opt { names: &["--port"], key: "port", kind: Kind::Integer, help: "Port of the remote node" },
        Opt {
            names: &["--restore-command"],
            key: "restore_command",
            kind: Kind::Text,
            help: "Command to restore WAL records from the remote primary",
        },
        Opt {
            names: &["--primary-slot-name"],
            key: "primary_slot_name",
            kind: Kind::Text,
            help: "Name of the slot on the remote node to use for replication",
        },
    ],
    examples: &["patronictl demote-cluster batman --host 10.0.0.7 --port 5432"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let mut section = JsonMap::new();
    for key in ["host", "port", "primary_slot_name", "restore_command"] {
        let value = match (key, matches.text(key)) {
            ("port", Some(_)) => matches.integer(key).filter(|port| *port != 0).map(Value::from),
            (_, Some(text)) if !text.is_empty() => Some(Value::from(text)),
            (_, Some(_) | None) => None,
        };
        section.extend(value.map(|value| (key.to_owned(), value)));
    }
    if !["host", "port", "restore_command"].iter().any(|key| section.contains_key(*key)) {
        return failed("At least --host, --port or --restore-command should be specified");
    }
    change_role(context, matches, Some(section)).await
}

/// Makes a standby cluster of a cluster, or the reverse, and waits until it is one.
pub(crate) async fn change_role(
    context: &Context,
    matches: &Matches,
    standby_cluster: Option<JsonMap>,
) -> Result<(), CtlError> {
    let demote = standby_cluster.is_some();
    let stem = if demote { "demot" } else { "promot" };
    let target = if demote { "standby_leader" } else { "primary" };
    let store = context.open_given(matches)?;
    let cluster = store.load().await?;
    let Some(leader) = cluster.leader_name().cloned() else {
        return failed(format!("Cluster has no leader, {stem}ion is not possible"));
    };
    let scope = &store.scope;
    let role = cluster.leader_member().and_then(|member| member.data.role.as_deref());
    if role == Some(target) {
        return failed("Cluster is already in the required state");
    }
    output::echo("Current cluster topology");
    store.show(&cluster);
    let others = match &standby_cluster {
        Some(section) => {
            remote::check_before_demotion(context, &cluster, section).await?;
            Vec::new()
        }
        None => remote::check_before_promotion(context, &cluster, matches.flag("force")).await?,
    };
    let question = format!("Are you sure you want to {stem}e {scope} cluster?");
    if !matches.flag("force") && !prompt::confirm(&question).await? {
        return failed(format!("Aborted cluster {stem}ion"));
    }
    let body = json!({"standby_cluster": standby_cluster});
    let Some(member) = cluster.leader_member() else {
        return failed(format!("Failed to {stem}e {scope} cluster: the leader {leader} has no member key"));
    };
    match context.request(member, Method::PATCH, Some("config"), Some(&body), SHORT).await {
        Ok(answer) if answer.status == 200 => {}
        Ok(answer) => {
            let text = format!("Failed to {stem}e {scope} cluster");
            return failed(format!("{text}: {text}: /config PATCH status code={}, ({})", answer.status, answer.body));
        }
        Err(error) => return failed(format!("Failed to {stem}e {scope} cluster: {error}")),
    }
    wait(&store, leader.as_str(), stem, target).await?;
    remote::check_after_promotion(context, &others).await
}

async fn wait(store: &Store, old_leader: &str, stem: &str, target: &str) -> Result<(), CtlError> {
    let demote = target == "standby_leader";
    loop {
        let cluster = store.load().await?;
        let now = State::of(&cluster, old_leader);
        let time = output::timestamp_seconds();
        let reached = now.role.as_deref() == Some(target) && now.state.as_deref() == Some("running");
        if reached && (!demote || now.old_leader_state.as_deref() == Some("running")) {
            output::echo(&format!("{time} cluster is successfully {stem}ed"));
            store.show(&cluster);
            return Ok(());
        }
        output::echo(&format!("{time} {}", now.text(demote && now.leader_changed)));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

struct State {
    unlocked: bool,
    role: Option<String>,
    state: Option<String>,
    leader_changed: bool,
    old_leader_state: Option<String>,
}

impl State {
    fn of(cluster: &Cluster, old_leader: &str) -> Self {
        let leader = cluster.leader_member().map(|member| &member.data);
        State {
            unlocked: cluster.is_unlocked(),
            role: leader.and_then(|data| data.role.clone()),
            state: leader.and_then(|data| data.state.clone()),
            leader_changed: cluster.leader_name().is_some_and(|name| name.as_str() != old_leader),
            old_leader_state: cluster.members.get(old_leader).and_then(|member| member.data.state.clone()),
        }
    }

    fn text(&self, with_old_leader: bool) -> String {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "None".to_owned());
        let unlocked = if self.unlocked { "True" } else { "False" };
        let mut text = format!(
            "cluster is unlocked: {unlocked}, leader role: {}, leader state: {}",
            shown(&self.role),
            shown(&self.state)
        );
        if let Some(state) = self.old_leader_state.as_ref().filter(|_| with_old_leader) {
            text.push_str(&format!(", previous leader state: '{state}'"));
        }
        text
    }
}

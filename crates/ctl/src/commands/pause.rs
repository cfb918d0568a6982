//! `patronictl pause`, and what it shares with `resume`.

use std::time::Duration;

use http::Method;
use patroni_core::cluster::{Cluster, Member};
use patroni_core::settings::Dynamic;
use serde_json::json;

use crate::cli::definition::{CLUSTER_NAME, Command, GROUP, Kind, Opt};
use crate::cli::parse::Matches;
use crate::context::{Context, SHORT, Store};
use crate::error::{CtlError, failed};
use crate::{output, selection};

pub(crate) const COMMAND: Command = Command {
    name: "pause",
    help: "Disable auto failover",
    arguments: &[CLUSTER_NAME],
    options: &[
        GROUP,
        Opt { names: &["--wait"], key: "wait", kind: Kind::Flag, help: "Wait until pause is applied on all nodes" },
    ],
    examples: &["patronictl pause batman --wait"],
    run: |context, matches| Box::pin(toggle(context, matches, true)),
};

/// Pauses or resumes the management of the cluster.
pub(crate) async fn toggle(context: &Context, matches: &Matches, paused: bool) -> Result<(), CtlError> {
    let store = context.open_default(matches)?;
    let cluster = store.load().await?;
    if Dynamic::of_cluster(&cluster).paused == paused {
        return failed(format!("Cluster is {} paused", if paused { "already" } else { "not" }));
    }
    let body = if paused { json!({"pause": true}) } else { json!({"pause": null}) };
    for member in selection::reachable_leader_first(&cluster) {
        match context.request(member, Method::PATCH, Some("config"), Some(&body), SHORT).await {
            Ok(answer) if answer.status == 200 && matches.flag("wait") => {
                return wait(&store, &cluster, paused).await;
            }
            Ok(answer) if answer.status == 200 => output::echo(success(paused)),
            Ok(answer) => output::echo(&format!(
                "Failed: {} cluster management status code={}, ({})",
                verb(paused),
                answer.status,
                answer.body
            )),
            Err(error) => {
                output::warn(&error.to_string());
                output::warn(&format!("Member {} is not accessible", member.name));
                continue;
            }
        }
        return Ok(());
    }
    failed("Can not find accessible cluster member")
}

fn verb(paused: bool) -> &'static str {
    if paused { "pause" } else { "resume" }
}

fn success(paused: bool) -> &'static str {
    if paused { "Success: cluster management is paused" } else { "Success: cluster management is resumed" }
}

/// Waits for the members that were there at the beginning.
async fn wait(store: &Store, before: &Cluster, paused: bool) -> Result<(), CtlError> {
    output::echo(&format!("'{}' request sent, waiting until it is recognized by all nodes", verb(paused)));
    let loop_wait = Dynamic::of_cluster(before).loop_wait.as_secs();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(loop_wait + 1);
    loop {
        let cluster = store.load().await?;
        let behind = |member: &&Member| {
            member.data.pause != paused && before.members.get(&member.name).is_some_and(|m| m.data.api_url.is_some())
        };
        let remaining: Vec<&Member> = cluster.members.values().filter(behind).collect();
        if remaining.is_empty() {
            break;
        }
        if tokio::time::Instant::now() >= deadline {
            // A member whose key did not change at all is not alive: nobody waits for it.
            let alive =
                |member: &&Member| before.members.get(&member.name).is_some_and(|m| m.version != member.version);
            let alive: Vec<&Member> = remaining.into_iter().filter(alive).collect();
            if alive.is_empty() {
                break;
            }
            let names = selection::listed(&alive);
            output::echo(&format!("{names} members didn't recognized pause state after {loop_wait} seconds"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    output::echo(success(paused));
    Ok(())
}

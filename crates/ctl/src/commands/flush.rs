//! `patronictl flush`: scheduled actions are called off.

use http::Method;
use patroni_core::cluster::Cluster;
use patroni_dcs::{Expected, Key};

use crate::cli::definition::{Argument, Arity, CLUSTER_NAME_REQUIRED, Command, FORCE, GROUP, MEMBER_NAMES, Opt, ROLES};
use crate::cli::parse::Matches;
use crate::context::{Context, SHORT, Store};
use crate::error::CtlError;
use crate::{output, selection};

pub(crate) const COMMAND: Command = Command {
    name: "flush",
    help: "Discard scheduled events",
    arguments: &[
        CLUSTER_NAME_REQUIRED,
        MEMBER_NAMES,
        Argument { key: "target", arity: Arity::Required, choices: &["restart", "switchover"] },
    ],
    options: &[
        GROUP,
        Opt { names: &["--role", "-r"], key: "role", kind: ROLES, help: "Flush only members with this role" },
        FORCE,
    ],
    examples: &["patronictl flush batman switchover", "patronictl flush batman postgres-1 restart --force"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_given(matches)?;
    let cluster = store.load().await?;
    if matches.text("target") == Some("switchover") {
        return switchover(context, &store, &cluster).await;
    }
    let request = context.selection(matches, &store, "flush")?;
    let members = selection::pick(&cluster, request).await?;
    selection::confirm(&members, request.force, "flush").await?;
    for member in members {
        if member.data.scheduled_restart.is_none() {
            output::echo(&format!("No scheduled restart for member {}", member.name));
            continue;
        }
        let answer = context.ask(member, Method::DELETE, "restart", None, SHORT).await?;
        if answer.status >= 400 {
            output::echo(&answer.refusal("flush scheduled restart", member));
        } else {
            output::echo(&format!("Success: flush scheduled restart for member {}", member.name));
        }
    }
    Ok(())
}

/// Asks one member after the other, and where none answers, writes to the store: the request that was seen, and no
/// other, is taken away.
async fn switchover(context: &Context, store: &Store, cluster: &Cluster) -> Result<(), CtlError> {
    let Some(request) = cluster.failover.as_ref().filter(|request| request.scheduled_at.is_some()) else {
        output::echo("No pending scheduled switchover");
        return Ok(());
    };
    for member in selection::reachable_leader_first(cluster) {
        match context.request(member, Method::DELETE, Some("switchover"), None, SHORT).await {
            Ok(answer) if matches!(answer.status, 200 | 404) => {
                let prefix = if answer.status == 200 { "Success" } else { "Failed" };
                output::echo(&format!("{prefix}: {}", answer.body));
                return Ok(());
            }
            Ok(answer) => output::echo(&format!(
                "Failed: member={}, status_code={}, ({})",
                member.name, answer.status, answer.body
            )),
            Err(error) => {
                output::warn(&error.to_string());
                output::warn(&format!("Member {} is not accessible", member.name));
            }
        }
    }
    output::warn("Failing over to DCS");
    output::echo(&format!("{} Could not find any accessible member of cluster {}", output::timestamp(), store.scope));
    store.write(Key::Failover, "{}", Expected::Version(request.version)).await
}

//! `patronictl reinit`: replicas throw their data away and are cloned anew.

use std::time::Duration;

use http::Method;
use patroni_core::cluster::Member;
use serde_json::{Value, json};

use crate::cli::definition::{CLUSTER_NAME_REQUIRED, Command, FORCE, GROUP, Kind, MEMBER_NAMES, Opt};
use crate::cli::parse::Matches;
use crate::context::{Context, MEDIUM, SHORT};
use crate::error::{CtlError, failed};
use crate::selection::RoleFilter;
use crate::{output, progress, prompt, selection};

pub(crate) const COMMAND: Command = Command {
    name: "reinit",
    help: "Reinitialize cluster member",
    arguments: &[CLUSTER_NAME_REQUIRED, MEMBER_NAMES],
    options: &[
        GROUP,
        FORCE,
        Opt { names: &["--from-leader"], key: "from_leader", kind: Kind::Flag, help: "Get basebackup from leader" },
        Opt { names: &["--wait"], key: "wait", kind: Kind::Flag, help: "Wait until reinitialization completes" },
    ],
    examples: &["patronictl reinit batman postgres-1 --wait"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_given(matches)?;
    let cluster = store.load().await?;
    let mut request = context.selection(matches, &store, "reinitialize")?;
    (request.role, request.role_text) = (RoleFilter::Replica, "replica");
    let members = selection::pick(&cluster, request).await?;
    selection::confirm(&members, request.force, "reinitialize").await?;
    let mut started = Vec::new();
    for member in members {
        if start(context, member, request.force, matches.flag("from_leader")).await? {
            started.push(member);
        }
    }
    if matches.flag("wait") { wait(context, started).await } else { Ok(()) }
}

/// Asks the member; one that is already at it can be made to begin anew.
async fn start(context: &Context, member: &Member, force: bool, from_leader: bool) -> Result<bool, CtlError> {
    let mut again = force;
    loop {
        let body = json!({"force": again, "from_leader": from_leader});
        let answer = context.ask(member, Method::POST, "reinitialize", Some(&body), MEDIUM).await?;
        if answer.status < 400 {
            output::echo(&format!("Success: reinitialize for member {}", member.name));
            return Ok(true);
        }
        output::echo(&answer.refusal("reinitialize", member));
        let busy = answer.body.ends_with(" already in progress");
        if !busy || force || !prompt::confirm("Do you want to cancel it and reinitialize anyway?").await? {
            return Ok(false);
        }
        again = true;
    }
}

/// Waits until no member is being cloned any more. A member that does not answer is asked again, as long as the
/// operator is willing to wait: what it does is not known to have failed.
async fn wait(context: &Context, mut members: Vec<&Member>) -> Result<(), CtlError> {
    let mut announced = 0;
    let mut broken = Vec::new();
    while !members.is_empty() {
        if announced != members.len() {
            announced = members.len();
            output::echo(&format!("Waiting for reinitialize to complete on: {}", selection::listed(&members)));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut waiting = Vec::new();
        for member in members {
            match state_of(context, member).await {
                None => waiting.push(member),
                Some(state) if state == "creating replica" => waiting.push(member),
                Some(state) => {
                    progress::show("");
                    output::echo(&format!("Reinitialize is completed on: {}", member.name));
                    if matches!(state.as_str(), "start failed" | "crashed") {
                        broken.push(format!("{} ({state})", member.name));
                    }
                }
            }
        }
        members = waiting;
    }
    if broken.is_empty() {
        return Ok(());
    }
    failed(format!("PostgreSQL does not run on {}: see the log of the agent there", broken.join(", ")))
}

/// The state of PostgreSQL on a member, with the progress of a clone told on the terminal.
async fn state_of(context: &Context, member: &Member) -> Option<String> {
    let answer = context.request(member, Method::GET, Some("patroni"), None, SHORT).await.ok()?;
    let status: Value = serde_json::from_str(&answer.body).ok()?;
    let state = status.get("state").and_then(Value::as_str)?.to_owned();
    if let Some(clone) = status.get("clone_progress").and_then(Value::as_object) {
        let number = |key: &str| clone.get(key).and_then(Value::as_u64);
        let percent = number("percent").map(|n| format!("{n} %, ")).unwrap_or_default();
        let rate = number("bytes_per_second").map(|n| format!(", {} MiB/s", n >> 20)).unwrap_or_default();
        let bytes = number("bytes").map(|n| format!("{} MiB", n >> 20)).unwrap_or_default();
        progress::show(&format!("{}: {percent}{bytes}{rate}", member.name));
    }
    Some(state)
}

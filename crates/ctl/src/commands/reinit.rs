//! `patronictl reinit`: replicas throw their data away and are cloned anew.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use patroni_core::cluster::Member;
use patroni_core::view::FAILURE_KEY;
use serde_json::json;

use crate::cli::definition::{CLUSTER_NAME_REQUIRED, Command, FORCE, GROUP, Kind, MEMBER_NAMES, Opt};
use crate::cli::parse::Matches;
use crate::context::{Context, MEDIUM};
use crate::error::{CtlError, failed};
use crate::selection::RoleFilter;
use crate::statuses::{self, Silence, Status};
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
    let mut failures = BTreeMap::new();
    while !members.is_empty() {
        if announced != members.len() {
            announced = members.len();
            output::echo(&format!("Waiting for reinitialize to complete on: {}", selection::listed(&members)));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut waiting = Vec::new();
        for member in members {
            let status = statuses::ask(context, member).await;
            let failure = status.as_ref().ok().and_then(|status| status.text(FAILURE_KEY)).map(str::to_owned);
            if let (Some(why), true) = (&failure, failures.get(&member.name) != failure.as_ref()) {
                progress::show("");
                output::echo(&format!("{}: {why}; the agent tries again", member.name));
                failures.insert(&member.name, why.clone());
            }
            if let Some(what) = unfinished(&status) {
                progress::show(&format!("{}: {what}", member.name));
                waiting.push(member);
                continue;
            }
            progress::show("");
            output::echo(&format!("Reinitialize is completed on: {}", member.name));
            let state = status.as_ref().ok().and_then(|status| status.text("state")).unwrap_or_default();
            if matches!(state, "start failed" | "crashed") {
                let why = failure.map(|why| format!(": {why}")).unwrap_or_default();
                broken.push(format!("{} ({state}{why})", member.name));
            }
        }
        members = waiting;
    }
    if broken.is_empty() {
        return Ok(());
    }
    failed(format!("PostgreSQL does not run on {}; the log of the agent there says more", broken.join(", ")))
}

/// What a member is still doing; `None` when it is through.
fn unfinished(status: &Result<Status, Silence>) -> Option<String> {
    let status = match status {
        Ok(status) => status,
        Err(reason) => return Some(format!("no answer ({reason})")),
    };
    let state = status.text("state").unwrap_or("unknown");
    // Before the old data is gone PostgreSQL is stopped; Patroni 4.1 tells nothing about jobs.
    let busy = matches!(state, "creating replica" | "stopping");
    status.job().or_else(|| busy.then(|| state.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn when_a_reinitialization_is_over() {
        let unfinished = |document: Value| {
            let document = document.as_object().cloned().expect("an object");
            super::unfinished(&Ok(Status { document, clock_ahead_s: None }))
        };
        for state in ["creating replica", "stopping"] {
            assert_eq!(unfinished(json!({"state": state})).as_deref(), Some(state));
        }
        let job = json!({"title": "reinitialize", "progress": "copied 12 MB from a, 6 MB/s"});
        let told = unfinished(json!({"state": "stopped", "job": job}));
        assert_eq!(told.as_deref(), Some("reinitialize: copied 12 MB from a, 6 MB/s"));
        for state in ["running", "start failed"] {
            assert_eq!(unfinished(json!({"state": state})), None);
        }
        assert!(super::unfinished(&Err("no connection".to_owned().into())).is_some());
    }
}

//! `patronictl restart`: PostgreSQL of members is restarted, now or later.

use http::Method;
use patroni_core::JsonMap;
use patroni_core::cluster::Member;
use patroni_core::request::version_number;
use patroni_core::settings::Dynamic;
use serde_json::Value;

use crate::cli::definition::{CLUSTER_NAME_REQUIRED, Command, FORCE, GROUP, Kind, MEMBER_NAMES, Opt, ROLES};
use crate::cli::parse::Matches;
use crate::context::{Context, LONG, SHORT};
use crate::error::{CtlError, failed};
use crate::progress::Progress;
use crate::schedule::Scheduled;
use crate::{output, prompt, schedule, selection};

pub(crate) const COMMAND: Command = Command {
    name: "restart",
    help: "Restart cluster member",
    arguments: &[CLUSTER_NAME_REQUIRED, MEMBER_NAMES],
    options: &[
        GROUP,
        Opt { names: &["--role", "-r"], key: "role", kind: ROLES, help: "Restart only members with this role" },
        Opt { names: &["--any"], key: "any", kind: Kind::Flag, help: "Restart a single member only" },
        Opt {
            names: &["--scheduled"],
            key: "scheduled",
            kind: Kind::Text,
            help: "Timestamp of a scheduled restart in unambiguous format (e.g. ISO 8601)",
        },
        Opt {
            names: &["--pg-version"],
            key: "pg_version",
            kind: Kind::Text,
            help: "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2)",
        },
        Opt { names: &["--pending"], key: "pending", kind: Kind::Flag, help: "Restart if pending" },
        Opt {
            names: &["--timeout"],
            key: "timeout",
            kind: Kind::Text,
            help: "Return error and fail over if necessary when restarting takes longer than this.",
        },
        FORCE,
    ],
    examples: &[
        "patronictl restart batman postgres-1",
        "patronictl restart batman --pending --scheduled 2026-12-24T03:00+01:00 --force",
    ],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_given(matches)?;
    let cluster = store.load().await?;
    let request = context.selection(matches, &store, "restart")?;
    let mut members = selection::pick(&cluster, request).await?;
    let scheduled = asked_schedule(matches, request.force).await?;
    let pending = matches.flag("pending");
    // Whether a restart is pending at a later time will be known then.
    if pending && scheduled.is_none() {
        members.retain(|member| member.data.pending_restart);
    }
    if matches.flag("any") {
        members = any_of(members);
    }
    confirm(&members, request.force, scheduled.as_ref(), pending).await?;
    let body = body(matches, request.force, scheduled.as_ref()).await?;
    if scheduled.is_some() && Dynamic::of_cluster(&cluster).paused {
        return failed("Can't schedule restart in the paused state");
    }
    for member in members {
        if scheduled.is_some() && request.force && member.data.scheduled_restart.is_some() {
            let answer = context.ask(member, Method::DELETE, "restart", None, SHORT).await?;
            if answer.status >= 400 {
                output::echo(&answer.refusal("flush scheduled restart", member));
            }
        }
        restart(context, member, &body).await?;
    }
    Ok(())
}

async fn restart(context: &Context, member: &Member, body: &Value) -> Result<(), CtlError> {
    let progress = Progress::start(format!("restarting {}", member.name));
    let answer = context.ask(member, Method::POST, "restart", Some(body), LONG).await?;
    drop(progress);
    let name = &member.name;
    output::echo(&match answer.status {
        200 => format!("Success: restart on member {name}"),
        202 => format!("Success: restart scheduled on member {name}"),
        409 => format!("Failed: another restart is already scheduled on member {name}"),
        status => format!("Failed: restart for member {name}, status code={status}, ({})", answer.body),
    });
    Ok(())
}

async fn asked_schedule(matches: &Matches, force: bool) -> Result<Option<Scheduled>, CtlError> {
    match matches.text("scheduled") {
        Some(text) => schedule::parse(text),
        None if force => Ok(None),
        None => {
            let question = format!("When should the restart take place (e.g. {}) ", output::next_hour());
            schedule::parse(&prompt::ask(&question, Some("now")).await?)
        }
    }
}

async fn confirm(
    members: &[&Member],
    force: bool,
    scheduled: Option<&Scheduled>,
    pending: bool,
) -> Result<(), CtlError> {
    let Some(at) = scheduled else { return selection::confirm(members, force, "restart").await };
    let question = if pending {
        "The nodes needing a restart will be identified at the scheduled time, and might be different from the ones \
         showing pending restart right now. Is this fine?"
            .to_owned()
    } else {
        format!("Are you sure you want to schedule restart of members {} at {}?", selection::listed(members), at.text())
    };
    if force || prompt::confirm(&question).await? { Ok(()) } else { failed("Aborted scheduled restart") }
}

async fn body(matches: &Matches, force: bool, scheduled: Option<&Scheduled>) -> Result<Value, CtlError> {
    let version = match matches.text("pg_version") {
        Some(version) => version.to_owned(),
        None if force => String::new(),
        None => {
            let question = "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ";
            prompt::ask(question, Some("")).await?
        }
    };
    let mut body = JsonMap::new();
    if matches.flag("pending") {
        body.insert("restart_pending".to_owned(), true.into());
    }
    if !version.is_empty() {
        version_number(&version).or_else(failed)?;
        body.insert("postgres_version".to_owned(), version.into());
    }
    if let Some(at) = scheduled {
        body.insert("schedule".to_owned(), at.iso.as_str().into());
    }
    if let Some(timeout) = matches.text("timeout") {
        body.insert("timeout".to_owned(), timeout.into());
    }
    Ok(Value::Object(body))
}

/// A single one; which, does not matter, so that nobody comes to rely on it.
fn any_of(members: Vec<&Member>) -> Vec<&Member> {
    use std::hash::{BuildHasher, RandomState};
    let count = u64::try_from(members.len()).unwrap_or(1).max(1);
    let index = usize::try_from(RandomState::new().hash_one(0) % count).unwrap_or(0);
    members.into_iter().skip(index).take(1).collect()
}

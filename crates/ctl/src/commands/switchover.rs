//! `patronictl switchover`, and what it shares with `failover`.

use http::Method;
use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, FailoverRequest, Member, Schedule, Version};
use patroni_core::election::Election;
use patroni_core::name::MemberName;
use patroni_core::python::repr;
use patroni_core::request::Handover;
use patroni_core::settings::Dynamic;
use patroni_core::time::WallTime;
use patroni_dcs::{Expected, Key, wire};
use serde_json::Value;

use crate::cli::definition::{CLUSTER_NAME, Command, FORCE, GROUP, Kind, Opt};
use crate::cli::parse::Matches;
use crate::context::{Answer, Context, LONG, Store};
use crate::difflib::close_matches;
use crate::error::{CtlError, failed};
use crate::progress::Progress;
use crate::schedule::Scheduled;
use crate::{output, prompt, schedule};

pub(crate) const COMMAND: Command = Command {
    name: "switchover",
    help: "Switchover to a replica",
    arguments: &[CLUSTER_NAME],
    options: &[
        GROUP,
        Opt {
            names: &["--leader", "--primary"],
            key: "leader",
            kind: Kind::Text,
            help: "The name of the current leader",
        },
        Opt { names: &["--candidate"], key: "candidate", kind: Kind::Text, help: "The name of the candidate" },
        Opt {
            names: &["--scheduled"],
            key: "scheduled",
            kind: Kind::Text,
            help: "Timestamp of a scheduled switchover in unambiguous format (e.g. ISO 8601)",
        },
        FORCE,
    ],
    examples: &[
        "patronictl switchover batman",
        "patronictl switchover batman --leader postgres-0 --candidate postgres-1 --force",
        "patronictl switchover batman --scheduled 2026-12-24T03:00+01:00 --force",
    ],
    run: |context, matches| Box::pin(run(context, matches, Handover::Switchover)),
};

/// A request that was checked against the cluster.
struct Plan {
    leader: Option<String>,
    candidate: Option<String>,
    scheduled: Option<Scheduled>,
}

/// Runs either command.
pub(crate) async fn run(context: &Context, matches: &Matches, action: Handover) -> Result<(), CtlError> {
    let mut store = context.open_given(matches)?;
    let mut cluster = store.load().await?;
    output::echo("Current cluster topology");
    store.show(&cluster);
    let force = matches.flag("force");
    if store.citus == Some(None) {
        if force {
            return failed("For Citus clusters the --group must me specified");
        }
        let group = prompt::ask("Citus group", None).await?;
        let Ok(group) = group.trim().parse() else { return failed(format!("{group:?} is not a valid integer.")) };
        store = context.open(&store.scope, Some(group))?;
        cluster = store.load().await?;
    }
    let plan = plan(&cluster, &store, matches, action).await?;
    if !force {
        confirm(&cluster, &store, &plan, action).await?;
    }
    carry_out(context, &store, cluster, &plan, action).await
}

async fn plan(cluster: &Cluster, store: &Store, matches: &Matches, action: Handover) -> Result<Plan, CtlError> {
    let force = matches.flag("force");
    let dynamic = Dynamic::of_cluster(cluster);
    let leader = match action {
        Handover::Switchover => Some(leader(cluster, store, &dynamic, matches, force).await?),
        Handover::Failover => None,
    };
    let candidate = candidate(cluster, store, matches, action).await?;
    if action == Handover::Failover && !force {
        warn_of_asynchronous(cluster, &dynamic, candidate.as_deref()).await?;
    }
    let scheduled = match (action, matches.text("scheduled")) {
        (Handover::Failover, _) => None,
        (Handover::Switchover, Some(text)) => schedule::parse(text)?,
        (Handover::Switchover, None) if force => None,
        (Handover::Switchover, None) => {
            let question = format!("When should the switchover take place (e.g. {} ) ", output::next_hour());
            schedule::parse(&prompt::ask(&question, Some("now")).await?)?
        }
    };
    if scheduled.is_some() && dynamic.paused {
        return failed("Can't schedule switchover in the paused state");
    }
    Ok(Plan { leader, candidate, scheduled })
}

async fn leader(
    cluster: &Cluster,
    store: &Store,
    dynamic: &Dynamic,
    matches: &Matches,
    force: bool,
) -> Result<String, CtlError> {
    let Some(present) = cluster.leader_name().map(MemberName::as_str) else {
        return failed("This cluster has no leader");
    };
    let given = match matches.text("leader") {
        Some(name) => name.to_owned(),
        None if force => present.to_owned(),
        None => {
            let question = if dynamic.standby_cluster.is_some() { "Standby Leader" } else { "Primary" };
            prompt::ask(question, Some(present)).await?
        }
    };
    if given != present {
        return failed(format!("Member {given} is not the leader of cluster {}", store.scope));
    }
    Ok(given)
}

async fn candidate(
    cluster: &Cluster,
    store: &Store,
    matches: &Matches,
    action: Handover,
) -> Result<Option<String>, CtlError> {
    let leader = cluster.leader_name();
    let eligible = |member: &&Member| Some(&member.name) != leader && !member.data.tags.nofailover();
    let names: Vec<&str> = cluster.members.values().filter(eligible).map(|member| member.name.as_str()).collect();
    if names.is_empty() {
        return failed(format!("No candidates found to {} to", action.name()));
    }
    let given = match matches.text("candidate") {
        Some(name) => name.to_owned(),
        None if matches.flag("force") => String::new(),
        None => {
            let listed = repr(&names.iter().map(|name| Value::from(*name)).collect());
            prompt::ask(&format!("Candidate {listed}"), Some("")).await?
        }
    };
    if given.is_empty() {
        return match action {
            Handover::Failover => failed("Failover could be performed only to a specific candidate"),
            Handover::Switchover => Ok(None),
        };
    }
    if names.contains(&given.as_str()) {
        return Ok(Some(given));
    }
    if leader.is_some_and(|name| name.as_str() == given) {
        return failed(format!("Member {given} is already the leader of cluster {}", store.scope));
    }
    let known = cluster.members.contains_key(given.as_str());
    let names = if known { Vec::new() } else { names };
    let meant = close_matches(&given, names).first().map(|name| format!("\nDid you mean '{name}'?"));
    failed(format!(
        "Member {given} does not exist in cluster {} or is tagged as nofailover{}",
        store.scope,
        meant.unwrap_or_default()
    ))
}

async fn warn_of_asynchronous(cluster: &Cluster, dynamic: &Dynamic, candidate: Option<&str>) -> Result<(), CtlError> {
    let Some(candidate) = candidate else { return Ok(()) };
    let election = Election::new(cluster, dynamic);
    let wrote_it = cluster.sync.leader.as_ref().is_some_and(|name| name.as_str().eq_ignore_ascii_case(candidate));
    let safe = !election.is_synchronous() || wrote_it || election.is_named(&MemberName::from(candidate));
    let question = format!("Are you sure you want to failover to the asynchronous node {candidate}?");
    if safe || prompt::confirm(&question).await? { Ok(()) } else { failed("Aborting failover") }
}

async fn confirm(cluster: &Cluster, store: &Store, plan: &Plan, action: Handover) -> Result<(), CtlError> {
    let demoting = cluster.leader_name().map(|name| format!(", demoting current leader {name}")).unwrap_or_default();
    let scope = &store.scope;
    let (question, refusal) = match &plan.scheduled {
        Some(at) => (
            format!("Are you sure you want to schedule switchover of cluster {scope} at {}{demoting}?", at.iso),
            "Aborting scheduled switchover".to_owned(),
        ),
        None => (
            format!("Are you sure you want to {} cluster {scope}{demoting}?", action.name()),
            format!("Aborting {}", action.name()),
        ),
    };
    if prompt::confirm(&question).await? { Ok(()) } else { failed(refusal) }
}

async fn carry_out(
    context: &Context,
    store: &Store,
    cluster: Cluster,
    plan: &Plan,
    action: Handover,
) -> Result<(), CtlError> {
    let asked = match cluster.leader.as_ref() {
        Some(_) => cluster.leader_member(),
        None => plan.candidate.as_deref().and_then(|name| cluster.members.get(name)),
    };
    let answer = match asked {
        Some(member) => ask(context, member, plan, action).await,
        None => Err("there is no member to ask".to_owned()),
    };
    let cluster = match answer {
        Ok(answer) if matches!(answer.status, 200 | 202) => {
            let cluster = store.load().await?;
            output::echo(&format!("{} {}", output::timestamp(), answer.body));
            cluster
        }
        Ok(answer) => {
            let after = store.load().await?;
            let Some(done) = outcome(&cluster, &after, plan, action, &answer) else {
                output::echo(&format!("{} failed, details: {}, {}", action.title(), answer.status, answer.body));
                return Ok(());
            };
            output::echo(&format!("{} {done}", output::timestamp()));
            after
        }
        Err(reason) => {
            output::warn(&reason);
            output::warn("Failing over to DCS");
            let time = output::timestamp();
            output::echo(&format!("{time} Could not {} using Patroni api, falling back to DCS", action.name()));
            store.write(Key::Failover, &wire::failover(&plan.request()), expected(&cluster)).await?;
            cluster
        }
    };
    store.show(&cluster);
    Ok(())
}

async fn ask(context: &Context, member: &Member, plan: &Plan, action: Handover) -> Result<Answer, String> {
    let body = plan.body(action);
    let _progress = Progress::start(format!("{} in progress", action.name()));
    let send = |endpoint| context.request(member, Method::POST, Some(endpoint), Some(&body), LONG);
    let answer = send(action.name()).await.map_err(|e| e.to_string())?;
    let too_old = answer.status == 501 && answer.body.contains("Server does not support this operation");
    if too_old && action == Handover::Switchover {
        return send("failover").await.map_err(|e| e.to_string());
    }
    Ok(answer)
}

/// An agent that gave up waiting does not know how it ended; the cluster does.
fn outcome(before: &Cluster, after: &Cluster, plan: &Plan, action: Handover, answer: &Answer) -> Option<String> {
    let gave_up = answer.status == 503 && answer.body.contains("status unknown");
    let leader = after.leader_name()?;
    let wanted = plan.candidate.as_deref().is_none_or(|candidate| candidate == leader.as_str());
    let changed = before.leader_name() != Some(leader);
    (gave_up && changed && wanted).then(|| action.succeeded(leader))
}

/// A request that was there already may be replaced, another one that came meanwhile may not.
fn expected(cluster: &Cluster) -> Expected {
    cluster.failover.as_ref().map_or(Expected::Anything, |request| Expected::Version(request.version))
}

impl Plan {
    fn body(&self, action: Handover) -> Value {
        let mut body = JsonMap::new();
        body.insert("candidate".to_owned(), self.candidate.as_deref().map_or(Value::Null, Value::from));
        if action == Handover::Switchover {
            body.insert("leader".to_owned(), self.leader.as_deref().map_or(Value::Null, Value::from));
        }
        if let Some(at) = &self.scheduled {
            body.insert("scheduled_at".to_owned(), at.iso.as_str().into());
        }
        Value::Object(body)
    }

    fn request(&self) -> FailoverRequest {
        FailoverRequest {
            version: Version(0),
            leader: self.leader.as_deref().map(MemberName::from),
            candidate: self.candidate.as_deref().map(MemberName::from),
            scheduled_at: self.scheduled.as_ref().map(|at| Schedule::At(WallTime(0), at.iso.clone())),
        }
    }
}

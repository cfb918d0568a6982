//! `/switchover` and `/failover`: a request is a key in the store, its result is what becomes of the leader.

use std::collections::BTreeMap;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, FailoverRequest, Schedule, Version};
use patroni_core::election::{Election, limitation};
use patroni_core::facts::Outcome;
use patroni_core::name::MemberName;
use patroni_core::peer::Peer;
use patroni_core::python::PythonText;
use patroni_core::request::Handover;
use patroni_core::settings::Dynamic;
use patroni_core::tags::truthy;
use patroni_core::time::WallTime;
use patroni_dcs::{Expected, Key, wire};
use tokio::time::{Instant, sleep, timeout};

use super::reply::Reply;
use super::schedule::{self, Scheduled};
use super::{ApiState, Signal};
use crate::peers;

/// How often a request is looked at anew because another one was written meanwhile.
const ATTEMPTS: usize = 3;

/// How often the store is read while the result is awaited, if nothing tells of a change before.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// POST
pub(crate) async fn post(state: &ApiState, action: Handover, body: &JsonMap) -> Reply {
    for _ in 0..ATTEMPTS {
        let cluster = match state.load().await {
            Ok(cluster) => cluster,
            Err(reply) => return reply,
        };
        let order = match Order::read(action, body, &cluster, state.now().wall) {
            Ok(order) => order,
            Err((status, reason)) => return Reply::text(status, reason),
        };
        if order.scheduled.is_none()
            && let Err(reason) = is_possible(state, &cluster, &order).await
        {
            return Reply::text(412, reason);
        }
        // Patroni leaves an empty object where there was a request: that key is no request, but it is not absent.
        let expected = cluster.failover.as_ref().map_or(Expected::Anything, |old| Expected::Version(old.version));
        match state.dcs.write(Key::Failover, &wire::failover(&order.request()), expected).await {
            Outcome::Refused => continue,
            Outcome::Done(_) => {}
            Outcome::Failed(_) | Outcome::Unknown(_) => break,
        }
        state.signal(Signal::Wake);
        if order.scheduled.is_some() {
            return Reply::text(202, format!("{} scheduled", order.action.title()));
        }
        return result(state, &order, &cluster).await;
    }
    Reply::text(503, "failed to write failover key into DCS")
}

/// DELETE `/switchover`
pub(crate) async fn delete(state: &ApiState) -> Reply {
    let cluster = match state.load().await {
        Ok(cluster) => cluster,
        Err(reply) => return reply,
    };
    let scheduled = cluster.failover.as_ref().filter(|request| request.scheduled_at.is_some());
    let Some(version) = scheduled.map(|request| request.version) else {
        return Reply::text(404, "no switchover is scheduled");
    };
    match state.dcs.delete(Key::Failover, Expected::Version(version)).await {
        Outcome::Done(()) => {
            state.signal(Signal::Wake);
            Reply::text(200, "scheduled switchover deleted")
        }
        Outcome::Refused => Reply::error(409),
        Outcome::Failed(reason) | Outcome::Unknown(reason) => Reply::error_saying(409, &reason),
    }
}

/// A request that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    action: Handover,
    leader: Option<MemberName>,
    candidate: Option<MemberName>,
    scheduled: Option<Scheduled>,
}

impl Order {
    fn read(action: Handover, body: &JsonMap, cluster: &Cluster, now: WallTime) -> Result<Self, (u16, String)> {
        let text =
            |key: &str| body.get(key).filter(|value| truthy(value)).map(|value| value.python_text().into_owned());
        let leader = text("leader").map(MemberName::new);
        let candidate = text("candidate").or_else(|| text("member")).map(MemberName::new);
        let schedule = text("scheduled_at");
        tracing::info!(
            target: "patroni::api",
            "received {} request with leader={} candidate={} scheduled_at={}",
            action.name(),
            leader.as_ref().map_or("None", MemberName::as_str),
            candidate.as_ref().map_or("None", MemberName::as_str),
            schedule.as_deref().unwrap_or("None"),
        );
        let paused = Dynamic::of_cluster(cluster).paused;
        let refuse = |reason: &str| Err((400, reason.to_owned()));
        match action {
            Handover::Failover if candidate.is_none() => {
                return refuse("Failover could be performed only to a specific candidate");
            }
            Handover::Switchover if leader.is_none() => {
                return refuse("Switchover could be performed only from a specific leader");
            }
            Handover::Failover if schedule.is_some() => return refuse("Failover can't be scheduled"),
            Handover::Switchover if schedule.is_some() && paused => {
                return refuse("Can't schedule switchover in the paused state");
            }
            Handover::Switchover | Handover::Failover => {}
        }
        let scheduled = schedule.map(|text| schedule::read(&text, action.name(), now)).transpose()?;
        if paused && candidate.is_none() {
            return refuse("Switchover is possible only to a specific candidate in a paused state");
        }
        let action = match (action, &leader) {
            (Handover::Failover, Some(_)) => {
                tracing::warn!(
                    target: "patroni::api",
                    "received failover request with leader specified - performing switchover instead"
                );
                Handover::Switchover
            }
            (action, _) => action,
        };
        if leader == candidate {
            return refuse("Switchover target and source are the same");
        }
        Ok(Order { action, leader, candidate, scheduled })
    }

    /// The request as the store keeps it. Its version plays no part in writing it.
    fn request(&self) -> FailoverRequest {
        FailoverRequest {
            version: Version(0),
            leader: self.leader.clone(),
            candidate: self.candidate.clone(),
            scheduled_at: self.scheduled.clone().map(|time| Schedule::At(time.at, time.text)),
        }
    }
}

/// Is there somebody who could take over? The members that are considered are asked.
async fn is_possible(state: &ApiState, cluster: &Cluster, order: &Order) -> Result<(), String> {
    let members = candidates(cluster, order)?;
    let http = state.http.borrow().clone();
    let answers = peers::poll(&http, &members, peers::STATUS_LIMIT).await;
    if answers.values().any(may_take_over) {
        return Ok(());
    }
    Err(format!("{} is not possible: no good candidates have been found", order.action.name()))
}

/// The members that could take over by what the store says, with their addresses.
fn candidates(cluster: &Cluster, order: &Order) -> Result<BTreeMap<MemberName, String>, String> {
    let action = order.action.name();
    let dynamic = Dynamic::of_cluster(cluster);
    let election = Election::new(cluster, &dynamic);
    let named_sync = election.is_for_named_standbys();
    if order.leader.is_some() && order.leader.as_ref() != cluster.leader_name() {
        return Err("leader name does not match".to_owned());
    }
    if let Some(candidate) = &order.candidate
        && order.action == Handover::Switchover
        && named_sync
        && !election.is_named(candidate)
    {
        return Err("candidate name does not match with sync_standby".to_owned());
    }
    let considered = |name: &MemberName, api_url: &Option<String>| match &order.candidate {
        Some(candidate) => name == candidate,
        None if named_sync => election.is_named(name),
        None => cluster.leader_name().is_none_or(|leader| leader != name && api_url.is_some()),
    };
    let members: BTreeMap<_, _> = cluster
        .members
        .values()
        .filter(|member| considered(&member.name, &member.data.api_url))
        .map(|member| (member.name.clone(), member.data.api_url.clone().unwrap_or_default()))
        .collect();
    match (&order.candidate, named_sync) {
        _ if !members.is_empty() => Ok(members),
        (Some(_), _) => Err("candidate does not exists".to_owned()),
        (None, true) => Err(format!("{action} is not possible: can not find sync_standby")),
        (None, false) => Err(format!("{action} is not possible: cluster does not have members except leader")),
    }
}

fn may_take_over(peer: &Peer) -> bool {
    match peer {
        Peer::Unreachable(_) => false,
        Peer::Status(status) => limitation(status).is_none(),
    }
}

/// Waits for what becomes of the leader, which was that of `before`.
async fn result(state: &ApiState, order: &Order, before: &Cluster) -> Reply {
    let old = before.leader_name();
    let limit = state.view.borrow().settings.loop_wait.max(Duration::from_secs(10)) * 2;
    let deadline = Instant::now() + limit;
    let mut changes = state.dcs.changes();
    while Instant::now() < deadline {
        if let Ok(Err(_)) = timeout(POLL_INTERVAL, changes.changed()).await {
            sleep(POLL_INTERVAL).await;
        }
        changes.mark_unchanged();
        // A store that does not answer is asked again until the limit.
        if let Ok(cluster) = state.dcs.load().await
            && let Some(reply) = verdict(order, &cluster, old)
        {
            return reply;
        }
    }
    let progress = progress_of_leader(state, before).await.map(|text| format!(" ({text})")).unwrap_or_default();
    Reply::text(503, format!("{} status unknown{progress}", order.action.title()))
}

/// What the leader is about that should have made way; this may be that one.
async fn progress_of_leader(state: &ApiState, before: &Cluster) -> Option<String> {
    let leader = before.leader_member()?;
    let view = state.view.borrow().clone();
    if view.settings.name == leader.name {
        let shown = view.job.as_ref()?.shown();
        return Some(shown.get("progress")?.as_str()?.to_owned());
    }
    let http = state.http.borrow().clone();
    peers::progress(&http, leader.data.api_url.as_deref()?).await
}

/// What a snapshot says about the result, if it says anything yet.
fn verdict(order: &Order, cluster: &Cluster, old: Option<&MemberName>) -> Option<Reply> {
    let action = order.action;
    match cluster.leader_name().filter(|leader| Some(*leader) != old) {
        Some(leader) => {
            let text = match order.candidate.as_ref().filter(|candidate| *candidate != leader) {
                None => action.succeeded(leader),
                Some(wanted) => action.went_elsewhere(leader, wanted),
            };
            Some(Reply::text(200, text))
        }
        // The request is gone and the leader stayed. While nobody leads, the new leader may just not be there yet.
        None if cluster.failover.is_none() && cluster.leader.is_some() => {
            Some(Reply::text(503, format!("{} failed", action.title())))
        }
        None => None,
    }
}

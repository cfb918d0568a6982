//! `/restart` and `/reinitialize`: requests to the loop, which accepts or refuses them; the end of the work answers.

use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::request::{Answer, Request, RestartConditions, ScheduledRestart, version_number};
use patroni_core::server::Postmaster;
use patroni_core::time::WallTime;
use patroni_core::units::{parse_bool, parse_int};
use patroni_core::view::View;
use serde_json::Value;

use super::ApiState;
use super::reply::Reply;
use super::schedule;

/// How long a reply may take beyond the time a start may take: stopping a large server writes all of its memory.
const STOP_LIMIT: Duration = Duration::from_secs(3600);

/// POST `/restart`
pub(crate) async fn post(state: &ApiState, body: &JsonMap) -> Reply {
    if !body.is_empty() {
        tracing::debug!(target: "patroni::api", "received restart request: {}", patroni_core::json::spaced(&body.clone().into()));
    }
    let (request, limit) = {
        let view = state.view.borrow().clone();
        if view.settings.paused && body.contains_key("schedule") {
            return Reply::text(500, "Can't schedule restart in the paused state");
        }
        let request = match read(body, &view, state.now().wall) {
            Ok(request) => request,
            Err((status, reason)) => return Reply::text(status, reason),
        };
        (request, view.settings.primary_start_timeout)
    };
    let limit = match &request {
        Request::Restart(RestartConditions { timeout: Some(seconds), .. }) => Duration::from_secs(*seconds),
        Request::Restart(_) | Request::ScheduleRestart(_) | Request::CancelRestart | Request::Reinitialize { .. } => {
            limit
        }
    };
    answered(state.request(request, limit.saturating_add(STOP_LIMIT)).await)
}

/// DELETE `/restart`
pub(crate) async fn delete(state: &ApiState) -> Reply {
    let limit = state.view.borrow().settings.loop_wait.max(Duration::from_secs(10));
    answered(state.request(Request::CancelRestart, limit).await)
}

/// POST `/reinitialize`
pub(crate) async fn reinitialize(state: &ApiState, body: &JsonMap) -> Reply {
    if !body.is_empty() {
        tracing::debug!(target: "patroni::api", "received reinitialize request: {}", patroni_core::json::spaced(&body.clone().into()));
    }
    let flag = |name: &str| body.get(name).and_then(parse_bool) == Some(true);
    let request = Request::Reinitialize { force: flag("force"), from_leader: flag("from_leader") };
    let limit = state.view.borrow().settings.loop_wait.max(Duration::from_secs(10)) * 2;
    answered(state.request(request, limit).await)
}

/// What the loop answered, as a status. A restart that cannot be scheduled, because one is, is a conflict.
fn answered(result: Result<(bool, Answer), Reply>) -> Reply {
    match result {
        Err(reply) => reply,
        Ok((_, Answer::Done(text))) => Reply::text(200, text),
        Ok((_, Answer::Scheduled(text))) => Reply::text(202, text),
        Ok((true, Answer::Refused(text))) => Reply::text(409, text),
        Ok((false, Answer::Refused(text)) | (_, Answer::Failed(text))) => Reply::text(503, text),
        Ok((_, Answer::NotFound(text))) => Reply::text(404, text),
    }
}

fn not_text(value: &Value) -> Result<u32, String> {
    Err(format!("Invalid PostgreSQL version: {value} (it must be a text in quotes, such as \"15.10\")"))
}

/// Reads the conditions of a restart, in the order in which they are given: the first mistake is told.
fn read(body: &JsonMap, view: &View, now: WallTime) -> Result<Request, schedule::Refusal> {
    let refuse = |reason: String| Err((400, reason));
    let mut conditions = RestartConditions { only_pending: body.contains_key("restart_pending"), ..Default::default() };
    let mut raw = body.clone();
    let mut scheduled = None;
    for (key, value) in body {
        match key.as_str() {
            "schedule" => {
                let time = schedule::read(value.as_str().unwrap_or_default(), "restart", now)?;
                raw.insert(key.clone(), time.text.as_str().into());
                scheduled = Some(time);
            }
            "role" => match value.as_str() {
                Some(role @ ("primary" | "standby_leader" | "replica")) => conditions.role = Some(role.to_owned()),
                Some(_) | None => {
                    return refuse("PostgreSQL role should be either primary, standby_leader, or replica".to_owned());
                }
            },
            // As a number, 15.10 is the same as 15.1.
            "postgres_version" => match value.as_str().map_or_else(|| not_text(value), version_number) {
                Ok(number) => conditions.older_than = Some(number),
                Err(reason) => return refuse(reason),
            },
            "timeout" => match parse_int(value, Some("s")).and_then(|seconds| u64::try_from(seconds).ok()) {
                Some(seconds @ 1..) => {
                    raw.insert(key.clone(), seconds.into());
                    conditions.timeout = Some(seconds);
                }
                Some(0) | None => return refuse("Timeout should be a positive number of seconds".to_owned()),
            },
            "restart_pending" => {}
            other => return refuse(format!("Unknown filter for the scheduled restart: {other}")),
        }
    }
    let Some(time) = scheduled else { return Ok(Request::Restart(conditions)) };
    let postmaster_start_time = match &view.server.postmaster {
        Postmaster::Running(running) => Some(running.start_time.clone()),
        Postmaster::Stopped(_) | Postmaster::Starting | Postmaster::Stopping | Postmaster::Unreachable(_) => None,
    };
    Ok(Request::ScheduleRestart(ScheduledRestart {
        at: time.at,
        at_text: time.text,
        conditions,
        raw,
        postmaster_start_time,
    }))
}

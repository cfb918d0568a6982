//! `/config`: reading and changing the dynamic configuration.
//!
//! A change is written only over the version it was made from; if another one came between, it is made again from that.

use patroni_config::merge;
use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, Version};
use patroni_core::facts::Outcome;
use patroni_dcs::{Expected, Key, wire};
use serde_json::Value;

use super::reply::Reply;
use super::{ApiState, Signal};

/// How often a change is made again because another one came between.
const ATTEMPTS: usize = 10;

/// GET
pub(crate) async fn get(state: &ApiState, cluster: Option<&Cluster>) -> Reply {
    let loaded;
    let cluster = match cluster {
        Some(cluster) => cluster,
        None => match state.load().await {
            Ok(fresh) => {
                loaded = fresh;
                &loaded
            }
            Err(reply) => return reply,
        },
    };
    match current(cluster) {
        Some((_, data)) => Reply::json(200, &Value::Object(data.clone())),
        None => Reply::error(502),
    }
}

/// PATCH
pub(crate) async fn patch(state: &ApiState, changes: &JsonMap) -> Reply {
    for _ in 0..ATTEMPTS {
        let cluster = match state.load().await {
            Ok(cluster) => cluster,
            Err(reply) => return reply,
        };
        let Some((version, data)) = current(&cluster) else { return Reply::error(503) };
        let before = data;
        let mut data = before.clone();
        if !merge::patch(&mut data, changes) {
            state.signal(Signal::Wake);
            return Reply::json(200, &Value::Object(data));
        }
        if let Some(refusal) = refusal(before, &data) {
            return refusal;
        }
        match state.dcs.write(Key::Config, &wire::config(&data), Expected::Version(version)).await {
            Outcome::Done(_) => {
                state.signal(Signal::Wake);
                return Reply::json(200, &Value::Object(data));
            }
            Outcome::Refused => {}
            Outcome::Failed(reason) | Outcome::Unknown(reason) => return Reply::error_saying(409, &reason),
        }
    }
    Reply::error(409)
}

/// PUT
pub(crate) async fn put(state: &ApiState, wanted: JsonMap) -> Reply {
    let cluster = match state.load().await {
        Ok(cluster) => cluster,
        Err(reply) => return reply,
    };
    let before = current(&cluster).map(|(_, data)| data);
    if !before.is_some_and(|data| merge::same(&wanted, data)) {
        if let Some(refusal) = refusal(before.unwrap_or(&JsonMap::new()), &wanted) {
            return refusal;
        }
        match state.dcs.write(Key::Config, &wire::config(&wanted), Expected::Anything).await {
            Outcome::Done(_) => {
                state.signal(Signal::Wake);
            }
            Outcome::Refused => return Reply::error(502),
            Outcome::Failed(reason) | Outcome::Unknown(reason) => return Reply::error_saying(502, &reason),
        }
    }
    Reply::json(200, &Value::Object(wanted))
}

fn current(cluster: &Cluster) -> Option<(Version, &JsonMap)> {
    let config = cluster.config.as_ref()?;
    Some((config.version, config.data.as_ref()?))
}

/// The refusal of a change that puts something into the store that cannot be used. What was there before does not keep others
/// from being changed.
fn refusal(before: &JsonMap, after: &JsonMap) -> Option<Reply> {
    let faults = patroni_config::faults_of_change(before, after);
    (!faults.is_empty()).then(|| Reply::text(422, faults.join("; ")))
}

//! `restapi.compatibility: 2`: names and fields as the documentation of Patroni 1.6 to 2 has them, for what was
//! written against it. Fields by which members judge each other in an election stay.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use patroni_core::JsonMap;
use patroni_core::cluster::Cluster;
use patroni_core::health::Query;
use serde_json::Value;

use patroni_core::request::Handover;

/// The status document.
pub(crate) fn status(document: &mut JsonMap) {
    if let Some(role) = document.get_mut("role").filter(|role| *role == "primary") {
        *role = "master".into();
    }
    let unlocked = document.contains_key("cluster_unlocked");
    document.insert("cluster_unlocked".to_owned(), unlocked.into());
    for later in ["dcs_last_seen", "pending_restart_reason"] {
        document.shift_remove(later);
    }
    if let Some(Value::Object(patroni)) = document.get_mut("patroni") {
        patroni.shift_remove("name");
    }
    rewrite_time(document.get_mut("postmaster_start_time"));
    rewrite_time(document.get_mut("xlog").and_then(|xlog| xlog.get_mut("replayed_timestamp")));
}

/// The document of `/cluster`: a standby that streams is `running`, positions are not told.
pub(crate) fn topology(document: &mut JsonMap) {
    document.shift_remove("scope");
    for member in document.get_mut("members").and_then(Value::as_array_mut).into_iter().flatten() {
        let Value::Object(member) = member else { continue };
        if member.get("state").is_some_and(|state| state == "streaming" || state == "in archive recovery") {
            member.insert("state".to_owned(), "running".into());
        }
        for later in ["receive_lsn", "receive_lag", "replay_lsn", "replay_lag", "lsn", "pending_restart_reason"] {
            member.shift_remove(later);
        }
    }
}

/// The document of `/history`: without the new leader.
pub(crate) fn history(document: &mut Value) {
    for line in document.as_array_mut().into_iter().flatten() {
        if let Value::Array(line) = line {
            line.truncate(4);
        }
    }
}

/// The query of a check: the documentation also writes `16KB`.
pub(crate) fn query(query: &mut Query) {
    if let Some(lag) = query.get_mut("lag")
        && let Some(number) = lag.strip_suffix("KB")
    {
        *lag = format!("{number}kB");
    }
}

/// The body of a restart: the role `master`.
pub(crate) fn restart(body: &mut JsonMap) {
    if let Some(role) = body.get_mut("role").filter(|role| *role == "master") {
        *role = "primary".into();
    }
}

/// The body of a switchover or failover: leader or candidate alone are enough.
pub(crate) fn order(action: Handover, body: &mut JsonMap, cluster: Option<&Cluster>) -> Handover {
    let has = |key: &str| body.get(key).is_some_and(patroni_core::tags::truthy);
    let (leader, candidate) = (has("leader"), has("candidate") || has("member"));
    match action {
        Handover::Switchover if !leader && candidate => {
            if let Some(name) = cluster.and_then(Cluster::leader_name) {
                body.insert("leader".to_owned(), name.as_str().into());
            }
            action
        }
        Handover::Failover if leader && !candidate && !has("scheduled_at") => Handover::Switchover,
        Handover::Switchover | Handover::Failover => action,
    }
}

fn rewrite_time(time: Option<&mut Value>) {
    if let Some(value) = time
        && let Some(text) = value.as_str().and_then(|text| time_with_zone(text, &TimeZone::system()))
    {
        *value = text.into();
    }
}

/// `2019-09-24 09:22:32.555123+02:00` as `2019-09-24 09:22:32.555 CEST`. Zones that are not the local one have no name
/// but their offset.
fn time_with_zone(text: &str, local: &TimeZone) -> Option<String> {
    let (civil, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let civil: DateTime = civil.parse().ok()?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
    let offset = Offset::from_seconds(if offset.starts_with('-') { -seconds } else { seconds }).ok()?;
    let instant = offset.to_timestamp(civil).ok()?;
    let info = local.to_offset_info(instant);
    let zone = match offset {
        _ if info.offset() == offset => info.abbreviation().to_owned(),
        Offset::UTC => "UTC".to_owned(),
        other => other.to_string(),
    };
    Some(format!("{}.{:03} {zone}", civil.strftime("%Y-%m-%d %H:%M:%S"), civil.millisecond()))
}

#[cfg(test)]
mod tests {
    use patroni_core::name::MemberName;
    use serde_json::json;

    use super::super::sample;
    use super::*;

    #[test]
    fn times_have_the_name_of_their_zone() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let rows = [
            ("2019-09-24 09:22:32.555123+02:00", &berlin, Some("2019-09-24 09:22:32.555 CEST")),
            ("2019-12-24 09:22:32+01:00", &berlin, Some("2019-12-24 09:22:32.000 CET")),
            ("2019-09-24 09:22:32.555999+00:00", &TimeZone::UTC, Some("2019-09-24 09:22:32.555 UTC")),
            ("2019-09-24 09:22:32.5+00:00", &berlin, Some("2019-09-24 09:22:32.500 UTC")),
            ("2019-09-24 09:22:32.5-03:30", &berlin, Some("2019-09-24 09:22:32.500 -03:30")),
            ("x", &berlin, None),
            ("", &berlin, None),
            ("€€€", &berlin, None),
        ];
        for (text, zone, expected) in rows {
            assert_eq!(time_with_zone(text, zone).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn documents() {
        let mut document = sample::map(json!({"role": "primary", "dcs_last_seen": 1, "tags": {"a": 1}, "timeline": 3,
            "pending_restart": true, "pending_restart_reason": {}, "patroni": {"version": "4.1.5", "scope": "s", "name": "n"}}));
        status(&mut document);
        let expected = json!({"role": "master", "tags": {"a": 1}, "timeline": 3, "pending_restart": true,
            "patroni": {"version": "4.1.5", "scope": "s"}, "cluster_unlocked": false});
        assert_eq!(Value::Object(document), expected);

        let mut document = sample::map(json!({"cluster_unlocked": true, "role": "replica"}));
        status(&mut document);
        assert_eq!(Value::Object(document), json!({"cluster_unlocked": true, "role": "replica"}));

        let mut document = sample::map(json!({"scope": "s", "members": [{"name": "a", "state": "streaming", "lag": 0,
            "lsn": "0/1", "receive_lsn": "0/1", "receive_lag": 0, "replay_lsn": "0/1", "replay_lag": 0}]}));
        topology(&mut document);
        assert_eq!(Value::Object(document), json!({"members": [{"name": "a", "state": "running", "lag": 0}]}));

        let mut document = json!([[1, 2, "why", "when", "who"], [2, 3, "why", "when"]]);
        history(&mut document);
        assert_eq!(document, json!([[1, 2, "why", "when"], [2, 3, "why", "when"]]));
    }

    #[test]
    fn requests() {
        let mut query = Query::parse("lag=16KB");
        super::query(&mut query);
        assert_eq!(query, Query::parse("lag=16kB"));
        let mut body = sample::map(json!({"role": "master"}));
        restart(&mut body);
        assert_eq!(Value::Object(body), json!({"role": "primary"}));
        let cluster = sample::cluster();
        assert_eq!(cluster.leader_name(), Some(&MemberName::from("postgresql0")));
        use Handover::{Failover, Switchover};
        let rows = [
            (Switchover, json!({"candidate": "b"}), Switchover, json!({"candidate": "b", "leader": "postgresql0"})),
            (Switchover, json!({"leader": "a"}), Switchover, json!({"leader": "a"})),
            (Switchover, json!({}), Switchover, json!({})),
            (Failover, json!({"leader": "a"}), Switchover, json!({"leader": "a"})),
            (Failover, json!({"candidate": "b"}), Failover, json!({"candidate": "b"})),
            (
                Failover,
                json!({"leader": "a", "scheduled_at": "x"}),
                Failover,
                json!({"leader": "a", "scheduled_at": "x"}),
            ),
        ];
        for (action, body, expected, expected_body) in rows {
            let mut map = sample::map(body.clone());
            assert_eq!(order(action, &mut map, Some(&cluster)), expected, "{body}");
            assert_eq!(Value::Object(map), expected_body, "{body}");
        }
    }
}

//! `patronictl explain`: why the present leader leads, and who could take over now.

use patroni_core::cluster::Cluster;
use patroni_core::disk::size;
use patroni_core::election::Election;
use patroni_core::settings::Dynamic;
use serde_json::Value;

use crate::by_members::{self, Sight, Told};
use crate::candidates::{Contender, contenders};
use crate::cli::definition::{CLUSTER_NAME, Command, GROUP};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::doctor::lost;
use crate::error::{CtlError, failed};
use crate::output;
use crate::statuses::{self, Silence, Statuses};

pub(crate) const COMMAND: Command = Command {
    name: "explain",
    help: "Explain who leads, who could take over, and why the others could not",
    arguments: &[CLUSTER_NAME],
    options: &[GROUP],
    examples: &["patronictl explain batman"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_default(matches)?;
    let cluster = match by_members::look(context, &store).await? {
        Sight::Stored(cluster) => cluster,
        Sight::Told(told) => {
            output::write(&explain_told(&told, &store.scope));
            return Err(CtlError::Reported);
        }
    };
    if let Some(absence) = store.absence(&cluster) {
        return failed(absence);
    }
    let statuses = statuses::ask_all(context, &cluster).await;
    let mut text = explain(&cluster, &store.scope, &statuses, jiff::Timestamp::now().as_second());
    if let Some(picture) = context.look_at_embedded().await? {
        text.push_str(&format!("\n{}\n", picture.sentence()));
    }
    output::write(&text);
    Ok(())
}

/// What is known without the store. Nobody takes a lease that nobody can see.
fn explain_told(told: &Told, scope: &str) -> String {
    let mut lines = vec![format!("Cluster {scope}"), String::new(), told.mark(), String::new()];
    for (name, answer) in &told.statuses {
        let said = match answer {
            Ok(status) => {
                let role = status.text("role").unwrap_or("of unknown role");
                let state = status.text("replication_state").or(status.text("state")).unwrap_or("state unknown");
                let agreed = if status.flag("failsafe_mode_is_active") { "; failsafe mode is on" } else { "" };
                format!("{name} is {role} ({state}){agreed}.")
            }
            Err(reason) => format!("{name} does not answer ({reason})."),
        };
        lines.push(said);
    }
    lines.push(String::new());
    lines.push("Nobody takes over while the store does not answer.".to_owned());
    lines.join("\n") + "\n"
}

/// The whole text. `now_s`: seconds since 1970.
fn explain(cluster: &Cluster, scope: &str, statuses: &Statuses, now_s: i64) -> String {
    let dynamic = Dynamic::of_cluster(cluster);
    let contenders = contenders(cluster, statuses);
    let lost = lost::findings(cluster, None);
    let mut lines = vec![format!("Cluster {scope}"), String::new()];
    lines.extend(leader_lines(cluster, &dynamic, statuses, now_s));
    if !contenders.is_empty() || !lost.is_empty() {
        lines.push(String::new());
    }
    lines.extend(contenders.iter().map(|one| contender_line(one, cluster, &dynamic)));
    lines.extend(lost.into_iter().map(|finding| finding.what + "."));
    lines.push(String::new());
    lines.extend(forecast(cluster, &dynamic, &contenders));
    lines.join("\n") + "\n"
}

fn leader_lines(cluster: &Cluster, dynamic: &Dynamic, statuses: &Statuses, now_s: i64) -> Vec<String> {
    let Some(leader) = cluster.leader_name() else {
        return vec!["Nobody holds the leader key.".to_owned()];
    };
    let kind = if dynamic.standby_cluster.is_some() { "standby leader" } else { "leader" };
    let last = cluster.history.as_ref().and_then(|history| history.lines.last());
    let field = |index: usize| last.and_then(|line| line.0.get(index)).and_then(Value::as_str);
    // A standby leader was promoted by nobody: the history is that of the remote primary, or from before.
    let since = match (field(3).filter(|_| dynamic.standby_cluster.is_none()), field(4) == Some(leader.as_str())) {
        (Some(time), true) => format!(": it was promoted at {time} ({})", field(2).unwrap_or("reason unknown")),
        (Some(_), false) | (None, _) => String::new(),
    };
    let mut lines = vec![format!("{leader} is the {kind}, because it holds the leader key{since}.")];
    match statuses.get(leader) {
        Some(Ok(status)) => {
            let seen = status.document.get("dcs_last_seen").and_then(Value::as_i64).filter(|seen| *seen > 0);
            let age = seen.map(|seen| (now_s - seen).max(0));
            lines.extend(
                age.map(|age| {
                    format!("It reached the store {age} s ago; its lease lasts {} s.", dynamic.ttl.as_secs())
                }),
            );
            if status.flag("holding_clients") {
                lines.push(
                    "It was down, and is no primary before its standbys have all its WAL (synchronous_mode_hold)."
                        .into(),
                );
            }
            if status.flag("failsafe_mode_is_active") {
                lines.push(
                    "Failsafe mode is on: it cannot renew its lease, and leads because all members agree.".into(),
                );
            }
        }
        Some(Err(Silence::NoAnswer(reason))) => lines.push(format!("Its REST API does not answer ({reason}).")),
        Some(Err(Silence::NotTrusted(reason))) => lines.push(format!("It was not asked ({reason}).")),
        None => lines.push("It has no member key: its agent is gone, or has just begun.".to_owned()),
    }
    lines
}

fn contender_line(one: &Contender, cluster: &Cluster, dynamic: &Dynamic) -> String {
    if !one.obstacles.is_empty() {
        return format!("{} is no candidate: {}.", one.name, one.obstacles.join("; "));
    }
    let unasked = one.unasked.as_ref().map(|reason| format!(" It was not asked ({reason}).")).unwrap_or_default();
    let Some(position) = one.position else {
        return format!("{} is a candidate, but it is not known how much WAL it has.{unasked}", one.name);
    };
    let behind = match Election::new(cluster, dynamic).lag(position) {
        0 => "all that the store knows of".to_owned(),
        lag => format!("{} behind", size(lag)),
    };
    let priority = if one.priority == 1 { String::new() } else { format!(", failover_priority {}", one.priority) };
    format!("{} is a candidate: it has WAL up to {position} ({behind}){priority}.{unasked}", one.name)
}

/// What would happen if the leader died this second; what will, if there is none.
fn forecast(cluster: &Cluster, dynamic: &Dynamic, contenders: &[Contender]) -> Vec<String> {
    let unlocked = cluster.is_unlocked();
    let takes = if unlocked { "will take over" } else { "would take over" };
    if dynamic.paused {
        let text = match unlocked {
            true => "Nobody takes over: the cluster is paused (patronictl resume).",
            false => "If the leader died now, nobody would take over: the cluster is paused (patronictl resume).",
        };
        return vec![text.to_owned()];
    }
    let who = match winner(contenders, takes) {
        Some(who) => who,
        None => {
            let text = if unlocked { "Nobody can take over" } else { "If the leader died now, nobody could take over" };
            return vec![format!("{text}{}.", why_nobody(cluster, dynamic, contenders))];
        }
    };
    if unlocked {
        return vec![format!("As nobody leads, {who}")];
    }
    let lost = match Election::new(cluster, dynamic).is_synchronous() {
        _ if dynamic.standby_cluster.is_some() => {
            "No transaction would be lost by that: WAL that it has not received comes from the remote primary, where that \
             still has it."
        }
        false => "Transactions that it has not received by then would be lost.",
        true => "No transaction that was confirmed to a client would be lost.",
    };
    vec![
        format!("If the leader died now, {who}"),
        format!("It would be noticed when the lease has ended, {} s from now at most.", dynamic.ttl.as_secs()),
        lost.to_owned(),
    ]
}

/// Who takes the lease, and what decides it. `takes`: how that is said.
fn winner(contenders: &[Contender], takes: &str) -> Option<String> {
    let able: Vec<&Contender> = contenders.iter().filter(|one| one.takes).collect();
    let text = match (able.as_slice(), best_of_the_others(contenders)) {
        ([], _) => return None,
        ([only], None) => format!("{} {takes}: it is the only candidate.", only.name),
        ([first], Some(second)) if first.position > second.position => {
            format!("{} {takes}: it has the most WAL.", first.name)
        }
        ([first], Some(second)) if first.priority > second.priority => {
            format!("{} {takes}: nobody has more WAL, and it has the highest failover_priority.", first.name)
        }
        ([first], Some(_)) => format!("{} {takes}: the others leave the leader key to it.", first.name),
        (several, _) => {
            let names: Vec<&str> = several.iter().map(|one| one.name.as_str()).collect();
            format!("the first of {} to take the leader key {takes}: they are equal.", names.join(", "))
        }
    };
    Some(text)
}

/// Of those that nothing speaks against, and that would leave the leader key to others all the same.
fn best_of_the_others(contenders: &[Contender]) -> Option<&Contender> {
    let others = contenders.iter().filter(|one| !one.takes && one.obstacles.is_empty());
    others.max_by_key(|one| (one.position, one.priority))
}

/// What is to be said where there are candidates, and none of them takes the lease.
fn why_nobody(cluster: &Cluster, dynamic: &Dynamic, contenders: &[Contender]) -> String {
    let Some(best) = best_of_the_others(contenders) else { return String::new() };
    if Election::new(cluster, dynamic).is_quorum() {
        return format!(": a candidate needs the votes of {} others that the key sync names", cluster.sync.quorum);
    }
    match best.leaves.last() {
        Some(note) => format!(": {} would leave the leader key alone ({note})", best.name),
        None => format!(": {} would leave the leader key alone", best.name),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use patroni_core::name::MemberName;
    use patroni_dcs::wire::{self, RawKey};
    use serde_json::json;

    use super::*;
    use crate::statuses::Status;

    fn cluster(config: &Value, sync: Option<&str>) -> Cluster {
        let raw = |text: String| RawKey { value: text.into_bytes(), ..RawKey::default() };
        let member = |name: &str, lsn: u64, tags: Value| {
            let data = json!({"state": "running", "role": "replica", "xlog_location": lsn, "timeline": 2, "tags": tags,
                       "api_url": format!("http://{name}:8008/patroni")});
            (format!("members/{name}"), raw(data.to_string()))
        };
        let mut keys = BTreeMap::from([
            member("a", 5000, json!({})),
            member("b", 4000, json!({})),
            member("c", 5000, json!({})),
            member("d", 5000, json!({"nofailover": true})),
            ("leader".to_owned(), raw("a".to_owned())),
            ("status".to_owned(), raw(r#"{"optime": 5000}"#.to_owned())),
            ("config".to_owned(), raw(config.to_string())),
        ]);
        keys.extend(sync.map(|text| ("sync".to_owned(), raw(text.to_owned()))));
        wire::cluster(&keys)
    }

    fn statuses() -> Statuses {
        let status = |(name, lsn, tags): (&str, u64, Value)| {
            let document = json!({"xlog": {"received_location": lsn}, "timeline": 2, "tags": tags});
            let document = document.as_object().cloned().expect("an object");
            (MemberName::from(name), Ok(Status { document, clock_ahead_s: None }))
        };
        let nofailover = json!({"nofailover": true});
        let rows = [("a", 5000, json!({})), ("b", 4000, json!({})), ("c", 5000, json!({})), ("d", 5000, nofailover)];
        rows.map(status).into_iter().collect()
    }

    /// In quorum mode votes decide, and `/sync` goes on counting after the mode was turned off.
    #[test]
    fn a_quorum_and_what_was_published_count() {
        let sync = r#"{"leader": "a", "sync_standby": "b,c", "quorum": 1}"#;
        let config = json!({"synchronous_mode": "quorum"});
        let text = explain(&cluster(&config, Some(sync)), "batman", &statuses(), 0);
        assert!(text.contains("If the leader died now, c would take over: it has the most WAL."), "{text}");
        let mut alone = statuses();
        alone.insert(MemberName::from("b"), Err("no connection".to_owned().into()));
        let text = explain(&cluster(&config, Some(sync)), "batman", &alone, 0);
        assert!(text.contains("If the leader died now, nobody could take over"), "{text}");
        let sync = r#"{"leader": "a", "sync_standby": "b"}"#;
        let text = explain(&cluster(&json!({"synchronous_mode": false}), Some(sync)), "batman", &statuses(), 0);
        assert!(text.contains("c is no candidate: it is not among the synchronous standbys"), "{text}");
        assert!(text.contains("If the leader died now, b would take over: it is the only candidate."), "{text}");
    }

    #[test]
    fn check_timeline_counts_in_every_spelling() {
        let mut cluster = cluster(&json!({"check_timeline": "on"}), None);
        let history = json!([[1, 1, "x"], [2, 1, "x"]]).to_string();
        let history = RawKey { value: history.into_bytes(), ..RawKey::default() };
        cluster.history = wire::cluster(&BTreeMap::from([("history".to_owned(), history)])).history;
        let text = explain(&cluster, "batman", &statuses(), 0);
        assert!(
            text.contains("c is no candidate: it is on timeline 2, and the cluster has reached timeline 3."),
            "{text}"
        );
    }

    #[test]
    fn who_leads_and_who_could() {
        let text = explain(&cluster(&json!({"ttl": 30}), None), "batman", &statuses(), 0);
        let expected = "Cluster batman\n\na is the leader, because it holds the leader key.\n\n\
             c is a candidate: it has WAL up to 0/1388 (all that the store knows of).\n\
             b is a candidate: it has WAL up to 0/FA0 (1000 bytes behind).\n\
             d is no candidate: it has the tag nofailover (or failover_priority 0).\n\n\
             If the leader died now, c would take over: it has the most WAL.\n\
             It would be noticed when the lease has ended, 30 s from now at most.\n\
             Transactions that it has not received by then would be lost.\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_lost_member_is_told_as_far_as_the_store_knows_it() {
        let mut cluster = cluster(&json!({"ttl": 30}), None);
        cluster.status.retain_slots = ["a", "b", "e"].map(str::to_owned).to_vec();
        let text = explain(&cluster, "batman", &statuses(), 0);
        let line =
            "the member of the slot e is not in the store any more, but a still keeps its slot.\n\nIf the leader";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn what_keeps_members_from_it() {
        let config = json!({"maximum_lag_on_failover": 100, "synchronous_mode": true});
        let sync = r#"{"leader": "a", "sync_standby": "b"}"#;
        let mut statuses = statuses();
        statuses.insert(MemberName::from("c"), Err("no connection".to_owned().into()));
        let text = explain(&cluster(&config, Some(sync)), "batman", &statuses, 0);
        for line in [
            "b is no candidate: it is 1000 bytes behind, more than maximum_lag_on_failover (100 bytes).",
            "c is no candidate: its REST API does not answer (no connection).",
            "If the leader died now, nobody could take over.",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        let unasked = Silence::NotTrusted("the certificate of h:1 is not trusted".to_owned());
        statuses.insert(MemberName::from("b"), Err(unasked));
        let text = explain(&cluster(&json!({}), None), "batman", &statuses, 0);
        let line = "b is a candidate: it has WAL up to 0/FA0 (1000 bytes behind). It was not asked (the certificate of \
                    h:1 is not trusted).";
        assert!(text.lines().any(|other| other == line), "{text}");
        let text = explain(&cluster(&json!({"pause": true}), None), "batman", &statuses, 0);
        assert!(text.contains("the cluster is paused (patronictl resume)"), "{text}");
    }

    #[test]
    fn a_standby_leader_was_not_promoted_and_loses_nothing() {
        let config = json!({"ttl": 30, "standby_cluster": {"host": "remote"}});
        let mut cluster = cluster(&config, None);
        let history = json!([[1, 2, "reason", "2026-11-23T02:57:13+00:00", "a"]]).to_string();
        let history = RawKey { value: history.into_bytes(), ..RawKey::default() };
        cluster.history = wire::cluster(&BTreeMap::from([("history".to_owned(), history)])).history;
        let text = explain(&cluster, "batman", &statuses(), 0);
        assert!(text.contains("a is the standby leader, because it holds the leader key.\n"), "{text}");
        assert!(text.ends_with("comes from the remote primary, where that still has it.\n"), "{text}");
        assert!(!text.contains("would be lost."), "{text}");
    }

    #[test]
    fn what_will_happen_where_nobody_leads() {
        let forecast = |config: Value, statuses: &Statuses| {
            let mut cluster = cluster(&config, None);
            cluster.leader = None;
            let text = explain(&cluster, "batman", statuses, 0);
            text.trim_end().rsplit('\n').next().unwrap().to_owned()
        };
        let silent: Statuses =
            statuses().into_keys().map(|name| (name, Err("no connection".to_owned().into()))).collect();
        for (config, statuses, expected) in [
            (
                json!({"ttl": 30}),
                &statuses(),
                "As nobody leads, the first of a, c to take the leader key will take over: they are equal.",
            ),
            (json!({"ttl": 30}), &silent, "Nobody can take over."),
            (json!({"pause": true}), &silent, "Nobody takes over: the cluster is paused (patronictl resume)."),
        ] {
            assert_eq!(forecast(config, statuses), expected);
        }
    }
}

//! Moving a cluster to another store: what is copied, and what forbids it. Pure functions of both stores' contents.

use patroni_core::cluster::{Cluster, Initialize, Version};
use patroni_core::settings::Dynamic;
use patroni_dcs::{Expected, Key, LeaderUpdate, wire};

use crate::doctor::{Finding, finding};

/// A key on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Which.
    pub(crate) key: Key,
    /// What is done.
    pub(crate) action: Action,
}

/// What is done to a key of the new store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing: it is as it should be.
    Keep,
    /// It gets this value, if it still is as it was found.
    Write(String, Expected),
    /// It is deleted, if it still is as it was found.
    Delete(Expected),
}

/// The pause comes first, so that an agent which is started early does nothing, the identity last: it makes the cluster.
const ORDER: [Key; 6] = [Key::Config, Key::Failover, Key::Sync, Key::History, Key::Status, Key::Initialize];

/// What is to be done, in this order; or what forbids it. `here` and `there` are what messages call the stores.
pub(crate) fn plan(from: &Cluster, to: &Cluster, here: &str, there: &str) -> Result<Vec<Step>, Vec<Finding>> {
    let mut against = of_source(from, here);
    against.extend(of_target(from, to, there));
    if against.is_empty() { Ok(ORDER.into_iter().map(|key| step(key, from, to)).collect()) } else { Err(against) }
}

/// Nothing may change while keys are copied and agents go from one store to the other: only the pause sees to that.
fn of_source(from: &Cluster, here: &str) -> Vec<Finding> {
    let Initialize::Done(_) = from.initialize else {
        return vec![finding(format!("there is no initialized cluster in {here}"), "name another store or cluster")];
    };
    let mut found = Vec::new();
    if from.config.as_ref().is_some_and(|config| config.data.is_none()) {
        found.push(finding(format!("the settings in {here} cannot be read"), "patronictl edit-config"));
    }
    if !Dynamic::of_cluster(from).paused {
        found.push(finding("the cluster is not paused", "patronictl pause --wait"));
    }
    let unaware = from.members.values().filter(|member| !member.data.pause);
    found.extend(unaware.map(|member| {
        let what = format!("{} has not noticed the pause yet", member.name);
        finding(what, "repeat the command; if that does not help, look into the log of its agent")
    }));
    if from.failover.as_ref().is_some_and(|request| request.candidate.is_some() || request.leader.is_some()) {
        found.push(finding("a switchover or failover is requested", "patronictl flush CLUSTER switchover"));
    }
    found
}

fn of_target(from: &Cluster, to: &Cluster, there: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let names: Vec<&str> = to.members.keys().map(patroni_core::name::MemberName::as_str).collect();
    if !names.is_empty() || to.leader.is_some() {
        found.push(finding(
            format!(
                "agents use {there} already: {}",
                if names.is_empty() { "there is a leader".into() } else { names.join(", ") }
            ),
            "if all of them have moved, look at the result: patronictl store move --verify",
        ));
    }
    let other = match &to.initialize {
        Initialize::Absent => None,
        same if *same == from.initialize => None,
        Initialize::Done(id) => Some(format!("another cluster of this name, with the system identifier {id}")),
        Initialize::InProgress(_) | Initialize::Invalid(..) => {
            Some("the beginning of another cluster of this name".to_owned())
        }
    };
    found.extend(other.map(|other| {
        let remedy = format!("look at it; if nobody needs it: patronictl remove, with the store {there}");
        finding(format!("there is {other} in {there}"), remedy)
    }));
    found
}

fn step(key: Key, from: &Cluster, to: &Cluster) -> Step {
    let (wanted, present) = (text(key, from), text(key, to));
    let expected = match (&present, version(key, to)) {
        (None, None) => Expected::Absent,
        (_, Some(version)) => Expected::Version(version),
        // The loaded cluster tells no version of this key.
        (Some(_), None) => Expected::Anything,
    };
    let action = match wanted {
        wanted if wanted == present => Action::Keep,
        Some(value) => Action::Write(value, expected),
        None => Action::Delete(expected),
    };
    Step { key, action }
}

/// The value of a key; `None` where it is absent or says nothing.
fn text(key: Key, cluster: &Cluster) -> Option<String> {
    match key {
        Key::Config => cluster.config.as_ref()?.data.as_ref().map(wire::config),
        Key::Failover => cluster.failover.as_ref().map(wire::failover),
        Key::History => cluster.history.as_ref().map(|history| history.raw.clone()),
        Key::Initialize => match &cluster.initialize {
            Initialize::Done(id) => Some(id.to_string()),
            Initialize::Absent | Initialize::InProgress(_) | Initialize::Invalid(..) => None,
        },
        Key::Status => {
            let status = &cluster.status;
            (status != &Default::default()).then(|| {
                wire::status(&LeaderUpdate {
                    last_lsn: Some(status.last_lsn),
                    slots: status.slots.clone(),
                    retain_slots: status.retain_slots.clone(),
                    failsafe: None,
                })
            })?
        }
        Key::Sync => {
            let sync = &cluster.sync;
            sync.version.map(|_| wire::sync(sync.leader.as_ref(), &sync.standbys, sync.quorum))
        }
    }
}

fn version(key: Key, cluster: &Cluster) -> Option<Version> {
    match key {
        Key::Config => cluster.config.as_ref().map(|config| config.version),
        Key::Failover => cluster.failover.as_ref().map(|request| request.version),
        Key::History => cluster.history.as_ref().map(|history| history.version),
        Key::Sync => cluster.sync.version,
        Key::Initialize | Key::Status => None,
    }
}

/// What is still missing after all agents were started with the new store.
pub(crate) fn unfinished(from: &Cluster, to: &Cluster, here: &str, there: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in from.members.keys() {
        found.push(finding(
            format!("the agent of {name} uses {here}, or did until a moment ago: its key has not ended yet"),
            "start it with the new store, then repeat the command",
        ));
    }
    if let Some(leader) = from.leader_name() {
        let remedy = format!("start the agent of {leader} with the new store, wait for the end of its lease");
        found.push(finding(format!("{leader} holds the leader key in {here}"), remedy));
    }
    if !matches!(from.initialize, Initialize::Absent) && !Dynamic::of_cluster(from).paused {
        let remedy = format!("pause it there, or remove it there: patronictl remove, with the store {here}");
        found.push(finding(
            format!("in {here} the cluster is not paused: an agent that comes back there would act"),
            remedy,
        ));
    }
    if from.initialize != to.initialize && from.initialize != Initialize::Absent {
        found.push(finding("the stores hold different clusters", "patronictl store move, without --verify"));
    }
    match to.leader_member() {
        None => found.push(finding(
            format!("nobody leads in {there}"),
            "start the agent of the primary with the new store; its log says what it waits for",
        )),
        Some(leader) if !leader.data.is_primary() && leader.data.role.as_deref() != Some("standby_leader") => {
            let what = format!("{} holds the leader key in {there} and is not the primary", leader.name);
            found.push(finding(what, "look into the log of its agent"));
        }
        Some(_) => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use patroni_dcs::wire::RawKey;

    use super::*;

    const CONFIG: &str = r#"{"ttl":30,"pause":true}"#;
    const ID: &str = "7711195368901249874";

    fn cluster(keys: &[(&str, &str)]) -> Cluster {
        let raw = |(index, (name, value)): (usize, &(&str, &str))| {
            let modified = index as u64 + 1;
            ((*name).to_owned(), RawKey { value: value.as_bytes().to_vec(), modified, ..RawKey::default() })
        };
        wire::cluster(&keys.iter().enumerate().map(raw).collect::<BTreeMap<_, _>>())
    }

    const MEMBER: &str = r#"{"state":"running","role":"primary","pause":true}"#;
    const STATUS: &str = r#"{"optime":5000,"slots":{"b":4000},"retain_slots":["b"]}"#;
    const SYNC: &str = r#"{"leader":"a","quorum":0,"sync_standby":"b"}"#;
    const SOURCE: &[(&str, &str)] = &[
        ("config", CONFIG),
        ("history", r#"[[1,5,"x"]]"#),
        ("initialize", ID),
        ("leader", "a"),
        ("members/a", MEMBER),
        ("status", STATUS),
        ("sync", SYNC),
    ];

    fn with(extra: &[(&'static str, &'static str)]) -> Cluster {
        cluster(&[SOURCE, extra].concat())
    }

    #[test]
    fn all_lasting_keys_are_copied_the_pause_first_and_the_identity_last() {
        let steps = plan(&with(&[]), &cluster(&[]), "old", "new").expect("nothing forbids it");
        let write = |key, value: &str| Step { key, action: Action::Write(value.to_owned(), Expected::Absent) };
        let expected = [
            write(Key::Config, CONFIG),
            Step { key: Key::Failover, action: Action::Keep },
            write(Key::Sync, SYNC),
            write(Key::History, r#"[[1,5,"x"]]"#),
            write(Key::Status, STATUS),
            write(Key::Initialize, ID),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn what_an_earlier_move_left_is_compared_and_replaced() {
        let left = [
            ("sync", r#"{"leader":"b","sync_standby":"c"}"#),
            ("config", CONFIG),
            ("initialize", ID),
            ("failover", r#"{"member":"c"}"#),
        ];
        let without_sync: Vec<_> =
            SOURCE.iter().filter(|(name, _)| !["sync", "history"].contains(name)).copied().collect();
        let steps = plan(&cluster(&without_sync), &cluster(&left), "old", "new").expect("nothing forbids it");
        let actions: Vec<_> = steps.into_iter().map(|step| step.action).collect();
        let expected = [
            Action::Keep,
            Action::Delete(Expected::Version(Version(4))),
            Action::Delete(Expected::Version(Version(1))),
            Action::Keep,
            Action::Write(STATUS.to_owned(), Expected::Absent),
            Action::Keep,
        ];
        assert_eq!(actions, expected);
    }

    #[test]
    fn what_forbids_it() {
        let empty = cluster(&[]);
        let rows: [(Cluster, Cluster, &str); 8] = [
            (empty.clone(), empty.clone(), "there is no initialized cluster in old"),
            (with(&[("config", "{}")]), empty.clone(), "the cluster is not paused"),
            (with(&[("config", "[")]), empty.clone(), "the settings in old cannot be read"),
            (with(&[("members/b", "{}")]), empty.clone(), "b has not noticed the pause yet"),
            (with(&[("failover", r#"{"member":"b"}"#)]), empty.clone(), "a switchover or failover is requested"),
            (with(&[]), cluster(&[("members/b", "{}")]), "agents use new already: b"),
            (
                with(&[]),
                cluster(&[("initialize", "7000000000000000001")]),
                "with the system identifier 7000000000000000001",
            ),
            (with(&[]), cluster(&[("initialize", "")]), "the beginning of another cluster"),
        ];
        for (from, to, part) in rows {
            let against = plan(&from, &to, "old", "new").expect_err(part);
            assert!(against.iter().any(|one| one.what.contains(part)), "{part}: {against:?}");
        }
    }

    #[test]
    fn when_it_is_finished() {
        let old = cluster(&[("config", CONFIG), ("initialize", ID)]);
        assert_eq!(unfinished(&old, &with(&[]), "old", "new"), []);
        assert_eq!(unfinished(&cluster(&[]), &with(&[]), "old", "new"), [], "the old keys are gone");
        let rows: [(Cluster, Cluster, &str); 6] = [
            (cluster(&[("config", CONFIG), ("members/b", MEMBER)]), with(&[]), "the agent of b uses old"),
            (cluster(&[("config", CONFIG), ("leader", "a")]), with(&[]), "a holds the leader key in old"),
            (cluster(&[("config", "{}"), ("initialize", ID)]), with(&[]), "in old the cluster is not paused"),
            (
                cluster(&[("config", CONFIG), ("initialize", "7000000000000000001")]),
                with(&[]),
                "the stores hold different clusters",
            ),
            (old.clone(), cluster(&[("initialize", ID), ("members/a", MEMBER)]), "nobody leads in new"),
            (
                old,
                with(&[("members/a", r#"{"role":"replica"}"#)]),
                "a holds the leader key in new and is not the primary",
            ),
        ];
        for (from, to, part) in rows {
            let found = unfinished(&from, &to, "old", "new");
            assert!(found.iter().any(|one| one.what.contains(part)), "{part}: {found:?}");
        }
    }
}

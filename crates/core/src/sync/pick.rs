//! Who could be a synchronous standby, and who is picked.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::enforcement::{Inspection, Sender};
use super::names::same_name;
use super::{Names, StandbyNames};
use crate::cluster::{Cluster, Member};
use crate::lsn::Lsn;
use crate::name::MemberName;
use crate::settings::{Synchronous, SynchronousMode};

/// The standbys that can be picked, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// Members that stream from this primary and may be synchronous.
    pub all: Vec<Candidate>,
    /// What they are measured against: the furthest of them, or the primary where there is only one.
    pub latest: Lsn,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: MemberName,
    /// `sync_state`
    pub sync_state: String,
    /// Written, flushed or replayed: whatever `synchronous_commit` waits for.
    pub position: Lsn,
    /// Tag `sync_priority`.
    pub priority: i64,
    /// Tag `nofailover`, or its like.
    pub nofailover: bool,
}

/// Members that run, stream from `me`, and neither refuse (`nosync`) nor belong behind another standby
/// (`replicatefrom`). None whose name `/sync` cannot hold: for "a,b", members `a` and `b` would be allowed to take over.
pub fn candidates(me: &MemberName, cluster: &Cluster, inspection: &Inspection) -> Candidates {
    let members: BTreeMap<&MemberName, &Member> = cluster
        .members
        .iter()
        .filter(|(name, m)| m.data.is_running() && !m.data.tags.nosync() && name.fits_in_a_list() && *name != me)
        .collect();
    let mut positions: BTreeMap<&MemberName, (&Sender, Lsn)> = BTreeMap::new();
    for sender in inspection.senders.iter().filter(|sender| sender.streams()) {
        let position = match inspection.synchronous_commit.as_str() {
            "remote_apply" => sender.replayed,
            "remote_write" => sender.written,
            _ => sender.flushed,
        };
        let member = members.keys().find(|name| same_name(name.as_str(), &sender.name));
        if let (Some(name), Some(position)) = (member, position) {
            positions.insert(name, (sender, position));
        }
    }
    let mut all: Vec<Candidate> = positions
        .iter()
        .filter(|(name, _)| !belongs_behind_another(members[**name], &members, &positions))
        .map(|(name, (sender, position))| candidate(members[*name], sender, *position))
        .collect();
    // Who is synchronous already stays so, unless another has a higher priority: positions change all the time.
    all.sort_by(|a, b| {
        let key = |c: &Candidate| (c.nofailover, Reverse((c.priority, c.sync_state.clone(), c.position)));
        key(a).cmp(&key(b))
    });
    let furthest = all.iter().map(|c| c.position).max().filter(|_| all.len() > 1);
    Candidates { latest: furthest.unwrap_or(inspection.flushed), all }
}

fn candidate(member: &Member, sender: &Sender, position: Lsn) -> Candidate {
    Candidate {
        name: member.name.clone(),
        sync_state: sender.sync_state.clone(),
        position,
        priority: member.data.tags.sync_priority(),
        nofailover: member.data.tags.nofailover(),
    }
}

/// It should stream from another standby, which streams from this primary: the connection will go away.
fn belongs_behind_another(
    member: &Member,
    members: &BTreeMap<&MemberName, &Member>,
    positions: &BTreeMap<&MemberName, (&Sender, Lsn)>,
) -> bool {
    let mut upstream = member.data.tags.replicatefrom();
    // A chain is no longer than the cluster; one that runs in a circle has no end.
    for _ in 0..=members.len() {
        let Some(next) = upstream.and_then(|name| members.get(&name).copied()) else { return false };
        upstream = next.data.tags.replicatefrom();
        if upstream.is_none() {
            return positions.contains_key(&next.name);
        }
    }
    false
}

impl Candidates {
    /// The picked ones: as many as wanted in the mode `on`, all that can help in an election in the mode `quorum`.
    pub fn pick(&self, settings: &Synchronous) -> Names {
        let count = settings.node_count as usize;
        let near = self.all.iter().filter(|c| {
            settings.maximum_lag.is_none_or(|limit| limit == 0 || self.latest.0.saturating_sub(c.position.0) <= limit)
        });
        match settings.mode {
            SynchronousMode::Off => Names::new(),
            SynchronousMode::On => near.take(count).map(|c| c.name.clone()).collect(),
            // A node that cannot be promoted may be ahead of those that can: it is used only where they are too few.
            SynchronousMode::Quorum => {
                let useful = near.enumerate().filter(|(before, c)| !c.nofailover || *before < count);
                useful.map(|(_, c)| c.name.clone()).collect()
            }
        }
    }
}

impl StandbyNames {
    /// What PostgreSQL should wait for, with these picked.
    pub fn wanted(settings: &Synchronous, picked: Names) -> Self {
        let quorum = settings.mode == SynchronousMode::Quorum;
        let number = picked.len().min(settings.node_count as usize);
        match (number, settings.strict, quorum) {
            // In no words at all, as PostgreSQL shows it.
            (0, false, _) => StandbyNames::default(),
            (0, true, true) => StandbyNames::anybody(super::Method::Quorum),
            (0, true, false) => StandbyNames::anybody(super::Method::Priority),
            (_, _, true) => StandbyNames::any(number, picked),
            (_, _, false) => StandbyNames::all(picked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{MemberData, Version};
    use crate::tags::Tags;
    use serde_json::{Value, json};

    fn cluster(members: &[(&str, Value)]) -> Cluster {
        let members = members.iter().map(|(name, tags)| {
            let data = MemberData {
                state: Some(if tags.get("down").is_some() { "stopped" } else { "running" }.to_owned()),
                tags: Tags(tags.as_object().unwrap().clone()),
                ..MemberData::default()
            };
            let name = MemberName::from(*name);
            (name.clone(), Member { name, version: Version(1), session: None, data })
        });
        Cluster { members: members.collect(), ..Cluster::default() }
    }

    fn sender(name: &str, sync_state: &str, position: u64) -> Sender {
        Sender {
            name: name.into(),
            state: "streaming".into(),
            sync_state: sync_state.into(),
            written: Some(Lsn(position + 2)),
            flushed: Some(Lsn(position)),
            replayed: Some(Lsn(position / 2)),
            ..Sender::default()
        }
    }

    fn settings(mode: SynchronousMode, node_count: u32, maximum_lag: Option<u64>) -> Synchronous {
        Synchronous { mode, strict: false, node_count, maximum_lag, hold: false }
    }

    fn picked(cluster: &Cluster, senders: Vec<Sender>, settings: &Synchronous) -> String {
        let inspection = Inspection { senders, flushed: Lsn(1000), ..Inspection::default() };
        let found = candidates(&"p".into(), cluster, &inspection);
        crate::sync::comma_list(&found.pick(settings))
    }

    #[test]
    fn members_are_picked_by_priority_then_by_staying_then_by_position() {
        let on = settings(SynchronousMode::On, 1, None);
        let plain = json!({});
        let two = [("p", plain.clone()), ("a", plain.clone()), ("b", plain.clone())];
        let rows: [(&[(&str, Value)], Vec<Sender>, &str); 8] = [
            (&two, vec![sender("a", "async", 90), sender("b", "async", 100)], "b"),
            (&two, vec![sender("a", "sync", 90), sender("b", "async", 100)], "a"),
            (&two, vec![sender("a", "potential", 90), sender("b", "async", 100)], "a"),
            (&two, vec![sender("stranger", "sync", 100), sender("p", "sync", 100)], ""),
            (&two, vec![sender("A", "async", 100)], "a"),
            (
                &[("a", plain.clone()), ("b", json!({"sync_priority": 2}))],
                vec![sender("a", "sync", 100), sender("b", "async", 90)],
                "b",
            ),
            (
                &[("a", json!({"nosync": true})), ("b", json!({"sync_priority": 0})), ("c", json!({"down": 1}))],
                vec![sender("a", "sync", 100), sender("b", "sync", 90), sender("c", "sync", 90)],
                "",
            ),
            (
                &[("a", json!({"nofailover": true})), ("b", plain.clone())],
                vec![sender("a", "sync", 100), sender("b", "async", 90)],
                "b",
            ),
        ];
        for (members, senders, expected) in rows {
            assert_eq!(picked(&cluster(members), senders.clone(), &on), expected, "{senders:?}");
        }
        let comma = cluster(&[("a,b", plain.clone()), ("b", plain.clone())]);
        assert_eq!(picked(&comma, vec![sender("a,b", "sync", 100)], &on), "");
        let catching_up = Sender { state: "catchup".into(), ..sender("a", "async", 1) };
        assert_eq!(picked(&cluster(&two), vec![catching_up], &on), "");
    }

    #[test]
    fn one_that_lags_too_far_is_left_out() {
        let plain = json!({});
        let three = cluster(&[("a", plain.clone()), ("b", plain.clone()), ("c", plain)]);
        let senders = vec![sender("a", "sync", 500), sender("b", "async", 1000), sender("c", "async", 900)];
        for (limit, on, quorum) in
            [(None, "a", "a, b, c"), (Some(0), "a", "a, b, c"), (Some(500), "a", "a, b, c"), (Some(499), "b", "b, c")]
        {
            let mode = |mode| settings(mode, 1, limit);
            assert_eq!(picked(&three, senders.clone(), &mode(SynchronousMode::On)), on, "{limit:?}");
            assert_eq!(picked(&three, senders.clone(), &mode(SynchronousMode::Quorum)), quorum, "{limit:?}");
        }
        // Alone, it is measured against the primary.
        let alone = vec![sender("a", "sync", 500)];
        assert_eq!(picked(&three, alone.clone(), &settings(SynchronousMode::On, 1, Some(499))), "");
        assert_eq!(picked(&three, alone, &settings(SynchronousMode::On, 1, Some(500))), "a");
    }

    #[test]
    fn the_position_is_what_synchronous_commit_waits_for() {
        let one = cluster(&[("a", json!({}))]);
        for (commit, position) in [("on", 100), ("remote_write", 102), ("remote_apply", 50), ("local", 100)] {
            let inspection = Inspection {
                senders: vec![sender("a", "sync", 100)],
                synchronous_commit: commit.into(),
                ..Inspection::default()
            };
            let found = candidates(&"p".into(), &one, &inspection);
            assert_eq!(found.all[0].position, Lsn(position), "{commit}");
        }
    }

    #[test]
    fn a_standby_that_belongs_behind_another_is_not_picked() {
        let plain = json!({});
        let behind = |name: &str| json!({ "replicatefrom": name });
        let senders = || vec![sender("a", "async", 100), sender("b", "async", 90)];
        let on = settings(SynchronousMode::On, 2, None);
        let rows: [(&[(&str, Value)], &str); 5] = [
            (&[("a", behind("b")), ("b", plain.clone())], "b"),
            (&[("a", behind("p")), ("b", plain.clone()), ("p", plain.clone())], "a, b"),
            (&[("a", behind("c")), ("b", plain.clone()), ("c", behind("b"))], "b"),
            (&[("a", behind("c")), ("b", plain.clone()), ("c", plain.clone())], "a, b"),
            (&[("a", behind("b")), ("b", behind("a"))], "a, b"),
        ];
        for (members, expected) in rows {
            assert_eq!(picked(&cluster(members), senders(), &on), expected, "{members:?}");
        }
    }

    #[test]
    fn the_quorum_takes_all_who_can_be_promoted_and_others_only_to_fill_up() {
        let nofailover = json!({"nofailover": true});
        let senders = || vec![sender("a", "quorum", 100), sender("b", "quorum", 100), sender("c", "quorum", 100)];
        let members = cluster(&[("a", nofailover.clone()), ("b", json!({})), ("c", nofailover)]);
        for (count, expected) in [(1, "b"), (2, "a, b"), (3, "a, b, c")] {
            let mode = settings(SynchronousMode::Quorum, count, None);
            assert_eq!(picked(&members, senders(), &mode), expected, "{count}");
        }
    }

    #[test]
    fn strictness_waits_for_somebody_where_nobody_is_there() {
        let rows = [
            (SynchronousMode::On, false, vec![], 1, ""),
            (SynchronousMode::On, true, vec![], 1, "*"),
            (SynchronousMode::On, true, vec!["a"], 2, "a"),
            (SynchronousMode::On, false, vec!["a", "b"], 2, "2 (a,b)"),
            (SynchronousMode::Quorum, false, vec![], 1, ""),
            (SynchronousMode::Quorum, true, vec![], 1, "ANY 1 (*)"),
            (SynchronousMode::Quorum, false, vec!["a", "b", "c"], 2, "ANY 2 (a,b,c)"),
        ];
        for (mode, strict, picked, node_count, text) in rows {
            let settings = Synchronous { mode, strict, node_count, maximum_lag: None, hold: false };
            let picked = picked.into_iter().map(MemberName::from).collect();
            assert_eq!(StandbyNames::wanted(&settings, picked).to_string(), text);
        }
    }
}

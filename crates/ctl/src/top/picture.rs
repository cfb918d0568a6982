//! What is known of a cluster at one moment, as the view shows it.

use patroni_core::cluster::{Address, Cluster, Initialize, Member, Schedule};
use patroni_core::name::MemberName;
use patroni_core::settings::{Dynamic, SynchronousMode};
use serde_json::Value;

use crate::members::title_case;
use crate::statuses::{Silence, Status, Statuses};

/// The cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Picture {
    /// Its name.
    pub(crate) scope: String,
    /// Its system identifier.
    pub(crate) identifier: String,
    /// Who holds the leader key.
    pub(crate) leader: Option<String>,
    /// When the leader renewed its lease, in seconds before now.
    pub(crate) lease_age_s: Option<i64>,
    /// `ttl`, in seconds.
    pub(crate) ttl_s: u64,
    /// Management is paused.
    pub(crate) paused: bool,
    /// What else is to be known about the cluster.
    pub(crate) notes: Vec<String>,
    /// The members: the leader first, replicas below the node they stream from.
    pub(crate) nodes: Vec<Node>,
    /// The last changes of leader that the cluster remembers: time and text.
    pub(crate) history: Vec<(String, String)>,
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// How far below the leader it hangs.
    pub(crate) depth: usize,
    /// `Leader`, `Replica`, `Sync Standby`, ...
    pub(crate) role: String,
    /// It holds the leader key.
    pub(crate) is_leader: bool,
    /// Its REST API answers.
    pub(crate) answers: bool,
    /// State of PostgreSQL, or of replication.
    pub(crate) state: String,
    /// Its timeline.
    pub(crate) timeline: Option<u64>,
    /// Bytes of WAL that it has not received; none of the leader.
    pub(crate) receive_lag: Option<u64>,
    /// Bytes of WAL that it has not replayed.
    pub(crate) replay_lag: Option<u64>,
    /// The long action that runs, with its progress.
    pub(crate) job: Option<String>,
    /// Where PostgreSQL is.
    pub(crate) address: String,
    /// What else is to be known about it.
    pub(crate) notes: Vec<String>,
}

impl Node {
    /// What it is doing.
    pub(crate) fn doing(&self) -> String {
        let mut parts = vec![self.job.clone().unwrap_or_else(|| self.state.clone())];
        parts.extend(self.notes.iter().cloned());
        parts.join("; ")
    }
}

impl Picture {
    /// Puts together what the store and the members say. `now_s`: seconds since 1970.
    pub(crate) fn of(scope: &str, cluster: &Cluster, statuses: &Statuses, now_s: i64) -> Self {
        let dynamic = Dynamic::of_cluster(cluster);
        let leader = cluster.leader_name();
        let status_of = |name: &MemberName| statuses.get(name).and_then(|status| status.as_ref().ok());
        let seen = leader.and_then(status_of).and_then(|status| status.document.get("dcs_last_seen")?.as_i64());
        Picture {
            scope: scope.to_owned(),
            identifier: identifier(&cluster.initialize),
            leader: leader.map(ToString::to_string),
            lease_age_s: seen.filter(|seen| *seen > 0).map(|seen| (now_s - seen).max(0)),
            ttl_s: dynamic.ttl.as_secs(),
            paused: dynamic.paused,
            notes: notes(cluster, &dynamic),
            nodes: tree(cluster)
                .into_iter()
                .map(|(depth, member)| {
                    node(cluster, &dynamic, member, depth, statuses.get(&member.name), end_of_wal(cluster, statuses))
                })
                .collect(),
            history: history(cluster),
        }
    }
}

fn identifier(initialize: &Initialize) -> String {
    match initialize {
        Initialize::Absent => "uninitialized".to_owned(),
        Initialize::InProgress(_) => "initializing".to_owned(),
        Initialize::Done(id) => id.to_string(),
        Initialize::Invalid(text, _) => text.clone(),
    }
}

fn notes(cluster: &Cluster, dynamic: &Dynamic) -> Vec<String> {
    let mut notes = Vec::new();
    match dynamic.synchronous.mode {
        SynchronousMode::On => notes.push("synchronous".to_owned()),
        SynchronousMode::Quorum => notes.push("quorum commit".to_owned()),
        SynchronousMode::Off => {}
    }
    if dynamic.standby_cluster.is_some() {
        notes.push("standby cluster".to_owned());
    }
    if let Some(request) = &cluster.failover {
        let to = request.candidate.as_ref().map(|name| format!(" to {name}")).unwrap_or_default();
        let at = match &request.scheduled_at {
            Some(Schedule::At(_, text)) => format!(" at {text}"),
            Some(Schedule::Invalid(_)) | None => String::new(),
        };
        notes.push(format!("switchover requested{to}{at}"));
    }
    notes
}

/// How far the leader is: by its own word, or else by the store.
fn end_of_wal(cluster: &Cluster, statuses: &Statuses) -> u64 {
    let status = cluster.leader_name().and_then(|name| statuses.get(name)?.as_ref().ok());
    status.and_then(|status| status.position("location")).unwrap_or(0).max(cluster.status.last_lsn.0)
}

fn node(
    cluster: &Cluster,
    dynamic: &Dynamic,
    member: &Member,
    depth: usize,
    answer: Option<&Result<Status, Silence>>,
    end: u64,
) -> Node {
    let data = &member.data;
    let is_leader = cluster.leader_name() == Some(&member.name);
    let status = answer.and_then(|answer| answer.as_ref().ok());
    let told = |key: &str| status.and_then(|status| status.text(key)).map(str::to_owned);
    let replication = told("replication_state").or_else(|| data.replication_state.clone().filter(|_| status.is_none()));
    let state = told("state").or_else(|| data.state.clone()).unwrap_or_default();
    let lag = |key: &str, stored: Option<u64>| {
        let own = status.and_then(|status| status.position(key)).or(stored);
        own.filter(|own| *own > 0 && !is_leader).map(|own| end.saturating_sub(own))
    };
    Node {
        name: member.name.to_string(),
        depth,
        role: title_case(cluster.role_of(member, dynamic)),
        is_leader,
        answers: status.is_some(),
        state: replication.filter(|state| !state.is_empty() && !is_leader).unwrap_or(state),
        timeline: status
            .and_then(|status| status.document.get("timeline")?.as_u64())
            .or(data.timeline.map(|timeline| timeline.0.into())),
        receive_lag: lag("received_location", data.receive_lsn.or(data.xlog_location).map(|lsn| lsn.0)),
        replay_lag: lag("replayed_location", data.replay_lsn.map(|lsn| lsn.0)),
        job: status.and_then(Status::job),
        address: Address::of(data).map(|address| format!("{}:{}", address.host, address.port)).unwrap_or_default(),
        notes: node_notes(member, answer),
    }
}

fn node_notes(member: &Member, answer: Option<&Result<Status, Silence>>) -> Vec<String> {
    let data = &member.data;
    let mut notes = Vec::new();
    match answer {
        Some(Ok(status)) => {
            if status.flag("failsafe_mode_is_active") {
                notes.push("failsafe mode".to_owned());
            }
            if status.flag("watchdog_failed") {
                notes.push("watchdog failed".to_owned());
            }
            if status.clock_ahead_s.is_some_and(|seconds| seconds != 0) {
                notes.push(format!("clock {:+} s", status.clock_ahead_s.unwrap_or(0)));
            }
        }
        Some(Err(reason)) => notes.push(format!("no answer ({reason})")),
        None => {}
    }
    if data.pending_restart {
        let names: Vec<&str> = data.pending_restart_reason.keys().map(String::as_str).collect();
        notes.push(format!("pending restart {}", names.join(", ")).trim_end().to_owned());
    }
    if let Some(at) = data.scheduled_restart.as_ref().and_then(|restart| restart.get("schedule")?.as_str()) {
        notes.push(format!("restart at {at}"));
    }
    let tags = data.tags.0.iter().map(|(name, value)| format!("{name}={}", plain(value)));
    notes.extend(tags);
    notes
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The members in the order in which they hang on each other; those that hang on nobody stand at the end.
fn tree(cluster: &Cluster) -> Vec<(usize, &Member)> {
    let leader = cluster.leader_member();
    let is_leader = |member: &Member| cluster.leader_name() == Some(&member.name);
    let parent = |member: &Member| {
        let named = member.data.tags.0.get("replicatefrom").and_then(Value::as_str);
        let named = named.and_then(|name| cluster.members.get(name)).filter(|other| other.name != member.name);
        named.or(leader).map(|other| other.name.clone())
    };
    let mut placed: Vec<(usize, &Member)> = leader.into_iter().map(|leader| (0, leader)).collect();
    let mut rest: Vec<&Member> = cluster.members.values().filter(|member| !is_leader(member)).collect();
    let mut at = 0;
    // Children are put behind their parent, and become parents when the walk comes to them.
    while let Some((depth, above)) = placed.get(at).copied() {
        let children: Vec<_> = rest.extract_if(.., |member| parent(member).as_ref() == Some(&above.name)).collect();
        let position = at + 1;
        placed.splice(position..position, children.into_iter().map(|member| (depth + 1, member)));
        at += 1;
    }
    placed.extend(rest.into_iter().map(|member| (0, member)));
    placed
}

fn history(cluster: &Cluster) -> Vec<(String, String)> {
    let lines = cluster.history.as_ref().map(|history| history.lines.as_slice()).unwrap_or_default();
    let line = |line: &patroni_core::cluster::HistoryLine| {
        let text = |index: usize| line.0.get(index).and_then(Value::as_str);
        let timeline = line.timeline().map_or(0, |timeline| timeline.0) + 1;
        let who = text(4).map(|name| format!("{name} was promoted, ")).unwrap_or_default();
        Some((text(3)?.to_owned(), format!("{who}timeline {timeline} began ({})", text(2).unwrap_or("reason unknown"))))
    };
    lines.iter().filter_map(line).collect()
}

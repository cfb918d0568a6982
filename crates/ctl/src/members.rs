//! The members of a cluster as `list` and `topology` show them. A pure function of the cluster.

use patroni_core::JsonMap;
use patroni_core::cluster::{Address, Cluster, Initialize, Member, Schedule};
use patroni_core::disk::{DISK_KEY, troubles};
use patroni_core::lsn::Lsn;
use patroni_core::python::PythonText;
use patroni_core::settings::Dynamic;
use patroni_core::view::FAILURE_KEY;
use serde_json::Value;

use crate::output::rows::{Format, Rows};
use crate::output::yaml;

const MIB: f64 = 1024.0 * 1024.0;
/// The longest change of a setting that a table shows.
const LONGEST_REASON: usize = 50;

/// Which cluster is shown, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Show<'a> {
    /// Its name.
    pub(crate) scope: &'a str,
    /// All columns, whether they have values or not (`-e`).
    pub(crate) extended: bool,
    /// The format.
    pub(crate) format: Format,
    /// Part of a Citus cluster: the group, or none to show it as the coordinator's.
    pub(crate) citus: Option<Option<i64>>,
}

/// The text of the members, with what is to be said about the cluster below the table.
pub(crate) fn render(cluster: &Cluster, show: Show<'_>) -> String {
    let dynamic = Dynamic::of_cluster(cluster);
    let mut entries: Vec<Entry> = cluster.members.values().map(|member| Entry::of(cluster, member, &dynamic)).collect();
    let optional = optional_columns(&entries, show.extended);
    show_ports_where_needed(&mut entries);
    if show.format == Format::Topology {
        entries = as_tree(entries);
    }
    let mut out = rows(cluster, &entries, &optional, show).render(show.format, "\t");
    if show.format.is_table() {
        out.push_str(&notes(cluster, &dynamic, show));
    }
    out
}

/// One member.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    role: &'static str,
    state: String,
    host: String,
    port: Option<u16>,
    timeline: Value,
    receive: Position,
    replay: Position,
    pending_restart: bool,
    pending_reason: JsonMap,
    scheduled_restart: Option<JsonMap>,
    tags: JsonMap,
}

/// A position and how far it is behind, as shown.
#[derive(Clone, Debug, Default)]
struct Position {
    lsn: String,
    lag: Value,
}

impl Entry {
    fn of(cluster: &Cluster, member: &Member, dynamic: &Dynamic) -> Self {
        let data = &member.data;
        let role = cluster.role_of(member, dynamic);
        let replication = data.replication_state.clone().filter(|state| role != "leader" && !state.is_empty());
        let state = replication.or_else(|| data.state.clone()).unwrap_or_default();
        let (receive, replay) = positions(cluster, member, &state);
        let address = Address::of(data);
        Entry {
            name: member.name.as_str().to_owned(),
            role,
            state,
            port: address.as_ref().map(|address| address.port),
            host: address.map(|address| address.host).unwrap_or_default(),
            timeline: data.timeline.map_or(Value::from(""), |timeline| timeline.0.into()),
            receive,
            replay,
            pending_restart: data.pending_restart,
            pending_reason: data.pending_restart_reason.clone(),
            scheduled_restart: data.scheduled_restart.clone(),
            tags: data.tags.0.clone(),
        }
    }

    fn is_leader(&self) -> bool {
        self.role.ends_with("leader")
    }

    fn value(&self, column: &str, format: Format, show: Show<'_>) -> Value {
        match column {
            "Cluster" => show.scope.into(),
            "Group" => show.citus.flatten().unwrap_or(0).into(),
            "Member" => self.name.as_str().into(),
            "Host" => self.host.as_str().into(),
            "Role" => title_case(self.role).into(),
            "State" => self.state.as_str().into(),
            "TL" => self.timeline.clone(),
            "Receive LSN" => self.receive.lsn.as_str().into(),
            "Receive Lag" => self.receive.lag.clone(),
            "Replay LSN" => self.replay.lsn.as_str().into(),
            "Replay Lag" => self.replay.lag.clone(),
            "Pending restart" => if self.pending_restart { "*" } else { "" }.into(),
            "Pending restart reason" => self.reason(format.is_table()).into(),
            "Scheduled restart" => self.schedule().into(),
            "Tags" => self.shown_tags(format),
            other => unreachable!("there is no column {other}"),
        }
    }

    fn reason(&self, shorten: bool) -> String {
        let change = |(name, values): (&String, &Value)| {
            let text = |key: &str| values.get(key).map(|v| v.python_text().into_owned()).unwrap_or_default();
            let full = format!("{name}: {}->{}", text("old_value"), text("new_value"));
            let hidden = shorten && full.chars().count() > LONGEST_REASON;
            if hidden { format!("{name}: [hidden - too long]") } else { full }
        };
        self.pending_reason.iter().map(change).collect::<Vec<_>>().join("\n")
    }

    fn schedule(&self) -> String {
        let Some(restart) = &self.scheduled_restart else { return String::new() };
        let text = |key: &str| restart.get(key).map(|value| value.python_text().into_owned());
        let at = text("schedule").unwrap_or_default();
        text("postgres_version").map_or(at.clone(), |version| format!("{at} if version < {version}"))
    }

    fn shown_tags(&self, format: Format) -> Value {
        let tags = Value::Object(self.tags.clone());
        match format {
            _ if self.tags.is_empty() => "".into(),
            Format::Pretty => yaml::block(&tags).trim().into(),
            Format::Topology | Format::Tsv => yaml::flow(&tags).trim().into(),
            Format::Json | Format::Yaml => tags,
        }
    }
}

/// Received and replayed position. Members of older versions announce a single one: it counts as received where the
/// member streams, and as replayed otherwise.
fn positions(cluster: &Cluster, member: &Member, state: &str) -> (Position, Position) {
    if cluster.leader_name() == Some(&member.name) {
        let none = Position { lsn: String::new(), lag: "".into() };
        return (none.clone(), none);
    }
    let known = |lsn: Option<Lsn>| lsn.filter(|lsn| lsn.0 > 0);
    let data = &member.data;
    let last = cluster.status.last_lsn;
    let (mut receive, mut replay) = (known(data.receive_lsn), known(data.replay_lsn));
    if let (None, None, Some(single)) = (receive, replay, known(data.xlog_location)) {
        if state == "streaming" {
            receive = Some(single);
        } else {
            replay = Some(single);
        }
    }
    (position(receive, last), position(replay, last))
}

fn position(lsn: Option<Lsn>, last: Lsn) -> Position {
    match lsn {
        None => Position { lsn: "unknown".to_owned(), lag: "".into() },
        Some(lsn) => {
            let lag = (last.0.saturating_sub(lsn.0) as f64 / MIB).round_ties_even();
            Position { lsn: lsn.to_string(), lag: (lag as u64).into() }
        }
    }
}

/// `sync_standby` becomes `Sync Standby`.
pub(crate) fn title_case(role: &str) -> String {
    let capitalized = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
    };
    role.split('_').map(capitalized).collect::<Vec<_>>().join(" ")
}

/// The columns that appear when a member with an address has something to show in them.
fn optional_columns(entries: &[Entry], extended: bool) -> Vec<&'static str> {
    let any = |has: fn(&Entry) -> bool| extended || entries.iter().any(|entry| !entry.host.is_empty() && has(entry));
    let columns = [
        ("Pending restart", any(|entry| entry.pending_restart)),
        ("Pending restart reason", any(|entry| !entry.pending_reason.is_empty())),
        ("Scheduled restart", any(|entry| entry.scheduled_restart.is_some())),
        ("Tags", any(|entry| !entry.tags.is_empty())),
    ];
    columns.into_iter().filter(|(_, shown)| *shown).map(|(name, _)| name).collect()
}

/// Ports are shown where one is not PostgreSQL's usual one, or where two members share a host.
fn show_ports_where_needed(entries: &mut [Entry]) {
    let hosts: Vec<&str> = entries.iter().map(|entry| entry.host.as_str()).filter(|host| !host.is_empty()).collect();
    let distinct: std::collections::BTreeSet<&str> = hosts.iter().copied().collect();
    let unusual = entries.iter().any(|entry| entry.port.is_some_and(|port| port != 5432));
    if !unusual && distinct.len() == hosts.len() {
        return;
    }
    for entry in entries {
        if let Some(port) = entry.port {
            entry.host = format!("{}:{port}", entry.host);
        }
    }
}

/// The members as a tree below the leader, those that stream from another replica below that. What hangs on nothing
/// that is shown is left out, as in Patroni.
fn as_tree(entries: Vec<Entry>) -> Vec<Entry> {
    let leader = entries.iter().find(|entry| entry.is_leader()).map(|entry| entry.name.clone());
    let parent = |entry: &Entry| {
        let named = entry.tags.get("replicatefrom").and_then(Value::as_str).filter(|name| *name != entry.name);
        let exists = |name: &&str| entries.iter().any(|other| !other.is_leader() && other.name == *name);
        named.filter(exists).map(str::to_owned).or_else(|| leader.clone())
    };
    let mut children: Vec<(Option<String>, Entry)> =
        entries.iter().filter(|entry| !entry.is_leader()).map(|entry| (parent(entry), entry.clone())).collect();
    let mut out: Vec<Entry> = entries.iter().find(|entry| entry.is_leader()).cloned().into_iter().collect();
    append_children(leader, 1, &mut children, &mut out);
    out
}

fn append_children(
    parent: Option<String>,
    level: usize,
    rest: &mut Vec<(Option<String>, Entry)>,
    out: &mut Vec<Entry>,
) {
    let mine: Vec<Entry> = rest.extract_if(.., |(of, _)| *of == parent).map(|(_, entry)| entry).collect();
    for mut entry in mine {
        let name = entry.name.clone();
        entry.name = format!("{}+ {name}", "  ".repeat(level - 1));
        out.push(entry);
        append_children(Some(name), level + 1, rest, out);
    }
}

fn rows(cluster: &Cluster, entries: &[Entry], optional: &[&'static str], show: Show<'_>) -> Rows {
    let mut columns = vec![
        "Cluster",
        "Member",
        "Host",
        "Role",
        "State",
        "TL",
        "Receive LSN",
        "Receive Lag",
        "Replay LSN",
        "Replay Lag",
    ];
    columns.extend(optional);
    if show.citus.is_some() {
        columns.insert(1, "Group");
    }
    if show.format.is_table() {
        // The title has the name of the cluster, and the group where there is only one.
        let in_title = if show.citus.is_some_and(|group| group.is_some()) { 2 } else { 1 };
        columns.drain(..in_title);
    }
    let values = |entry: &Entry| columns.iter().map(|column| entry.value(column, show.format, show)).collect();
    let shown_name = |column: &&str| match *column {
        "Receive Lag" | "Replay Lag" if show.format.is_table() => "Lag".to_owned(),
        other => other.to_owned(),
    };
    Rows {
        rows: entries.iter().map(values).collect(),
        columns: Some(columns.iter().map(shown_name).collect()),
        right: &["Group", "Receive LSN", "Replay LSN", "Lag", "TL"],
        title: title(cluster, show),
    }
}

fn title(cluster: &Cluster, show: Show<'_>) -> String {
    let initialize = match &cluster.initialize {
        Initialize::Absent => "uninitialized".to_owned(),
        Initialize::InProgress(_) => "initializing".to_owned(),
        Initialize::Done(id) => id.to_string(),
        Initialize::Invalid(text, _) => text.clone(),
    };
    match show.citus {
        None => format!(" Cluster: {} ({initialize}) ", show.scope),
        Some(None) => format!(" Citus cluster: {} ", show.scope),
        Some(Some(group)) => format!(" Citus cluster: {} (group: {group}, {initialize}) ", show.scope),
    }
}

/// Pause, scheduled switchover, slots that a failover would lose, failures and full disks.
fn notes(cluster: &Cluster, dynamic: &Dynamic, show: Show<'_>) -> String {
    let mut lines = Vec::new();
    if dynamic.paused {
        lines.push("Maintenance mode: on".to_owned());
    }
    if let Some((at, request)) = cluster.failover.as_ref().and_then(|request| match &request.scheduled_at {
        Some(Schedule::At(_, text)) => Some((text, request)),
        Some(Schedule::Invalid(_)) | None => None,
    }) {
        let mut text = format!("Switchover scheduled at: {at}");
        for (label, name) in [("from", &request.leader), ("to", &request.candidate)] {
            if let Some(name) = name {
                text.push_str(&format!("\n{label:>24}: {name}"));
            }
        }
        lines.push(text);
    }
    for member in cluster.members.values() {
        let leads = cluster.leader_name() == Some(&member.name);
        for (slot, why) in &member.data.slots_at_risk {
            let whither = if leads { "a failover".to_owned() } else { format!("a failover to {}", member.name) };
            lines.push(format!("Slot {slot} would not survive {whither}: {why}"));
        }
        let why = member.data.extra.get(FAILURE_KEY).and_then(Value::as_str);
        lines.extend(why.map(|why| format!("{}: {}", member.name, why.replace('\n', " "))));
        let full = member.data.extra.get(DISK_KEY).and_then(Value::as_object).map(troubles).unwrap_or_default();
        lines.extend(full.into_iter().map(|trouble| format!("{}: {trouble}", member.name)));
    }
    if lines.is_empty() {
        return String::new();
    }
    let group = if show.citus == Some(None) { "Citus group: 0\n" } else { "" };
    format!("{group} {}\n", lines.join("\n "))
}

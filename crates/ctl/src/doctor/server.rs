//! What PostgreSQL of the leader tells of trouble: slots, archiving, the ability to be rewound, `pg_hba.conf`.

use std::net::IpAddr;

use patroni_core::cluster::Cluster;
use patroni_core::disk::size;
use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::hba::{self, Rule, Verdict};
use super::keys::remedy_of_member;
use super::settings::{SETTINGS, Setting};
use super::wal::{KEPT_WAL, KeptWal};
use super::{Finding, finding};

/// A slot may hold back so much WAL, in bytes, before that is told; one that nobody uses less.
const HELD_WAL: u64 = 1 << 30;
const HELD_WAL_INACTIVE: u64 = 64 << 20;
/// So many finished segments may wait for the archiver.
const WAITING_SEGMENTS: u64 = 16;
/// So long a finished segment may wait, in seconds. While the archiver still tries, PostgreSQL counts no failure, and a
/// command that hangs is never counted.
const WAITING_S: u64 = 120;

/// What the leader says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its slots.
    pub(crate) slots: Vec<Slot>,
    /// Who streams from it: `application_name` and slot, both as far as there is one.
    pub(crate) senders: Vec<(String, String)>,
    /// `archive_mode` is on.
    pub(crate) archives: bool,
    /// What the archiver gave up for now, and nothing was archived since.
    pub(crate) archive_failed: Option<Failure>,
    /// Finished segments that wait for the archiver.
    pub(crate) unarchived: u64,
    /// So long the oldest of them has waited, in seconds.
    pub(crate) waits_s: u64,
    /// Neither `wal_log_hints` nor data checksums.
    pub(crate) cannot_rewind: bool,
    /// `pg_hba.conf`; empty where it may not be read.
    pub(crate) rules: Vec<Rule>,
    /// Where `synchronous_commit` is turned down (`off for role app`), and the statement that resets it; none for the server.
    pub(crate) turned_down: Vec<(String, String)>,
    /// Lines of `pg_hba.conf` with errors: line and error.
    pub(crate) hba_errors: Vec<(String, String)>,
    /// Its connections.
    pub(crate) connections: Connections,
    /// Its WAL.
    pub(crate) kept_wal: KeptWal,
    /// Its parameters.
    pub(crate) settings: Vec<Setting>,
    /// What could not be looked at, and why.
    pub(crate) missed: Vec<(&'static str, String)>,
}

/// A failure of the archiver. PostgreSQL counts one after three attempts, a second apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The segment.
    pub(crate) segment: String,
    /// When.
    pub(crate) at: String,
    /// The last time that a segment was archived, or `never`.
    pub(crate) succeeded: String,
}

/// The connections of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    /// There are so many.
    pub(crate) used: u64,
    /// There can be so many of users without privileges: what is reserved for others is not counted. 0: not known.
    pub(crate) room: u64,
}

/// A replication slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its name.
    pub(crate) name: String,
    /// Somebody uses it.
    pub(crate) active: bool,
    /// Bytes of WAL that it holds back.
    pub(crate) held: u64,
    /// `lost`, `unreserved`, ... (PostgreSQL 13 and later).
    pub(crate) wal_status: String,
}

/// A standby leader has no current position: what it has received counts.
const SLOTS: &str = "SELECT slot_name, active, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN \
                     greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END, \
                     restart_lsn)::bigint, to_jsonb(s) ->> 'wal_status' FROM pg_replication_slots s";
const SENDERS: &str = "SELECT application_name, slot_name FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON \
                       active_pid = r.pid";
/// A standby archives only with `always`.
const ARCHIVER: &str = "SELECT current_setting('archive_mode') = 'always' OR current_setting('archive_mode') = 'on' AND NOT \
                        pg_is_in_recovery(), CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') THEN \
                        last_failed_wal END, to_char(last_failed_time, 'YYYY-MM-DD HH24:MI:SS TZ'), \
                        coalesce(to_char(last_archived_time, 'YYYY-MM-DD HH24:MI:SS TZ'), 'never') FROM \
                        pg_stat_archiver";
/// How many, and for how many seconds the oldest has waited.
const WAITING: &str = "SELECT count(*), coalesce(extract(epoch FROM now() - min((pg_stat_file('pg_wal/archive_status/' || \
                       name, true)).modification))::bigint, 0) FROM pg_ls_dir('pg_wal/archive_status') name WHERE name \
                       LIKE '%.ready'";
const REWIND: &str = "SELECT current_setting('wal_log_hints') = 'on' OR current_setting('data_checksums') = 'on'";
/// Where, and the statement that resets it there; none for the server.
const COMMITS: &str = "SELECT concat(split_part(c, '=', 2), ' for ', concat_ws(' in ', 'role ' || rolname, 'database ' || \
                       datname, CASE WHEN setrole = 0 AND setdatabase = 0 THEN 'all roles' END)), concat_ws(' ', 'ALTER', \
                       'ROLE ' || quote_ident(rolname), CASE WHEN setrole <> 0 AND setdatabase <> 0 THEN 'IN' WHEN \
                       setrole = 0 AND setdatabase = 0 THEN 'ROLE ALL' END, 'DATABASE ' || quote_ident(datname), 'RESET \
                       synchronous_commit') FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole LEFT JOIN \
                       pg_database d ON d.oid = setdatabase, unnest(setconfig) c WHERE c ~* \
                       '^synchronous_commit=(off|local|false|no|0)$' UNION ALL SELECT reset_val || ' for the server', \
                       NULL FROM pg_settings WHERE name = 'synchronous_commit' AND reset_val IN ('off', 'local') AND \
                       source NOT LIKE '%user' AND source <> 'database' ORDER BY 1";
/// Walsenders have room of their own. This session is left out: it may well stand on a reserved place.
const CONNECTIONS: &str = "SELECT count(*) FILTER (WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()), \
                           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - \
                           coalesce(current_setting('reserved_connections', true)::int, 0) FROM pg_stat_activity";
const RULES: &str = "SELECT type, to_json(database), to_json(user_name), address, netmask, auth_method, line_number, error \
                     FROM pg_hba_file_rules ORDER BY line_number";

/// Asks the leader. A question that is not answered (some are for superusers) hides nothing else: it is in `missed`.
pub(crate) async fn ask(client: &Client) -> Facts {
    let mut questions = Questions { client, missed: Vec::new() };
    let slots = questions.rows("slots", SLOTS).await.iter().flatten().map(slot).collect();
    let senders = questions.rows("who streams", SENDERS).await.unwrap_or_default();
    let senders = senders.iter().map(|row| (text(row, 0), text(row, 1))).collect();
    let mut facts = Facts { slots, senders, ..Facts::default() };
    for row in questions.rows("archiving", ARCHIVER).await.iter().flatten() {
        facts.archives = text(row, 0) == "t";
        facts.archive_failed = Some(Failure { segment: text(row, 1), at: text(row, 2), succeeded: text(row, 3) })
            .filter(|failure| !failure.segment.is_empty());
    }
    if facts.archives {
        let waiting = questions.rows("WAL that waits to be archived", WAITING).await.unwrap_or_default();
        for row in &waiting {
            facts.unarchived = text(row, 0).parse().unwrap_or(0);
            facts.waits_s = text(row, 1).parse().unwrap_or(0);
        }
    }
    let rewind = questions.rows("pg_rewind", REWIND).await;
    facts.cannot_rewind = rewind.is_some_and(|rows| rows.iter().all(|row| text(row, 0) != "t"));
    let commits = questions.rows("synchronous_commit", COMMITS).await.unwrap_or_default();
    facts.turned_down = commits.iter().map(|row| (text(row, 0), text(row, 1))).collect();
    for row in questions.rows("pg_hba.conf", RULES).await.iter().flatten() {
        let error = text(row, 7);
        if error.is_empty() {
            facts.rules.push(rule(row));
        } else {
            facts.hba_errors.push((text(row, 6), error));
        }
    }
    for row in questions.rows("connections", CONNECTIONS).await.iter().flatten() {
        let number = |index| text(row, index).parse().unwrap_or(0);
        facts.connections = Connections { used: number(0), room: number(1) };
    }
    for row in questions.rows("the WAL that is left", KEPT_WAL).await.iter().flatten() {
        facts.kept_wal = KeptWal { first: text(row, 0), segment_size: text(row, 1).parse().unwrap_or(0) };
    }
    facts.settings = questions.rows("settings", SETTINGS).await.iter().flatten().map(setting).collect();
    facts.missed = questions.missed;
    facts
}

/// Asks another member for its parameters.
///
/// # Errors
/// Why they are not known.
pub(crate) async fn ask_settings(client: &Client) -> Result<Vec<Setting>, String> {
    let mut questions = Questions { client, missed: Vec::new() };
    let rows = questions.rows("settings", SETTINGS).await;
    rows.map(|rows| rows.iter().map(setting).collect())
        .ok_or_else(|| questions.missed.into_iter().map(|(_, reason)| reason).collect())
}

/// Questions to a server, and what came of those that it did not answer.
struct Questions<'a> {
    client: &'a Client,
    missed: Vec<(&'static str, String)>,
}

impl Questions<'_> {
    async fn rows(&mut self, about: &'static str, sql: &str) -> Option<Vec<SimpleQueryRow>> {
        match self.client.simple_query(sql).await {
            Ok(answer) => Some(answer.into_iter().filter_map(row_of).collect()),
            Err(error) => {
                self.missed.push((about, crate::sql::describe(&error)));
                None
            }
        }
    }
}

fn row_of(message: SimpleQueryMessage) -> Option<SimpleQueryRow> {
    match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }
}

fn slot(row: &SimpleQueryRow) -> Slot {
    Slot {
        name: text(row, 0),
        active: text(row, 1) == "t",
        held: text(row, 2).parse().unwrap_or(0),
        wal_status: text(row, 3),
    }
}

fn list(row: &SimpleQueryRow, index: usize) -> Vec<String> {
    serde_json::from_str(&text(row, index)).unwrap_or_default()
}

fn setting(row: &SimpleQueryRow) -> Setting {
    Setting {
        name: text(row, 0),
        value: text(row, 1),
        vartype: text(row, 2),
        unit: text(row, 3),
        values: list(row, 4),
        source: text(row, 5),
        file: text(row, 6),
        waits: text(row, 7) == "t",
    }
}

fn rule(row: &SimpleQueryRow) -> Rule {
    Rule {
        kind: text(row, 0),
        databases: list(row, 1),
        users: list(row, 2),
        address: text(row, 3),
        mask: text(row, 4),
        method: text(row, 5),
    }
}

fn text(row: &SimpleQueryRow, index: usize) -> String {
    row.try_get(index).ok().flatten().unwrap_or_default().to_owned()
}

/// What is found. `replicas`: names and addresses of the others; `user`: as whom they connect.
pub(crate) fn findings(
    facts: &Facts,
    cluster: &Cluster,
    leader: &str,
    scope: &str,
    user: &str,
    replicas: &[(String, IpAddr)],
) -> Vec<Finding> {
    let mut found: Vec<Finding> = facts.slots.iter().filter_map(|slot| of_slot(cluster, slot)).collect();
    found.extend(of_archiver(facts, leader));
    found.extend(of_connections(facts.connections, leader));
    if facts.cannot_rewind {
        found.push(finding(
            "pg_rewind cannot work: wal_log_hints is off and there are no data checksums",
            format!("patronictl edit-config {scope} -p wal_log_hints=on, then patronictl restart {scope} --pending"),
        ));
    }
    for (place, reset) in &facts.turned_down {
        found.push(finding(
            format!(
                "synchronous_commit is {place}: those commits do not wait for standbys, and a failover can lose them"
            ),
            match reset.as_str() {
                "" => format!("patronictl edit-config {scope} -p synchronous_commit=on, or accept the loss"),
                statement => format!("{statement} (on the leader), or accept the loss"),
            },
        ));
    }
    for (line, error) in &facts.hba_errors {
        found.push(finding(
            format!("line {line} of pg_hba.conf on {leader} is wrong: {error}"),
            format!("correct postgresql.pg_hba, then patronictl reload {scope}"),
        ));
    }
    for (name, from) in replicas.iter().filter(|_| !facts.rules.is_empty()) {
        let why = match hba::verdict(&facts.rules, user, *from) {
            Verdict::Admitted | Verdict::Unknown => continue,
            Verdict::Rejected => "rejects",
            Verdict::NoRule => "has no rule for",
        };
        found.push(finding(
            format!("pg_hba.conf of {leader} {why} replication of user {user} from {name} ({from})"),
            format!(
                "add \"host replication {user} {from}/{} scram-sha-256\" to postgresql.pg_hba, then patronictl reload \
                 {scope}",
                if from.is_ipv4() { 32 } else { 128 }
            ),
        ));
    }
    found
}

fn of_archiver(facts: &Facts, leader: &str) -> Option<Finding> {
    if !facts.archives {
        return None;
    }
    let waiting = match facts.unarchived {
        0 => String::new(),
        count => format!("; segments that wait: {count}, the oldest for {} s", facts.waits_s),
    };
    if let Some(Failure { segment, at, succeeded }) = &facts.archive_failed {
        return Some(finding(
            format!("{leader} could not archive {segment} at {at} (last success: {succeeded}){waiting}"),
            format!("look into the log of PostgreSQL on {leader} for archive_command, and correct it"),
        ));
    }
    (facts.unarchived > WAITING_SEGMENTS || facts.unarchived > 0 && facts.waits_s > WAITING_S).then(|| {
        finding(
            format!("archiving on {leader} lags or hangs, without a failure that PostgreSQL has counted{waiting}"),
            format!("look at what archive_command is doing on {leader}, and into the log of PostgreSQL there"),
        )
    })
}

/// Whoever asks is a superuser mostly, and gets in where nobody else does.
fn of_connections(Connections { used, room }: Connections, leader: &str) -> Option<Finding> {
    if room == 0 || used * 10 < room * 9 {
        return None;
    }
    let what = if used < room {
        format!("{used} of the {room} connections that PostgreSQL of {leader} has for applications are in use")
    } else {
        format!(
            "PostgreSQL of {leader} takes no more connections of applications: {used} are there, and it has room for {room}"
        )
    };
    Some(finding(what, REMEDY_OF_CONNECTIONS))
}

/// What helps where there are too many clients.
pub(crate) const REMEDY_OF_CONNECTIONS: &str = "end idle sessions (pg_stat_activity), put a connection pool in front, or raise max_connections and \
                                                restart; agents connect as superuser, for whom superuser_reserved_connections are kept";

fn of_slot(cluster: &Cluster, slot: &Slot) -> Option<Finding> {
    let name = &slot.name;
    let drop = || format!("SELECT pg_drop_replication_slot('{name}') on the leader, if nobody needs it any more");
    let remedy = remedy_of_member(cluster, name).unwrap_or_else(drop);
    let held = size(slot.held);
    if matches!(slot.wal_status.as_str(), "lost" | "unreserved") {
        return Some(finding(
            format!("the slot {name} has lost WAL that its consumer needs ({})", slot.wal_status),
            remedy,
        ));
    }
    if !slot.active && slot.held > HELD_WAL_INACTIVE {
        return Some(finding(format!("nobody uses the slot {name}, and it holds back {held} of WAL"), remedy));
    }
    (slot.held > HELD_WAL).then(|| finding(format!("the slot {name} holds back {held} of WAL"), remedy))
}

/// As whom replicas connect, by the configuration.
pub(crate) fn replication_user(postgresql: Option<&Value>) -> Option<&str> {
    postgresql?.get("authentication")?.get("replication")?.get("username")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_that_resets_a_setting_is_the_remedy() {
        let remedy = |reset: &str| {
            let facts = Facts { turned_down: vec![("off for x".to_owned(), reset.to_owned())], ..Facts::default() };
            findings(&facts, &Cluster::default(), "a", "batman", "rep", &[]).remove(0).remedy
        };
        assert_eq!(remedy("ALTER ROLE x RESET y"), "ALTER ROLE x RESET y (on the leader), or accept the loss");
        assert_eq!(remedy(""), "patronictl edit-config batman -p synchronous_commit=on, or accept the loss");
    }

    /// Found in the field: a member whose disk was full, and the advice to drop its slot.
    #[test]
    fn the_slot_of_a_member_is_not_to_be_dropped() {
        let raw = |text: &str| patroni_dcs::wire::RawKey { value: text.as_bytes().to_vec(), ..Default::default() };
        let keys = [("members/db-2".to_owned(), raw(r#"{"state": "running"}"#))];
        let cluster = patroni_dcs::wire::cluster(&keys.into_iter().collect());
        let remedy = |name: &str, status: &str| {
            let slot = Slot { name: name.to_owned(), active: false, held: 1 << 30, wal_status: status.to_owned() };
            of_slot(&cluster, &slot).expect("a finding").remedy
        };
        for status in ["reserved", "lost"] {
            assert!(remedy("db_2", status).starts_with("db-2 does not stream: see what is said of db-2 here"));
            assert!(remedy("gone", status).starts_with("SELECT pg_drop_replication_slot('gone')"));
        }
    }

    #[test]
    fn each_trouble() {
        let rule = Rule {
            kind: "host".to_owned(),
            databases: vec!["replication".to_owned()],
            users: vec!["all".to_owned()],
            address: "10.0.0.0".to_owned(),
            mask: "255.255.255.0".to_owned(),
            method: "md5".to_owned(),
        };
        let healthy = Facts { rules: vec![rule], ..Facts::default() };
        let replicas = [("b".to_owned(), IpAddr::from([10, 0, 0, 2]))];
        let found = |facts: &Facts| findings(facts, &Cluster::default(), "a", "batman", "rep", &replicas);
        assert_eq!(found(&healthy), []);
        let slot = |active, held, wal_status: &str| Facts {
            slots: vec![Slot { name: "s".to_owned(), active, held, wal_status: wal_status.to_owned() }],
            ..healthy.clone()
        };
        let mut hba = healthy.clone();
        hba.rules[0].address = "10.0.9.0".to_owned();
        let failure = Failure { segment: "0001".to_owned(), at: "12:00".to_owned(), succeeded: "never".to_owned() };
        let rows = [
            (slot(true, 100 << 20, "reserved"), ""),
            (slot(false, 100 << 20, "reserved"), "nobody uses the slot s, and it holds back 100.0 MB of WAL"),
            (slot(true, 2 << 30, "extended"), "the slot s holds back 2.0 GB of WAL"),
            (slot(false, 0, "lost"), "the slot s has lost WAL that its consumer needs (lost)"),
            (
                Facts { archives: true, archive_failed: Some(failure.clone()), ..healthy.clone() },
                "a could not archive 0001 at 12:00 (last success: never)",
            ),
            (
                Facts { archives: true, archive_failed: Some(failure), unarchived: 2, waits_s: 9, ..healthy.clone() },
                "a could not archive 0001 at 12:00 (last success: never); segments that wait: 2, the oldest for 9 s",
            ),
            (Facts { archives: true, unarchived: 2, waits_s: 9, ..healthy.clone() }, ""),
            (
                Facts { archives: true, unarchived: 17, waits_s: 9, ..healthy.clone() },
                "archiving on a lags or hangs, without a failure that PostgreSQL has counted; segments that wait: 17, the \
                 oldest for 9 s",
            ),
            (
                Facts { archives: true, unarchived: 1, waits_s: 121, ..healthy.clone() },
                "archiving on a lags or hangs, without a failure that PostgreSQL has counted; segments that wait: 1, the \
                 oldest for 121 s",
            ),
            (
                Facts { cannot_rewind: true, ..healthy.clone() },
                "pg_rewind cannot work: wal_log_hints is off and there are no data checksums",
            ),
            (
                Facts { turned_down: vec![("off for role app".to_owned(), String::new())], ..healthy.clone() },
                "synchronous_commit is off for role app: those commits do not wait for standbys, and a failover can lose them",
            ),
            (Facts { connections: Connections { used: 86, room: 97 }, ..healthy.clone() }, ""),
            (
                Facts { connections: Connections { used: 88, room: 97 }, ..healthy.clone() },
                "88 of the 97 connections that PostgreSQL of a has for applications are in use",
            ),
            (
                Facts { connections: Connections { used: 97, room: 97 }, ..healthy.clone() },
                "PostgreSQL of a takes no more connections of applications: 97 are there, and it has room for 97",
            ),
            (hba, "pg_hba.conf of a has no rule for replication of user rep from b (10.0.0.2)"),
            (
                Facts { hba_errors: vec![("7".to_owned(), "invalid".to_owned())], ..healthy.clone() },
                "line 7 of pg_hba.conf on a is wrong: invalid",
            ),
        ];
        for (facts, what) in rows {
            let whats: Vec<String> = found(&facts).into_iter().map(|finding| finding.what).collect();
            assert_eq!(whats.join("\n"), what);
        }
    }
}

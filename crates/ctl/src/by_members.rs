//! While the store does not answer: what the members say of themselves, by their REST APIs.
//!
//! Whom to ask is in the configuration of this machine. Whoever answers knows where the others are.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, Member, MemberData, Version};
use patroni_core::disk::DISK_KEY;
use patroni_core::name::MemberName;
use patroni_core::units::in_words;
use patroni_dcs::raft::RaftOptions;
use patroni_dcs::wire::{self, RawKey};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::context::{Answer, Context, QUICK, RequestError, Store};
use crate::error::{CtlError, failed};
use crate::statuses::{self, Silence, Status, Statuses};

/// A store that is well answers within milliseconds. Then the members are asked beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// So long the store may take: what it says counts more than what members say.
const STORE_PATIENCE: Duration = Duration::from_millis(1600);

/// How long a member may take to answer each of the two questions: both fit into the patience with the store. Where nobody has
/// answered by then (a busy machine), all get more time.
const MEMBER_PATIENCE: [Duration; 2] = [Duration::from_millis(650), QUICK];

/// The port of a REST API, where nothing is known.
const REST_PORT: u16 = 8008;

/// What is known of a cluster.
pub(crate) enum Sight {
    /// What the store says.
    Stored(Cluster),
    /// What the members say, because the store does not answer.
    Told(Told),
}

/// What the members say.
pub(crate) struct Told {
    /// As the keys would be that say the same.
    pub(crate) cluster: Cluster,
    /// Their answers.
    pub(crate) statuses: Statuses,
    /// That the store does not answer, and why as far as that is known.
    pub(crate) silence: String,
}

impl Told {
    /// The mark of all that comes from members.
    pub(crate) fn mark(&self) -> String {
        format!("{}: this is what the members say of themselves.", self.silence)
    }
}

/// Reads the store, or asks the members where it does not answer in time.
///
/// # Errors
/// Neither the store nor a member of the configuration answers.
pub(crate) async fn look(context: &Context, store: &Store) -> Result<Sight, CtlError> {
    first(&store.label, store.load(), ask(context, &store.scope)).await
}

/// What the store says, if it says so in time, or else what the members say. Where they say nothing, the store is waited for.
async fn first(
    label: &str,
    loading: impl Future<Output = Result<Cluster, CtlError>>,
    asking: impl Future<Output = Option<Answers>>,
) -> Result<Sight, CtlError> {
    let end = Instant::now() + STORE_PATIENCE;
    let mut loading = pin!(loading);
    let mut asking = pin!(async {
        sleep(HEAD_START).await;
        asking.await
    });
    let mut answers = None;
    let loaded = loop {
        tokio::select! {
            biased;
            loaded = &mut loading => break Some(loaded),
            told = &mut asking, if answers.is_none() => answers = Some(told),
            () = sleep_until(end), if matches!(answers, Some(Some(_))) => break None,
        }
    };
    let failure = match loaded {
        Some(Ok(cluster)) => return Ok(Sight::Stored(cluster)),
        Some(Err(failure)) => Some(failure),
        None => None,
    };
    let answers = match answers {
        Some(answers) => answers,
        None => asking.await,
    };
    let silence = match &failure {
        Some(why) => format!("The store ({label}) does not answer ({why})"),
        None => format!("The store ({label}) does not answer within {}", in_words(STORE_PATIENCE)),
    };
    match (answers, failure) {
        (Some((cluster, statuses)), _) => Ok(Sight::Told(Told { cluster, statuses, silence })),
        (None, Some(failure)) => Err(failure),
        (None, None) => failed(silence),
    }
}

/// What the members say, as keys, and their answers.
type Answers = (Cluster, Statuses);

/// `None`: nobody answers.
async fn ask(context: &Context, scope: &str) -> Option<Answers> {
    for patience in MEMBER_PATIENCE {
        let known = members(context, scope, patience).await;
        let asked = known.values().map(|member| async move {
            let answer = timeout(patience, statuses::ask(context, member)).await;
            let late = |_| Err(Silence::NoAnswer(format!("no answer within {}", in_words(patience))));
            (member.name.clone(), answer.unwrap_or_else(late))
        });
        let statuses: Statuses = join_all(asked).await.into_iter().collect();
        if statuses.values().any(Result::is_ok) {
            return Some((as_stored(&known, &statuses), statuses));
        }
    }
    None
}

/// The members that those of the configuration know of, and those themselves.
async fn members(context: &Context, scope: &str, patience: Duration) -> BTreeMap<MemberName, Member> {
    let addresses = addresses(context.effective());
    let asked = addresses.iter().map(|api_url| async move {
        let member = member("", &json!({"api_url": api_url}));
        let ask = |endpoint| context.request(&member, Method::GET, Some(endpoint), None, patience);
        // An agent of Patroni does not know the first, and answers it with its status as well.
        let (known, status) = tokio::join!(ask("members"), ask("patroni"));
        let document =
            |answer: Result<Answer, RequestError>| -> Option<JsonMap> { serde_json::from_str(&answer.ok()?.body).ok() };
        (api_url, document(known).unwrap_or_default(), document(status))
    });
    let mut found = BTreeMap::new();
    for (api_url, known, status) in join_all(asked).await {
        let Some(status) = status else { continue };
        let of = |key: &str| status.get("patroni").and_then(|patroni| patroni.get(key)).and_then(Value::as_str);
        if of("scope") != Some(scope) {
            continue;
        }
        let own = of("name").map(|name| (name.to_owned(), json!({"api_url": api_url})));
        let others = known.into_iter().filter(|(_, data)| data.get("api_url").is_some());
        for (name, data) in own.into_iter().chain(others) {
            found.insert(MemberName::from(&*name), member(&name, &data));
        }
    }
    found
}

fn member(name: &str, data: &Value) -> Member {
    let data: MemberData = wire::member_data(data.to_string().as_bytes());
    Member { name: MemberName::from(name), version: Version(0), session: None, data }
}

/// The REST APIs that the configuration tells of: that of this machine, and where the agents keep the store themselves, those of the other
/// members, by the same port.
fn addresses(configuration: &JsonMap) -> BTreeSet<String> {
    let restapi = configuration.get("restapi").and_then(Value::as_object);
    let text = |key: &str| restapi.and_then(|section| section.get(key)).and_then(Value::as_str);
    let scheme = if text("certfile").is_some_and(|file| !file.is_empty()) { "https" } else { "http" };
    let own = text("connect_address").or_else(|| text("listen"));
    let port = own.and_then(|address| address.rsplit_once(':')?.1.parse().ok()).unwrap_or(REST_PORT);
    let raft = configuration.contains_key("raft").then(|| RaftOptions::from_json(configuration).ok()).flatten();
    let of_store = raft.map(|options| options.addresses()).unwrap_or_default();
    let others = of_store.iter().filter_map(|address| Some(format!("{}:{port}", address.rsplit_once(':')?.0)));
    own.map(str::to_owned).into_iter().chain(others).map(|address| format!("{scheme}://{address}/patroni")).collect()
}

/// The keys that would say what the members say.
fn as_stored(known: &BTreeMap<MemberName, Member>, statuses: &Statuses) -> Cluster {
    let raw = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        RawKey { value: text.into_bytes(), session: Some("told".to_owned()), ..RawKey::default() }
    };
    let mut keys: BTreeMap<String, RawKey> = BTreeMap::new();
    let mut config = JsonMap::new();
    let mut leader: Option<(&MemberName, &Status)> = None;
    let mut synchronous = Vec::new();
    for (name, member) in known {
        let status = statuses.get(name).and_then(|answer| answer.as_ref().ok());
        keys.insert(format!("members/{name}"), raw(&Value::Object(key_of(member, status))));
        let Some(status) = status else { continue };
        if leads(status) && leader.is_none_or(|(_, other)| timeline(other) < timeline(status)) {
            leader = Some((name, status));
        }
        let mode = [("sync_standby", json!(true)), ("quorum_standby", json!("quorum"))];
        if let Some((_, mode)) = mode.into_iter().find(|(key, _)| status.flag(key)) {
            synchronous.push(name.as_str());
            config.insert("synchronous_mode".to_owned(), mode);
        }
        if status.flag("pause") {
            config.insert("pause".to_owned(), true.into());
        }
        if let Some(id) = status.text("database_system_identifier") {
            keys.insert("initialize".to_owned(), raw(&id.into()));
        }
    }
    if let Some((name, status)) = leader {
        keys.insert("leader".to_owned(), raw(&name.as_str().into()));
        if status.text("role") == Some("standby_leader") {
            config.insert("standby_cluster".to_owned(), json!({"host": "not known"}));
        }
        if !synchronous.is_empty() {
            let sync = json!({"leader": name.as_str(), "sync_standby": synchronous.join(",")});
            keys.insert("sync".to_owned(), raw(&sync));
        }
    }
    // Where the leader does not say how far it is, lag is what others have more.
    let furthest = || statuses.values().filter_map(|answer| wal_end(answer.as_ref().ok()?)).max();
    let end = leader.and_then(|(_, status)| wal_end(status)).or_else(furthest);
    keys.extend(end.map(|lsn| ("status".to_owned(), raw(&json!({"optime": lsn})))));
    keys.insert("config".to_owned(), raw(&Value::Object(config)));
    let mut cluster = wire::cluster(&keys);
    for (name, member) in &mut cluster.members {
        let says = statuses.get(name).and_then(|answer| answer.as_ref().ok()).filter(|status| leads(status));
        if let (Some(status), true) = (says, leader.is_some_and(|(leader, _)| leader != name)) {
            // Two of them are what somebody has to know who looks.
            let role = status.text("role").unwrap_or_default();
            member.data.state = Some(format!("{}, as {role}", member.data.state.as_deref().unwrap_or_default()));
        }
    }
    cluster
}

fn leads(status: &Status) -> bool {
    matches!(status.text("role"), Some("primary" | "master" | "standby_leader"))
}

fn wal_end(status: &Status) -> Option<u64> {
    ["location", "received_location", "replayed_location"].iter().filter_map(|key| status.position(key)).max()
}

fn timeline(status: &Status) -> u64 {
    status.document.get("timeline").and_then(Value::as_u64).unwrap_or(0)
}

fn key_of(member: &Member, status: Option<&Status>) -> JsonMap {
    let mut key = JsonMap::new();
    key.insert("api_url".to_owned(), member.data.api_url.as_deref().into());
    key.extend(member.data.conn_url.as_deref().map(|url| ("conn_url".to_owned(), url.into())));
    let Some(status) = status else {
        key.insert("state".to_owned(), "no answer".into());
        return key;
    };
    let same = ["state", "role", "timeline", "replication_state", "tags", "pending_restart", "pending_restart_reason"];
    for name in same.into_iter().chain(["scheduled_restart", "job", "failure", DISK_KEY]) {
        key.extend(status.document.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    let names =
        [("location", "xlog_location"), ("received_location", "receive_lsn"), ("replayed_location", "replay_lsn")];
    for (position, name) in names {
        key.extend(status.position(position).map(|lsn| (name.to_owned(), lsn.into())));
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Show, render};
    use crate::output::rows::Format;

    /// When what comes, in milliseconds: from the store (`Err`: it gives up), and from the members.
    #[tokio::test(start_paused = true)]
    async fn the_store_counts_if_it_answers_in_time() {
        let rows = [
            (Ok(10), Some(10), "stored", 10),
            (Ok(1000), Some(10), "stored", 1000),
            (Ok(1500), Some(10), "stored", 1500),
            (Ok(3000), Some(10), "told", 1600),
            (Ok(3000), Some(2000), "told", 2250),
            (Ok(3000), None, "stored", 3000),
            (Err(10), Some(10), "told", 260),
            (Err(1000), Some(10), "told", 1000),
            (Err(10_000), Some(10), "told", 1600),
            (Err(10_000), None, "failed", 10_000),
        ];
        for (store, members, expected, at_ms) in rows {
            let begun = Instant::now();
            let after = |ms: u64| sleep(Duration::from_millis(ms));
            let loading = async {
                match store {
                    Ok(ms) => {
                        after(ms).await;
                        Ok(Cluster::default())
                    }
                    Err(ms) => {
                        after(ms).await;
                        failed("away")
                    }
                }
            };
            let asking = async {
                after(members.unwrap_or(10)).await;
                members.map(|_| (Cluster::default(), Statuses::new()))
            };
            let (seen, silence) = match first("etcd3", loading, asking).await {
                Ok(Sight::Stored(_)) => ("stored", String::new()),
                Ok(Sight::Told(told)) => ("told", told.silence),
                Err(_) => ("failed", String::new()),
            };
            let took = begun.elapsed().as_millis();
            // The clock of the test goes in steps of a millisecond.
            assert!(seen == expected && took.abs_diff(at_ms) <= 2, "{store:?} {members:?}: {seen} after {took} ms");
            let why = if store.is_err_and(|ms| ms < 1600) { "(away)" } else { "within 1.6 s" };
            assert!(silence.is_empty() || silence == format!("The store (etcd3) does not answer {why}"), "{silence}");
        }
    }

    #[test]
    fn whom_to_ask() {
        let asked = |configuration: Value| {
            let found = addresses(configuration.as_object().expect("an object"));
            found.into_iter().collect::<Vec<_>>().join(" ")
        };
        let rest = json!({"connect_address": "db1:8009", "listen": "0.0.0.0:8009"});
        assert_eq!(asked(json!({"restapi": rest, "etcd3": {"hosts": "e1"}})), "http://db1:8009/patroni");
        let tls = json!({"listen": "db1:8009", "certfile": "/c"});
        assert_eq!(asked(json!({"restapi": tls})), "https://db1:8009/patroni");
        let raft = json!({"self_addr": "db1:2222", "partner_addrs": ["db2:2222", "db3:2222"], "password": "x"});
        assert_eq!(
            asked(json!({"restapi": rest, "raft": raft})),
            "http://db1:8009/patroni http://db2:8009/patroni http://db3:8009/patroni"
        );
        assert_eq!(asked(json!({"scope": "batman"})), "");
    }

    #[test]
    fn the_table_is_made_of_what_they_say() {
        let known: BTreeMap<MemberName, Member> = ["a", "b", "c"]
            .into_iter()
            .map(|name| {
                let url = format!("postgres://{name}/postgres");
                (MemberName::from(name), member(name, &json!({"api_url": "http://x/patroni", "conn_url": url})))
            })
            .collect();
        let status = |document: Value| {
            let document = document.as_object().cloned().expect("an object");
            Ok(Status { document, clock_ahead_s: None })
        };
        let primary = json!({"state": "running", "role": "primary", "timeline": 3, "xlog": {"location": 0x0300_0000},
                             "database_system_identifier": "7"});
        let standby = json!({"state": "running", "role": "replica", "timeline": 3, "replication_state": "streaming",
                             "sync_standby": true, "xlog": {"received_location": 0x0200_0000, "replayed_location": 0x0200_0000}});
        let statuses = BTreeMap::from([
            (MemberName::from("a"), status(primary)),
            (MemberName::from("b"), status(standby)),
            (MemberName::from("c"), Err("no connection".to_owned().into())),
        ]);
        let show = Show { scope: "batman", extended: false, format: Format::Tsv, citus: None };
        let text = render(&as_stored(&known, &statuses), show);
        let rows: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            rows,
            [
                "batman\ta\ta\tLeader\trunning\t3\t\t\t\t",
                "batman\tb\tb\tSync Standby\tstreaming\t3\t0/2000000\t16\t0/2000000\t16",
                "batman\tc\tc\tReplica\tno answer\t\tunknown\t\tunknown\t",
            ]
        );
    }

    #[test]
    fn a_full_disk_is_shown() {
        let a = member("a", &json!({"api_url": "http://x/patroni", "conn_url": "postgres://a/postgres"}));
        let document = json!({"state": "running", "role": "primary", "timeline": 3,
                              "disk": {"data": {"state": "full", "free": 3 << 20, "total": 64 << 20}}});
        let status = Status { document: document.as_object().cloned().expect("an object"), clock_ahead_s: None };
        let statuses = BTreeMap::from([(a.name.clone(), Ok(status))]);
        let show = Show { scope: "batman", extended: false, format: Format::Pretty, citus: None };
        let text = render(&as_stored(&BTreeMap::from([(a.name.clone(), a)]), &statuses), show);
        assert!(text.contains("\n a: ") && text.contains("full"), "{text}");
    }

    #[test]
    fn without_a_leader_lag_is_what_others_have_more() {
        let known = ["b", "c"].map(|name| {
            let addresses = json!({"api_url": "http://x/patroni", "conn_url": format!("postgres://{name}/postgres")});
            (MemberName::from(name), member(name, &addresses))
        });
        let status = |lsn: u64| {
            let document = json!({"state": "running", "role": "replica", "xlog": {"received_location": lsn}});
            Ok(Status { document: document.as_object().cloned().expect("an object"), clock_ahead_s: None })
        };
        let statuses = [("b", status(0x0300_0000)), ("c", status(0x0200_0000))];
        let statuses = statuses.map(|(name, status)| (MemberName::from(name), status)).into();
        let cluster = as_stored(&known.into(), &statuses);
        assert_eq!((cluster.leader_name(), cluster.status.last_lsn.0), (None, 0x0300_0000));
    }

    #[test]
    fn two_primaries_are_shown_as_two() {
        let known = ["a", "b"].map(|name| {
            let addresses = json!({"api_url": "http://x/patroni", "conn_url": format!("postgres://{name}/postgres")});
            (MemberName::from(name), member(name, &addresses))
        });
        let status = |timeline: u64| {
            let document = json!({"state": "running", "role": "primary", "timeline": timeline});
            Ok(Status { document: document.as_object().cloned().expect("an object"), clock_ahead_s: None })
        };
        let statuses = BTreeMap::from([(MemberName::from("a"), status(4)), (MemberName::from("b"), status(3))]);
        let show = Show { scope: "batman", extended: false, format: Format::Tsv, citus: None };
        let text = render(&as_stored(&BTreeMap::from(known), &statuses), show);
        assert!(text.contains("\ta\ta\tLeader\trunning\t4\t"), "{text}");
        assert!(text.contains("\tb\tb\tReplica\trunning, as primary\t3\t"), "{text}");
    }
}

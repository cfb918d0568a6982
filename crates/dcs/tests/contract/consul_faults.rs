//! What Consul goes through while agents use it.

use std::time::{Duration, Instant};

use patroni_core::cluster::MemberData;
use patroni_core::facts::Outcome;
use patroni_dcs::consul::{ConsulOptions, ServiceOptions};
use patroni_dcs::{Expected, Key, LeaderUpdate, Timing};
use patroni_http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::consul::Consul;
use crate::faults::{LONG, Lossy};
use crate::{TIMING, World, eventually, leader_of, load, member};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_are_unknown_and_never_guessed() {
    let Some(consul) = Consul::start().await else { return };
    let lossy = Lossy::start(consul.url("").trim_start_matches("http://").parse().unwrap()).await;
    let quick = Timing { retry_timeout: Duration::from_secs(3), ..LONG };
    let options = ConsulOptions { address: lossy.url(), ..ConsulOptions::default() };
    let a = patroni_dcs::consul::connect(options, &crate::path(), "a".into(), quick);
    assert!(a.acquire().await.is_done());
    let version = a.write(Key::Sync, "1", Expected::Absent).await.done().expect("it is absent");
    lossy.lose(true);
    let written = a.write(Key::Sync, "2", Expected::Version(version)).await;
    assert!(matches!(written, Outcome::Unknown(_)), "{written:?}");
    eventually("it was carried out", || async { consul.get_raw("sync").await.as_deref() == Some(b"2") }).await;
    let renewed = a.renew(&LeaderUpdate::default()).await;
    assert!(
        matches!(renewed, Outcome::Failed(_) | Outcome::Unknown(_)),
        "nobody said that it is another's: {renewed:?}"
    );
    assert!(a.load().await.is_err(), "a read is never unknown");
    lossy.lose(false);
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_hangs_costs_nothing_but_time() {
    let Some(consul) = Consul::start().await else { return };
    let quick = Timing { retry_timeout: Duration::from_secs(2), ..LONG };
    let (a, b) = (consul.member("a", quick), consul.member("b", quick));
    assert!(a.acquire().await.is_done());
    eventually("b watches", || async { *b.changes().borrow() > 0 }).await;
    consul.signal(Signal::STOP);
    let asked = Instant::now();
    assert!(a.load().await.is_err());
    let renewed = a.renew(&LeaderUpdate::default()).await;
    assert!(matches!(renewed, Outcome::Failed(_) | Outcome::Unknown(_)), "{renewed:?}");
    assert!(asked.elapsed() < quick.retry_timeout * 3, "took {:?}", asked.elapsed());
    consul.signal(Signal::CONT);
    eventually("the lease is kept", || async { a.renew(&LeaderUpdate::default()).await.is_done() }).await;
    assert_eq!(leader_of(&load(&b).await), Some("a"));
    let mut changes = b.changes();
    changes.mark_unchanged();
    assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
    tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.expect("the watch is dead").unwrap();
}

/// Somebody destroys the session, as Consul itself does when it has expired: what hung on it is gone.
#[tokio::test]
async fn a_session_that_ends_is_noticed() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b) = (consul.member("a", LONG), consul.member("b", LONG));
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    let session = load(&a).await.leader.and_then(|leader| leader.session).expect("a session");
    consul.ask(Method::PUT, &format!("/v1/session/destroy/{session}"), None).await;
    assert_eq!(a.renew(&LeaderUpdate::default()).await, Outcome::Refused, "the key is gone");
    assert!(b.acquire().await.is_done());
    assert_eq!(a.renew(&LeaderUpdate::default()).await, Outcome::Refused, "it is another's");
    assert!(a.touch_member(&member("running")).await.is_done(), "the member has another session");
    assert!(load(&b).await.members.contains_key("a"));
}

#[tokio::test]
async fn sessions_as_short_as_consul_allows() {
    let Some(consul) = Consul::start_with(json!({"session_ttl_min": "10s"})).await else { return };
    let a = consul.member("a", TIMING);
    let acquired = a.acquire().await;
    assert!(acquired.is_done(), "{acquired:?}");
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    let sessions = consul.ask(Method::GET, "/v1/session/list", None).await;
    assert_eq!((&sessions[0]["TTL"], &sessions[0]["Behavior"]), (&json!("10s"), &json!("delete")), "{sessions}");
    assert_eq!(sessions[0]["Name"], "contract-a");
}

#[tokio::test]
async fn a_token_without_rights_is_no_word_about_the_lease() {
    let acl = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "root"}}});
    let Some(consul) = Consul::start_with(acl).await else { return };
    let with = |token: &str| ConsulOptions { token: Some(token.to_owned()), ..ConsulOptions::default() };
    let a = consul.handle(with("root"), "a", LONG);
    eventually("the token is known", || async { a.acquire().await.is_done() }).await;
    let refused = consul.handle(with("other"), "a", LONG);
    for outcome in [refused.renew(&LeaderUpdate::default()).await, refused.acquire().await] {
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    }
    assert!(matches!(refused.write(Key::Sync, "{}", Expected::Absent).await, Outcome::Failed(_)));
    assert!(refused.load().await.is_err());
    // Without any token there are no keys in a list, which is not to be taken for an empty store.
    let nobody = consul.handle(ConsulOptions::default(), "a", LONG).load().await;
    assert!(nobody.is_err(), "{nobody:?}");
    let Value::Object(reloaded) = json!({"consul": {"host": "127.0.0.1", "token": "root"}}) else { return };
    refused.reload(&reloaded).expect("valid");
    assert!(refused.renew(&LeaderUpdate::default()).await.is_done(), "the new token is used");
}

#[tokio::test]
async fn rights_are_withdrawn_and_granted_again() {
    let acl = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "root"}}});
    let Some(consul) = Consul::start_with(acl).await else { return };
    let rules = ["key", "session", "node", "agent"].map(|what| format!("{what}_prefix \"\" {{ policy = \"write\" }}"));
    let policy = json!({"Name": "all", "Rules": rules.join("\n")});
    eventually("there are policies", || async {
        consul.ask(Method::PUT, "/v1/acl/policy?token=root", Some(policy.clone())).await["ID"].is_string()
    })
    .await;
    let all = json!({"Policies": [{"Name": "all"}]});
    let token = consul.ask(Method::PUT, "/v1/acl/token?token=root", Some(all.clone())).await;
    let text = |key: &str| token[key].as_str().expect("a text").to_owned();
    let options = ConsulOptions { token: Some(text("SecretID")), ..ConsulOptions::default() };
    let a = consul.handle(options, "a", LONG);
    assert!(a.acquire().await.is_done());
    let place = format!("/v1/acl/token/{}?token=root", text("AccessorID"));
    consul.ask(Method::PUT, &place, Some(json!({"Policies": []}))).await;
    let refused = a.renew(&LeaderUpdate::default()).await;
    assert!(matches!(refused, Outcome::Failed(_)), "nobody else has it: {refused:?}");
    assert!(a.load().await.is_err(), "keys that may not be seen are not absent");
    consul.ask(Method::PUT, &place, Some(all)).await;
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    assert_eq!(leader_of(&load(&a).await), Some("a"));
}

#[tokio::test]
async fn members_are_services() {
    let Some(consul) = Consul::start().await else { return };
    let service = ServiceOptions { tags: vec!["x".into()], check_interval: "5s".into(), tls_server_name: None };
    let options = ConsulOptions { service: Some(service), ..ConsulOptions::default() };
    let a = consul.handle(options, "a", LONG);
    let data = MemberData {
        api_url: Some("http://127.0.0.1:8008/patroni".into()),
        conn_url: Some("postgres://127.0.0.1:5432/postgres".into()),
        ..member("running")
    };
    assert!(a.touch_member(&data).await.is_done());
    let services = consul.ask(Method::GET, "/v1/agent/services", None).await;
    let shown = &services["contract/a"];
    assert_eq!(
        (&shown["Service"], &shown["Port"], &shown["Tags"]),
        (&json!("contract"), &json!(5432), &json!(["x", "replica"]))
    );
    assert!(a.touch_member(&MemberData { role: Some("primary".into()), ..data.clone() }).await.is_done());
    let services = consul.ask(Method::GET, "/v1/agent/services", None).await;
    assert_eq!(services["contract/a"]["Tags"], json!(["x", "primary", "master"]));
    assert!(a.touch_member(&MemberData { state: Some("stopped".into()), ..data }).await.is_done());
    let services = consul.ask(Method::GET, "/v1/agent/services", None).await;
    assert!(services["contract/a"].is_null(), "{services}");
}

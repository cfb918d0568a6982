//! Users, passwords and roles of version 2 of etcd's API, as they change while agents run.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::facts::Outcome;
use patroni_dcs::etcd::EtcdOptions;
use patroni_dcs::{Dcs, Expected, Key, LeaderUpdate};
use patroni_http::{ClientOptions, HttpClient, Method};
use serde_json::{Value, json};

use crate::etcd_auth::{leads, notices};
use crate::etcd_v2::EtcdV2;
use crate::faults::LONG;
use crate::path;

/// Changes something of the users, as root. Returns once etcd has done it.
async fn change(etcd: &EtcdV2, method: Method, what: &str, body: Value) {
    let client = HttpClient::new(ClientOptions { auth: Some("root:secret".to_owned()), ..ClientOptions::default() });
    let url = format!("{}/v2/auth/{what}", etcd.0.urls()[0]);
    let answer = client.unwrap().request(method, &url, Some(body.to_string()), Duration::from_secs(5)).await.unwrap();
    assert!(answer.status < 300, "{what}: {}", answer.body);
}

/// Users `root`, and `patroni` with the password `word`; authentication is still off. Whoever is nobody may do nothing.
async fn with_users() -> EtcdV2 {
    let etcd = EtcdV2::start(1).await;
    let all = json!({"kv": {"read": ["/service/*"], "write": ["/service/*"]}});
    change(&etcd, Method::PUT, "users/root", json!({"user": "root", "password": "secret"})).await;
    change(&etcd, Method::PUT, "users/patroni", json!({"user": "patroni", "password": "word"})).await;
    change(&etcd, Method::PUT, "roles/patroni", json!({"role": "patroni", "permissions": all})).await;
    change(&etcd, Method::PUT, "users/patroni", json!({"user": "patroni", "grant": ["patroni"]})).await;
    etcd
}

async fn enable(etcd: &EtcdV2) {
    change(etcd, Method::PUT, "enable", json!({})).await;
    let all = json!({"kv": {"read": ["/*"], "write": ["/*"]}});
    change(etcd, Method::PUT, "roles/guest", json!({"role": "guest", "revoke": all})).await;
}

fn handle(etcd: &EtcdV2, credentials: Option<&str>) -> Arc<dyn Dcs> {
    let credentials = credentials.map(|password| ("patroni".to_owned(), password.to_owned()));
    let options = EtcdOptions { endpoints: etcd.0.urls(), credentials, ..EtcdOptions::default() };
    patroni_dcs::etcd::connect(options, &path(), "a".into(), LONG)
}

/// Credentials may be configured long before etcd asks for them, and after.
#[tokio::test]
async fn authentication_is_turned_on_and_off() {
    let etcd = with_users().await;
    let a = handle(&etcd, Some("word"));
    assert!(a.acquire().await.is_done());
    notices(&a).await;
    enable(&etcd).await;
    leads(&a).await;
    notices(&a).await;
    for refused in [handle(&etcd, Some("wrong")), handle(&etcd, None)] {
        assert!(refused.load().await.is_err());
        let written = refused.write(Key::Sync, "{}", Expected::Absent).await;
        assert!(matches!(written, Outcome::Failed(_)), "nobody else has written: {written:?}");
    }
    change(&etcd, Method::DELETE, "enable", json!({})).await;
    leads(&a).await;
    notices(&a).await;
}

#[tokio::test]
async fn a_password_is_changed_first_there_and_then_here() {
    let etcd = with_users().await;
    enable(&etcd).await;
    let a = handle(&etcd, Some("word"));
    assert!(a.acquire().await.is_done());
    change(&etcd, Method::PUT, "users/patroni", json!({"user": "patroni", "password": "new"})).await;
    let refused = a.renew(&LeaderUpdate::default()).await;
    assert!(matches!(refused, Outcome::Failed(_)), "nobody else has it: {refused:?}");
    let section = json!({"hosts": etcd.0.urls(), "username": "patroni", "password": "new"});
    a.reload(&JsonMap::from_iter([("etcd".to_owned(), section)])).unwrap();
    leads(&a).await;
    notices(&a).await;
}

#[tokio::test]
async fn a_role_is_withdrawn_and_granted_again() {
    let etcd = with_users().await;
    enable(&etcd).await;
    let a = handle(&etcd, Some("word"));
    assert!(a.acquire().await.is_done());
    notices(&a).await;
    change(&etcd, Method::PUT, "users/patroni", json!({"user": "patroni", "revoke": ["patroni"]})).await;
    let refused = a.renew(&LeaderUpdate::default()).await;
    assert!(matches!(refused, Outcome::Failed(_)), "nobody else has it: {refused:?}");
    change(&etcd, Method::PUT, "users/patroni", json!({"user": "patroni", "grant": ["patroni"]})).await;
    leads(&a).await;
    notices(&a).await;
}

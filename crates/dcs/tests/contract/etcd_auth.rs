//! Users, passwords and roles of etcd, as they change while agents run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use patroni_core::JsonMap;
use patroni_core::facts::Outcome;
use patroni_dcs::etcd::EtcdOptions;
use patroni_dcs::etcd3::Etcd3;
use patroni_dcs::{Dcs, Expected, Key, LeaderUpdate, Unread};
use serde_json::json;

use crate::etcd::{Ctl, Etcd};
use crate::faults::LONG;
use crate::{World, eventually, member, path};

/// Users `root`, and `patroni` with the password `word`; authentication is still off.
async fn with_users(etcd: &Etcd) -> Ctl {
    let ctl = etcd.ctl();
    for arguments in [
        ["user", "add", "root:secret"].as_slice(),
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "patroni:word"],
        &["role", "add", "patroni"],
        &["role", "grant-permission", "patroni", "--prefix=true", "readwrite", "/service/"],
        &["user", "grant-role", "patroni", "patroni"],
    ] {
        ctl.ok(arguments).await;
    }
    ctl
}

fn as_root(etcd: &Etcd) -> Ctl {
    etcd.ctl_as("root:secret")
}

fn handle(etcd: &Etcd, password: &str) -> Arc<dyn Dcs> {
    let credentials = Some(("patroni".to_owned(), password.to_owned()));
    let options = EtcdOptions { endpoints: etcd.urls(), credentials, ..EtcdOptions::default() };
    Etcd3::connect(options, &path(), "a".into(), LONG)
}

/// The watch notices what happens from now on, whatever became of it meanwhile.
pub(crate) async fn notices(a: &Arc<dyn Dcs>) {
    eventually("the watch goes on", || {
        let (mut changes, a) = (a.changes(), a.clone());
        changes.mark_unchanged();
        async move {
            assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
            tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.is_ok()
        }
    })
    .await;
}

/// Each operation that a leader needs gets through, at the first time.
pub(crate) async fn leads(a: &Arc<dyn Dcs>) {
    let renewed = a.renew(&LeaderUpdate::default()).await;
    assert!(renewed.is_done(), "{renewed:?}");
    let touched = a.touch_member(&member("running")).await;
    assert!(touched.is_done(), "{touched:?}");
    let loaded = a.load().await;
    assert!(loaded.is_ok(), "{loaded:?}");
}

#[tokio::test]
async fn credentials() {
    let mut etcd = Etcd::start(1).await;
    with_users(&etcd).await.ok(&["auth", "enable"]).await;
    let a = handle(&etcd, "word");
    assert!(a.acquire().await.is_done());
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    eventually("a watches", || async { *a.changes().borrow() > 0 }).await;

    let asked = Instant::now();
    let wrong = handle(&etcd, "wrong").load().await;
    assert!(matches!(&wrong, Err(Unread(text)) if text.contains("authentication failed")), "{wrong:?}");
    let nobody = etcd.member("a", LONG).write(Key::Sync, "{}", Expected::Absent).await;
    assert!(matches!(nobody, Outcome::Failed(_)), "{nobody:?}");
    assert!(asked.elapsed() < LONG.retry_timeout * 3);

    // Tokens live in etcd's memory: after a restart the old one is worth nothing.
    etcd.kill(0);
    etcd.restart(0);
    eventually("the lease is kept with another token", || async { a.renew(&LeaderUpdate::default()).await.is_done() })
        .await;
    assert!(a.touch_member(&member("running")).await.is_done());
    notices(&a).await;
}

/// Credentials may be configured long before etcd asks for them, and after.
#[tokio::test]
async fn authentication_is_turned_on_and_off() {
    let mut etcd = Etcd::start(1).await;
    let root = with_users(&etcd).await;
    let a = handle(&etcd, "word");
    let acquired = a.acquire().await;
    assert!(acquired.is_done(), "authentication is off: {acquired:?}");
    notices(&a).await;
    root.ok(&["auth", "enable"]).await;
    leads(&a).await;
    notices(&a).await;
    as_root(&etcd).ok(&["auth", "disable"]).await;
    leads(&a).await;
    notices(&a).await;
    // The token is as lost as the connection.
    etcd.kill(0);
    etcd.restart(0);
    etcd.ready().await;
    leads(&a).await;
    notices(&a).await;
    root.ok(&["auth", "enable"]).await;
    leads(&a).await;
    notices(&a).await;
}

#[tokio::test]
async fn tokens_expire() {
    let etcd = Etcd::launch(1, "http", &["--auth-token-ttl=1".to_owned()]);
    etcd.ready().await;
    with_users(&etcd).await.ok(&["auth", "enable"]).await;
    let a = handle(&etcd, "word");
    assert!(a.acquire().await.is_done());
    for _ in 0..2 {
        etcd.pass(Duration::from_secs(3)).await;
        leads(&a).await;
    }
    notices(&a).await;
}

#[tokio::test]
async fn a_password_is_changed_first_there_and_then_here() {
    let etcd = Etcd::start(1).await;
    with_users(&etcd).await.ok(&["auth", "enable"]).await;
    let a = handle(&etcd, "word");
    assert!(a.acquire().await.is_done());
    as_root(&etcd).change_password("patroni", "new").await;
    let refused = a.renew(&LeaderUpdate::default()).await;
    assert!(matches!(&refused, Outcome::Failed(text) if text.contains("authentication failed")), "{refused:?}");
    let section = |password: &str| {
        let section = json!({"hosts": etcd.urls(), "username": "patroni", "password": password});
        JsonMap::from_iter([("etcd3".to_owned(), section)])
    };
    a.reload(&section("new")).unwrap();
    leads(&a).await;
    notices(&a).await;
    // Here first: what is still in use is given up, and comes back with the other password.
    a.reload(&section("newer")).unwrap();
    assert!(a.load().await.is_err());
    as_root(&etcd).change_password("patroni", "newer").await;
    leads(&a).await;
}

#[tokio::test]
async fn a_role_is_withdrawn_and_granted_again() {
    let etcd = Etcd::start(1).await;
    with_users(&etcd).await.ok(&["auth", "enable"]).await;
    let a = handle(&etcd, "word");
    assert!(a.acquire().await.is_done());
    notices(&a).await;
    let root = as_root(&etcd);
    root.ok(&["user", "revoke-role", "patroni", "patroni"]).await;
    let refused = a.renew(&LeaderUpdate::default()).await;
    assert!(matches!(&refused, Outcome::Failed(text) if text.contains("permission denied")), "{refused:?}");
    root.ok(&["user", "grant-role", "patroni", "patroni"]).await;
    leads(&a).await;
    notices(&a).await;
}

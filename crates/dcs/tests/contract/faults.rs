//! What only a store on a network can go through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_dcs::etcd::EtcdOptions;
use patroni_dcs::etcd3::Etcd3;
use patroni_dcs::{Dcs, Expected, Key, LeaderUpdate, Timing, Unread};
use patroni_ports::free_port;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::certificates::Authority;
use crate::etcd::Etcd;
use crate::{TIMING, World, eventually, leader_of, load, member, path};

/// Leases that outlast the trouble.
pub(crate) const LONG: Timing = Timing { ttl: Duration::from_secs(60), ..TIMING };

#[tokio::test]
async fn a_restart_of_etcd_is_survived() {
    let mut etcd = Etcd::start(1).await;
    let (a, b) = (etcd.member("a", LONG), etcd.member("b", LONG));
    assert!(a.acquire().await.is_done());
    let mut changes = b.changes();
    eventually("b watches", || async { *b.changes().borrow() > 0 }).await;
    etcd.kill(0);
    let asked = Instant::now();
    // The connection breaks first, and then there is none.
    eventually("nothing is sent any more", || async {
        matches!(a.write(Key::Sync, "{}", Expected::Absent).await, Outcome::Failed(_))
    })
    .await;
    assert!(asked.elapsed() < LONG.retry_timeout * 3, "an operation outlasts its budget");
    assert!(a.load().await.is_err());
    assert!(!a.renew(&LeaderUpdate::default()).await.is_done());
    changes.mark_unchanged();
    etcd.restart(0);
    etcd.ready().await;
    assert!(a.renew(&LeaderUpdate::default()).await.is_done(), "lease and key outlast a restart");
    tokio::time::timeout(Duration::from_secs(20), changes.changed())
        .await
        .expect("no wake after the watch was lost")
        .unwrap();
    let ctl = etcd.ctl();
    ctl.put("x", b"y").await.unwrap();
    ctl.ok(&["compact", &ctl.revision().await.to_string()]).await;
    changes.mark_unchanged();
    assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
    tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.expect("the watch is dead").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_endpoint_does_not_eat_the_budget() {
    let etcd = Etcd::start(3).await;
    let (a, b) = (etcd.member("a", LONG), etcd.member("b", LONG));
    assert!(a.acquire().await.is_done());
    let mut changes = a.changes();
    eventually("a watches", || async { *a.changes().borrow() > 0 }).await;
    etcd.signal(0, Signal::STOP);
    let asked = Instant::now();
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    assert!(asked.elapsed() < LONG.retry_timeout, "took {:?}", asked.elapsed());
    let asked = Instant::now();
    assert!(a.renew(&LeaderUpdate::default()).await.is_done());
    assert!(asked.elapsed() < Duration::from_secs(1), "the hanging endpoint is asked again");
    assert_eq!(leader_of(&load(&b).await), Some("a"));
    eventually("the watch moved to another endpoint", || {
        changes.mark_unchanged();
        let (mut changes, b) = (changes.clone(), b.clone());
        async move {
            assert!(b.write(Key::Config, "{}", Expected::Anything).await.is_done());
            tokio::time::timeout(Duration::from_millis(500), changes.changed()).await.is_ok()
        }
    })
    .await;
    etcd.signal(0, Signal::CONT);
}

/// The alarm NOSPACE: etcd takes no values any more, and keeps leases.
#[tokio::test]
async fn a_full_etcd_does_not_cost_the_lease() {
    let etcd = Etcd::launch(1, "http", &["--quota-backend-bytes=1000000".to_owned()]);
    etcd.ready().await;
    let a = etcd.member("a", LONG);
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    let update = |lsn: u64| LeaderUpdate { last_lsn: Some(Lsn(lsn)), ..LeaderUpdate::default() };
    assert!(a.renew(&update(1)).await.is_done());
    let ctl = etcd.ctl();
    eventually("etcd is full", || async { ctl.put("filler", &[b'x'; 200_000]).await.is_err() }).await;
    let renewed = a.renew(&update(2)).await;
    assert!(renewed.is_done(), "{renewed:?}");
    assert!(a.touch_member(&member("running")).await.is_done(), "what did not change needs no space");
    assert_eq!(leader_of(&load(&a).await), Some("a"));
    let full = a.write(Key::Sync, "{}", Expected::Absent).await;
    assert!(matches!(&full, Outcome::Failed(text) if text.contains("space exceeded")), "{full:?}");
    // Once there is room again, what was left out is written.
    ctl.ok(&["del", "filler"]).await;
    ctl.ok(&["compact", &ctl.revision().await.to_string()]).await;
    ctl.ok(&["defrag"]).await;
    ctl.ok(&["alarm", "disarm"]).await;
    assert!(a.renew(&update(2)).await.is_done());
    assert_eq!(load(&a).await.status.last_lsn, Lsn(2));
}

/// A restored backup, or another etcd in the place of the old one: older than what was read from it.
#[tokio::test]
async fn keys_that_a_restored_etcd_lacks_are_written_again() {
    let mut etcd = Etcd::start(1).await;
    let a = etcd.member("a", LONG);
    let failsafe = std::collections::BTreeMap::from([("a".into(), "http://a:8008".to_owned())]);
    let update = LeaderUpdate { last_lsn: Some(Lsn(7)), failsafe: Some(failsafe), ..LeaderUpdate::default() };
    for _ in 0..3 {
        assert!(a.write(Key::Config, "{}", Expected::Anything).await.is_done());
    }
    let leads = async || {
        load(&a).await;
        assert!(a.touch_member(&member("running")).await.is_done());
        assert!(a.acquire().await.is_done());
        assert!(a.renew(&update).await.is_done());
    };
    leads().await;
    etcd.kill(0);
    etcd.wipe(0);
    etcd.restart(0);
    etcd.ready().await;
    leads().await;
    for key in ["leader", "status", "failsafe", "members/a"] {
        assert!(etcd.get_raw(key).await.is_some(), "{key} is missing");
    }
}

#[tokio::test]
async fn silence_ends_within_the_budget() {
    // Connections are accepted by the kernel and never answered, as by a stopped process.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let quick = Timing { retry_timeout: Duration::from_secs(2), ..TIMING };
    let a = connect(&[url], "a", quick);
    let asked = Instant::now();
    assert!(a.load().await.is_err(), "a read is never unknown");
    assert!(matches!(a.acquire().await, Outcome::Failed(_)), "without a lease nothing was asked");
    assert!(matches!(a.touch_member(&member("running")).await, Outcome::Failed(_)));
    assert!(matches!(a.write(Key::Sync, "{}", Expected::Absent).await, Outcome::Unknown(_)));
    assert!(matches!(a.write(Key::Sync, "{}", Expected::Anything).await, Outcome::Failed(_)), "the read came first");
    assert!(matches!(a.delete_cluster().await, Outcome::Unknown(_)));
    assert!(asked.elapsed() < quick.retry_timeout * 6 + Duration::from_secs(1), "took {:?}", asked.elapsed());
}

#[tokio::test]
async fn nobody_there_is_surely_not_done() {
    let port = free_port();
    let quick = Timing { retry_timeout: Duration::from_secs(1), ..TIMING };
    let a = connect(&[format!("http://127.0.0.1:{port}")], "a", quick);
    assert!(matches!(a.write(Key::Sync, "{}", Expected::Absent).await, Outcome::Failed(_)));
    assert!(matches!(a.renew(&LeaderUpdate::default()).await, Outcome::Failed(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_are_unknown_and_never_guessed() {
    let etcd = Etcd::start(1).await;
    let lossy = Lossy::start(etcd.urls()[0].trim_start_matches("http://").parse().unwrap()).await;
    let quick = Timing { retry_timeout: Duration::from_secs(3), ..LONG };
    let a = connect(&[lossy.url()], "a", quick);
    let version = a.write(Key::Sync, "1", Expected::Absent).await.done().expect("it is absent");

    lossy.lose(true);
    assert!(matches!(a.write(Key::Sync, "2", Expected::Version(version)).await, Outcome::Unknown(_)));
    eventually("it was carried out", || async { etcd.get_raw("sync").await.as_deref() == Some(b"2") }).await;

    // Now there is a second endpoint that tells what happened.
    lossy.lose(false);
    let a = connect(&[lossy.url(), etcd.urls()[0].clone()], "a", LONG);
    let version = load(&a).await.sync.version.expect("there is one");
    lossy.lose(true);
    assert!(a.write(Key::Sync, "3", Expected::Version(version)).await.is_done(), "what we wanted is there");
    assert_eq!(etcd.get_raw("sync").await.as_deref(), Some(b"3".as_slice()));

    lossy.lose(false);
    let a = connect(&[lossy.url(), etcd.urls()[0].clone()], "a", LONG);
    load(&a).await;
    lossy.lose(true);
    let raced = a.write(Key::Initialize, "", Expected::Absent).await;
    assert!(matches!(raced, Outcome::Unknown(_)), "who created an empty key cannot be known: {raced:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acquisition_is_recognised_after_its_answer_was_lost() {
    let etcd = Etcd::start(1).await;
    let lossy = Lossy::start(etcd.urls()[0].trim_start_matches("http://").parse().unwrap()).await;
    let a = connect(&[lossy.url(), etcd.urls()[0].clone()], "a", LONG);
    load(&a).await;
    lossy.lose(true);
    assert!(a.acquire().await.is_done());
    assert_eq!(leader_of(&load(&a).await), Some("a"));
    assert_eq!(a.release(None).await, Outcome::Done(()));
    assert!(load(&a).await.is_unlocked());
}

#[tokio::test]
async fn one_lease_whoever_asks_first() {
    let etcd = Etcd::start(1).await;
    let a = etcd.member("a", LONG);
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let a = a.clone();
            tokio::spawn(async move {
                if i % 2 == 0 {
                    a.touch_member(&member("running")).await.is_done()
                } else {
                    a.acquire().await.is_done()
                }
            })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    let cluster = load(&a).await;
    assert_eq!(cluster.members["a"].session, cluster.leader.expect("a leader").session);
    assert_eq!(etcd.leases().await, 1, "spare leases are given back");
}

#[tokio::test]
async fn reading_leaves_no_trace() {
    let etcd = Etcd::start(1).await;
    let ctl = etcd.member("patronictl", LONG);
    load(&ctl).await;
    assert!(ctl.write(Key::Config, "{}", Expected::Anything).await.is_done());
    assert_eq!(etcd.leases().await, 0);
}

#[tokio::test]
async fn certificates() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let (server, client) = (authority.sign("server", "127.0.0.1"), authority.sign("client", "127.0.0.1"));
    let (server_key, cacert) = (server.keyfile.unwrap(), authority.cacert);
    let further = [
        "--cert-file",
        &server.certfile,
        "--key-file",
        &server_key,
        "--client-cert-auth",
        "--trusted-ca-file",
        &cacert,
    ];
    let etcd = Etcd::launch(1, "https", &further.map(str::to_owned));
    let with = EtcdOptions {
        endpoints: etcd.urls(),
        cacert: Some(cacert),
        cert: Some(client.certfile),
        key: client.keyfile,
        ..EtcdOptions::default()
    };
    let quick = Timing { retry_timeout: Duration::from_secs(2), ..LONG };
    let handle = |options: EtcdOptions| Etcd3::connect(options, &path(), "a".into(), quick);
    let a = handle(with.clone());
    eventually("etcd answers over TLS", || async { a.acquire().await.is_done() }).await;
    let without_cert = handle(EtcdOptions { cert: None, key: None, ..with.clone() }).load().await;
    assert!(without_cert.is_err(), "{without_cert:?}");
    let untrusted = handle(EtcdOptions { cacert: None, ..with.clone() }).write(Key::Sync, "", Expected::Absent).await;
    assert!(matches!(untrusted, Outcome::Failed(_)), "{untrusted:?}");
    let missing = handle(EtcdOptions { cacert: Some("/nowhere".into()), ..with }).load().await;
    assert!(
        matches!(&missing, Err(Unread(text)) if text.contains("etcd3.cacert") && text.contains("/nowhere")),
        "{missing:?}"
    );
}

fn connect(urls: &[String], name: &str, timing: Timing) -> Arc<dyn Dcs> {
    let options = EtcdOptions { endpoints: urls.to_vec(), ..EtcdOptions::default() };
    Etcd3::connect(options, &path(), name.into(), timing)
}

/// A proxy that can lose what the server says.
pub(crate) struct Lossy {
    address: SocketAddr,
    losing: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Lossy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let losing = Arc::new(AtomicBool::new(false));
        let lose = losing.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.expect("etcd is gone");
                tokio::spawn(forward(client, server, lose.clone()));
            }
        });
        Lossy { address, losing, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn lose(&self, losing: bool) {
        self.losing.store(losing, Ordering::SeqCst);
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(client: TcpStream, server: TcpStream, losing: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = async move {
        let mut buffer = vec![0; 65536];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if !losing.load(Ordering::SeqCst) && to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    // Requests go on arriving after the client has given up, as those on a slow network do.
    let requests = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    tokio::select! {
        () = answers => {}
        () = requests => {}
    }
}

//! What an API server goes through while agents use it: errors of all kinds, answers that are lost or late, rights that are withdrawn,
//! objects that others edit or delete, and a store that is older than it was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_dcs::kubernetes::{Access, Credentials};
use patroni_dcs::{Dcs, Expected, Key, LeaderUpdate, Timing};
use patroni_http::{Body, Call, ClientOptions, HeaderName, HeaderValue, HttpClient, Method, Way};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::faults::LONG;
use crate::kubernetes::{ApiServer, Kubernetes, follows};
use crate::{TIMING, World, eventually, leader_of, load, member};

const QUICK: Timing = Timing { retry_timeout: Duration::from_secs(2), ..LONG };

/// What becomes of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// They get this status, and are asked to wait for this many seconds where that is not 0.
    Status(u16, u64),
    /// They are carried out, and nobody hears of it.
    Lost,
    /// Nothing happens.
    Silence,
    /// Those that are open say nothing more; others are carried out.
    Stalled,
}

/// A proxy without TLS in front of the API server, which goes wrong as it is told.
struct Proxy {
    url: String,
    fault: Arc<Mutex<Fault>>,
    requests: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    async fn start(server: &ApiServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (fault, requests) = (Arc::new(Mutex::new(Fault::None)), Arc::new(AtomicU64::new(0)));
        let options = ClientOptions { cacert: Some(server.cacert.clone()), ..ClientOptions::default() };
        let (client, base) = (HttpClient::new(options).unwrap(), server.url());
        let shared = (fault.clone(), requests.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, base, (fault, requests)) = (client.clone(), base.clone(), shared.clone());
                tokio::spawn(async move {
                    // Whoever hangs up early is no concern of the others.
                    let _ = forward(stream, client, &base, &fault, &requests).await;
                });
            }
        });
        Proxy { url, fault, requests, task }
    }

    fn goes_wrong(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Goes wrong for a time from now on.
    fn goes_wrong_for(&self, fault: Fault, time: Duration) {
        self.goes_wrong(fault);
        let shared = self.fault.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            *shared.lock().unwrap() = Fault::None;
        });
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn forward(
    stream: TcpStream,
    client: HttpClient,
    base: &str,
    fault: &Mutex<Fault>,
    requests: &AtomicU64,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split_whitespace();
    let method: Method = words.next().unwrap_or_default().parse().map_err(std::io::Error::other)?;
    let target = words.next().unwrap_or_default().to_owned();
    let (mut length, mut headers, mut content_type) = (0, Vec::new(), "application/json");
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        let value = value.trim();
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "content-type" if value.contains("merge-patch") => content_type = "application/strategic-merge-patch+json",
            "authorization" => {
                headers.push((HeaderName::from_static("authorization"), HeaderValue::from_str(value).unwrap()));
            }
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    requests.fetch_add(1, Ordering::SeqCst);
    let now = *fault.lock().unwrap();
    match now {
        Fault::Silence => return std::future::pending().await,
        Fault::Status(status, wait) => {
            let body = json!({"kind": "Status", "code": status, "reason": "Test", "message": "on purpose"}).to_string();
            let wait = if wait > 0 { format!("Retry-After: {wait}\r\n") } else { String::new() };
            let head =
                format!("HTTP/1.1 {status} Test\r\nContent-Length: {}\r\n{wait}Connection: close\r\n\r\n", body.len());
            return stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
        Fault::None | Fault::Lost | Fault::Stalled => {}
    }
    let url = format!("{base}{target}");
    let body = String::from_utf8(body).unwrap();
    let body = (length > 0).then_some(Body { text: body, content_type });
    let call = Call { method, url: &url, headers: &headers, body };
    let opened = client.open(call, Way::default(), Duration::from_secs(10)).await;
    let mut answer = opened.map_err(std::io::Error::other)?;
    if now == Fault::Lost {
        return Ok(());
    }
    stream.write_all(format!("HTTP/1.1 {} Test\r\nConnection: close\r\n\r\n", answer.status).as_bytes()).await?;
    let is_watch = target.contains("watch=true");
    while let Some(chunk) = answer.chunk().await.map_err(std::io::Error::other)? {
        if is_watch && *fault.lock().unwrap() == Fault::Stalled {
            return std::future::pending().await;
        }
        stream.write_all(&chunk).await?;
    }
    Ok(())
}

/// A cluster whose member `a` has a proxy of its own, and leads.
struct Led {
    world: Kubernetes,
    proxy: Proxy,
    a: Arc<dyn Dcs>,
}

async fn led(server: &Arc<ApiServer>, namespace: &str, timing: Timing) -> Led {
    let world = server.cluster(namespace, true, &["a", "b"]).await;
    let proxy = Proxy::start(server).await;
    let mut options = world.options();
    options.access = Access { server: proxy.url.clone(), ..options.access };
    let a = world.handle(options, "a", timing);
    follows(&a).await;
    assert!(a.acquire().await.is_done());
    assert!(a.touch_member(&member("running")).await.is_done());
    Led { world, proxy, a }
}

fn update(lsn: u64) -> LeaderUpdate {
    LeaderUpdate { last_lsn: Some(Lsn(lsn)), ..LeaderUpdate::default() }
}

/// Nobody said that somebody else has it.
fn is_undecided<T: std::fmt::Debug>(outcome: &Outcome<T>) -> bool {
    matches!(outcome, Outcome::Failed(_) | Outcome::Unknown(_))
}

/// All at once on one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_error_is_a_word_about_the_lease() {
    let Some(server) = ApiServer::start().await else { return };
    let server = Arc::new(server);
    tokio::join!(
        errors_are_outlived(&server),
        answers_that_are_lost(&server),
        silence(&server),
        a_watch_that_stalls(&server),
        rights_that_are_withdrawn(&server),
        tokens_that_are_replaced(&server),
        what_others_do_to_objects(&server),
        an_idle_member_asks_for_nothing(&server),
    );
}

async fn errors_are_outlived(server: &Arc<ApiServer>) {
    let Led { world, proxy, a } = led(server, "errors", QUICK).await;
    for (status, wait) in [(403, 0), (429, 1), (500, 0), (503, 1), (504, 0), (401, 0), (502, 0)] {
        proxy.goes_wrong_for(Fault::Status(status, wait), Duration::from_millis(700));
        let renewed = a.renew(&update(status.into())).await;
        assert!(renewed.is_done(), "{status} for a moment: {renewed:?}");
    }
    for status in [403, 429, 500, 410, 409, 400] {
        proxy.goes_wrong(Fault::Status(status, 0));
        let asked = Instant::now();
        for outcome in [a.renew(&update(1)).await, a.acquire().await] {
            assert!(is_undecided(&outcome), "{status}: {outcome:?}");
        }
        assert!(asked.elapsed() < QUICK.retry_timeout * 3, "{status} took {:?}", asked.elapsed());
        let written = a.write(Key::History, &format!("[{status}]"), Expected::Anything).await;
        assert!(is_undecided(&written), "{status}: {written:?}");
        proxy.goes_wrong(Fault::None);
        let renewed = a.renew(&update(2)).await;
        assert!(renewed.is_done(), "after {status}: {renewed:?}");
    }
    assert_eq!(leader_of(&load(&world.member("b", LONG)).await), Some("a"));
}

async fn answers_that_are_lost(server: &Arc<ApiServer>) {
    let Led { world, proxy, a } = led(server, "lost", QUICK).await;
    proxy.goes_wrong_for(Fault::Lost, Duration::from_millis(300));
    let renewed = a.renew(&update(5)).await;
    assert!(renewed.is_done(), "its own earlier attempt is no other leader: {renewed:?}");
    let version = a.write(Key::Sync, "{\"leader\":\"a\"}", Expected::Absent).await.done().expect("it is absent");
    proxy.goes_wrong(Fault::Lost);
    let written = a.write(Key::Sync, "{\"leader\":\"b\"}", Expected::Version(version)).await;
    assert!(matches!(written, Outcome::Unknown(_)), "{written:?}");
    eventually("it was carried out", || async { world.get_raw("sync").await.is_some_and(|text| text.contains(&b'b')) })
        .await;
    assert!(is_undecided(&a.renew(&update(6)).await));
    proxy.goes_wrong(Fault::None);
    assert!(a.renew(&update(7)).await.is_done());
    assert_eq!(a.release(None).await, Outcome::Done(()));
    proxy.goes_wrong_for(Fault::Lost, Duration::from_millis(300));
    let acquired = a.acquire().await;
    assert!(acquired.is_done(), "it is recognised: {acquired:?}");
    proxy.goes_wrong_for(Fault::Lost, Duration::from_millis(300));
    assert_eq!(a.release(Some(Lsn(9))).await, Outcome::Done(()));
    assert!(load(&a).await.is_unlocked());
}

async fn silence(server: &Arc<ApiServer>) {
    let Led { proxy, a, world: _world } = led(server, "silence", QUICK).await;
    proxy.goes_wrong(Fault::Silence);
    let asked = Instant::now();
    assert!(is_undecided(&a.renew(&update(1)).await));
    assert!(asked.elapsed() < QUICK.retry_timeout * 2, "took {:?}", asked.elapsed());
    proxy.goes_wrong(Fault::None);
    assert!(a.renew(&update(2)).await.is_done());
}

/// News stop while everything else goes on: nobody takes what is merely unheard of for the end of a lease.
async fn a_watch_that_stalls(server: &Arc<ApiServer>) {
    let world = server.cluster("stalled", true, &["a", "b"]).await;
    let proxy = Proxy::start(server).await;
    let mut options = world.options();
    let a = world.handle(options.clone(), "a", TIMING);
    options.access = Access { server: proxy.url.clone(), ..options.access };
    let b = world.handle(options, "b", TIMING);
    follows(&b).await;
    assert!(a.acquire().await.is_done());
    eventually("b hears of it", || async { leader_of(&load(&b).await) == Some("a") }).await;
    proxy.goes_wrong(Fault::Stalled);
    for position in 0..6 {
        tokio::time::sleep(TIMING.ttl / 3).await;
        assert!(a.renew(&update(position)).await.is_done());
    }
    assert_eq!(leader_of(&load(&b).await), Some("a"), "asked, not remembered");
    assert_eq!(b.acquire().await, Outcome::Refused);
    // And at the end of a lease that is not renewed the one who waits for it is woken.
    proxy.goes_wrong(Fault::None);
    let mut changes = b.changes();
    changes.mark_unchanged();
    tokio::time::timeout(TIMING.ttl * 3, changes.changed()).await.expect("not woken by the end of the lease").unwrap();
    eventually("the lease ends", || async { load(&b).await.is_unlocked() }).await;
    assert!(b.acquire().await.is_done());
}

async fn rights_that_are_withdrawn(server: &Arc<ApiServer>) {
    let Led { world, a, proxy: _proxy } = led(server, "rights", QUICK).await;
    world.grant(false).await;
    eventually("the rights are gone", || async {
        is_undecided(&a.write(Key::History, "[0]", Expected::Anything).await)
    })
    .await;
    let renewed = a.renew(&update(1)).await;
    assert!(is_undecided(&renewed), "nobody else has it: {renewed:?}");
    assert!(is_undecided(&a.acquire().await));
    let stranger = world.handle(world.options(), "b", QUICK);
    assert!(stranger.load().await.is_err(), "what may not be seen is not absent");
    world.grant(true).await;
    eventually("the rights are back", || async { a.renew(&update(2)).await.is_done() }).await;
    assert_eq!(leader_of(&load(&stranger).await), Some("a"));
}

async fn tokens_that_are_replaced(server: &Arc<ApiServer>) {
    let world = server.cluster("tokens", true, &["a"]).await;
    let file = server.directory.path().join("token");
    std::fs::write(&file, "agent").unwrap();
    let mut options = world.options();
    options.access.credentials = Credentials::TokenFile(file.clone());
    let a = world.handle(options.clone(), "a", QUICK);
    assert!(a.acquire().await.is_done());
    std::fs::write(&file, "expired").unwrap();
    let b = world.handle(options, "b", QUICK);
    assert!(b.load().await.is_err(), "nobody knows this token");
    let asking = tokio::spawn(async move { b.load().await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    std::fs::write(&file, "agent").unwrap();
    let loaded = asking.await.unwrap();
    assert_eq!(loaded.as_ref().ok().and_then(leader_of), Some("a"), "it is read again at once: {loaded:?}");
}

async fn what_others_do_to_objects(server: &Arc<ApiServer>) {
    let Led { world, a, proxy: _proxy } = led(server, "edited", QUICK).await;
    let b = world.member("b", QUICK);
    let elsewhere = json!([{"addresses": [{"ip": "10.9.9.9"}], "ports": [{"port": 1}]}]);
    world.edit("leader", json!({"metadata": {"labels": {"x": "y"}}, "subsets": elsewhere})).await;
    let renewed = a.renew(&update(1)).await;
    assert!(renewed.is_done(), "another version of the object is no other leader: {renewed:?}");
    eventually("the address of the leader is put right", || async {
        assert!(a.renew(&update(1)).await.is_done());
        world.object("leader").await["subsets"][0]["addresses"][0]["ip"] == "10.1.2.3"
    })
    .await;
    world
        .edit(
            "leader",
            json!({"metadata": {"annotations": {"ttl": "nonsense", "transitions": "x", "renewTime": null}}}),
        )
        .await;
    assert!(a.renew(&update(2)).await.is_done(), "garbage beside the name");
    assert_eq!(leader_of(&load(&b).await), Some("a"));

    let (mut changes, mut acquired) = (a.changes(), false);
    changes.mark_unchanged();
    world.remove("leader").await;
    tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.expect("not woken").unwrap();
    for _ in 0..2 {
        acquired |= load(&a).await.is_unlocked() && a.acquire().await.is_done();
    }
    assert!(acquired, "who leads takes the lease again");
    assert!(a.renew(&update(3)).await.is_done());
    assert_eq!(leader_of(&load(&b).await), Some("a"));
    world.edit("leader", json!({"metadata": {"annotations": {"leader": "b"}}})).await;
    assert_eq!(a.renew(&update(4)).await, Outcome::Refused, "somebody says that another member has it");
}

/// Requests of members while nothing happens: the leader renews, and the others ask for nothing.
async fn an_idle_member_asks_for_nothing(server: &Arc<ApiServer>) {
    let Led { world, proxy, a } = led(server, "idle", LONG).await;
    let quiet = Proxy::start(server).await;
    let mut options = world.options();
    options.access = Access { server: quiet.url.clone(), ..options.access };
    let b = world.handle(options, "b", LONG);
    follows(&b).await;
    let tick = async |position: u64| {
        for dcs in [&a, &b] {
            assert_eq!(leader_of(&load(dcs).await), Some("a"));
        }
        assert!(a.renew(&update(position)).await.is_done());
        for dcs in [&a, &b] {
            assert!(dcs.touch_member(&member("running")).await.is_done());
        }
    };
    eventually("all is known", || async {
        let before = [&proxy, &quiet].map(Proxy::requests);
        tick(0).await;
        [&proxy, &quiet].map(Proxy::requests) == [before[0] + 1, before[1]]
    })
    .await;
    let before = [&proxy, &quiet].map(Proxy::requests);
    for position in 1..=20 {
        tick(position).await;
    }
    assert_eq!([&proxy, &quiet].map(Proxy::requests), [before[0] + 20, before[1]]);
}

/// etcd is set back to what it was when another member led, which meanwhile gave the lead up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_set_back_makes_nobody_a_leader() {
    let Some(server) = ApiServer::start().await else { return };
    let server = Arc::new(server);
    let world = server.cluster("restored", true, &["a", "b"]).await;
    let (a, b) = (world.handle(world.options(), "a", LONG), world.handle(world.options(), "b", LONG));
    for dcs in [&a, &b] {
        follows(dcs).await;
    }
    assert!(b.acquire().await.is_done());
    drop(world);
    let mut server = Arc::into_inner(server).expect("nobody else has it");
    server.stop();
    server.etcd.kill(0);
    let backup = server.directory.path().join("backup");
    server.etcd.copy(0, &backup);
    server.etcd.restart(0);
    server.start_again().await;
    eventually("b answers again", || async { b.renew(&update(1)).await.is_done() }).await;
    assert_eq!(b.release(None).await, Outcome::Done(()));
    eventually("a leads", || async { a.acquire().await.is_done() }).await;
    for position in 0..20 {
        assert!(a.renew(&update(position)).await.is_done());
    }
    eventually("b follows", || async { leader_of(&load(&b).await) == Some("a") }).await;

    server.stop();
    server.etcd.kill(0);
    server.etcd.wipe(0);
    server.etcd.put_back(0, &backup);
    server.etcd.restart(0);
    server.start_again().await;
    eventually("both hear of it", || async { a.load().await.is_ok() && b.load().await.is_ok() }).await;
    assert_eq!(leader_of(&load(&b).await), None, "an old word that it leads is none");
    assert_eq!(b.acquire().await, Outcome::Refused, "the lease of who leads may last");
    assert_eq!(b.renew(&update(1)).await, Outcome::Refused);
    assert!(load(&a).await.is_unlocked());
    assert!(a.acquire().await.is_done(), "who held the lease goes on with it");
    assert!(a.renew(&update(2)).await.is_done());
    eventually("b follows again", || async { leader_of(&load(&b).await) == Some("a") }).await;
}

/// The server stands still for a while: that costs nothing but time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still() {
    let Some(server) = ApiServer::start().await else { return };
    let server = Arc::new(server);
    let Led { world, a, proxy: _proxy } = led(&server, "still", QUICK).await;
    let b = world.handle(world.options(), "b", QUICK);
    follows(&b).await;
    server.signal(Signal::STOP);
    let renewed = a.renew(&update(1)).await;
    assert!(is_undecided(&renewed), "{renewed:?}");
    server.signal(Signal::CONT);
    eventually("the lease is kept", || async { a.renew(&update(2)).await.is_done() }).await;
    assert_eq!(leader_of(&load(&b).await), Some("a"));
    crate::etcd_auth::notices(&b).await;
}

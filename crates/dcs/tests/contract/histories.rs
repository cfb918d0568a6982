//! What concurrent clients of a real server saw must be explained by one order of all operations, while answers are lost, requests
//! arrive late, and servers stop and go on. `PATRONI_HISTORIES_OF_STORES=20` makes as many for each store; the seed of a bad one is
//! shown. The embedded store has histories of its own, on a clock that is moved (`src/raft/histories`).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use patroni_core::cluster::Version;
use patroni_core::facts::Outcome;
use patroni_dcs::consul::{Consistency, ConsulOptions};
use patroni_dcs::etcd::EtcdOptions;
use patroni_dcs::etcd3::Etcd3;
use patroni_dcs::wire::{self, RawKey};
use patroni_dcs::{Dcs, Expected, Key, Timing};
use patroni_linear::{Done, Kind, Operation, Random, explains};
use rustix::process::Signal;

use crate::consul::Consul;
use crate::etcd::Etcd;
use crate::etcd_v2::EtcdV2;
use crate::faults::{LONG, Lossy};
use crate::kubernetes::ApiServer;
use crate::path;
use crate::zookeeper::{ZooKeeper, handle, section};

const KEYS: [Key; 2] = [Key::Sync, Key::Failover];
const CLIENTS: usize = 3;
const LENGTH: Duration = Duration::from_secs(8);
const QUICK: Timing = Timing { retry_timeout: Duration::from_secs(2), ..LONG };

/// Servers, and clients each of which has a way of its own to one of them.
struct Site<'a> {
    servers: usize,
    signal: Box<dyn Fn(usize, Signal) + 'a>,
    ways: Vec<Lossy>,
    clients: Vec<Arc<dyn Dcs>>,
    /// What they read and write.
    keys: &'static [Key],
}

impl<'a> Site<'a> {
    async fn new(
        servers: Vec<SocketAddr>,
        signal: impl Fn(usize, Signal) + 'a,
        client: impl Fn(String, &str) -> Arc<dyn Dcs>,
    ) -> Self {
        let (signal, ways, clients) = (Box::new(signal), Vec::new(), Vec::new());
        let mut site = Site { servers: servers.len(), signal, ways, clients, keys: &KEYS };
        for index in 0..CLIENTS {
            let way = Lossy::start(servers[index % servers.len()]).await;
            site.clients.push(client(way.url(), &format!("client{index}")));
            site.ways.push(way);
        }
        site
    }

    /// Until then, and is over afterwards.
    async fn trouble(&self, random: &mut Random, until: Instant) {
        let pause = async |most: u64, random: &mut Random| {
            let pause = Duration::from_millis(random.below(most));
            tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        };
        while Instant::now() < until {
            pause(700, random).await;
            match random.below(3) {
                0 => {
                    let server = random.index(self.servers);
                    (self.signal)(server, Signal::STOP);
                    pause(1500, random).await;
                    (self.signal)(server, Signal::CONT);
                }
                1 => self.ways[random.index(CLIENTS)].lose(true),
                _ => self.ways.iter().for_each(|way| way.lose(false)),
            }
        }
        self.ways.iter().for_each(|way| way.lose(false));
    }
}

/// What one client does, one operation after the other. Each value is written once, so that a version stands for a value.
async fn work(
    dcs: Arc<dyn Dcs>,
    keys: &'static [Key],
    mut random: Random,
    values: Arc<AtomicU64>,
    seen: Arc<Mutex<Vec<Operation>>>,
    until: Instant,
) {
    let note = |key: Key, kind, done, began| {
        let operation = Operation { key: wire::key_name(key), kind, done, began, ended: Instant::now() };
        seen.lock().unwrap().push(operation);
    };
    while Instant::now() < until {
        let key = keys[random.index(keys.len())];
        let began = Instant::now();
        let mut expected = Some((Expected::Anything, None));
        if random.below(3) > 0 {
            let read = dcs.read().await;
            let found = read.as_ref().ok().map(|keys| keys.get(wire::key_name(key)));
            let value = |raw: &RawKey| String::from_utf8_lossy(&raw.value).parse::<u64>().unwrap();
            note(key, Kind::Read, found.map_or(Done::Nothing, |raw| Done::Read(raw.map(value))), began);
            expected = found.flatten().map(|raw| (Expected::Version(Version(raw.modified)), Some(value(raw))));
        }
        if let Some((expected, from)) = expected {
            let to = values.fetch_add(1, Ordering::Relaxed);
            let began = Instant::now();
            let done = match dcs.write(key, &to.to_string(), expected).await {
                Outcome::Done(_) => Done::Changed,
                Outcome::Refused => Done::Refused,
                Outcome::Failed(_) => Done::Nothing,
                Outcome::Unknown(_) => Done::Unknown,
            };
            note(key, from.map_or(Kind::Write(to), |from| Kind::Swap(from, to)), done, began);
        }
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
    }
}

/// One history: how many operations it has, and how many of them were answered.
async fn history(site: &Site<'_>, seed: u64, values: &Arc<AtomicU64>) -> (usize, usize) {
    let seen: Arc<Mutex<Vec<Operation>>> = Arc::default();
    let until = Instant::now() + LENGTH;
    // The keys have known values at the beginning.
    for key in site.keys.iter().copied() {
        let (value, began) = (values.fetch_add(1, Ordering::Relaxed), Instant::now());
        assert!(site.clients[0].write(key, &value.to_string(), Expected::Anything).await.is_done());
        let key = wire::key_name(key);
        let kind = Kind::Write(value);
        seen.lock().unwrap().push(Operation { key, kind, done: Done::Changed, began, ended: Instant::now() });
    }
    let working: Vec<_> = (site.clients.iter().zip(1..))
        .map(|(client, i)| {
            let random = Random(seed.wrapping_mul(31).wrapping_add(i));
            tokio::spawn(work(client.clone(), site.keys, random, values.clone(), seen.clone(), until))
        })
        .collect();
    site.trouble(&mut Random(seed), until).await;
    for client in working {
        client.await.unwrap();
    }
    let seen = seen.lock().unwrap().clone();
    for key in site.keys.iter().copied() {
        let of_key: Vec<Operation> =
            seen.iter().filter(|operation| operation.key == wire::key_name(key)).cloned().collect();
        assert!(explains(&of_key), "seed {seed}: no order explains {of_key:#?}");
    }
    let answered = seen.iter().filter(|operation| !matches!(operation.done, Done::Nothing | Done::Unknown)).count();
    (seen.len(), answered)
}

async fn histories(site: &Site<'_>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let count = number("PATRONI_HISTORIES_OF_STORES").unwrap_or(1_u64);
    let first = number("PATRONI_HISTORIES_FROM").unwrap_or(1_u64);
    let values = Arc::new(AtomicU64::new(1));
    let (mut all, mut answered) = (0, 0);
    for seed in first..first + count {
        let (operations, of_them) = history(site, seed, &values).await;
        all += operations;
        answered += of_them;
        // A request that was late has arrived, or never will.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("{count} histories, {all} operations, {answered} of them answered");
    assert!(answered * 4 > all, "too few operations got an answer: {answered} of {all}");
}

fn addresses(urls: &[String]) -> Vec<SocketAddr> {
    urls.iter().map(|url| url.trim_start_matches("http://").parse().unwrap()).collect()
}

/// Through a proxy: the members that etcd announces are not gone to.
fn etcd_options(url: String) -> EtcdOptions {
    EtcdOptions { endpoints: vec![url], use_proxies: true, ..EtcdOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_etcd3() {
    let etcd = Etcd::start(3).await;
    let client = |url, name: &str| Etcd3::connect(etcd_options(url), &path(), name.into(), QUICK);
    let site = Site::new(addresses(&etcd.urls()), |server, signal| etcd.signal(server, signal), client).await;
    histories(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_etcd_v2() {
    let etcd = EtcdV2::start(3).await;
    let client = |url, name: &str| patroni_dcs::etcd::connect(etcd_options(url), &path(), name.into(), QUICK);
    let site = Site::new(addresses(&etcd.0.urls()), |server, signal| etcd.0.signal(server, signal), client).await;
    histories(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_consul() {
    let Some(consul) = Consul::start().await else { return };
    let client = |address, name: &str| {
        let options = ConsulOptions { address, consistency: Consistency::Consistent, ..ConsulOptions::default() };
        patroni_dcs::consul::connect(options, &path(), name.into(), QUICK)
    };
    let site = Site::new(addresses(&[consul.url("")]), |_, signal| consul.signal(signal), client).await;
    histories(&site).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_zookeeper() {
    let Some(zookeeper) = ZooKeeper::start(3).await else { return };
    let servers = zookeeper.ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
    let client = |url: String, name: &str| {
        let hosts = [url.trim_start_matches("http://").to_owned()];
        handle(&section(&hosts, serde_json::json!({})), name, QUICK)
    };
    let site = Site::new(servers, |server, signal| zookeeper.signal(server, signal), client).await;
    histories(&site).await;
}

/// Keys in one object have one version there, which a client that does not follow them takes for that of each: it writes one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_kubernetes() {
    let Some(server) = ApiServer::start().await else { return };
    let server = Arc::new(server);
    let world = server.cluster("histories", true, &[]).await;
    let client = |url: String, name: &str| {
        let mut options = world.options();
        options.access.server = url.replace("http://", "https://");
        world.handle(options, name, QUICK)
    };
    let place = SocketAddr::from(([127, 0, 0, 1], server.port));
    let site = Site::new(vec![place], |_, signal| server.signal(signal), client).await;
    histories(&Site { keys: &[Key::History], ..site }).await;
}

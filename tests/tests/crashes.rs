//! Random crashes of a busy primary: whatever dies, in whatever moment, the node comes back by itself, by pg_rewind at most, never by
//! a new copy, and with the same data as the others.
//!
//! `PATRONI_CRASHES` says how many (2), `PATRONI_CRASH_SEED` repeats a run: which crash, when, and in which order the nodes return.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use patroni_tests::{Cluster, Limit, Signal, json, wait_for};
use postgres::NoTls;
use postgres::config::TargetSessionAttrs;

const COMEBACK: Limit = Limit(90);

#[test]
fn random_crashes_of_a_busy_primary_end_in_a_clean_rejoin_without_a_new_copy() {
    let crashes = number("PATRONI_CRASHES").unwrap_or(2);
    let mut random = Random::new(number("PATRONI_CRASH_SEED"));
    println!("{crashes} crashes; repeat them with PATRONI_CRASH_SEED={}", random.seed);
    // A replica that misses more than a megabyte shall lead, too.
    let dcs = json!({"ttl": 5, "primary_start_timeout": 10, "maximum_lag_on_failover": 1 << 30});
    let mut cluster = Cluster::of(2).dcs(dcs).start();
    let copies: Vec<u64> = cluster.nodes.iter().map(|node| inode(&node.data)).collect();
    let load = Load::start(&cluster, 0);
    let mut leader = 0;
    for turn in 1..=crashes {
        let before = load.commits();
        wait_for(
            "the load goes on",
            COMEBACK,
            || if load.commits() > before + 20 { Ok(()) } else { Err(load.commits()) },
        );
        std::thread::sleep(Duration::from_millis(random.below(700)));
        let crash = CRASHES[usize::try_from(random.below(CRASHES.len() as u64)).unwrap()];
        println!("crash {turn} of n{leader} at timeline {}: {crash:?}", cluster.nodes[leader].timeline());
        strike(&mut cluster, leader, crash, random.below(4) * 500);
        leader = cluster.wait_leader_among(&[0, 1], COMEBACK);
        cluster.wait_streaming(leader, COMEBACK);
        leader = cluster.wait_leader_among(&[0, 1], COMEBACK);
        for (node, copy) in cluster.nodes.iter().zip(&copies) {
            assert_eq!(inode(&node.data), *copy, "{} was copied anew", node.name);
        }
    }
    let commits = load.stop();
    assert_same_data(&cluster, leader);
    for node in &cluster.nodes {
        let slots = "SELECT count(*) FROM pg_replication_slots";
        node.wait_sql(slots, "1", Limit(30));
        assert!(!node.log().contains("panicked"), "{} panicked", node.name);
    }
    println!("{commits} transactions, timeline {}", cluster.nodes[leader].timeline());
    for node in &mut cluster.nodes {
        node.terminate(Limit(30));
        node.pg_program(&cluster.sandbox, "pg_checksums", &["--check", "-D", node.data.to_str().unwrap()]);
    }
}

/// What can happen to a primary.
#[derive(Clone, Copy, Debug)]
enum Crash {
    /// The postmaster alone dies.
    Postmaster,
    /// One backend dies: PostgreSQL recovers by itself.
    Backend,
    /// Agent and PostgreSQL die, like a power cut; the agent comes back later.
    Everything,
    /// Somebody stops PostgreSQL with `immediate` behind the agent's back.
    Immediate,
    /// The agent is frozen for longer than the lease lives; the guard stops PostgreSQL.
    Freeze,
    /// Agent and PostgreSQL die, and the node is killed again while it comes back: in recovery, or in pg_rewind.
    Twice,
    /// The replica misses the last transactions, and the primary dies with them.
    Diverge,
}

const CRASHES: [Crash; 7] = [
    Crash::Postmaster,
    Crash::Backend,
    Crash::Everything,
    Crash::Immediate,
    Crash::Freeze,
    Crash::Twice,
    Crash::Diverge,
];

fn strike(cluster: &mut Cluster, leader: usize, crash: Crash, pause: u64) {
    let other = 1 - leader;
    match crash {
        Crash::Postmaster => cluster.nodes[leader].kill_postmaster(),
        Crash::Backend => {
            let victim = cluster.nodes[leader]
                .query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' LIMIT 1");
            if let Ok(Some(pid)) = victim {
                patroni_tests::signal(pid.parse().unwrap(), Signal::KILL);
            }
        }
        Crash::Everything => power_cut(cluster, leader, pause),
        Crash::Immediate => {
            patroni_tests::signal(cluster.nodes[leader].postmaster().expect("PostgreSQL runs"), Signal::QUIT)
        }
        Crash::Freeze => {
            cluster.nodes[leader].signal(Signal::STOP);
            cluster.wait_leader_among(&[other], COMEBACK);
            cluster.nodes[leader].signal(Signal::CONT);
        }
        Crash::Twice => {
            power_cut(cluster, leader, 0);
            std::thread::sleep(Duration::from_millis(pause));
            power_cut(cluster, leader, 0);
            cluster.wait_leader_among(&[0, 1], COMEBACK);
            std::thread::sleep(Duration::from_millis(pause));
            power_cut(cluster, leader, 0);
        }
        Crash::Diverge => {
            let receiver = cluster.nodes[other].query("SELECT pid FROM pg_stat_wal_receiver").ok().flatten();
            let receiver = receiver.and_then(|pid| pid.parse().ok());
            receiver.into_iter().for_each(|pid| patroni_tests::signal(pid, Signal::STOP));
            std::thread::sleep(Duration::from_millis(300 + pause / 2));
            cluster.nodes[leader].kill_hard();
            receiver.into_iter().for_each(|pid| patroni_tests::signal(pid, Signal::KILL));
            cluster.wait_leader_among(&[other], COMEBACK);
            cluster.start_node(leader);
        }
    }
}

fn power_cut(cluster: &mut Cluster, node: usize, pause: u64) {
    cluster.nodes[node].kill_hard();
    std::thread::sleep(Duration::from_millis(pause));
    cluster.start_node(node);
}

/// The identity of the copy: pg_rewind leaves this file alone, a clone makes another.
fn inode(data: &std::path::Path) -> u64 {
    std::fs::metadata(data.join("PG_VERSION")).map_or(0, |metadata| metadata.ino())
}

fn assert_same_data(cluster: &Cluster, leader: usize) {
    let position = cluster.nodes[leader].sql("SELECT pg_current_wal_insert_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
    let replica = &cluster.nodes[1 - leader];
    replica.wait_sql(&replayed, "t", Limit(30));
    let content =
        "SELECT md5(string_agg(a::text, ',' ORDER BY id)) || ' ' || (SELECT count(*) FROM log) FROM accounts a";
    assert_eq!(cluster.nodes[leader].sql(content), replica.sql(content));
}

/// Clients that update and insert without a pause, on whichever node takes writes, with a checkpoint now and then.
struct Load {
    stop: Arc<AtomicBool>,
    commits: Arc<std::sync::atomic::AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(cluster: &Cluster, leader: usize) -> Self {
        cluster.nodes[leader].sql(
            "CREATE TABLE accounts AS SELECT id, 0::bigint AS balance, repeat('x', 200) AS filler FROM generate_series(1, 5000) id;
             ALTER TABLE accounts ADD PRIMARY KEY (id); CREATE TABLE log (id bigserial PRIMARY KEY, account int, amount int, at timestamptz DEFAULT now())",
        );
        let mut config = postgres::Config::new();
        config.user("postgres").password("super-secret").dbname("postgres").connect_timeout(Duration::from_millis(500));
        config.target_session_attrs(TargetSessionAttrs::ReadWrite).options("-c statement_timeout=5000");
        // A frozen or vanished server must not hold a client for ever.
        config.tcp_user_timeout(Duration::from_secs(5));
        cluster.nodes.iter().for_each(|node| _ = config.host("127.0.0.1").port(node.pg_port));
        let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let clients = (0..3).map(|client| {
            let (config, stop, commits) = (config.clone(), Arc::clone(&stop), Arc::clone(&commits));
            std::thread::spawn(move || write(client, &config, &stop, &commits))
        });
        let clients = clients.collect();
        Load { stop, commits, clients }
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let commits = self.commits();
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        commits
    }
}

fn write(client: u64, config: &postgres::Config, stop: &AtomicBool, commits: &std::sync::atomic::AtomicU64) {
    let mut random = Random::new(Some(client));
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut connection) = config.connect(NoTls) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let (account, amount) = (random.below(5000) + 1, random.below(100));
            let transaction = match random.below(2000) {
                0 => "CHECKPOINT".to_owned(),
                1 => "SELECT pg_switch_wal()".to_owned(),
                2 => "VACUUM accounts".to_owned(),
                _ => format!(
                    "BEGIN; UPDATE accounts SET balance = balance + {amount} WHERE id = {account};
                     INSERT INTO log (account, amount) VALUES ({account}, {amount}); COMMIT"
                ),
            };
            if connection.batch_execute(&transaction).is_err() {
                break;
            }
            commits.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// SplitMix64: small, and the same everywhere.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn new(seed: Option<u64>) -> Self {
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let seed = seed.unwrap_or_else(|| u64::try_from(now() % 1_000_000).unwrap());
        Random { seed, state: seed }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

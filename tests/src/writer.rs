//! A client that writes without a pause and keeps account of what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::config::TargetSessionAttrs;
use postgres::{Client, NoTls};

use crate::cluster::Cluster;
use crate::node::Node;

/// A running client. It inserts 1, 2, 3, ... into the table `written`, on whichever node takes writes.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Written>,
}

/// What a writer did.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Numbers whose insertion was acknowledged, in order.
    pub acknowledged: Vec<i64>,
    /// Longest time between two acknowledged writes.
    pub longest_gap: Duration,
}

impl Writer {
    /// Creates the table on the leader and starts to write to the primary among all nodes.
    #[track_caller]
    pub fn start(cluster: &Cluster, leader: usize) -> Self {
        cluster.nodes[leader].sql("CREATE TABLE IF NOT EXISTS written (id bigint)");
        let config = to_the_primary_of(&cluster.nodes);
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || write_until(&asked, &config));
        Writer { stop, thread }
    }

    /// Stops writing.
    pub fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Written {
    /// Fails if an acknowledged row is not on this node.
    #[track_caller]
    pub fn assert_all_on(&self, node: &Node) {
        let rows = node.connect().unwrap().query("SELECT id FROM written ORDER BY 1", &[]).unwrap();
        let present: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let lost: Vec<&i64> = self.acknowledged.iter().filter(|id| !present.contains(id)).collect();
        assert!(lost.is_empty(), "{} of {} acknowledged rows lost: {lost:?}", lost.len(), self.acknowledged.len());
    }
}

pub(crate) fn to_the_primary_of(nodes: &[Node]) -> postgres::Config {
    let mut config = postgres::Config::new();
    let superuser = &nodes[0].config["postgresql"]["authentication"]["superuser"];
    config.user("postgres").password(superuser["password"].as_str().unwrap()).dbname("postgres");
    config.target_session_attrs(TargetSessionAttrs::ReadWrite).connect_timeout(Duration::from_millis(500));
    for node in nodes {
        config.host("127.0.0.1").port(node.pg_port);
    }
    config
}

fn write_until(stop: &AtomicBool, config: &postgres::Config) -> Written {
    let mut written = Written::default();
    let mut client: Option<Client> = None;
    let mut last = Instant::now();
    let mut id = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(connected) = client.as_mut().filter(|client| !client.is_closed()) else {
            client = config.connect(NoTls).ok();
            if client.is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            continue;
        };
        id += 1;
        if connected.execute("INSERT INTO written VALUES ($1)", &[&id]).is_ok() {
            written.acknowledged.push(id);
            written.longest_gap = written.longest_gap.max(last.elapsed());
            last = Instant::now();
            std::thread::sleep(Duration::from_millis(2));
        } else {
            client = None;
        }
    }
    written
}

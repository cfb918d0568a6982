//! A client that reads the changes of the table `written` through a logical slot, on whichever node takes writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::{Client, NoTls, SimpleQueryMessage};

use crate::cluster::Cluster;
use crate::node::Node;
use crate::writer::to_the_primary_of;

/// A running client. It confirms what it has read, and only that: whatever is not sent to it again was sent before.
#[derive(Debug)]
pub struct Consumer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<i64>>,
}

impl Consumer {
    /// Starts to read from a slot of the plugin `test_decoding`.
    pub fn start(cluster: &Cluster, slot: &'static str) -> Self {
        let config = to_the_primary_of(&cluster.nodes);
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || read_until(&asked, &config, slot));
        Consumer { stop, thread }
    }

    /// Reads what is left, and fails if a row that is on this node was never read.
    #[track_caller]
    pub fn assert_read_all_of(self, node: &Node) {
        self.stop.store(true, Ordering::Relaxed);
        let read = self.thread.join().unwrap();
        let rows = node.connect().unwrap().query("SELECT id FROM written ORDER BY 1", &[]).unwrap();
        let missed: Vec<i64> = rows.iter().map(|row| row.get(0)).filter(|id| !read.contains(id)).collect();
        assert!(missed.is_empty(), "{} of {} changes missed: {missed:?}", missed.len(), rows.len());
        assert!(!rows.is_empty(), "nothing was written");
        eprintln!("{} changes read, {} rows present", read.len(), rows.len());
    }
}

/// Stops once it was asked to and nothing is left.
fn read_until(stop: &AtomicBool, config: &postgres::Config, slot: &str) -> BTreeSet<i64> {
    let mut read = BTreeSet::new();
    let mut client: Option<Client> = None;
    loop {
        let last = stop.load(Ordering::Relaxed);
        let Some(connected) = client.as_mut().filter(|client| !client.is_closed()) else {
            client = config.connect(NoTls).ok();
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        match read_some(connected, slot, &mut read) {
            Ok(0) if last => return read,
            Ok(0) => std::thread::sleep(Duration::from_millis(50)),
            Ok(_) => {}
            // The slot may not be there yet, or the server may be going down.
            Err(_) => {
                client = None;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn read_some(client: &mut Client, slot: &str, read: &mut BTreeSet<i64>) -> Result<usize, postgres::Error> {
    let peek = format!("SELECT lsn, data FROM pg_logical_slot_peek_changes('{slot}', NULL, 500)");
    let mut end = None;
    let mut count = 0;
    for message in client.simple_query(&peek)? {
        let SimpleQueryMessage::Row(row) = message else { continue };
        count += 1;
        end = row.get(0).map(str::to_owned);
        let id = row.get(1).and_then(|data| data.strip_prefix("table public.written: INSERT: id[bigint]:"));
        read.extend(id.and_then(|id| id.parse::<i64>().ok()));
    }
    if let Some(end) = end {
        client.simple_query(&format!("SELECT pg_replication_slot_advance('{slot}', '{end}')"))?;
    }
    Ok(count)
}

//! Hours of a changing membership, on a clock that is moved: members die, are cut off, lose their disks, are removed and
//! come back, again and again, also two at a time. Never more than a minority is in trouble, so the store must go on,
//! take all of them in again, and keep what it acknowledged.
//!
//! `PATRONI_MEMBERSHIP_HOURS=24` takes as many hours; `PATRONI_HISTORIES_FROM` is the seed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Members, Random, address, transaction};
use crate::raft::admin::Administration;
use crate::raft::client::RaftClient;
use crate::raft::state::Reply;

const MEMBERS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);
const KEY: &str = "/a";

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Killed,
    CutOff,
    /// It dies, and its files are gone.
    LostDisk,
    /// It is removed while it runs, or after it died.
    Removed,
}

struct Life {
    members: Members,
    client: Arc<RaftClient>,
    random: Random,
    written: u64,
}

impl Life {
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random.below(limit as u64)).unwrap_or(0)
    }

    async fn pass(&mut self, most: Duration) {
        let milliseconds = u64::try_from(most.as_millis()).unwrap_or(1);
        sleep(Duration::from_millis(self.random.below(milliseconds))).await;
    }

    async fn write(&mut self, when: &str) {
        let written = self.client.transact(transaction(KEY, None, self.written + 1), PATIENCE).await;
        assert!(matches!(written, Ok(Reply::Done(_))), "{when}: {written:?}");
        self.written += 1;
    }

    async fn is_kept(&self, when: &str) {
        let contents = self.client.read(KEY, PATIENCE).await;
        let value = contents.as_ref().ok().and_then(|keys| Some(keys.get(KEY)?.value.clone()));
        assert_eq!(value, Some(self.written.to_string().into_bytes()), "{when}: {contents:?}");
    }

    async fn hurt(&mut self, index: usize) -> Trouble {
        match self.below(5) {
            0 => {
                self.members.kill(index).await;
                Trouble::Killed
            }
            1 => {
                self.members.network.isolate(&address(index));
                Trouble::CutOff
            }
            2 => {
                self.lose_disk(index).await;
                Trouble::LostDisk
            }
            dead => {
                if dead == 3 {
                    self.members.kill(index).await;
                }
                self.remove(index).await;
                Trouble::Removed
            }
        }
    }

    async fn remove(&mut self, index: usize) {
        let began = Instant::now();
        while let Err(why) = self.client.remove(&address(index)).await {
            let why = why.to_string();
            if why.contains("is no member") {
                return;
            }
            if why.contains("stop it first") {
                self.members.kill(index).await;
            }
            assert!(began.elapsed() < PATIENCE * 4, "{} cannot be removed: {why}", address(index));
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn lose_disk(&mut self, index: usize) {
        self.members.kill(index).await;
        let directory: PathBuf = self.members.members[index].options.data_dir.clone();
        for ending in ["log", "snapshot"] {
            // There may be no snapshot yet.
            let _ = std::fs::remove_file(directory.join(format!("{}.{ending}", address(index))));
        }
    }

    async fn mend(&mut self, index: usize, trouble: Trouble) {
        match trouble {
            Trouble::CutOff => self.members.network.heal(),
            Trouble::Removed => {
                self.lose_disk(index).await;
                self.members.run(index);
            }
            Trouble::Killed | Trouble::LostDisk => self.members.run(index),
        }
    }

    async fn round(&mut self, number: usize) {
        let first = self.below(MEMBERS);
        let second = (first + 1 + self.below(MEMBERS - 1)) % MEMBERS;
        let mut story = vec![(first, self.hurt(first).await)];
        self.write(&format!("round {number}: {story:?}")).await;
        self.pass(Duration::from_secs(20)).await;
        if self.below(2) == 0 {
            story.push((second, self.hurt(second).await));
        }
        let when = format!("round {number}: {story:?}");
        self.write(&when).await;
        self.pass(Duration::from_secs(20)).await;
        self.is_kept(&when).await;
        for (index, trouble) in &story {
            self.mend(*index, *trouble).await;
            self.pass(Duration::from_secs(5)).await;
        }
        if story.len() == 1 && self.below(2) == 0 {
            // Another one dies while the first is taken in.
            self.members.kill(second).await;
            self.write(&when).await;
            self.members.run(second);
        }
        self.write(&when).await;
        self.members.all_vote().await;
        self.is_kept(&when).await;
        self.pass(Duration::from_secs(60)).await;
    }
}

async fn live(seed: u64, duration: Duration) -> usize {
    let members = Members::start(MEMBERS).await;
    let client = members.client("client");
    let mut life = Life { members, client, random: Random(seed), written: 0 };
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < duration {
        rounds += 1;
        life.round(rounds).await;
    }
    for index in 0..MEMBERS {
        let (node, _) = life.members.members[index].running.as_ref().expect("all run");
        let bytes = node.status().log_bytes;
        assert!(bytes < 1 << 20, "the log of {} has {bytes} bytes", address(index));
        life.members.kill(index).await;
    }
    rounds
}

#[test]
fn a_changing_membership_never_costs_the_majority_or_data() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let minutes = number("PATRONI_MEMBERSHIP_HOURS").map_or(20, |hours| hours * 60);
    let seed = number("PATRONI_HISTORIES_FROM").unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let rounds = runtime.expect("a runtime").block_on(live(seed, Duration::from_secs(minutes * 60)));
    println!("{rounds} rounds of trouble in {minutes} minutes");
}

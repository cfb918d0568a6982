//! The embedded store on a disk that is full.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use patroni_dcs::raft::admin::{Administration, Phase};
use patroni_dcs::{Expected, Key};

use crate::raft::{LONG, Members};
use crate::{eventually, load};

/// Small file systems, which only root may have.
struct Small(Vec<PathBuf>);

impl Small {
    fn mount(directories: Vec<PathBuf>) -> Self {
        let small = Small(directories);
        for directory in &small.0 {
            std::fs::create_dir_all(directory).unwrap();
            let arguments = ["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"];
            assert!(Command::new("mount").args(arguments).arg(directory).status().unwrap().success());
        }
        small
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        for directory in &self.0 {
            let _ = Command::new("umount").arg("-l").arg(directory).status();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_a_vote_and_no_acknowledged_write() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may mount a small file system");
        return;
    }
    let mut members = Members::configured(3);
    let small = Small::mount((0..3).map(|index| members.directory(index)).collect());
    (0..3).for_each(|index| members.run(index));
    members.all_vote().await;
    let (a, client) = (members.handle("a", LONG), members.client());
    let acknowledged = AtomicU64::new(0);
    let write = || async {
        let next = acknowledged.load(Ordering::Relaxed) + 1;
        let done = a.write(Key::Config, &format!("{{\"ttl\":{next}}}"), Expected::Anything).await.is_done();
        if done {
            acknowledged.store(next, Ordering::Relaxed);
        }
        done
    };
    assert!(write().await);

    let full = members.leader().await;
    let filler = small.0[full].join("filler");
    assert!(std::fs::write(&filler, vec![1; 2 << 20]).is_err(), "there is room left");
    eventually("it steps aside and says why", || async {
        write().await;
        let status = client.status_of(&members.address(full)).await;
        status.is_ok_and(|status| matches!(status.phase, Phase::Broken(why) if why.contains("No space left on device")))
    })
    .await;
    assert_ne!(members.leader().await, full);
    for _ in 0..10 {
        eventually("the others go on", &write).await;
    }

    std::fs::remove_file(&filler).unwrap();
    members.all_vote().await;
    members.kill((full + 1) % 3);
    eventually("its vote counts again", &write).await;
    members.run((full + 1) % 3);
    members.all_vote().await;
    (0..3).for_each(|index| members.kill(index));
    (0..3).for_each(|index| members.run(index));
    members.all_vote().await;
    let kept = load(&a).await.config.and_then(|config| config.data?["ttl"].as_u64());
    assert_eq!(kept, Some(acknowledged.load(Ordering::Relaxed)));
}

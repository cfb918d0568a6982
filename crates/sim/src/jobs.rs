//! What jobs do to the simulated server. They run in the agent's process: they freeze and die with it.

use std::time::Duration;

use patroni_core::job::{CloneFrom, DemoteMode, Job, JobOutcome, RewindSource, Stage, Upstream};
use patroni_core::name::{MemberName, SystemId};
use patroni_core::server::{ControlState, Role};
use patroni_core::sync::StandbyNames;

use crate::postgres::{CHECKPOINT, Data, Disk, Process};
use crate::universe::{Shared, Universe};
use crate::wal::Wal;
use crate::world::{pause, until};

/// How long a start is waited for.
const START: Duration = Duration::from_secs(8);

/// Carries out a job.
pub(crate) async fn run(shared: Shared, node: usize, job: Job) -> JobOutcome {
    let asks_for_lease = shared.borrow().nodes[node].asks_for_lease;
    let hand = Hand { shared, node, asks_for_lease };
    match job {
        Job::Bootstrap => hand.bootstrap().await,
        Job::Clone { source, follow } => hand.copy(source, &follow).await,
        Job::Reinitialize { source, follow } => hand.reinitialize(source, &follow).await,
        Job::Start { role, follow, .. } => hand.start(role, &follow).await,
        // Simulated servers have no slots, so these are not ordered to be copied.
        Job::Restart { as_standby: false } | Job::CopySlots { .. } => {
            if !hand.may_commit() {
                return JobOutcome::Cancelled;
            }
            hand.stop_fast().await;
            hand.start_again().await
        }
        Job::Restart { as_standby: true } => {
            hand.stop_fast().await;
            hand.start(Role::Replica, &Upstream::None).await
        }
        Job::Follow { upstream, restart, .. } => hand.follow(&upstream, restart).await,
        Job::Promote => hand.promote().await,
        Job::Demote(DemoteMode::Graceful | DemoteMode::Offline | DemoteMode::DemoteCluster) | Job::Shutdown => {
            hand.stop_fast().await;
            JobOutcome::Done
        }
        Job::Demote(DemoteMode::Hung) => {
            hand.kill_hung().await;
            JobOutcome::Done
        }
        Job::Demote(DemoteMode::Immediate | DemoteMode::ImmediateNolock) | Job::StopImmediate => {
            hand.stop_immediate().await;
            JobOutcome::Done
        }
        Job::CrashRecovery => hand.crash_recovery().await,
        Job::Rewind { source } => hand.rewind(&source).await,
    }
}

/// The one hand on the server of a node.
struct Hand {
    shared: Shared,
    node: usize,
    /// Nothing is done that cannot be taken back once the lease has ended.
    asks_for_lease: bool,
}

fn failed(why: &str) -> JobOutcome {
    JobOutcome::Failed(why.into())
}

impl Hand {
    fn with<T>(&self, act: impl FnOnce(&mut Universe, usize) -> T) -> T {
        act(&mut self.shared.borrow_mut(), self.node)
    }

    async fn takes(&self, range: std::ops::Range<u64>) {
        let wait = self.with(|universe, _| universe.random.mostly(range));
        pause(&self.shared, self.node, wait).await;
    }

    fn stage(&self, stage: Stage) {
        self.with(|universe, node| {
            if let Some(view) = &mut universe.nodes[node].job
                && view.stage != stage
            {
                view.stage = stage;
                universe.wake(node);
            }
        });
    }

    async fn stop_fast(&self) {
        self.with(|universe, node| universe.begin_stop(node));
        let node = self.node;
        loop {
            let shutdown = until(&self.shared, |universe| {
                let server = &universe.nodes[node].postgres;
                let told =
                    matches!(universe.nodes[node].job.as_ref().map(|view| &view.stage), Some(Stage::ShutDown { .. }));
                match server.process {
                    Process::Down => Some(None),
                    Process::Stopping | Process::Starting | Process::Up { .. } => {
                        server.shutdown.filter(|_| !told && server.process == Process::Stopping).map(Some)
                    }
                }
            })
            .await;
            let Some((checkpoint, previous)) = shutdown else { return };
            self.stage(Stage::ShutDown { checkpoint, previous, exited: false });
        }
    }

    async fn stop_immediate(&self) {
        self.takes(1..10).await;
        self.with(|universe, node| universe.crash_postgres(node, "is stopped at once"));
    }

    /// Where its storage hangs, it is not gone before that answers.
    async fn kill_hung(&self) {
        self.takes(1..50).await;
        self.with(|universe, node| {
            let storage = universe.random.percent(50);
            match universe.nodes[node].postgres.hung && storage {
                true => universe.nodes[node].postgres.killed = true,
                false => universe.crash_postgres(node, "is killed, because it hangs"),
            }
        });
    }

    /// As production does: what ends with a primary compares the end of the lease with the clock at the very moment.
    fn may_commit(&self) -> bool {
        !self.asks_for_lease
            || self.with(|universe, node| {
                let now = universe.now;
                universe.nodes[node].lease_until.is_some_and(|until| now < until)
            })
    }

    async fn start(&self, role: Role, follow: &Upstream) -> JobOutcome {
        self.with(|universe, node| {
            let this = &mut universe.nodes[node];
            // What it waited for as a primary means nothing any more; another agent's words are not known to this one.
            if role != Role::Primary || !this.knows_server {
                this.postgres.sync.file = StandbyNames::default();
            }
            universe.nodes[node].knows_server = true;
            if let Some(data) = universe.nodes[node].postgres.data_mut() {
                data.standby = role != Role::Primary;
                data.follows = name_of(follow);
            }
        });
        self.bring_up().await
    }

    /// In the role it had.
    async fn start_again(&self) -> JobOutcome {
        self.bring_up().await
    }

    async fn bring_up(&self) -> JobOutcome {
        if !self.may_commit() {
            return failed("the lease has ended");
        }
        self.stage(Stage::Committed("starting".into()));
        if !self.with(|universe, node| universe.start_postgres(node)) {
            return failed("there is no data directory");
        }
        let node = self.node;
        let end = self.with(|universe, node| {
            let end = universe.now + START;
            universe.at(end, crate::universe::Event::Wake(node));
            end
        });
        until(&self.shared, |universe| match universe.nodes[node].postgres.process {
            Process::Up { .. } => Some(JobOutcome::Done),
            Process::Down => Some(failed("PostgreSQL did not start")),
            Process::Starting | Process::Stopping if universe.now >= end => Some(JobOutcome::StillStarting),
            Process::Starting | Process::Stopping => None,
        })
        .await
    }

    async fn follow(&self, upstream: &Upstream, restart: bool) -> JobOutcome {
        self.with(|universe, node| {
            if let Some(data) = universe.nodes[node].postgres.data_mut() {
                data.follows = name_of(upstream);
            }
        });
        if restart {
            self.stop_fast().await;
            return self.start_again().await;
        }
        self.takes(1..5).await;
        self.with(|universe, node| {
            universe.break_streams(|_, standby| standby == node);
            let epoch = universe.nodes[node].postgres.epoch;
            universe.at(universe.now, crate::universe::Event::Connect { node, epoch });
        });
        JobOutcome::Done
    }

    async fn promote(&self) -> JobOutcome {
        self.takes(1..40).await;
        let standby = self
            .with(|universe, node| matches!(universe.nodes[node].postgres.process, Process::Up { primary: false, .. }));
        if !standby || !self.may_commit() {
            return failed("there is no standby to promote, or no lease any more");
        }
        self.stage(Stage::Committed("promoting".into()));
        let epoch = self.with(|universe, node| {
            let name = universe.nodes[node].name.clone();
            let holder = universe.store.cluster().leader_name().cloned();
            if holder.as_ref() != Some(&name) && !universe.nodes[node].was_paused {
                universe.violation(node, format!("is promoted while {holder:?} holds the lease"));
            }
            universe.signal_promote(node);
            universe.nodes[node].postgres.epoch
        });
        let node = self.node;
        until(&self.shared, |universe| {
            let server = &universe.nodes[node].postgres;
            let over = server.is_primary() || server.epoch != epoch;
            over.then(|| if server.is_primary() { JobOutcome::Done } else { failed("PostgreSQL died") })
        })
        .await
    }

    async fn crash_recovery(&self) -> JobOutcome {
        self.stage(Stage::Committed("recovering".into()));
        self.takes(100..1000).await;
        self.with(|universe, node| {
            let server = &mut universe.nodes[node].postgres;
            if server.disk_full || server.process != Process::Down {
                return failed("single-user mode did not start");
            }
            let Some(data) = server.data_mut() else { return failed("there is no data directory") };
            data.control = ControlState::ShutDown;
            data.checkpoint = (data.wal.end, patroni_core::lsn::Lsn(data.wal.end.0 - 50));
            data.checkpoint_timeline = data.wal.timeline();
            data.wal.end.0 += CHECKPOINT;
            JobOutcome::Done
        })
    }

    /// The log of a server that can be copied from now.
    fn copyable(&self, name: &MemberName, primary: bool) -> Option<Data> {
        self.with(|universe, node| {
            let source = universe.node_named(name)?;
            let server = &universe.nodes[source].postgres;
            let reachable = !universe.is_cut(node, source) && !universe.is_cut(source, node);
            let fits = server.serves() && (server.is_primary() || !primary);
            server.data().filter(|_| reachable && fits && source != node).cloned()
        })
    }

    async fn rewind(&self, source: &RewindSource) -> JobOutcome {
        let RewindSource::Leader(source) = source else { return failed("there is no remote primary") };
        self.stop_fast().await;
        self.stage(Stage::Committed("rewinding".into()));
        // It recovers a former primary itself, and refuses a standby that died.
        let able = self.with(|universe, node| {
            let server = &universe.nodes[node].postgres;
            server.data().is_some_and(|data| match data.control {
                ControlState::ShutDown | ControlState::ShutDownInRecovery => true,
                ControlState::InProduction | ControlState::ShuttingDown | ControlState::InCrashRecovery => {
                    !server.disk_full
                }
                ControlState::InArchiveRecovery | ControlState::StartingUp | ControlState::Unrecognized => false,
            })
        });
        if !able || self.copyable(&source.name, true).is_none() {
            return failed("pg_rewind could not begin");
        }
        self.with(|universe, node| {
            universe.log(node, || format!("pg_rewind from {}", source.name));
            universe.nodes[node].postgres.disk = Disk::Torn;
        });
        self.takes(300..2000).await;
        let Some(theirs) = self.copyable(&source.name, true) else { return failed("pg_rewind lost its source") };
        let timeline = theirs.wal.timeline();
        self.lay_down(theirs, &source.name);
        JobOutcome::Rewound(Some(timeline))
    }

    fn lay_down(&self, theirs: Data, follows: &MemberName) {
        self.with(|universe, node| {
            let data = Data {
                control: ControlState::InArchiveRecovery,
                standby: true,
                follows: Some(follows.clone()),
                ..theirs
            };
            universe.nodes[node].postgres.disk = Disk::Data(Box::new(data));
        });
    }

    async fn copy(&self, source: CloneFrom, follow: &Upstream) -> JobOutcome {
        let CloneFrom::Member(source) = source else { return failed("there is no method without a leader") };
        let empty = self.with(|universe, node| matches!(universe.nodes[node].postgres.disk, Disk::Empty));
        if !empty {
            self.with(|universe, node| universe.violation(node, "a copy is made on top of data".into()));
        }
        if self.copyable(&source.name, false).is_none() {
            self.takes(5..100).await;
            return failed("the source cannot be reached");
        }
        self.stage(Stage::Committed("copying".into()));
        self.with(|universe, node| universe.nodes[node].postgres.disk = Disk::Torn);
        self.takes(500..4000).await;
        let full = self.with(|universe, node| universe.nodes[node].postgres.disk_full);
        match self.copyable(&source.name, false).filter(|_| !full) {
            Some(theirs) => self.lay_down(theirs, &source.name),
            None => {
                self.with(|universe, node| universe.nodes[node].postgres.disk = Disk::Empty);
                return failed("the copy failed");
            }
        }
        self.start(Role::Replica, follow).await
    }

    async fn reinitialize(&self, source: CloneFrom, follow: &Upstream) -> JobOutcome {
        if !matches!(&source, CloneFrom::Member(member) if self.copyable(&member.name, false).is_some()) {
            return failed("the source cannot be reached: nothing was removed");
        }
        self.stop_immediate().await;
        self.with(|universe, node| {
            universe.log(node, || "the data directory is removed".into());
            universe.nodes[node].postgres.disk = Disk::Empty;
        });
        self.copy(source, follow).await
    }

    async fn bootstrap(&self) -> JobOutcome {
        self.with(|universe, node| {
            if !matches!(universe.nodes[node].postgres.disk, Disk::Empty) {
                universe.violation(node, "a new cluster is made on top of data".into());
            }
            universe.nodes[node].postgres.disk = Disk::Torn;
        });
        self.takes(500..3000).await;
        self.with(|universe, node| {
            let id = universe.unique();
            let wal = Wal::new(id);
            let data = Data {
                system: SystemId(id),
                checkpoint: (wal.end, wal.end),
                checkpoint_timeline: wal.timeline(),
                wal,
                control: ControlState::ShutDown,
                standby: false,
                follows: None,
                other_wal: false,
            };
            universe.nodes[node].postgres.disk = Disk::Data(Box::new(data));
        });
        let outcome = self.bring_up().await;
        if outcome != JobOutcome::Done {
            self.with(|universe, node| universe.nodes[node].postgres.disk = Disk::Empty);
        }
        outcome
    }
}

fn name_of(upstream: &Upstream) -> Option<MemberName> {
    match upstream {
        Upstream::Member(member) => Some(member.name.clone()),
        Upstream::None | Upstream::Isolated | Upstream::Remote => None,
    }
}

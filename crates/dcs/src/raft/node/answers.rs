//! What a node answers to requests: by itself where it leads, else through the leader.

use std::time::Duration;

use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Node, Running, membership};
use crate::raft::admin::{BACKUP_FORMAT, Backup, BackupKey};
use crate::raft::net::{Call, CallError, Peer, Return};
use crate::raft::protocol::{Answer, Request};
use crate::raft::state::{Change, RequestId, Time, Transaction};
use crate::raft::types::{Action, Applied, Command};

/// How long the search for a leader pauses.
const PAUSE: Duration = Duration::from_millis(100);

impl Node {
    /// Answers a request within this time. `forwarded`: another member takes this one for the leader.
    pub(crate) async fn answer(&self, request: Request, budget: Duration, forwarded: bool) -> Answer {
        let until = Instant::now() + budget;
        if request == Request::Status {
            return Answer::Status(Box::new(self.status()));
        }
        if request == Request::HandOver {
            return self.hand_over(budget).await;
        }
        loop {
            let running = match self.running() {
                Ok(running) => running,
                Err(why) => return Answer::Failed(why),
            };
            if running.reign().is_some() {
                return self.lead(&running, request, until).await;
            }
            if forwarded {
                return Answer::Failed(format!("{} does not lead the store", self.address));
            }
            if let Some((_, leader)) = running.other_leader() {
                match self.forward(&leader, &request, until).await {
                    // The leader changed: look again.
                    Answer::Failed(why) if Instant::now() + PAUSE < until => {
                        tracing::debug!("embedded store: {why}");
                    }
                    answer => return answer,
                }
            }
            if Instant::now() + PAUSE >= until {
                let voters = running.raft.server_metrics().borrow().membership_config.voter_ids().count();
                return Answer::Failed(if voters == 0 {
                    format!("{} has no embedded store yet: it waits for its partners", self.address)
                } else {
                    "the embedded store has no leader: a majority of its members must run and reach each other"
                        .to_owned()
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn forward(&self, leader: &str, request: &Request, until: Instant) -> Answer {
        let left = until.saturating_duration_since(Instant::now());
        let budget_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let call = Call::Client { request: request.clone(), budget_ms, forwarded: true };
        match self.pool.call(leader, Peer::Client, &call, left).await {
            Ok(Return::Client(answer)) => answer,
            Ok(Return::Append(_) | Return::Vote(_) | Return::MakeWay(_) | Return::Snapshot(_)) => {
                Answer::Unknown(format!("{leader}: an answer to another question"))
            }
            Err(CallError::NotSent(why)) => Answer::Failed(why),
            Err(CallError::Refused(why)) => Answer::Failed(format!("{leader}: {why}")),
            Err(CallError::NoAnswer(why)) => Answer::Unknown(why),
        }
    }

    async fn lead(&self, running: &Running, request: Request, until: Instant) -> Answer {
        match request {
            Request::Read { prefix } => match self.confirm(running, until).await {
                Ok(()) => {
                    let (revision, keys) = running.machine.range(&prefix);
                    Answer::Contents { revision, keys }
                }
                Err(why) => Answer::Failed(why),
            },
            Request::Transact { id, transaction } => self.propose(running, id, transaction, until).await,
            Request::Add { address } => membership::add(self, running, &address).await,
            Request::Remove { address } => membership::remove(self, running, &address).await,
            Request::Backup => match self.confirm(running, until).await {
                Ok(()) => Answer::Backup(backup(running)),
                Err(why) => Answer::Failed(why),
            },
            Request::Restore(backup) => self.restore(running, backup, until).await,
            Request::Status => Answer::Status(Box::new(self.status())),
            Request::HandOver => self.hand_over(until.saturating_duration_since(Instant::now())).await,
            Request::Watch { .. } => Answer::Refused("a watch needs a connection of its own".to_owned()),
        }
    }

    /// Makes sure that this member leads, and knows all that was done before it was asked.
    async fn confirm(&self, running: &Running, until: Instant) -> Result<(), String> {
        match timeout_at(until, running.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_)))) => {
                Err(format!("{} does not lead the store any more", self.address))
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => {
                Err("the leader of the embedded store does not reach a majority of its members".to_owned())
            }
            Ok(Err(RaftError::Fatal(why))) => Err(why.to_string()),
            Err(_) => Err("the leader of the embedded store was not confirmed in time".to_owned()),
        }
    }

    async fn propose(&self, running: &Running, id: RequestId, transaction: Transaction, until: Instant) -> Answer {
        match self.write(running, Action::Transact { id, transaction }, until).await {
            Ok(Applied(Some(reply))) => Answer::Reply(reply),
            Ok(Applied(None)) => Answer::Unknown("the entry came to nothing".to_owned()),
            Err(answer) => answer,
        }
    }

    /// Makes an entry of the log, and waits until it is applied.
    pub(super) async fn write(&self, running: &Running, action: Action, until: Instant) -> Result<Applied, Answer> {
        let applied = running.machine.times().0;
        let stamped = running.reign().and_then(|reign| Some((reign, self.clock.lead(reign, applied)?)));
        let Some((reign, time)) = stamped else {
            return Err(Answer::Failed(format!("{} does not lead the store any more", self.address)));
        };
        let left = until.saturating_duration_since(Instant::now());
        match timeout(left, running.raft.client_write(Command { time, reign, action })).await {
            Ok(Ok(response)) => Ok(response.data),
            // Even an entry that was taken back here may be carried out by a later leader that has it.
            Ok(Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_) | ClientWriteError::ChangeMembershipError(_),
            ))) => Err(Answer::Unknown("the embedded store changed its leader meanwhile".to_owned())),
            Ok(Err(RaftError::Fatal(why))) => Err(Answer::Unknown(why.to_string())),
            Err(_) => {
                Err(Answer::Unknown("a majority of the embedded store's members did not answer in time".to_owned()))
            }
        }
    }

    /// Ends leases when it is time, as long as this member leads.
    pub(super) async fn end_leases(&self, running: &Running) {
        const LONGEST: Duration = Duration::from_millis(500);
        loop {
            let (applied, next) = running.machine.times();
            let now = running.reign().and_then(|reign| self.clock.lead(reign, applied));
            let pause = match now.zip(next) {
                None => LONGEST,
                Some((Time(now), Time(next))) if now < next => LONGEST.min(Duration::from_millis(next - now)),
                Some(_) => {
                    let until = Instant::now() + Duration::from_secs(5);
                    if let Err(answer) = self.write(running, Action::Tick, until).await {
                        tracing::debug!("embedded store: a lease could not be ended: {answer:?}");
                        LONGEST
                    } else {
                        Duration::ZERO
                    }
                }
            };
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
    }

    async fn restore(&self, running: &Running, backup: Backup, until: Instant) -> Answer {
        if backup.format != BACKUP_FORMAT {
            return Answer::Refused(format!(
                "the backup has format {}, this program knows {BACKUP_FORMAT}",
                backup.format
            ));
        }
        if let Err(why) = self.confirm(running, until).await {
            return Answer::Failed(why);
        }
        let (_, present) = running.machine.range("");
        let kept = |key: &str| backup.keys.iter().any(|kept| kept.key == key && !kept.leased);
        let gone = present.iter().filter(|(key, content)| content.lease.is_none() && !kept(key));
        let deletes = gone.map(|(key, _)| Change::Delete(key.clone()));
        let puts = backup.keys.iter().filter(|key| !key.leased);
        let puts = puts.map(|key| Change::Put { key: key.key.clone(), value: key.value.clone(), lease: None });
        let Ok(client) = super::random() else { return Answer::Failed("there are no random numbers".to_owned()) };
        let transaction = Transaction { then: deletes.chain(puts).collect(), ..Transaction::default() };
        match self.propose(running, RequestId { client, number: 0 }, transaction, until).await {
            Answer::Reply(crate::raft::state::Reply::Done(_)) => Answer::Done,
            Answer::Reply(reply) => Answer::Refused(format!("the contents cannot be replaced: {reply:?}")),
            other => other,
        }
    }
}

fn backup(running: &Running) -> Backup {
    let (revision, keys) = running.machine.range("");
    let cluster = running.log.identity().cluster.map(|cluster| cluster.to_string());
    let key = |(key, content): (String, crate::raft::state::Content)| BackupKey {
        key,
        value: content.value,
        leased: content.lease.is_some(),
    };
    Backup { format: BACKUP_FORMAT, cluster, revision, keys: keys.into_iter().map(key).collect() }
}

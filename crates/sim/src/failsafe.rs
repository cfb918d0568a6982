//! What peers are asked: their status, and whether a primary that cannot reach the store may go on (failsafe mode).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use patroni_core::disk::Space;
use patroni_core::health::Status;
use patroni_core::job::Job;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::peer::{DIVERGED, PeerStatus};
use patroni_core::server::Role;
use patroni_core::time::Moment;
use patroni_tick::driver::Limit;

use crate::postgres::Process;
use crate::universe::{Arrived, Event, Sender, Universe};
use crate::world::{SimWorld, until};

/// How long the answers are waited for.
const ANSWERS: Duration = Duration::from_secs(4);

impl Universe {
    /// The REST API of a peer answers with what its last tick and its server say.
    pub(crate) fn peer_answers(&mut self, from: Sender, peer: usize) {
        let node = &self.nodes[peer];
        if !node.alive || node.frozen_until.is_some() || node.absent {
            return;
        }
        let becomes_primary = node.view.job.as_ref().is_some_and(|view| view.job == Job::Promote);
        let primary = node.postgres.is_primary() || node.view.role == Role::Primary || becomes_primary;
        let up = node.postgres.serves();
        let data = node.postgres.data().filter(|_| up);
        let streams = matches!(node.postgres.process, Process::Up { stream: Some(_), .. });
        let status = PeerStatus {
            in_recovery: !primary,
            wal_position: data.map_or(Lsn(0), |data| data.wal.end),
            location: None,
            timeline: data.map(|data| data.wal.timeline()),
            replication_state: if node.view.kept_out {
                Some(DIVERGED.into())
            } else {
                streams.then(|| "streaming".into())
            },
            tags: node.view.announced_tags(),
            watchdog_failed: false,
            space: if node.postgres.disk_full { Space::Full } else { Space::Enough },
        };
        let name = node.name.clone();
        self.send(peer, from.node, Event::FromPeer { to: from, name, status });
    }

    /// As the REST API of a peer has it.
    pub(crate) fn peer_agrees(&mut self, from: Sender, peer: usize) {
        let (leader, now) = (self.nodes[from.node].name.clone(), self.now);
        let node = &self.nodes[peer];
        if !node.alive || node.frozen_until.is_some() || node.absent {
            return;
        }
        let server = node.postgres.inspect(Vec::new(), node.started_at);
        let leads = Status::new(&node.view, node.job.is_some(), &server.postmaster, node.time(now)).leads();
        let agreed = node.failsafe_mode && !leads && node.agreement.give(leader, BTreeMap::new(), Moment(now));
        let name = node.name.clone();
        self.send(peer, from.node, Event::Agreed { to: from, name, agreed });
    }
}

impl SimWorld {
    /// Everybody has to agree.
    pub(crate) async fn ask_failsafe(
        &self,
        members: &BTreeMap<MemberName, String>,
        limit: Limit,
    ) -> Result<Moment, String> {
        let (from, asked_at) = (self.sender(), self.moment());
        let end = asked_at.0 + limit.within(ANSWERS, asked_at);
        {
            let mut universe = self.shared.borrow_mut();
            universe.at(end, Event::Wake(self.node));
            for name in members.keys() {
                if let Some(peer) = universe.node_named(name) {
                    universe.send(self.node, peer, Event::Failsafe { from, peer });
                }
            }
        }
        let mut missing: BTreeSet<&MemberName> = members.keys().collect();
        let mut refused = false;
        until(&self.shared, |universe| {
            for arrived in universe.nodes[self.node].arrived.remove(&from.ticket).into_iter().flatten() {
                if let Arrived::Agreed(name, agreed) = arrived {
                    refused |= !agreed;
                    missing.remove(&name);
                }
            }
            (missing.is_empty() || universe.now >= end).then_some(())
        })
        .await;
        if missing.is_empty() && !refused { Ok(asked_at) } else { Err("somebody did not agree".into()) }
    }
}

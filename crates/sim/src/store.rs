//! The simulated store: linearizable keys, one lease per member, versions. Its time is the universe's.
//!
//! It keeps the typed [`Cluster`] and no JSON: the keys' texts have tests of their own beside `wire`, and a hundred
//! thousand seeds would spend most of their time on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::cluster::{
    Cluster, ClusterConfig, FailoverRequest, History, Initialize, Leader, Member, MemberData, SyncState, Version,
};
use patroni_core::facts::InitializeWrite;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::sync::Electorate;

/// What is asked of the store.
#[derive(Clone, Debug)]
pub(crate) enum StoreRequest {
    Load,
    Acquire,
    Renew {
        last_lsn: Option<Lsn>,
        failsafe: Option<BTreeMap<MemberName, String>>,
    },
    /// Of the leader key of that version, as whoever created it knows.
    Release {
        key: Option<Version>,
        last_lsn: Option<Lsn>,
    },
    Touch(Arc<MemberData>),
    /// If the key still is as it was found.
    Initialize {
        write: InitializeWrite,
        found: Initialize,
    },
    WriteConfig {
        expected: Option<Version>,
        data: JsonMap,
    },
    WriteFailover {
        expected: Option<Version>,
        request: Option<FailoverRequest>,
    },
    WriteSync {
        expected: Option<Version>,
        electorate: Option<Electorate>,
    },
    WriteHistory {
        expected: Option<Version>,
        history: History,
    },
}

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum StoreReply {
    Cluster(Arc<Cluster>),
    Done,
    Refused,
}

/// The keys of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    /// It answers.
    pub down: bool,
    /// Members whose keys ran out, until somebody looks at it.
    pub ran_out: Vec<MemberName>,
    cluster: Arc<Cluster>,
    revision: u64,
    leases: BTreeMap<MemberName, Duration>,
}

impl Store {
    /// The keys as they are.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The next moment at which a lease ends.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.leases.values().min().copied()
    }

    /// Carries out a request. `true`: watchers are told.
    pub(crate) fn handle(
        &mut self,
        me: &MemberName,
        ttl: Duration,
        request: StoreRequest,
        now: Duration,
    ) -> (StoreReply, bool) {
        let heard = self.expire(now);
        let (reply, changed) = match request {
            StoreRequest::Load => (StoreReply::Cluster(Arc::clone(&self.cluster)), false),
            StoreRequest::Acquire => self.acquire(me, now + ttl),
            StoreRequest::Renew { last_lsn, failsafe } => {
                let reply = self.renew(me, now + ttl, last_lsn);
                if let (StoreReply::Done, Some(members)) = (&reply.0, failsafe)
                    && self.cluster.failsafe.as_ref() != Some(&members)
                {
                    self.edit().failsafe = Some(members);
                }
                reply
            }
            StoreRequest::Release { key, last_lsn } => self.release(me, key, last_lsn),
            StoreRequest::Touch(data) => self.touch(me, &data, now + ttl),
            StoreRequest::Initialize { write, found } => self.initialize(write, &found),
            StoreRequest::WriteConfig { expected, data } => self.write_config(expected, data),
            StoreRequest::WriteFailover { expected, request } => self.write_failover(expected, request),
            StoreRequest::WriteSync { expected, electorate } => self.write_sync(me, expected, electorate),
            StoreRequest::WriteHistory { expected, mut history } => {
                if self.cluster.history.as_ref().map(|history| history.version) != expected {
                    return (StoreReply::Refused, heard);
                }
                history.version = self.bump();
                self.edit().history = Some(history);
                (StoreReply::Done, true)
            }
        };
        (reply, changed || heard)
    }

    /// Removes what has ended. `true`: something did.
    pub(crate) fn expire(&mut self, now: Duration) -> bool {
        let ended: Vec<MemberName> =
            self.leases.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone()).collect();
        for name in &ended {
            self.leases.remove(name);
            let cluster = self.edit();
            let present = cluster.members.remove(name).is_some();
            if cluster.leader_name() == Some(name) {
                cluster.leader = None;
            }
            self.ran_out.extend(present.then(|| name.clone()));
        }
        !ended.is_empty()
    }

    fn edit(&mut self) -> &mut Cluster {
        Arc::make_mut(&mut self.cluster)
    }

    fn bump(&mut self) -> Version {
        self.revision += 1;
        Version(self.revision)
    }

    fn acquire(&mut self, me: &MemberName, until: Duration) -> (StoreReply, bool) {
        if self.cluster.leader.is_some() {
            return (StoreReply::Refused, false);
        }
        self.leases.insert(me.clone(), until);
        let version = self.bump();
        self.edit().leader = Some(Leader { name: me.clone(), version, session: None });
        (StoreReply::Done, true)
    }

    fn renew(&mut self, me: &MemberName, until: Duration, last_lsn: Option<Lsn>) -> (StoreReply, bool) {
        if self.cluster.leader_name() != Some(me) {
            return (StoreReply::Refused, false);
        }
        self.leases.insert(me.clone(), until);
        if let Some(lsn) = last_lsn {
            self.edit().status.last_lsn = lsn;
        }
        (StoreReply::Done, false)
    }

    fn release(&mut self, me: &MemberName, key: Option<Version>, last_lsn: Option<Lsn>) -> (StoreReply, bool) {
        let present = self.cluster.leader.as_ref().filter(|leader| leader.name == *me);
        if present.is_none_or(|leader| Some(leader.version) != key) {
            return (StoreReply::Refused, false);
        }
        let cluster = self.edit();
        cluster.leader = None;
        if let Some(lsn) = last_lsn {
            cluster.status.last_lsn = lsn;
        }
        (StoreReply::Done, true)
    }

    /// As in etcd, the keys of a member share one lease.
    fn touch(&mut self, me: &MemberName, data: &MemberData, until: Duration) -> (StoreReply, bool) {
        self.leases.insert(me.clone(), until);
        let present = self.cluster.members.get(me).map(|member| &member.data);
        if present == Some(data) {
            return (StoreReply::Done, false);
        }
        let version = self.bump();
        let member = Member { name: me.clone(), version, session: None, data: data.clone() };
        self.edit().members.insert(me.clone(), member);
        (StoreReply::Done, true)
    }

    fn initialize(&mut self, write: InitializeWrite, found: &Initialize) -> (StoreReply, bool) {
        let present = &self.cluster.initialize;
        let version = Version(self.revision + 1);
        let next = match (write, present) {
            (InitializeWrite::Begin, Initialize::Absent) => Initialize::InProgress(version),
            (InitializeWrite::Finish(id), Initialize::Done(same)) if id == *same => Initialize::Done(id),
            (_, Initialize::Done(_)) | (InitializeWrite::Begin, _) => return (StoreReply::Refused, false),
            (InitializeWrite::Cancel, Initialize::Absent) => Initialize::Absent,
            (_, present) if present != found => return (StoreReply::Refused, false),
            (InitializeWrite::Finish(id), _) => Initialize::Done(id),
            (InitializeWrite::Cancel, _) => Initialize::Absent,
        };
        self.bump();
        self.edit().initialize = next;
        (StoreReply::Done, true)
    }

    fn write_config(&mut self, expected: Option<Version>, data: JsonMap) -> (StoreReply, bool) {
        if self.cluster.config.as_ref().map(|config| config.version) != expected {
            return (StoreReply::Refused, false);
        }
        let version = self.bump();
        self.edit().config = Some(ClusterConfig { version, data: Some(data) });
        (StoreReply::Done, true)
    }

    /// Somebody deletes `/sync`.
    pub(crate) fn lose_sync(&mut self) {
        self.edit().sync = SyncState::default();
    }

    fn write_sync(
        &mut self,
        me: &MemberName,
        expected: Option<Version>,
        electorate: Option<Electorate>,
    ) -> (StoreReply, bool) {
        if self.cluster.sync.version != expected {
            return (StoreReply::Refused, false);
        }
        let version = self.bump();
        self.edit().sync = match electorate {
            Some(Electorate { voters, quorum }) => SyncState {
                version: Some(version),
                leader: Some(me.clone()),
                standbys: voters.into_iter().collect(),
                quorum: quorum as u32,
            },
            None => SyncState::default(),
        };
        (StoreReply::Done, true)
    }

    fn write_failover(&mut self, expected: Option<Version>, request: Option<FailoverRequest>) -> (StoreReply, bool) {
        if self.cluster.failover.as_ref().map(|request| request.version) != expected {
            return (StoreReply::Refused, false);
        }
        let version = self.bump();
        self.edit().failover = request.map(|request| FailoverRequest { version, ..request });
        (StoreReply::Done, true)
    }
}

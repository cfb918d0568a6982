//! What nodes show of themselves: their keys in the store, and the answers of their REST APIs; and that both are true.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::MemberData;
use patroni_core::facts::Outcome;
use patroni_core::health::{Query, Status, checks};
use patroni_core::job::Job;
use patroni_core::member_key::MemberKey;
use patroni_core::name::MemberName;
use patroni_core::server::{DataDir, Postmaster, Server};
use patroni_core::settings::Settings;
use patroni_core::time::Moment;
use patroni_core::view::{Addresses, View};

use crate::node::Node;
use crate::postgres::Process;
use crate::store::{StoreReply, StoreRequest};
use crate::universe::{Event, STORE, Sender, Universe};

/// For how long an answer may be wrong.
const GRACE: Duration = Duration::from_secs(1);

/// A write of a member's key that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Writing {
    ticket: u64,
    data: Arc<MemberData>,
    sent_at: Moment,
    /// It was sent: without an answer nobody knows what became of it.
    left: bool,
}

/// Answers of a node that are not true.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lies {
    /// Which, and since when.
    told: Option<(&'static str, Duration)>,
    /// What the answers depended on when they were looked at.
    seen: Option<(usize, Process, bool, bool)>,
}

pub(crate) fn addresses(name: &MemberName) -> Addresses {
    Addresses {
        conn_url: format!("postgres://{name}:5432/postgres"),
        api_url: format!("http://{name}:8008/patroni"),
        proxy_url: None,
    }
}

/// Before the first tick.
pub(crate) fn initial_view(settings: &Settings) -> Arc<View> {
    let why = "not looked at yet".to_owned();
    let server = Server {
        data_dir: DataDir::Inaccessible(why.clone()),
        postmaster: Postmaster::Unreachable(why),
        other_wal: false,
    };
    Arc::new(View::initial(Arc::new(settings.clone()), Arc::new(server), Moment(Duration::ZERO)))
}

impl Node {
    /// Another agent knows nothing of this.
    pub(crate) fn forget_shown(&mut self) {
        self.view = initial_view(&self.settings);
        self.key = MemberKey::default();
        self.writing = None;
        self.next_write = None;
        self.lies = Lies::default();
    }
}

impl Universe {
    /// The key of this member is to be written, after the write that is under way.
    pub(crate) fn order_key(&mut self, node: usize, data: &Arc<MemberData>) {
        self.nodes[node].key.order(Arc::clone(data));
        self.nodes[node].next_write = Some(Arc::clone(data));
        if self.nodes[node].writing.is_none() {
            self.write_key(node);
        }
    }

    /// Sends what is next, if anything is.
    pub(crate) fn write_key(&mut self, node: usize) {
        let Some(data) = self.nodes[node].next_write.take() else { return };
        let from = Sender { node, life: self.nodes[node].life, ticket: self.unique() };
        let request = StoreRequest::Touch(Arc::clone(&data));
        let left = self.send(node, STORE, Event::ToStore { from, request });
        let sent_at = Moment(self.now);
        self.nodes[node].writing = Some(Writing { ticket: from.ticket, data, sent_at, left });
        self.after(self.nodes[node].view.settings.retry_timeout, Event::KeyDeadline(from));
    }

    /// This is about the write that is under way.
    pub(crate) fn writes_key(&self, from: Sender) -> bool {
        let node = &self.nodes[from.node];
        let current = node.writing.as_ref().is_some_and(|writing| writing.ticket == from.ticket);
        node.alive && node.life == from.life && current
    }

    /// The store has answered. A frozen agent hears of it later.
    pub(crate) fn key_written(&mut self, from: Sender, reply: StoreReply) {
        if self.nodes[from.node].frozen_until.is_some() {
            return self.after(Duration::from_millis(50), Event::FromStore { to: from, reply });
        }
        self.key_ended(from.node, |_| match reply {
            StoreReply::Done | StoreReply::Cluster(_) => Outcome::Done(()),
            StoreReply::Refused => Outcome::Refused,
        });
    }

    /// The store has not answered.
    pub(crate) fn key_deadline(&mut self, from: Sender) {
        if !self.writes_key(from) {
            return;
        }
        if self.nodes[from.node].frozen_until.is_some() {
            return self.after(Duration::from_millis(50), Event::KeyDeadline(from));
        }
        self.key_ended(from.node, |writing| match writing.left {
            true => Outcome::Unknown("timed out".into()),
            false => Outcome::Failed("connection refused".into()),
        });
        self.wake(from.node);
    }

    fn key_ended(&mut self, node: usize, outcome: impl FnOnce(&Writing) -> Outcome<()>) {
        let Some(writing) = self.nodes[node].writing.take() else { return };
        let (outcome, now) = (outcome(&writing), Moment(self.now));
        self.nodes[node].key.ended(&writing.data, &outcome, writing.sent_at, now);
        self.write_key(node);
    }

    /// Whoever cannot write its key just now is excused if it runs out. Looked at whenever time passes.
    pub(crate) fn note_trouble(&mut self) {
        for index in 0..self.nodes.len() {
            let cut = self.is_cut(index, STORE) || self.is_cut(STORE, index);
            let node = &self.nodes[index];
            if !node.alive || node.absent || node.frozen_until.is_some() || cut || self.store.down || self.slow > 1 {
                self.nodes[index].troubled_at = self.now;
            }
        }
    }

    /// The key of a member that is well, and can reach the store, does not run out.
    pub(crate) fn look_at_keys_that_ran_out(&mut self) {
        for name in std::mem::take(&mut self.store.ran_out) {
            let Some(index) = self.node_named(&name) else { continue };
            let node = &self.nodes[index];
            let well_for = self.now - node.troubled_at;
            if node.alive && well_for >= node.settings.ttl {
                self.violation(index, format!("its key ran out, although nothing was wrong with it for {well_for:?}"));
            }
        }
    }
}

/// What each endpoint answers becomes true within a second.
pub(crate) fn check(universe: &mut Universe, index: usize) {
    let (now, failing) = (universe.now, universe.store.down);
    let node = &mut universe.nodes[index];
    if !node.alive || node.frozen_until.is_some() || node.ticks == 0 {
        node.lies = Lies::default();
        return;
    }
    let seen = (Arc::as_ptr(&node.view) as usize, node.postgres.process, node.postgres.hung, node.job.is_some());
    if node.lies.told.is_none() && node.lies.seen == Some(seen) {
        return;
    }
    node.lies.seen = Some(seen);
    let Some(lie) = lie(node, now) else {
        node.lies.told = None;
        return;
    };
    let since = *node.lies.told.get_or_insert((lie, now));
    if since.0 != lie {
        node.lies.told = Some((lie, now));
    } else if now - since.1 > GRACE {
        let text = format!("for {:?} it has answered that {lie} (store down: {failing})", now - since.1);
        universe.violation(index, text);
    }
}

/// The first answer of this node that is not true.
fn lie(node: &Node, now: Duration) -> Option<&'static str> {
    let server = node.postgres.inspect(Vec::new(), node.started_at);
    let status = Status::new(&node.view, node.job.is_some(), &server.postmaster, node.time(now));
    let passes = |path: &str| checks::passes(path, &Query::default(), &status);
    let (serves, primary) = (node.postgres.serves(), node.postgres.is_primary());
    let holds = |until: Option<Duration>| until.is_some_and(|until| now < until);
    let leads = holds(node.lease_until);
    // While the tick that took the lease is not over, nobody has decided what becomes of it.
    let surely_leads = leads && holds(node.decided_lease_until);
    let busy = node.job.as_ref().is_some_and(|view| is_announced(&view.job));
    let by_role = node.paused;
    let excused = node.held || node.view.kept_out;
    [
        ("it runs, and it does not", passes("/health") && !serves),
        ("it does not run, and it does", !passes("/health") && serves && !busy),
        ("it is a replica, and it is none", passes("/replica") && (!serves || primary)),
        ("it is no replica, and it is one", !passes("/replica") && serves && !primary && !busy && !excused),
        ("it is the primary, and it is none", passes("/primary") && !(primary && (leads || by_role))),
        ("it is not the primary, and it is", !passes("/primary") && serves && primary && surely_leads && !busy),
        ("it leads, and it does not", passes("/leader") && !leads && !by_role),
        ("it does not lead, and it does", !passes("/leader") && surely_leads && !node.held && !by_role),
        ("somebody leads, and the store does not say so", !status.is_unlocked() && node.store_failed),
    ]
    .into_iter()
    .find_map(|(what, is_told)| is_told.then_some(what))
}

/// While this is done the node says so, whatever its server answers.
fn is_announced(job: &Job) -> bool {
    matches!(job, Job::Restart { .. } | Job::Bootstrap | Job::Demote(_) | Job::Shutdown | Job::StopImmediate)
}

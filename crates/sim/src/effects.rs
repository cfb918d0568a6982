//! The effects of a tick on a simulated node, as `core::effects` lists them.

use std::future::pending;
use std::time::Duration;

use patroni_core::cluster::MemberData;
use patroni_core::facts::Facts;
use patroni_core::job::Job;
use patroni_core::plan::{JobOrder, Plan};
use patroni_core::verdict::Verdict;

use crate::ambush::Worst;
use crate::faults::Fault;
use crate::store::StoreRequest;
use crate::universe::{Event, STORE, Sender};
use crate::world::SimWorld;

impl SimWorld {
    pub(crate) fn write_log(&self, plan: &Plan) {
        let mut universe = self.shared.borrow_mut();
        let node = &mut universe.nodes[self.node];
        let verdict = plan.verdict.to_string();
        let news = verdict != node.verdict || plan.job != JobOrder::Keep;
        node.verdict = verdict;
        node.ticks += 1;
        if !news {
            return;
        }
        if plan.verdict == Verdict::Failsafe {
            *universe.faults.entry("went on without the store").or_default() += 1;
            universe.worst(Worst::WentOn, self.node);
        }
        let job = if plan.job == JobOrder::Keep { String::new() } else { format!(" [{:?}]", plan.job) };
        universe.log(self.node, || format!("{}{job}", plan.verdict));
        for note in &plan.notes {
            universe.log(self.node, || format!("    {}", note.text));
        }
    }

    /// What comes before the job is done, and nothing else will be.
    pub(crate) async fn may_die_half_way(&self, plan: &Plan) {
        if !matches!(plan.job, JobOrder::Replace(_)) {
            return;
        }
        let dies = {
            let mut universe = self.shared.borrow_mut();
            let dies = std::mem::take(&mut universe.nodes[self.node].dies_half_way);
            if dies {
                universe.after(Duration::ZERO, Event::Fault(Fault::AgentDies(self.node)));
            }
            dies
        };
        if dies {
            pending().await
        }
    }

    /// The job sees until when this node may lead, as in production.
    pub(crate) fn order(&self, plan: &Plan, asks_for_lease: bool, facts: &Facts) {
        let mut universe = self.shared.borrow_mut();
        let now = universe.now;
        let node = &mut universe.nodes[self.node];
        node.paused = facts.settings.paused;
        node.bootstrapping = plan.memory.bootstrapping;
        node.lease_until = plan.memory.lease_until.map(|until| until.0);
        node.failsafe_until = plan.memory.failsafe_until().map(|until| until.0);
        node.was_paused |= node.paused;
        let held = node.held && facts.settings.synchronous.hold;
        node.shows_all = plan.job == JobOrder::Start(Job::Promote) && held
            || node.job.as_ref().is_some_and(|view| view.job == Job::Promote) && node.shows_all;
        node.held = plan.memory.holding.is_some();
        if node.lease_until.is_some_and(|until| until > now) {
            node.unattended = false;
            node.was_paused = node.paused;
        }
        if plan.job != JobOrder::Keep {
            node.asks_for_lease = asks_for_lease;
        }
        node.order = Some(plan.job.clone());
    }

    pub(crate) fn reply(&self, plan: &Plan) {
        let mut universe = self.shared.borrow_mut();
        for (id, answer) in &plan.replies {
            universe.nodes[self.node].requests.remove(id);
            universe.answered(*id, answer);
        }
    }

    pub(crate) fn publish(&self, plan: &Plan) {
        self.shared.borrow_mut().nodes[self.node].role = plan.memory.role;
    }

    pub(crate) fn write_member(&self, plan: &Plan) {
        let from = Sender { node: self.node, life: u64::MAX, ticket: 0 };
        let request = StoreRequest::Touch(Box::new(self.member(plan)));
        self.shared.borrow_mut().send(self.node, STORE, Event::ToStore { from, request });
    }

    fn member(&self, plan: &Plan) -> MemberData {
        let universe = self.shared.borrow();
        let node = &universe.nodes[self.node];
        let data = node.postgres.data().filter(|_| node.postgres.serves());
        MemberData {
            conn_url: Some(format!("postgres://{}:5432/postgres", node.name)),
            api_url: Some(format!("http://{}:8008/patroni", node.name)),
            state: Some(plan.memory.state.to_string()),
            role: Some(plan.memory.role.to_string()),
            timeline: data.map(|data| data.wal.timeline()),
            tags: node.settings.tags.clone(),
            ..MemberData::default()
        }
    }
}

//! The effects of a tick on a simulated node, as `core::effects` lists them.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::facts::Facts;
use patroni_core::job::Job;
use patroni_core::plan::{JobOrder, Plan};
use patroni_core::verdict::Verdict;

use crate::ambush::Worst;
use crate::faults::Fault;
use crate::universe::Event;
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
        node.decided_lease_until = node.lease_until;
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

    pub(crate) fn publish(&self, plan: &Plan, facts: &Facts) {
        let mut universe = self.shared.borrow_mut();
        universe.count_kept_out(self.node, &plan.view);
        let node = &mut universe.nodes[self.node];
        node.view = Arc::clone(&plan.view);
        node.store_failed = facts.cluster.is_err();
    }

    pub(crate) fn write_member(&self, plan: &Plan) {
        if let Some(data) = &plan.member {
            self.shared.borrow_mut().order_key(self.node, data);
        }
    }
}

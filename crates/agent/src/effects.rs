//! The effects of a tick, carried out one by one. Which there are, and in which order, is decided in `core::effects`.

use std::sync::Arc;

use patroni_core::effects::{Effect, OnServer};
use patroni_core::facts::Facts;
use patroni_core::plan::{Callback, Plan};
use patroni_core::settings::Settings;
use patroni_core::view::paused_prefix;
use patroni_postgres::callbacks::CallbackAction;
use patroni_postgres::control::Control;

use crate::jobs::Order;
use crate::node::Node;
use crate::notify::Stage;
use crate::{clock, notes, slots};

impl Node {
    /// Carries out one effect.
    pub(crate) async fn effect(&mut self, effect: Effect, plan: &Plan, facts: &Facts) {
        match effect {
            Effect::Log => write_log(plan, &facts.settings),
            Effect::DisableWatchdog => self.watchdog.disable(),
            Effect::Fence(order) => self.guard.tell(order).await,
            Effect::MarkOtherWal(present) => self.maintenance.mark_other_wal(present).await,
            Effect::Job { asks_for_lease } => {
                let order = Order { job: plan.job.clone(), asks_for_lease, lease_until: plan.memory.lease_until };
                self.jobs.apply(order, &facts.settings, clock::boot());
            }
            Effect::Reply => self.requests.answer(&plan.replies),
            Effect::Publish => {
                self.publish(plan, facts);
                self.notify(plan, facts).await;
            }
            Effect::Settle => self.agreement.settle(),
            Effect::WriteMember => self.write_member(plan, facts),
            Effect::Checkpoint => self.maintenance.start_checkpoint(&self.woken),
            Effect::ForgetSlotHolders => self.slots.forget_holders(),
            Effect::SyncSlots => {
                let told = match plan.memory.failsafe_until() {
                    Some(_) => Some(self.slots.of_standbys()),
                    None => self.agreement.slots(facts.settings.ttl, clock::boot()),
                };
                self.slots.sync(plan, facts, told);
            }
            Effect::WatchStandbys(wanted) => self.synchronous.watch(wanted, &self.woken),
            Effect::WatchForHang(wanted) => self.hang.watch(wanted, &self.woken),
            Effect::Server(effect) => self.on_server(effect, plan, facts).await,
        }
    }

    async fn on_server(&mut self, effect: OnServer, plan: &Plan, facts: &Facts) {
        let Some(control) = self.jobs.control() else { return };
        // The files of a server that was not taken over yet are not ours to write.
        let known = self.configuration.knows_server();
        match effect {
            OnServer::TellRole(role) => control.set_role(role),
            OnServer::CallBack => call_back(control, plan),
            OnServer::EnforceFeedback(needed) if known => slots::enforce_feedback(control, needed, facts).await,
            OnServer::EnforceFeedback(_) => {}
            OnServer::Prepare => self.configuration.prepare(control, facts),
            OnServer::FinishStart => {
                control.seen_running().await;
                if let Some(running) = facts.server.running()
                    && self.maintenance.note_start(running, control.raised_settings())
                {
                    self.woken.notify_one();
                }
            }
            OnServer::ResumeReplay => {
                if let Err(error) = control.resume_replay().await {
                    tracing::warn!("the replay of WAL could not be resumed: {error}");
                }
            }
            OnServer::Configure => {
                if self.configuration.apply(control, &mut self.maintenance, facts).await {
                    // What PostgreSQL made of it is for others to know.
                    self.woken.notify_one();
                }
            }
        }
    }

    fn publish(&mut self, plan: &Plan, facts: &Facts) {
        let now = clock::boot();
        let view = Arc::clone(&plan.view);
        self.configuration.save_dynamic(&view);
        let unlocked = facts.cluster.as_ref().ok().map(|cluster| cluster.is_unlocked());
        if let Some(duration) = self.takeover.after_tick(view.role, unlocked, view.is_leader(now), now) {
            self.metrics.failovers.record(duration);
        }
        self.view.send_replace(view);
    }

    /// Tells the service manager what the tick found.
    async fn notify(&mut self, plan: &Plan, facts: &Facts) {
        let stage = if facts.shutdown || plan.exit.is_some() { Stage::Stopping } else { Stage::Ready };
        self.notifier.report(stage, &verdict(plan, &facts.settings)).await;
    }

    fn write_member(&mut self, plan: &Plan, facts: &Facts) {
        if let Some(data) = &plan.member {
            self.publisher.order(data, facts.settings.retry_timeout);
        }
    }
}

fn write_log(plan: &Plan, settings: &Settings) {
    for note in &plan.notes {
        notes::of_decision(note);
    }
    tracing::info!(target: "patroni", "{}", verdict(plan, settings));
}

/// The verdict as it is written.
fn verdict(plan: &Plan, settings: &Settings) -> String {
    paused_prefix(settings.paused) + &plan.verdict.to_string()
}

fn call_back(control: &mut Control, plan: &Plan) {
    for callback in &plan.callbacks {
        control.call_back(match callback {
            Callback::OnStart => CallbackAction::OnStart,
            Callback::OnRoleChange => CallbackAction::OnRoleChange,
        });
    }
}

//! What the loop publishes after each tick: all that the REST API and the member's key are made of.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::job::JobView;
use crate::request::ScheduledRestart;
use crate::server::{Role, Server, State};
use crate::settings::Settings;
use crate::time::{Moment, WallTime};

/// The state of this node, as published. Readers compare [`View::lease_until`] with the clock when they need to know
/// whether the node is leader: nobody trusts a boolean that was true some time ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The settings of the tick.
    pub settings: Arc<Settings>,
    /// The last snapshot of the store that could be read.
    pub cluster: Option<Arc<Cluster>>,
    /// When the store last answered; `None` before the first time.
    pub dcs_last_seen: Option<WallTime>,
    /// The local server.
    pub server: Arc<Server>,
    /// The announced role.
    pub role: Role,
    /// The announced state of PostgreSQL.
    pub state: State,
    /// End of the lease this node holds, if it holds one.
    pub lease_until: Option<Moment>,
    /// End of failsafe mode, while it is on.
    pub failsafe_until: Option<Moment>,
    /// The job that runs.
    pub job: Option<JobView>,
    /// The restart that is scheduled.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// A watchdog is required and does not work.
    pub watchdog_failed: bool,
    /// After a promotion: no checkpoint yet.
    pub checkpoint_pending: bool,
    /// The verdict of the last tick, in Patroni's words.
    pub verdict: String,
    /// When the tick ended.
    pub ticked_at: Moment,
    /// Ticks so far.
    pub ticks: u64,
}

impl View {
    /// This node holds the leader lease at `now`.
    pub fn is_leader(&self, now: Moment) -> bool {
        self.lease_until.is_some_and(|until| now < until)
    }
}

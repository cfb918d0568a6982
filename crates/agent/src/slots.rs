//! Replication slots of the local server: what the leader publishes, what is changed, what is found out about the primary's. Copying slots
//! is a job; all else runs in the background, each under a limit, one of a kind at a time, and tells the next tick what it found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::Cluster;
use patroni_core::facts::Facts;
use patroni_core::job::UpstreamMember;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::plan::Plan;
use patroni_core::server::{Role, Running, Wal};
use patroni_core::settings::Settings;
use patroni_core::slots::{
    self, Change, News, Node, Ownership, PrimarySlots, Retained, Situation, published_slots, slot_on_primary,
    wanted_slots,
};
use patroni_core::units::in_words;
use patroni_dcs::LeaderUpdate;
use patroni_postgres::control::Control;
use patroni_postgres::monitor::Monitor;
use patroni_postgres::slots::{apply, logical};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::notes;

/// How long the quick changes of one tick may take.
const CHANGES_LIMIT: Duration = Duration::from_secs(10);

/// How long the change of one slot may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(3);

/// How long the primary may take to answer.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);

/// How long writing the configuration may take.
const RELOAD_LIMIT: Duration = Duration::from_secs(3);

/// The slots of one node.
pub struct Slots {
    monitor: Monitor,
    /// The cluster when the store last answered.
    last_seen: Option<Arc<Cluster>>,
    /// When members were last seen, while this node leads.
    retained: Option<Retained>,
    /// How far standbys have received WAL, by their own word, when they last agreed that this primary goes on without the store.
    standbys: BTreeMap<MemberName, Lsn>,
    ownership: Ownership,
    changes: Option<JoinHandle<()>>,
    logical: Option<JoinHandle<BTreeSet<String>>>,
    question: Option<JoinHandle<Option<PrimarySlots>>>,
}

impl Slots {
    /// Nothing is under way.
    pub fn new(monitor: Monitor) -> Self {
        let ownership = Ownership::default();
        Slots {
            monitor,
            last_seen: None,
            retained: None,
            standbys: BTreeMap::new(),
            ownership,
            changes: None,
            logical: None,
            question: None,
        }
    }

    /// What was found out since the last time.
    pub async fn news(&mut self) -> News {
        News {
            unusable: finished(&mut self.logical).await.unwrap_or_default(),
            primary: finished(&mut self.question).await.flatten(),
        }
    }

    /// What the leader tells with a renewal of its lease.
    pub fn leader_update(&mut self, facts: &Facts, running: Option<&Running>) -> LeaderUpdate {
        let (Ok(cluster), Some(running)) = (&facts.cluster, running) else { return LeaderUpdate::default() };
        let settings = &facts.settings;
        let position = running.wal.position();
        let now = facts.now.boot;
        let role = if running.wal.is_standby() { Role::StandbyLeader } else { Role::Primary };
        let node = Node { name: &settings.name, role, tags: &settings.tags };
        let (wanted, _) = wanted_slots(settings, cluster, &node);
        let slots = published_slots(settings, cluster, &settings.name, position, &wanted, &running.slots);
        let retained = self.retained.get_or_insert_with(|| Retained::since_promotion(cluster, now));
        for note in retained.update(settings, cluster, &settings.name, &slots, now) {
            notes::of_planner(&note);
        }
        LeaderUpdate {
            last_lsn: Some(position),
            slots,
            retain_slots: retained.names(),
            failsafe: facts.failsafe_members(),
        }
    }

    /// This node does not lead (any more).
    pub fn forget_holders(&mut self) {
        self.retained = None;
    }

    /// How far standbys have received WAL, as they say in failsafe mode.
    pub fn heard_of_standbys(&mut self, positions: BTreeMap<MemberName, Lsn>) {
        self.standbys = positions;
    }

    /// Where the slots of standbys that read from another one should be on a primary that goes on in failsafe mode: nothing else moves them.
    pub fn of_standbys(&self) -> BTreeMap<String, Lsn> {
        self.last_seen.as_deref().map(|cluster| of_cascading(cluster, &self.standbys)).unwrap_or_default()
    }

    /// Begins to bring the slots in order.
    ///
    /// `told` is where slots are in failsafe mode by the word of other nodes, which cannot tell the store: those of the primary that goes on, or,
    /// on it, those of standbys. Without the store slots are moved, and neither made nor dropped: which there should be is not known for sure.
    pub fn sync(&mut self, plan: &Plan, facts: &Facts, told: Option<BTreeMap<String, Lsn>>) {
        if let Ok(cluster) = &facts.cluster {
            self.last_seen = Some(Arc::clone(cluster));
        }
        let (Some(cluster), Some(running)) = (self.cluster(told), facts.server.running()) else { return };
        let cluster = &*cluster;
        let settings = &facts.settings;
        let role = if running.wal.is_standby() { plan.memory.role } else { Role::Primary };
        let node = Node { name: &settings.name, role, tags: &settings.tags };
        let (wanted, told) = wanted_slots(settings, cluster, &node);
        told.iter().for_each(notes::of_planner);
        let droppable = self.ownership.droppable(&wanted, settings, cluster, running, facts.now.boot);
        let situation = situation(settings, cluster, running);
        let mut changes = slots::plan(&wanted, &running.slots, &settings.slots.ignore, &droppable, situation);
        if facts.cluster.is_err() {
            changes.retain(|change| matches!(change, Change::Advance(..) | Change::AdvanceLogical { .. }));
            return self.change(changes);
        }
        self.change(changes);
        let unready: BTreeSet<String> = plan.memory.readiness.unready().cloned().collect();
        if running.wal.is_standby()
            && !unready.is_empty()
            && let Some(physical) = slot_on_primary(cluster, &node)
        {
            self.ask(cluster, physical, unready);
        }
    }

    /// The cluster as it was last seen, with what others reported of the positions of slots since.
    fn cluster(&self, told: Option<BTreeMap<String, Lsn>>) -> Option<Arc<Cluster>> {
        let mut cluster = self.last_seen.clone()?;
        for (name, lsn) in told.into_iter().flatten() {
            let known = Arc::make_mut(&mut cluster).status.slots.entry(name).or_default();
            *known = lsn.max(*known);
        }
        Some(cluster)
    }

    fn change(&mut self, changes: Vec<Change>) {
        let (logical, quick): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| matches!(change, Change::CreateLogical { .. } | Change::AdvanceLogical { .. }));
        if !quick.is_empty() && self.changes.as_ref().is_none_or(JoinHandle::is_finished) {
            self.changes = Some(tokio::spawn(change(self.monitor.clone(), quick)));
        }
        // Its result is taken at the beginning of a tick.
        if !logical.is_empty() && self.logical.is_none() {
            let monitor = self.monitor.clone();
            self.logical = Some(tokio::spawn(async move { logical::apply(&monitor, &logical).await }));
        }
    }

    fn ask(&mut self, cluster: &Cluster, physical: String, unready: BTreeSet<String>) {
        let leader = cluster.leader_member();
        let (None, Some(leader), Some(conn_url)) =
            (&self.question, leader, leader.and_then(|l| l.data.conn_url.clone()))
        else {
            return;
        };
        let primary = UpstreamMember { name: leader.name.clone(), conn_url, slot: None };
        let monitor = self.monitor.clone();
        self.question = Some(tokio::spawn(async move {
            let answer = logical::ask_primary(&monitor, &primary, &physical, &unready);
            match timeout(QUESTION_LIMIT, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    tracing::error!("Failed to check {physical} physical slot on the primary: {error}");
                    None
                }
                Err(_) => {
                    tracing::error!(
                        "Failed to check {physical} physical slot on the primary within {}",
                        in_words(QUESTION_LIMIT)
                    );
                    None
                }
            }
        }));
    }
}

/// The slots of those standbys that read from another one.
fn of_cascading(cluster: &Cluster, positions: &BTreeMap<MemberName, Lsn>) -> BTreeMap<String, Lsn> {
    let cascading = cluster.members.values().filter(|member| member.data.tags.replicatefrom().is_some());
    cascading.filter_map(|member| Some((member.name.slot_name(), *positions.get(&member.name)?))).collect()
}

fn situation(settings: &Settings, cluster: &Cluster, running: &Running) -> Situation {
    let leads = cluster.leader_name() == Some(&settings.name);
    Situation {
        paused: settings.paused,
        clean_inactive: !cluster.is_unlocked() && (!leads || !running.wal.is_standby()),
        replayed: match &running.wal {
            Wal::Primary { .. } => None,
            Wal::Standby { replayed, .. } => Some(replayed.unwrap_or_default()),
        },
        position: running.wal.position(),
    }
}

async fn change(monitor: Monitor, changes: Vec<Change>) {
    let work = async {
        let connection = monitor.connect("slots").await?;
        apply(&connection, &changes, CHANGE_LIMIT).await;
        Ok::<(), patroni_postgres::Error>(())
    };
    match timeout(CHANGES_LIMIT, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("replication slots could not be changed: {error}"),
        Err(_) => tracing::error!("replication slots could not be changed within {}", in_words(CHANGES_LIMIT)),
    }
}

/// Switches `hot_standby_feedback` on for the sake of logical slots, or leaves it to the configuration again.
pub async fn enforce_feedback(control: &mut Control, needed: bool, facts: &Facts) {
    let changed = control.conf().enforce_hot_standby_feedback(needed);
    if !changed || facts.server.running().is_none() {
        return;
    }
    let why = match timeout(RELOAD_LIMIT, control.reload(true)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("not within {}", in_words(RELOAD_LIMIT)),
    };
    tracing::error!("hot_standby_feedback could not be changed: {why}");
    // To be tried again.
    control.conf().enforce_hot_standby_feedback(!needed);
}

/// The result of a task that has ended.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    let ended = task.take_if(|task| task.is_finished())?;
    ended.await.ok()
}

#[cfg(test)]
mod tests {
    use patroni_core::cluster::{Member, MemberData, Version};
    use patroni_core::tags::Tags;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn standbys_that_read_from_another_one_move_their_slots_on_a_primary_without_the_store() {
        let name = |name: &str| MemberName::from(name);
        let member = |own: &str, tags: Value| {
            let tags = Tags(tags.as_object().cloned().unwrap_or_default());
            let data = MemberData { tags, ..MemberData::default() };
            (name(own), Member { name: name(own), version: Version(1), session: None, data })
        };
        let members = [member("post-1", json!({})), member("post-2", json!({"replicatefrom": "post-1"}))];
        let cluster = Cluster { members: members.into(), ..Cluster::default() };
        let positions = BTreeMap::from([(name("post-1"), Lsn(7)), (name("post-2"), Lsn(5)), (name("gone"), Lsn(3))]);
        assert_eq!(of_cascading(&cluster, &positions), BTreeMap::from([("post_2".to_owned(), Lsn(5))]));
        assert_eq!(of_cascading(&cluster, &BTreeMap::new()), BTreeMap::new());
    }
}

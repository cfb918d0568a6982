//! The primitives on ZooKeeper's nodes. What belongs to this member's session ends with it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use patroni_core::JsonMap;
use patroni_core::cluster::Version;
use patroni_core::time::Moment;
use tokio::time::Instant;

use super::nodes::{Change, Nodes};
use super::options::ZooKeeperOptions;
use super::proto::{NO_NODE, NOT_EMPTY, Reader, Stat};
use crate::attempts::Failure;
use crate::boot_time::boot_time;
use crate::primitives::{Claimed, News, Primitives, Prolonged, Swap, When};
use crate::wire::{self, RawKey};
use crate::{OpenError, Timing};

/// ZooKeeper.
pub(crate) struct ZooKeeper {
    nodes: Nodes,
    timing: Mutex<Timing>,
}

/// The keys as they were seen last, and how many watches had fired before; `None`: the watch has not begun.
#[derive(Default)]
pub(crate) struct Cursor(Option<(u64, BTreeMap<String, RawKey>)>);

/// How long nothing may happen before the keys are read again.
const WATCH: Duration = Duration::from_secs(60);
/// How often something is tried anew that others changed meanwhile.
const ROUNDS: usize = 3;

impl ZooKeeper {
    /// `prefix`: how the keys of the cluster begin, with a slash at both ends.
    pub(crate) fn new(options: ZooKeeperOptions, prefix: &str, timing: Timing) -> Self {
        ZooKeeper { nodes: Nodes::new(options, prefix, timing), timing: Mutex::new(timing) }
    }

    fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment from which a whole `ttl` may be counted, for a session that surely lasts until then.
    fn counted_from(&self, lasts_until: Moment, asked: Moment) -> Moment {
        Moment(lasts_until.0.saturating_sub(self.timing().ttl)).min(asked)
    }

    /// All keys, as the server knows them. Those whose changes matter are watched where that is asked for.
    async fn all(&self, watch: bool, deadline: Instant) -> Result<BTreeMap<String, RawKey>, Failure> {
        let mut names = Vec::new();
        for name in self.nodes.children("", watch, deadline).await? {
            match name.as_str() {
                "members" => {
                    let members = self.nodes.children("members", watch, deadline).await?;
                    names.extend(members.iter().map(|member| format!("{}{member}", wire::MEMBERS)));
                }
                "optime" => names.push(wire::LEGACY_STATUS.to_owned()),
                wire::LEADER => {}
                _ => names.push(name),
            }
        }
        let is_quiet = |name: &str| matches!(name, wire::STATUS | wire::FAILSAFE | wire::LEGACY_STATUS);
        let reading = names.iter().map(|name| self.nodes.get(name, watch && !is_quiet(name), deadline));
        let found = try_join_all(reading).await?;
        let mut keys: BTreeMap<String, RawKey> = names.iter().cloned().zip(found).filter_map(present).collect();
        // Read last, so that it is no older than what is decided on it.
        let leader = self.nodes.get(wire::LEADER, watch, deadline).await?;
        keys.extend(leader.map(|node| (wire::LEADER.to_owned(), node.raw())));
        Ok(keys)
    }

    /// The version of a node that was just created. If it was replaced already, it has none that anybody could name.
    async fn created(&self, name: &str, value: &str, deadline: Instant) -> Result<Version, Failure> {
        let node = self.nodes.get(name, false, deadline).await.map_err(Failure::after_write)?;
        let same = node.filter(|node| node.stat.version == 0 && node.value == value.as_bytes());
        Ok(Version(same.map_or(0, |node| node.stat.key_version())))
    }

    async fn create(&self, name: &str, value: &str, deadline: Instant) -> Result<Swap, Failure> {
        Ok(match self.nodes.create(name, value, false, deadline).await? {
            Change::Done(_) => Swap::Done(self.created(name, value, deadline).await?),
            otherwise => otherwise.swap(Version(0)),
        })
    }

    async fn create_or_set(&self, name: &str, value: &str, deadline: Instant) -> Result<Swap, Failure> {
        for _ in 0..ROUNDS {
            if let Change::Done(answer) = self.nodes.set(name, value, -1, deadline).await? {
                return changed(&answer.content);
            }
            if let Swap::Done(version) = self.create(name, value, deadline).await? {
                return Ok(Swap::Done(version));
            }
        }
        Err(Failure::Unknown(format!("{name} comes and goes")))
    }
}

fn present((name, node): (String, Option<super::nodes::Node>)) -> Option<(String, RawKey)> {
    Some((name, node?.raw()))
}

/// The answer to a change of a node.
fn changed(content: &[u8]) -> Result<Swap, Failure> {
    let stat = Stat::read(&mut Reader(content));
    let stat = stat.ok_or_else(|| Failure::Unknown("ZooKeeper answered something else".to_owned()))?;
    Ok(Swap::Done(Version(stat.key_version())))
}

#[async_trait]
impl Primitives for ZooKeeper {
    type Cursor = Cursor;

    const NAME: &'static str = "ZooKeeper";

    fn configure(&self, timing: Timing) {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner) = timing;
        self.nodes.configure(timing);
    }

    fn reload(&self, configuration: &JsonMap) -> Result<(), OpenError> {
        if !self.nodes.reconfigure(crate::open::zookeeper_options(configuration)?) {
            tracing::warn!("another path in zookeeper.hosts takes effect when the agent is started again");
        }
        Ok(())
    }

    async fn read(&self, deadline: Instant) -> Result<BTreeMap<String, RawKey>, Failure> {
        if self.nodes.confirm(deadline).await? { self.all(false, deadline).await } else { Ok(BTreeMap::new()) }
    }

    async fn get(&self, name: &str, deadline: Instant) -> Result<Option<RawKey>, Failure> {
        if !self.nodes.confirm(deadline).await? {
            return Ok(None);
        }
        Ok(self.nodes.get(name, false, deadline).await?.map(|node| node.raw()))
    }

    async fn put(&self, name: &str, value: &str, when: When, deadline: Instant) -> Result<Swap, Failure> {
        let expected = match when {
            When::Always => return self.create_or_set(name, value, deadline).await,
            When::Absent => return self.create(name, value, deadline).await,
            When::Version(version) => version,
        };
        let found = self.nodes.get(name, false, deadline).await.map_err(Failure::before_write)?;
        let Some(node) = found.filter(|node| node.stat.key_version() == expected.0) else {
            return Ok(Swap::Otherwise { repeated: false });
        };
        match self.nodes.set(name, value, node.stat.version, deadline).await? {
            Change::Done(answer) => changed(&answer.content),
            otherwise => Ok(otherwise.swap(expected)),
        }
    }

    async fn delete(&self, name: &str, version: Version, deadline: Instant) -> Result<Swap, Failure> {
        let found = self.nodes.get(name, false, deadline).await.map_err(Failure::before_write)?;
        let Some(node) = found.filter(|node| node.stat.key_version() == version.0) else {
            return Ok(Swap::Otherwise { repeated: false });
        };
        match self.nodes.delete(name, node.stat.version, deadline).await? {
            Change::Otherwise { error: NOT_EMPTY, .. } => {
                Err(Failure::NotDone(format!("there are nodes below {name}; delete them")))
            }
            change => Ok(change.swap(version)),
        }
    }

    async fn delete_all(&self, deadline: Instant) -> Result<(), Failure> {
        let mut open = vec![String::new()];
        while let Some(name) = open.last().cloned() {
            match self.nodes.delete(&name, -1, deadline).await? {
                Change::Done(_) | Change::Otherwise { error: NO_NODE, .. } => drop(open.pop()),
                // It has nodes below it.
                Change::Otherwise { .. } => {
                    let below = self.nodes.children(&name, false, deadline).await.map_err(Failure::after_write)?;
                    let path = |child| if name.is_empty() { child } else { format!("{name}/{child}") };
                    open.extend(below.into_iter().map(path));
                }
            }
        }
        Ok(())
    }

    async fn claim(&self, name: &str, value: &str, deadline: Instant) -> Result<Claimed, Failure> {
        self.nodes.use_session();
        let asked = boot_time();
        Ok(match self.nodes.create(name, value, true, deadline).await? {
            Change::Done(answer) => Claimed::Ours(self.counted_from(answer.lasts_until, asked)),
            Change::Otherwise { repeated, .. } => Claimed::Otherwise { repeated },
        })
    }

    async fn prolong(&self, name: &str, value: &str, deadline: Instant) -> Result<Prolonged, Failure> {
        self.nodes.use_session();
        let asked = boot_time();
        if !self.nodes.confirm(deadline).await? {
            return Ok(Prolonged::NotOurs);
        }
        let is_same = |node: &super::nodes::Node| node.value == value.as_bytes();
        let Some(node) = self.nodes.get(name, false, deadline).await?.filter(is_same) else {
            return Ok(Prolonged::NotOurs);
        };
        if node.is_own {
            return Ok(Prolonged::Ours(self.counted_from(node.lasts_until, asked)));
        }
        tracing::warn!("Recreating the leader ZNode due to ownership mismatch");
        match self.nodes.replace(name, value, &node.stat, deadline).await? {
            Change::Done(answer) => Ok(Prolonged::Ours(self.counted_from(answer.lasts_until, asked))),
            // An earlier attempt may have done it.
            Change::Otherwise { .. } => {
                let node = self.nodes.get(name, false, deadline).await.map_err(Failure::after_write)?;
                let own = node.filter(|node| is_same(node) && node.is_own);
                let ours = |node: super::nodes::Node| Prolonged::Ours(self.counted_from(node.lasts_until, asked));
                Ok(own.map_or(Prolonged::NotOurs, ours))
            }
        }
    }

    async fn hold(&self, name: &str, value: &str, known: Option<RawKey>, deadline: Instant) -> Result<RawKey, Failure> {
        self.nodes.use_session();
        // Pings keep the session alive, and its nodes with it.
        if let Some(raw) = known.filter(|raw| raw.value == value.as_bytes() && self.is_ours(raw)) {
            return Ok(raw);
        }
        let mut uncertain = false;
        for _ in 0..ROUNDS {
            let found = self.nodes.get(name, false, deadline).await;
            let found = found.map_err(|error| if uncertain { error.after_write() } else { error.before_write() })?;
            let change = match found {
                Some(node) if node.is_own && node.value == value.as_bytes() => return Ok(node.raw()),
                Some(node) if node.is_own => self.nodes.set(name, value, node.stat.version, deadline).await?,
                Some(node) => {
                    tracing::warn!("Recreating the member ZNode due to ownership mismatch");
                    self.nodes.replace(name, value, &node.stat, deadline).await?
                }
                None => self.nodes.create(name, value, true, deadline).await?,
            };
            // What it is now is read in the next round.
            uncertain |= matches!(change, Change::Done(_) | Change::Otherwise { repeated: true, .. });
        }
        let text = format!("{name} changes again and again");
        Err(if uncertain { Failure::Unknown(text) } else { Failure::NotDone(text) })
    }

    fn is_ours(&self, raw: &RawKey) -> bool {
        self.nodes.is_of_present_session(raw.session.as_ref())
    }

    async fn news(&self, cursor: &mut Cursor) -> Result<News, String> {
        // What is read while this member's loop stands still would keep its session alive.
        self.nodes.while_unused(self.timing().ttl * 2).await;
        let mut fired = self.nodes.fired();
        if let Some((seen, _)) = &cursor.0 {
            let _ = tokio::time::timeout(WATCH, fired.wait_for(|count| count != seen)).await;
        }
        // Reading sets the watches; what happens from here on is counted anew.
        let count = *fired.borrow_and_update();
        let deadline = Instant::now() + self.timing().retry_timeout;
        let keys = self.all(true, deadline).await.map_err(|failure| format!("{failure:?}"))?;
        Ok(match cursor.0.replace((count, keys.clone())) {
            None => News::Begun(keys),
            Some((_, old)) => News::Changed(differences(&old, &keys)),
        })
    }
}

fn differences(old: &BTreeMap<String, RawKey>, new: &BTreeMap<String, RawKey>) -> Vec<(String, Option<Vec<u8>>)> {
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), None));
    let is_other = |(name, raw): &(&String, &RawKey)| old.get(*name).is_none_or(|old| old.modified != raw.modified);
    let changed = new.iter().filter(is_other).map(|(name, raw)| (name.clone(), Some(raw.value.clone())));
    gone.chain(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed() {
        let keys = |all: &[(&str, u64)]| {
            let raw = |modified| RawKey { value: b"x".to_vec(), modified, ..RawKey::default() };
            all.iter().map(|(name, modified)| ((*name).to_owned(), raw(*modified))).collect::<BTreeMap<_, _>>()
        };
        let found = differences(&keys(&[("a", 1), ("b", 1), ("c", 1)]), &keys(&[("a", 1), ("b", 2), ("d", 1)]));
        let said = |name: &str| (name.to_owned(), Some(b"x".to_vec()));
        assert_eq!(found, [("c".to_owned(), None), said("b"), said("d")]);
    }
}

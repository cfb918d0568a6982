//! The nodes of one cluster: each operation on one of them, and what its answer means.

use patroni_core::cluster::Version;
use patroni_core::time::Moment;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::Client;
use super::connection::Answer;
use super::options::ZooKeeperOptions;
use super::proto::{self, BAD_VERSION, NO_NODE, NODE_EXISTS, NOT_EMPTY, Op, Reader, Stat, error_text};
use crate::Timing;
use crate::attempts::Failure;
use crate::primitives::Swap;
use crate::wire::RawKey;

/// The nodes below the path of the cluster. Names are those below it; the empty one is the path itself.
pub(super) struct Nodes {
    client: Client,
    /// Without a slash at its end.
    root: String,
}

/// A node, as the present session sees it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Vec<u8>,
    pub(super) stat: Stat,
    /// It belongs to the session that asked.
    pub(super) is_own: bool,
    /// Until when that session surely lasts, if the servers know it.
    pub(super) lasts_until: Moment,
}

impl Node {
    /// The key as all stores show it.
    pub(super) fn raw(&self) -> RawKey {
        RawKey {
            value: self.value.clone(),
            modified: self.stat.key_version(),
            created: unsigned(self.stat.created),
            session: (self.stat.owner != 0).then(|| self.stat.owner.to_string()),
        }
    }
}

impl Stat {
    /// Versions of a node begin anew when it is created again; the numbers of transactions never do.
    pub(super) fn key_version(&self) -> u64 {
        unsigned(self.modified)
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// What became of a change.
#[derive(Debug)]
pub(super) enum Change {
    /// It was made.
    Done(Answer),
    /// Its condition did not hold, as this error says.
    Otherwise {
        error: i32,
        /// An earlier attempt may have been carried out.
        repeated: bool,
    },
}

impl Change {
    /// As all stores tell it; `version`: what the key has now.
    pub(super) fn swap(self, version: Version) -> Swap {
        match self {
            Change::Done(_) => Swap::Done(version),
            Change::Otherwise { repeated, .. } => Swap::Otherwise { repeated },
        }
    }
}

impl Nodes {
    /// `prefix`: how the keys of the cluster begin, with a slash at both ends.
    pub(super) fn new(options: ZooKeeperOptions, prefix: &str, timing: Timing) -> Self {
        let root = format!("{}{}", options.chroot, prefix.trim_end_matches('/'));
        Nodes { client: Client::new(options, timing), root }
    }

    pub(super) fn configure(&self, timing: Timing) {
        self.client.configure(timing);
    }

    /// Takes other hosts, credentials and certificates. False: these are those of other nodes.
    pub(super) fn reconfigure(&self, options: ZooKeeperOptions) -> bool {
        self.client.reconfigure(options)
    }

    /// This member's own nodes are wanted for another `ttl`.
    pub(super) fn use_session(&self) {
        self.client.use_session();
    }

    /// Waits while this member's loop stands still.
    pub(super) async fn while_unused(&self, limit: std::time::Duration) {
        self.client.while_unused(limit).await;
    }

    /// Counts watches that fired.
    pub(super) fn fired(&self) -> watch::Receiver<u64> {
        self.client.fired()
    }

    /// Whether a node of this session is one of the present session.
    pub(super) fn is_of_present_session(&self, session: Option<&String>) -> bool {
        session.is_some() && session.cloned() == self.client.session().map(|id| id.to_string())
    }

    /// Has most servers confirm that they know this session now, by a transaction that changes nothing; what is read afterwards is
    /// no older. (ZooKeeper's own `sync` is answered by a leader of the servers that was replaced and does not know it yet.)
    /// False: there is no node of this cluster.
    pub(super) async fn confirm(&self, deadline: Instant) -> Result<bool, Failure> {
        let content = proto::multi(&[(Op::Check, proto::versioned(&self.path(""), -1))]);
        match self.transact(&content, deadline).await.map_err(Failure::before_write)? {
            Change::Done(_) => Ok(true),
            Change::Otherwise { error: NO_NODE, .. } => Ok(false),
            Change::Otherwise { error, .. } => Err(refused(error, false)),
        }
    }

    /// A node as the server knows it, who may be behind the others.
    pub(super) async fn get(&self, name: &str, watch: bool, deadline: Instant) -> Result<Option<Node>, Failure> {
        let content = proto::read(&self.path(name), watch);
        let (answer, _) = self.client.request(Op::GetData, &content, deadline).await?;
        match answer.error {
            0 => {
                let mut reader = Reader(&answer.content);
                let parsed = (|| Some((reader.bytes()?.to_vec(), Stat::read(&mut reader)?)))();
                let (value, stat) = parsed.ok_or_else(|| Failure::NotDone(nonsense()))?;
                let is_own = stat.owner == answer.session;
                Ok(Some(Node { value, stat, is_own, lasts_until: answer.lasts_until }))
            }
            NO_NODE => Ok(None),
            other => Err(refused(other, false)),
        }
    }

    /// The names of the nodes right below one, which may be absent.
    pub(super) async fn children(&self, name: &str, watch: bool, deadline: Instant) -> Result<Vec<String>, Failure> {
        let content = proto::read(&self.path(name), watch);
        let (answer, _) = self.client.request(Op::GetChildren2, &content, deadline).await?;
        match answer.error {
            0 => {
                let mut reader = Reader(&answer.content);
                let parsed = (|| (0..reader.int()?).map(|_| reader.text()).collect::<Option<Vec<String>>>())();
                parsed.ok_or_else(|| Failure::NotDone(nonsense()))
            }
            NO_NODE => Ok(Vec::new()),
            other => Err(refused(other, false)),
        }
    }

    /// Creates a node, and those above it where they are missing.
    pub(super) async fn create(
        &self,
        name: &str,
        value: &str,
        ephemeral: bool,
        deadline: Instant,
    ) -> Result<Change, Failure> {
        const ROUNDS: usize = 3;
        let path = self.path(name);
        let content = proto::create(&path, value.as_bytes(), &self.client.acl(), ephemeral);
        for _ in 0..ROUNDS {
            match self.change(Op::Create, &content, &[NODE_EXISTS, NO_NODE], deadline).await? {
                Change::Otherwise { error: NO_NODE, .. } => {
                    self.create_parents(&path, deadline).await.map_err(Failure::before_write)?;
                }
                change => return Ok(change),
            }
        }
        Err(Failure::NotDone(format!("{path} cannot be created: what is above it goes away again and again")))
    }

    async fn create_parents(&self, path: &str, deadline: Instant) -> Result<(), Failure> {
        for (at, _) in path.match_indices('/').skip(1) {
            let content = proto::create(&path[..at], b"", &self.client.acl(), false);
            self.change(Op::Create, &content, &[NODE_EXISTS], deadline).await?;
        }
        Ok(())
    }

    /// Changes a node of this version; -1: of any.
    pub(super) async fn set(
        &self,
        name: &str,
        value: &str,
        version: i32,
        deadline: Instant,
    ) -> Result<Change, Failure> {
        let content = proto::set(&self.path(name), value.as_bytes(), version);
        self.change(Op::SetData, &content, &[BAD_VERSION, NO_NODE], deadline).await
    }

    /// Deletes a node of this version; -1: of any.
    pub(super) async fn delete(&self, name: &str, version: i32, deadline: Instant) -> Result<Change, Failure> {
        let content = proto::versioned(&self.path(name), version);
        self.change(Op::Delete, &content, &[BAD_VERSION, NO_NODE, NOT_EMPTY], deadline).await
    }

    /// Puts a node of this session in the place of one of another session, at once: ZooKeeper cannot give a node to another
    /// session, and in between somebody else could create it.
    pub(super) async fn replace(
        &self,
        name: &str,
        value: &str,
        old: &Stat,
        deadline: Instant,
    ) -> Result<Change, Failure> {
        let path = self.path(name);
        let create = proto::create(&path, value.as_bytes(), &self.client.acl(), true);
        let content = proto::multi(&[(Op::Delete, proto::versioned(&path, old.version)), (Op::Create, create)]);
        self.transact(&content, deadline).await
    }

    async fn transact(&self, content: &[u8], deadline: Instant) -> Result<Change, Failure> {
        let (answer, repeated) = self.client.request(Op::Multi, content, deadline).await?;
        let error = match answer.error {
            0 => proto::multi_error(&answer.content).ok_or_else(|| Failure::Unknown(nonsense()))?,
            error => error,
        };
        sorted(Answer { error, ..answer }, repeated, &[BAD_VERSION, NO_NODE, NODE_EXISTS])
    }

    async fn change(&self, op: Op, content: &[u8], conditions: &[i32], deadline: Instant) -> Result<Change, Failure> {
        let (answer, repeated) = self.client.request(op, content, deadline).await?;
        sorted(answer, repeated, conditions)
    }

    fn path(&self, name: &str) -> String {
        if name.is_empty() { self.root.clone() } else { format!("{}/{name}", self.root) }
    }
}

/// That a condition did not hold is an answer; every other error is none.
fn sorted(answer: Answer, repeated: bool, conditions: &[i32]) -> Result<Change, Failure> {
    match answer.error {
        0 => Ok(Change::Done(answer)),
        error if conditions.contains(&error) => Ok(Change::Otherwise { error, repeated }),
        error => Err(refused(error, repeated)),
    }
}

fn refused(error: i32, repeated: bool) -> Failure {
    let text = format!("ZooKeeper refuses: {}", error_text(error));
    // These say that the servers lost sight of it.
    let is_unclear = matches!(error, -1 | -4 | -7);
    if repeated || is_unclear { Failure::Unknown(text) } else { Failure::NotDone(text) }
}

fn nonsense() -> String {
    "ZooKeeper answered something else".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_did_not_happen_is_called_so() {
        let sort = |error, repeated| {
            let answer = Answer { session: 1, lasts_until: Moment::default(), error, content: Vec::new() };
            match sorted(answer, repeated, &[BAD_VERSION]) {
                Ok(Change::Done(_)) => "done",
                Ok(Change::Otherwise { repeated: true, .. }) => "otherwise, or by an earlier attempt",
                Ok(Change::Otherwise { .. }) => "otherwise",
                Err(Failure::Unknown(_)) => "unknown",
                Err(_) => "not done",
            }
        };
        assert_eq!((sort(0, false), sort(0, true)), ("done", "done"));
        assert_eq!(sort(BAD_VERSION, false), "otherwise");
        assert_eq!(sort(BAD_VERSION, true), "otherwise, or by an earlier attempt");
        // Permissions, bad arguments, another condition.
        for error in [-102, -8, NODE_EXISTS] {
            assert_eq!((sort(error, false), sort(error, true)), ("not done", "unknown"), "{error}");
        }
        for error in [-1, -4, -7] {
            assert_eq!(sort(error, false), "unknown", "{error}");
        }
    }
}

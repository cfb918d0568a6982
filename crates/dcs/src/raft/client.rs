//! Using the store: through the node in this process if there is one, or through any member that answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::units::in_words;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::admin::{AdminError, Administration, Backup, Phase, StoreStatus};
use super::net::{Call, CallError, Channel, LARGE_FRAME, Peer, Pool, Return, Secret, Transport};
use super::node::{LocalCall, RaftNode};
use super::options::RaftOptions;
use super::protocol::{Answer, Request};
use super::started::Started;
use super::state::{Content, Event, Reply, RequestId, Transaction};
use super::{Tcp, TransportError};

/// The shortest time that a member gets to answer, whatever the budget.
const SHORTEST: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);
/// How long looking after the store may take.
const LOOKING_AFTER: Duration = Duration::from_secs(40);
const ASKING: Duration = Duration::from_secs(5);
/// How long a node that is about to end may take to hand the lead over.
const HANDING_OVER: Duration = Duration::from_millis(800);

/// A user of the store.
pub struct RaftClient {
    /// `None` where no configuration made it.
    started: Option<Started>,
    node: Option<Arc<dyn Inside>>,
    pool: Pool,
    /// Where the configuration says that members are.
    configured: Vec<String>,
    /// Where members are, or may be.
    addresses: Mutex<Vec<String>>,
    /// The one that answered last.
    preferred: AtomicUsize,
    /// Names the requests of this client.
    name: u64,
    count: AtomicU64,
}

/// A node in this process.
#[async_trait]
pub(crate) trait Inside: Send + Sync {
    /// Asks it; `None`: it has ended.
    async fn ask(&self, call: LocalCall) -> Option<()>;
    /// Changes as it learns of them.
    fn events(&self) -> tokio::sync::broadcast::Receiver<Arc<Vec<Event>>>;
}

impl RaftNode {
    /// It is about to end: if it leads the store, another member is to lead. What came of it is logged. Takes a second at most.
    pub async fn hand_over(&self) {
        tell_handover(&ask_inside(self, &Request::HandOver, HANDING_OVER).await);
    }
}

#[async_trait]
impl Inside for RaftNode {
    async fn ask(&self, call: LocalCall) -> Option<()> {
        self.requests().send(call).await.ok()
    }

    fn events(&self) -> tokio::sync::broadcast::Receiver<Arc<Vec<Event>>> {
        RaftNode::events(self)
    }
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was surely not done.
    NotDone(String),
    /// It may have been done, or be done later.
    Unknown(String),
    /// It was not done, and never will be.
    Refused(String),
}

impl From<Failure> for AdminError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotDone(why) => AdminError::Failed(why),
            Failure::Unknown(why) => AdminError::Unknown(why),
            Failure::Refused(why) => AdminError::Refused(why),
        }
    }
}

/// Where changes come from.
pub(crate) enum Watch {
    Inside(tokio::sync::broadcast::Receiver<Arc<Vec<Event>>>),
    Outside(Box<Channel>),
}

impl RaftClient {
    /// A client of the members that the options name; `self_addr` is one of them. Nothing is sent yet.
    ///
    /// # Errors
    /// The certificates cannot be used, or there are no random numbers.
    pub fn new(options: &RaftOptions, node: Option<Arc<RaftNode>>) -> Result<Arc<Self>, TransportError> {
        let transport = Arc::new(Tcp::new(options)?);
        let node = node.map(|node| node as Arc<dyn Inside>);
        // The node in this process is asked directly.
        let addresses = if node.is_some() { options.partner_addrs.clone() } else { options.addresses() };
        let client = Self::of(transport, Secret::new(options.password.as_deref()), addresses, node);
        Ok(Arc::new(RaftClient { started: Some(Started::with(options)), ..client }))
    }

    /// What it was started with.
    pub(crate) fn started(&self) -> Option<&Started> {
        self.started.as_ref()
    }

    /// A client over any transport.
    #[cfg(test)]
    pub(crate) fn over(
        transport: Arc<dyn Transport>,
        secret: Secret,
        addresses: Vec<String>,
        node: Option<Arc<dyn Inside>>,
    ) -> Arc<Self> {
        Arc::new(Self::of(transport, secret, addresses, node))
    }

    fn of(
        transport: Arc<dyn Transport>,
        secret: Secret,
        addresses: Vec<String>,
        node: Option<Arc<dyn Inside>>,
    ) -> Self {
        // Not a secret: it only has to differ from that of others.
        let name = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        RaftClient {
            started: None,
            node,
            pool: Pool::new(transport, secret),
            addresses: Mutex::new(addresses.clone()),
            configured: addresses,
            preferred: AtomicUsize::new(0),
            name,
            count: AtomicU64::new(0),
        }
    }

    /// Asks until there is an answer or the time is over. A request that changes something must be one that may be
    /// repeated.
    pub(crate) async fn ask(&self, request: &Request, budget: Duration) -> Result<Answer, Failure> {
        let until = Instant::now() + budget;
        let mut uncertain = false;
        let mut last = "there was no time left to ask".to_owned();
        let mut tries = 0_usize;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || (tries > 0 && left < Duration::from_millis(10)) {
                break;
            }
            let ways = usize::from(self.node.is_some()) + self.addresses().len();
            let share = left / u32::try_from(ways.max(1) + 1).unwrap_or(u32::MAX);
            let patience = if ways <= 1 { left } else { share.max(SHORTEST).min(left) };
            let answer = self.attempt(tries, request, patience).await;
            tries += 1;
            match answer {
                Answer::Refused(why) => return Err(Failure::Refused(why)),
                Answer::Failed(why) => last = why,
                Answer::Unknown(why) => {
                    uncertain = true;
                    last = why;
                }
                answer => return Ok(answer),
            }
            tracing::debug!("embedded store: {last}");
            tokio::time::sleep_until((Instant::now() + PAUSE).min(until)).await;
        }
        let text = format!("the embedded store is not responding properly: {last}");
        Err(if uncertain { Failure::Unknown(text) } else { Failure::NotDone(text) })
    }

    /// All keys that begin with this, linearizable, whatever they are.
    ///
    /// # Errors
    /// No member answers in time.
    pub async fn read(&self, prefix: &str, budget: Duration) -> Result<BTreeMap<String, Content>, AdminError> {
        match self.ask(&Request::Read { prefix: prefix.to_owned() }, budget).await? {
            Answer::Contents { keys, .. } => Ok(keys),
            _ => Err(AdminError::Failed("a member answered something else".to_owned())),
        }
    }

    /// Carries out a transaction on keys, once, whatever they are.
    ///
    /// # Errors
    /// It was not carried out, or that is not known.
    pub async fn change(&self, transaction: Transaction, budget: Duration) -> Result<Reply, AdminError> {
        Ok(self.transact(transaction, budget).await?)
    }

    /// Carries out a transaction, once.
    pub(crate) async fn transact(&self, transaction: Transaction, budget: Duration) -> Result<Reply, Failure> {
        let id = RequestId { client: self.name, number: self.count.fetch_add(1, Ordering::Relaxed) };
        // What is remembered for a time must not be repeated after it.
        let budget = budget.min(Duration::from_millis(super::state::REMEMBERED / 2));
        match self.ask(&Request::Transact { id, transaction }, budget).await? {
            Answer::Reply(Reply::Full(why)) => Err(Failure::Refused(format!("the embedded store is full: {why}"))),
            Answer::Reply(reply) => Ok(reply),
            _ => Err(Failure::Unknown("a member answered something else".to_owned())),
        }
    }

    /// The node in this process, if there is one, makes another member lead. What came of it is logged.
    pub(crate) async fn hand_over(&self) {
        if let Some(node) = &self.node {
            tell_handover(&ask_inside(&**node, &Request::HandOver, HANDING_OVER).await);
        }
    }

    /// One attempt: first through the node inside, then through the others in turn.
    async fn attempt(&self, tries: usize, request: &Request, patience: Duration) -> Answer {
        let addresses = self.addresses();
        let ways = usize::from(self.node.is_some()) + addresses.len();
        if let Some(node) = &self.node
            && tries.is_multiple_of(ways)
        {
            return ask_inside(&**node, request, patience).await;
        }
        if addresses.is_empty() {
            return Answer::Failed("no member of the store is known: set raft.partner_addrs".to_owned());
        }
        let from = self.preferred.load(Ordering::Relaxed);
        let turn = (from + tries - usize::from(self.node.is_some() && tries > 0)) % addresses.len();
        let answer = self.ask_at(&addresses[turn], request, patience).await;
        if !matches!(answer, Answer::Failed(_) | Answer::Unknown(_)) {
            self.preferred.store(turn, Ordering::Relaxed);
        }
        answer
    }

    async fn ask_at(&self, address: &str, request: &Request, patience: Duration) -> Answer {
        let budget_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let call = Call::Client { request: request.clone(), budget_ms, forwarded: false };
        // A little longer than the member has, so that its answer tells what is wrong.
        let patience = patience + Duration::from_millis(200);
        match self.pool.call(address, Peer::Client, &call, patience).await {
            Ok(Return::Client(answer)) => answer,
            Ok(_) => Answer::Unknown(format!("{address}: an answer to another question")),
            Err(CallError::NotSent(why)) => Answer::Failed(why),
            Err(CallError::Refused(why)) => Answer::Failed(format!("{address}: {why}")),
            // A read changes nothing: whoever asks makes no difference between the two.
            Err(CallError::NoAnswer(why)) => Answer::Unknown(why),
        }
    }

    /// Begins to watch for changes.
    pub(crate) async fn watch(&self, prefix: &str) -> Result<Watch, String> {
        if let Some(node) = &self.node {
            return Ok(Watch::Inside(node.events()));
        }
        let addresses = self.addresses();
        let from = self.preferred.load(Ordering::Relaxed);
        let mut last = "no member of the store is known".to_owned();
        for i in 0..addresses.len() {
            let address = &addresses[(from + i) % addresses.len()];
            let opening = async {
                let mut channel = self.pool.connect(address, Peer::Client).await.map_err(|error| error.to_string())?;
                let request = Request::Watch { prefix: prefix.to_owned() };
                let call = Call::Client { request, budget_ms: 0, forwarded: false };
                channel.say(&call).await.map_err(|error| error.to_string())?;
                channel.hear::<Return>(LARGE_FRAME).await.map_err(|error| error.to_string())?;
                Ok(Watch::Outside(Box::new(channel)))
            };
            match timeout(ASKING, opening).await {
                Ok(Ok(watch)) => return Ok(watch),
                Ok(Err(why)) => last = why,
                Err(_) => last = format!("{address}: no answer"),
            }
        }
        Err(last)
    }

    /// Members that are known now, also those that are not configured. One that was removed is forgotten, unless it is
    /// configured.
    pub(crate) async fn learn(&self) {
        let Ok(Answer::Status(status)) = self.ask(&Request::Status, ASKING).await else { return };
        let own = self.node.is_some().then_some(status.address.as_str());
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let members: Vec<&str> = status.members.iter().map(|member| member.address.as_str()).collect();
        let is_member = status.phase == Phase::Member;
        let now = known_addresses(&self.configured, &addresses, own, &members, is_member);
        for new in now.iter().filter(|address| !addresses.contains(address)) {
            tracing::info!("embedded store: the member {new} is known as well");
        }
        for gone in addresses.iter().filter(|address| !now.contains(address)) {
            tracing::info!("embedded store: {gone} is no member any more");
        }
        *addresses = now;
    }

    fn addresses(&self) -> Vec<String> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The ways to the store, after a node has told who its members are. What one says that is no member itself (any more) may
/// be old: it adds to what was known, and takes nothing from it.
fn known_addresses(
    configured: &[String],
    known: &[String],
    own: Option<&str>,
    members: &[&str],
    is_member: bool,
) -> Vec<String> {
    let kept = if is_member && !members.is_empty() { configured } else { known };
    let mut addresses = kept.to_vec();
    for &member in members {
        if !addresses.iter().any(|address| address == member) && Some(member) != own && addresses.len() < 32 {
            addresses.push(member.to_owned());
        }
    }
    addresses
}

/// That it does not lead is nothing to talk about.
fn tell_handover(answer: &Answer) {
    if let Answer::Failed(why) | Answer::Unknown(why) = answer {
        tracing::warn!("embedded store: its lead was not handed over: {why}");
    }
}

async fn ask_inside(node: &dyn Inside, request: &Request, patience: Duration) -> Answer {
    let (sender, receiver) = oneshot::channel();
    let call = LocalCall { request: request.clone(), budget: patience, answer: sender };
    let asking = async {
        match node.ask(call).await {
            None => Answer::Failed("the embedded store of this process has ended".to_owned()),
            Some(()) => {
                receiver.await.unwrap_or_else(|_| Answer::Unknown("the embedded store ended meanwhile".to_owned()))
            }
        }
    };
    let late = || Answer::Unknown(format!("no answer within {}", in_words(patience)));
    timeout(patience + Duration::from_millis(200), asking).await.unwrap_or_else(|_| late())
}

impl Watch {
    /// Waits for changes. `None`: some were missed. The error: the watch is over.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Event>>, String> {
        match self {
            Watch::Inside(events) => match events.recv().await {
                Ok(events) => Ok(Some(events.to_vec())),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => Ok(None),
                Err(error) => Err(error.to_string()),
            },
            Watch::Outside(channel) => {
                let silence = Duration::from_secs(60);
                match timeout(silence, channel.hear::<Return>(LARGE_FRAME)).await {
                    Ok(Ok(Return::Client(Answer::Events(events)))) => Ok(events),
                    Ok(Ok(_)) => Err("an answer to another question".to_owned()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("silent for {}", in_words(silence))),
                }
            }
        }
    }
}

#[async_trait]
impl Administration for RaftClient {
    async fn status(&self) -> Result<StoreStatus, AdminError> {
        let mut last = AdminError::Failed("no member of the store is known: set raft.partner_addrs".to_owned());
        let mut first = None;
        for address in self.addresses() {
            match self.status_of(&address).await {
                Err(error) => last = error,
                Ok(status) if status.phase == Phase::Member && status.leader == Some(status.member) => {
                    return Ok(status);
                }
                Ok(status) => {
                    let leader = status.members.iter().find(|member| Some(member.id) == status.leader);
                    if let Some(leader) = leader
                        && let Ok(status) = self.status_of(&leader.address).await
                    {
                        return Ok(status);
                    }
                    first.get_or_insert(status);
                }
            }
        }
        first.ok_or(last)
    }

    async fn status_of(&self, address: &str) -> Result<StoreStatus, AdminError> {
        match self.ask_at(address, &Request::Status, ASKING).await {
            Answer::Status(status) => Ok(*status),
            Answer::Refused(why) => Err(AdminError::Refused(why)),
            Answer::Failed(why) | Answer::Unknown(why) => Err(AdminError::Failed(why)),
            _ => Err(AdminError::Failed(format!("{address} answers something else"))),
        }
    }

    async fn add(&self, address: &str) -> Result<(), AdminError> {
        done(self.ask(&Request::Add { address: address.to_owned() }, LOOKING_AFTER).await?)
    }

    async fn remove(&self, address: &str) -> Result<(), AdminError> {
        done(self.ask(&Request::Remove { address: address.to_owned() }, LOOKING_AFTER).await?)
    }

    async fn backup(&self) -> Result<Backup, AdminError> {
        match self.ask(&Request::Backup, LOOKING_AFTER).await? {
            Answer::Backup(backup) => Ok(backup),
            _ => Err(AdminError::Failed("a member answered something else".to_owned())),
        }
    }

    async fn restore(&self, backup: &Backup) -> Result<(), AdminError> {
        done(self.ask(&Request::Restore(backup.clone()), LOOKING_AFTER).await?)
    }
}

fn done(answer: Answer) -> Result<(), AdminError> {
    match answer {
        Answer::Done => Ok(()),
        _ => Err(AdminError::Unknown("a member answered something else".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_members_are_forgotten_unless_they_are_configured() {
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let learn = |known: &[&str], members: &[&str], is_member: bool| {
            known_addresses(&texts(&["b:1"]), &texts(known), Some("a:1"), members, is_member)
        };
        assert_eq!(learn(&["b:1"], &["a:1", "b:1", "c:1"], true), ["b:1", "c:1"]);
        assert_eq!(learn(&["b:1", "c:1"], &["a:1", "d:1"], true), ["b:1", "d:1"], "c was removed");
        assert_eq!(learn(&["b:1", "c:1"], &["a:1", "d:1"], false), ["b:1", "c:1", "d:1"], "it was removed itself");
        assert_eq!(learn(&["b:1", "c:1"], &[], true), ["b:1", "c:1"], "no answer is no news");
    }
}

//! Who is connected, and who gives way when there is no more room.
//!
//! A connection waits for its client until a request is complete, and again once it is answered. Such a one can be ended
//! without harm: the oldest makes room for the next, first among those of the same address. One whose request is being
//! carried out is left alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The connections of a server.
pub(crate) struct Connections {
    most: usize,
    most_of_one_address: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// In the order in which they began to wait, or to be served.
    entries: BTreeMap<u64, Entry>,
}

struct Entry {
    address: IpAddr,
    waits: bool,
    /// Tells the connection to end.
    end: oneshot::Sender<()>,
}

/// The place of one connection, for as long as it lasts.
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: Mutex<u64>,
}

impl Connections {
    /// At most so many, and of one address at most a quarter of them.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let most_of_one_address = (most / 4).max(1);
        Arc::new(Connections { most, most_of_one_address, open: Mutex::default() })
    }

    /// A place for one more, and what ends when it has to give way. `None`: there is no room, and nobody who could make any.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<(Place, oneshot::Receiver<()>)> {
        let mut open = self.open();
        if open.of(address) >= self.most_of_one_address {
            open.end_oldest(|entry| entry.address == address)?;
        } else if open.entries.len() >= self.most {
            open.end_oldest(|_| true)?;
        }
        let (end, ended) = oneshot::channel();
        let number = open.insert(Entry { address, waits: true, end });
        Some((Place { connections: Arc::clone(self), number: Mutex::new(number) }, ended))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn of(&self, address: IpAddr) -> usize {
        self.entries.values().filter(|entry| entry.address == address).count()
    }

    fn insert(&mut self, entry: Entry) -> u64 {
        self.next += 1;
        self.entries.insert(self.next, entry);
        self.next
    }

    fn end_oldest(&mut self, which: impl Fn(&Entry) -> bool) -> Option<()> {
        let (number, _) = self.entries.iter().find(|(_, entry)| entry.waits && which(entry))?;
        let number = *number;
        let entry = self.entries.remove(&number)?;
        // One that has ended meanwhile does not listen.
        let _ = entry.end.send(());
        Some(())
    }
}

impl Place {
    /// The request is complete: it will be carried out.
    pub(crate) fn serve(&self) {
        self.set(false);
    }

    /// It is answered: the next one is waited for.
    pub(crate) fn wait(&self) {
        self.set(true);
    }

    fn set(&self, waits: bool) {
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = self.connections.open();
        // One that had to give way ends before it sees another request.
        if let Some(entry) = open.entries.remove(&*number) {
            *number = open.insert(Entry { waits, ..entry });
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let number = *self.number.lock().unwrap_or_else(PoisonError::into_inner);
        self.connections.open().entries.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn ended(receiver: &mut oneshot::Receiver<()>) -> bool {
        receiver.try_recv().is_ok()
    }

    #[test]
    fn the_oldest_of_the_same_address_gives_way() {
        let connections = Connections::new(8);
        let mut other = connections.admit(address(2)).unwrap();
        let mut own: Vec<_> = (0..2).map(|_| connections.admit(address(1)).unwrap()).collect();
        let third = connections.admit(address(1)).unwrap();
        assert!(ended(&mut own[0].1), "two are a quarter");
        assert!(!ended(&mut own[1].1) && !ended(&mut other.1));
        drop(third);
        let _fourth = connections.admit(address(1)).unwrap();
        assert!(!ended(&mut own[1].1), "there was room again");
    }

    #[test]
    fn the_oldest_of_all_gives_way_and_nobody_who_is_served() {
        let connections = Connections::new(4);
        let mut places: Vec<_> = (1..5).map(|last| connections.admit(address(last)).unwrap()).collect();
        places[0].0.serve();
        let fifth = connections.admit(address(5)).unwrap();
        assert!(!ended(&mut places[0].1) && ended(&mut places[1].1));
        places[0].0.wait();
        fifth.0.serve();
        let sixth = connections.admit(address(6)).unwrap();
        assert!(!ended(&mut places[0].1), "it began to wait last");
        assert!(ended(&mut places[2].1));
        for (place, _) in &places[..1] {
            place.serve();
        }
        places[3].0.serve();
        sixth.0.serve();
        assert!(connections.admit(address(7)).is_none(), "all are served");
        assert!(connections.admit(address(6)).is_none());
        drop(sixth);
        assert!(connections.admit(address(7)).is_some());
    }
}

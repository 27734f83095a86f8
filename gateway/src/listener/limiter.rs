//! Bounds of connections, in total and per address. When a bound is reached, the connection that
//! has been idle longest is evicted.
//!
//! A connection is *busy* while a request of it runs, otherwise it is *idle*: it has sent nothing,
//! has sent half a head, or is kept for a later request. An idle connection may be evicted at any
//! time, unless its last answer still waits for the socket. Nothing is lost with it, because a
//! client that kept its connection opens another. So connections that only wait, however many there
//! are, never keep out a client that has a request.
//!
//! ```text
//! admit ──> idle ──begin──> busy ──end (the answer is sent)──> idle
//!            └── evicted, when the total or the share of an address is reached
//! ```

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Connections at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) total: usize,
    pub(crate) per_address: usize,
}

/// The limiter of a gateway. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    connections: Mutex<Connections>,
    /// Notified when a connection ends, becomes idle or has sent its answer.
    changes: Notify,
}

#[derive(Debug, Default)]
struct Connections {
    /// Connections that count. An evicted connection does not count, even before its task ends.
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Idle connections by ticket, longest idle first.
    idle: BTreeMap<u64, Idle>,
    last_ticket: u64,
}

#[derive(Debug)]
struct Idle {
    address: IpAddr,
    eviction: Arc<Notify>,
    is_sending: Arc<AtomicBool>,
}

impl Idle {
    fn is_evictable(&self) -> bool {
        !self.is_sending.load(Ordering::Relaxed)
    }
}

/// The bound that keeps a connection out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// All connections of its address are busy.
    Address,
    /// All connections are busy.
    Total,
}

/// The slot of an admitted connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    limiter: ConnectionLimiter,
    address: IpAddr,
    state: Mutex<State>,
    eviction: Arc<Notify>,
    /// Bytes of an answer wait for the client. The connection is not evicted before the client has
    /// taken them.
    is_sending: Arc<AtomicBool>,
    sent: Notify,
    /// The last request left a part of its body unread.
    has_unread: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that run.
    requests: usize,
    /// Ticket among the idle connections. Stale while requests run.
    ticket: u64,
}

impl ConnectionLimiter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            connections: Mutex::default(),
            changes: Notify::new(),
        }))
    }

    /// Admits a connection, evicting the longest-idle one if a limit is reached. Returns the slot
    /// and the number of connections evicted.
    ///
    /// # Errors
    /// [`LimitReached`] if all connections that count against the limit are busy. An eviction for
    /// the other limit is not undone.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<(Arc<Slot>, usize), LimitReached> {
        let mut connections = self.0.connections.lock();
        let mut n_evicted = 0;

        if connections
            .by_address
            .get(&address)
            .is_some_and(|count| *count >= self.0.limits.per_address)
        {
            let oldest = connections
                .oldest_of(address)
                .ok_or(LimitReached::Address)?;
            connections.evict(oldest);
            n_evicted += 1;
        }
        if connections.total >= self.0.limits.total {
            let oldest = connections
                .oldest_of_the_heaviest()
                .ok_or(LimitReached::Total)?;
            connections.evict(oldest);
            n_evicted += 1;
        }

        connections.total += 1;
        *connections.by_address.entry(address).or_default() += 1;
        let eviction = Arc::<Notify>::default();
        let is_sending = Arc::<AtomicBool>::default();
        let ticket = connections.insert_idle(address, &eviction, &is_sending);
        let state = Mutex::new(State {
            requests: 0,
            ticket,
        });
        let slot = Slot {
            limiter: self.clone(),
            address,
            state,
            eviction,
            is_sending,
            sent: Notify::new(),
            has_unread: AtomicBool::new(false),
        };
        Ok((Arc::new(slot), n_evicted))
    }

    /// Evicts one idle connection, as when the process has no more file descriptors. Returns
    /// whether there was one.
    pub(crate) fn evict_idle(&self) -> bool {
        let mut connections = self.0.connections.lock();
        let oldest = connections.oldest_of_the_heaviest();
        oldest.map(|oldest| connections.evict(oldest)).is_some()
    }

    /// Returns when a connection has ended or may be evicted, so that [`Self::admit`] is worth
    /// another try.
    pub(crate) async fn changed(&self) {
        self.0.changes.notified().await;
    }
}

impl Connections {
    fn insert_idle(
        &mut self,
        address: IpAddr,
        eviction: &Arc<Notify>,
        is_sending: &Arc<AtomicBool>,
    ) -> u64 {
        self.last_ticket += 1;
        let idle = Idle {
            address,
            eviction: eviction.clone(),
            is_sending: is_sending.clone(),
        };
        self.idle.insert(self.last_ticket, idle);
        self.last_ticket
    }

    fn oldest_of(&self, address: IpAddr) -> Option<u64> {
        self.oldest(|idle| idle.address == address)
    }

    /// Returns an idle connection of the address with the most connections, otherwise of any:
    /// whoever floods loses first.
    fn oldest_of_the_heaviest(&self) -> Option<u64> {
        let heaviest = self
            .by_address
            .iter()
            .max_by_key(|(_, count)| **count)
            .map(|(address, _)| *address)?;
        self.oldest_of(heaviest).or_else(|| self.oldest(|_| true))
    }

    fn oldest(&self, fits: impl Fn(&Idle) -> bool) -> Option<u64> {
        let mut idle = self.idle.iter();
        idle.find(|(_, idle)| fits(idle) && idle.is_evictable())
            .map(|(ticket, _)| *ticket)
    }

    /// Stops counting a connection. The connection itself ends as soon as its task runs.
    fn evict(&mut self, ticket: u64) {
        if let Some(idle) = self.idle.remove(&ticket) {
            self.release(idle.address);
            idle.eviction.notify_one();
        }
    }

    fn release(&mut self, address: IpAddr) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.by_address.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Slot {
    /// Marks the begin of a request. Returns false if the connection was evicted: the request MUST
    /// NOT run then.
    pub(crate) fn begin(&self) -> bool {
        let mut connections = self.limiter.0.connections.lock();
        let mut state = self.state.lock();
        if state.requests == 0 && connections.idle.remove(&state.ticket).is_none() {
            return false;
        }
        state.requests += 1;
        self.has_unread.store(false, Ordering::Relaxed);
        true
    }

    /// Notes that a request leaves a part of its body unread, which the client may still be sending.
    pub(crate) fn note_unread(&self) {
        self.has_unread.store(true, Ordering::Relaxed);
    }

    /// Returns true if the last request left a part of its body unread.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread.load(Ordering::Relaxed)
    }

    /// Marks the end of a request: its answer is sent, or will never be.
    pub(crate) fn end(&self) {
        let mut connections = self.limiter.0.connections.lock();
        let mut state = self.state.lock();
        state.requests = state.requests.saturating_sub(1);
        if state.requests == 0 {
            state.ticket = connections.insert_idle(self.address, &self.eviction, &self.is_sending);
            self.limiter.0.changes.notify_one();
        }
    }

    /// Sets whether bytes wait for the client to take them.
    pub(crate) fn set_sending(&self, is_sending: bool) {
        self.is_sending.store(is_sending, Ordering::Relaxed);
        if !is_sending {
            self.sent.notify_one();
            self.limiter.0.changes.notify_one();
        }
    }

    /// Returns when no bytes wait for the client.
    pub(crate) async fn all_sent(&self) {
        while self.is_sending.load(Ordering::Relaxed) {
            self.sent.notified().await;
        }
    }

    /// Returns when the connection is evicted.
    pub(crate) async fn evicted(&self) {
        self.eviction.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut connections = self.limiter.0.connections.lock();
        let state = self.state.get_mut();
        // An evicted connection is not counted any more.
        if state.requests > 0 || connections.idle.remove(&state.ticket).is_some() {
            connections.release(self.address);
            self.limiter.0.changes.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn limiter(total: usize, per_address: usize) -> ConnectionLimiter {
        ConnectionLimiter::new(Limits { total, per_address })
    }

    fn from(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.evicted().now_or_never().is_some()
    }

    #[test]
    fn the_longest_idle_is_evicted_and_the_busy_stay() {
        let limiter = limiter(2, 2);
        let (busy, _) = limiter.admit(from(1)).unwrap();
        assert!(busy.begin());
        let (idle, _) = limiter.admit(from(1)).unwrap();
        let (newcomer, n_evicted) = limiter.admit(from(1)).unwrap();
        assert_eq!(n_evicted, 1);
        assert!(is_evicted(&idle) && !is_evicted(&busy) && !is_evicted(&newcomer));
        assert!(!idle.begin(), "an evicted connection runs no request");
        assert!(newcomer.begin());
        assert_eq!(limiter.admit(from(1)).map(drop), Err(LimitReached::Address));
        drop(idle);
        assert_eq!(
            limiter.admit(from(2)).map(drop),
            Err(LimitReached::Total),
            "it was not counted any more"
        );
        busy.end();
        let (_, n_evicted) = limiter.admit(from(2)).unwrap();
        assert!(n_evicted == 1 && is_evicted(&busy));
    }

    #[test]
    fn a_connection_is_not_evicted_before_its_answer_is_sent() {
        let limiter = limiter(2, 2);
        let (sending, _) = limiter.admit(from(1)).unwrap();
        assert!(sending.begin());
        sending.set_sending(true);
        sending.end();
        let (other, _) = limiter.admit(from(1)).unwrap();
        let (newcomer, _) = limiter.admit(from(1)).unwrap();
        assert!(is_evicted(&other) && !is_evicted(&sending));
        assert!(newcomer.begin());
        assert_eq!(limiter.admit(from(1)).map(drop), Err(LimitReached::Address));
        assert!(sending.all_sent().now_or_never().is_none());
        sending.set_sending(false);
        assert!(sending.all_sent().now_or_never().is_some());
        assert!(limiter.admit(from(1)).is_ok() && is_evicted(&sending));
    }

    #[test]
    fn a_flood_from_one_address_evicts_its_own() {
        let limiter = limiter(4, 3);
        let (good, _) = limiter.admit(from(1)).unwrap();
        let flood: Vec<_> = (0..3).map(|_| limiter.admit(from(2)).unwrap().0).collect();
        let more: Vec<_> = (0..50).map(|_| limiter.admit(from(2)).unwrap().0).collect();
        assert!(!is_evicted(&good) && flood.iter().all(|slot| is_evicted(slot)));
        let (other, _) = limiter.admit(from(3)).unwrap();
        assert!(
            !is_evicted(&good) && !is_evicted(&other),
            "the heaviest address loses first"
        );
        drop((flood, more));
        assert!(limiter.admit(from(4)).is_ok());
    }

    #[test]
    fn a_slot_with_two_requests_is_idle_when_both_have_ended() {
        let limiter = limiter(1, 1);
        let (slot, _) = limiter.admit(from(1)).unwrap();
        assert!(slot.begin() && slot.begin());
        slot.end();
        assert!(!limiter.evict_idle());
        slot.end();
        assert!(limiter.evict_idle() && is_evicted(&slot) && !limiter.evict_idle());
    }

    #[tokio::test]
    async fn a_change_is_notified_by_an_end_and_by_a_connection_that_becomes_idle() {
        let limiter = limiter(1, 1);
        let (slot, _) = limiter.admit(from(1)).unwrap();
        assert!(slot.begin());
        assert!(limiter.changed().now_or_never().is_none());
        slot.end();
        limiter.changed().await;
        assert!(slot.begin());
        drop(slot);
        limiter.changed().await;
        assert!(limiter.admit(from(1)).is_ok());
        let connections = limiter.0.connections.lock();
        assert!(connections.by_address.len() <= 1 && connections.total <= 1);
    }
}

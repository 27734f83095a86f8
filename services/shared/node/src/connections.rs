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
//!
//! # Shares
//! A connection may become busy only while its address has fewer busy connections than places are
//! left without one. One address alone gets half of the places, two get a third each, and a place is
//! always left for an address that has none (the dynamic threshold of Choudhury and Hahne, "Dynamic
//! Queue Length Thresholds for Shared-Memory Packet Switches", 1998, with α = 1). The rule does not
//! count where one address may have all connections, as behind a proxy. IPv6 addresses of one /64
//! are one address, because one client has as many as it likes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Bounds of the connections of one listener.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub total: usize,
    /// Connections of one address at a time.
    pub per_address: usize,
}

impl ConnectionLimits {
    /// Returns limits for the inner ports, where one address has at most half of the connections.
    #[must_use]
    pub const fn halved(total: usize) -> Self {
        let per_address = if total > 1 { total / 2 } else { 1 };
        Self { total, per_address }
    }
}

/// Admits the connections of one listener. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: ConnectionLimits,
    connections: Mutex<Connections>,
    /// Notified when a connection ends, becomes idle or has sent its answer.
    changes: Notify,
}

#[derive(Debug, Default)]
struct Connections {
    /// Connections that count. An evicted connection does not count, even before its task ends.
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    busy: usize,
    busy_by_address: HashMap<IpAddr, usize>,
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
pub enum LimitReached {
    /// All connections of its address are busy.
    Address,
    /// All connections are busy.
    Total,
}

/// The reason why a request must not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBegun {
    /// The connection was evicted, and is about to be closed.
    Evicted,
    /// The address already has its share of busy connections, see the module.
    Share,
}

/// The slot of an admitted connection, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    limiter: ConnectionLimiter,
    address: IpAddr,
    state: Mutex<State>,
    eviction: Arc<Notify>,
    /// Bytes of an answer wait for the client. The connection is not evicted before the client has
    /// taken them.
    is_sending: Arc<AtomicBool>,
    sent: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that run.
    requests: usize,
    /// Requests that have begun so far.
    begun: u64,
    /// Ticket among the idle connections. Stale while requests run.
    ticket: u64,
}

impl ConnectionLimiter {
    /// Makes a limiter without connections.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
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
    pub fn admit(&self, address: IpAddr) -> Result<(Arc<Slot>, usize), LimitReached> {
        let address = network_of(address);
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
                // Connections that only send, such as those of a caller that pings and reads nothing,
                // must not keep out everybody.
                .or_else(|| connections.oldest_that_sends())
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
            begun: 0,
            ticket,
        });
        let slot = Slot {
            limiter: self.clone(),
            address,
            state,
            eviction,
            is_sending,
            sent: Notify::new(),
        };
        Ok((Arc::new(slot), n_evicted))
    }

    /// Evicts one idle connection, as when the process has no more file descriptors. Returns
    /// whether there was one.
    pub fn evict_idle(&self) -> bool {
        let mut connections = self.0.connections.lock();
        let oldest = connections.oldest_of_the_heaviest();
        oldest.map(|oldest| connections.evict(oldest)).is_some()
    }

    /// Returns a future that ends when a connection has ended or may be evicted, so that
    /// [`Self::admit`] is worth another try. It MUST be enabled BEFORE a try that fails, otherwise a
    /// change in between is missed. All who wait are notified: a change may help only some of them.
    pub fn changed(&self) -> Notified<'_> {
        self.0.changes.notified()
    }
}

fn decrement(counts: &mut HashMap<IpAddr, usize>, address: IpAddr) {
    if let Some(count) = counts.get_mut(&address) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&address);
        }
    }
}

/// Returns the address that counts for a client: that of its /64 for IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        address => address,
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

    /// Returns the longest idle connection of the heaviest address, although bytes of it wait for the
    /// client.
    fn oldest_that_sends(&self) -> Option<u64> {
        let (heaviest, _) = self.by_address.iter().max_by_key(|(_, count)| **count)?;
        let mut idle = self.idle.iter();
        idle.find(|(_, idle)| idle.address == *heaviest)
            .map(|(ticket, _)| *ticket)
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
        decrement(&mut self.by_address, address);
    }

    /// Returns true if another connection of `address` may become busy.
    fn has_share(&self, address: IpAddr, limits: ConnectionLimits) -> bool {
        if limits.per_address >= limits.total {
            return true;
        }
        let of_address = self.busy_by_address.get(&address).copied().unwrap_or(0);
        of_address < limits.total.saturating_sub(self.busy)
    }

    fn end_busy(&mut self, address: IpAddr) {
        self.busy = self.busy.saturating_sub(1);
        decrement(&mut self.busy_by_address, address);
    }
}

/// A request that runs. Keeps its connection busy until it is dropped.
#[derive(Debug)]
pub struct RequestInFlight(Arc<Slot>);

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Slot {
    /// Marks the begin of a request. It ends when the guard is dropped: its answer is sent, or will
    /// never be.
    ///
    /// # Errors
    /// [`NotBegun`]: the request MUST NOT run then. The connection stays as it is.
    pub fn begin(self: &Arc<Self>) -> Result<RequestInFlight, NotBegun> {
        let mut connections = self.limiter.0.connections.lock();
        let mut state = self.state.lock();
        if state.requests == 0 {
            if !connections.idle.contains_key(&state.ticket) {
                return Err(NotBegun::Evicted);
            }
            if !connections.has_share(self.address, self.limiter.0.limits) {
                return Err(NotBegun::Share);
            }
            connections.idle.remove(&state.ticket);
            connections.busy += 1;
            *connections.busy_by_address.entry(self.address).or_default() += 1;
        }
        state.requests += 1;
        state.begun += 1;
        Ok(RequestInFlight(self.clone()))
    }

    fn end(&self) {
        let mut connections = self.limiter.0.connections.lock();
        let mut state = self.state.lock();
        state.requests = state.requests.saturating_sub(1);
        if state.requests == 0 {
            connections.end_busy(self.address);
            state.ticket = connections.insert_idle(self.address, &self.eviction, &self.is_sending);
            self.limiter.0.changes.notify_waiters();
        }
    }

    /// Returns true while a request of the connection runs, and the number of requests that have
    /// begun so far.
    pub fn progress(&self) -> (bool, u64) {
        let state = self.state.lock();
        (state.requests > 0, state.begun)
    }

    /// Sets whether bytes wait for the client to take them.
    pub fn set_sending(&self, is_sending: bool) {
        self.is_sending.store(is_sending, Ordering::Relaxed);
        if !is_sending {
            self.sent.notify_one();
            self.limiter.0.changes.notify_waiters();
        }
    }

    /// Returns when no bytes wait for the client.
    pub async fn all_sent(&self) {
        while self.is_sending.load(Ordering::Relaxed) {
            self.sent.notified().await;
        }
    }

    /// Returns when the connection is evicted.
    pub async fn evicted(&self) {
        self.eviction.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut connections = self.limiter.0.connections.lock();
        let state = self.state.get_mut();
        if state.requests > 0 {
            connections.end_busy(self.address);
        }
        // An evicted connection is not counted any more.
        if state.requests > 0 || connections.idle.remove(&state.ticket).is_some() {
            connections.release(self.address);
            self.limiter.0.changes.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn limiter(total: usize, per_address: usize) -> ConnectionLimiter {
        ConnectionLimiter::new(ConnectionLimits { total, per_address })
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
        let running = busy.begin().unwrap();
        let (idle, _) = limiter.admit(from(1)).unwrap();
        let (newcomer, n_evicted) = limiter.admit(from(1)).unwrap();
        assert_eq!(n_evicted, 1);
        assert!(is_evicted(&idle) && !is_evicted(&busy) && !is_evicted(&newcomer));
        assert_eq!(idle.begin().unwrap_err(), NotBegun::Evicted);
        let _second = newcomer.begin().unwrap();
        assert_eq!(limiter.admit(from(1)).map(drop), Err(LimitReached::Address));
        drop(idle);
        assert_eq!(
            limiter.admit(from(2)).map(drop),
            Err(LimitReached::Total),
            "it was not counted any more"
        );
        drop(running);
        let (_, n_evicted) = limiter.admit(from(2)).unwrap();
        assert!(n_evicted == 1 && is_evicted(&busy));
    }

    #[test]
    fn a_connection_is_not_evicted_before_its_answer_is_sent() {
        let limiter = limiter(2, 2);
        let (sending, _) = limiter.admit(from(1)).unwrap();
        let running = sending.begin().unwrap();
        sending.set_sending(true);
        drop(running);
        let (other, _) = limiter.admit(from(1)).unwrap();
        let (newcomer, _) = limiter.admit(from(1)).unwrap();
        assert!(is_evicted(&other) && !is_evicted(&sending));
        let _running = newcomer.begin().unwrap();
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
        let (first, second) = (slot.begin().unwrap(), slot.begin().unwrap());
        drop(first);
        assert!(slot.progress() == (true, 2) && !limiter.evict_idle());
        drop(second);
        assert_eq!(slot.progress(), (false, 2));
        assert!(limiter.evict_idle() && is_evicted(&slot) && !limiter.evict_idle());
    }

    #[tokio::test]
    async fn a_change_is_notified_by_an_end_and_by_a_connection_that_becomes_idle() {
        let limiter = limiter(1, 1);
        let (slot, _) = limiter.admit(from(1)).unwrap();
        let running = slot.begin().unwrap();
        let enabled = || {
            let mut changed = Box::pin(limiter.changed());
            changed.as_mut().enable();
            changed
        };
        let (mut first, second) = (enabled(), enabled());
        assert!(first.as_mut().now_or_never().is_none());
        drop(running);
        // Both are notified: the change may help only one of them.
        first.await;
        second.await;
        // The task of a request may outlive that of its connection.
        let running = slot.begin().unwrap();
        let changed = enabled();
        drop(slot);
        drop(running);
        changed.await;
        assert!(limiter.admit(from(1)).is_ok());
        let connections = limiter.0.connections.lock();
        assert!(connections.by_address.len() <= 1 && connections.total <= 1);
        assert!(connections.busy == 0 && connections.busy_by_address.is_empty());
    }

    #[test]
    fn connections_that_send_without_a_request_do_not_keep_out_everybody() {
        let limiter = limiter(4, 2);
        let flood: Vec<_> = (0..4)
            .map(|n| limiter.admit(from(1 + n / 2)).unwrap().0)
            .collect();
        flood.iter().for_each(|slot| slot.set_sending(true));
        let (_other, n_evicted) = limiter.admit(from(9)).unwrap();
        assert_eq!(n_evicted, 1);
        assert_eq!(flood.iter().filter(|slot| is_evicted(slot)).count(), 1);
    }

    /// Makes connections of `address` busy until one is refused. Returns those that are.
    fn fill(limiter: &ConnectionLimiter, address: IpAddr) -> Vec<RequestInFlight> {
        let mut running = Vec::new();
        while let Ok((slot, _)) = limiter.admit(address) {
            match slot.begin() {
                Ok(request) => running.push(request),
                Err(why) => {
                    assert_eq!(why, NotBegun::Share);
                    break;
                }
            }
        }
        running
    }

    #[test]
    fn whoever_fills_the_place_leaves_room_for_others() {
        let limiter = limiter(100, 99);
        let first = fill(&limiter, from(1));
        assert_eq!(first.len(), 50);
        let second = fill(&limiter, from(2));
        assert_eq!(second.len(), 25);
        let third = fill(&limiter, from(3));
        assert!(third.len() >= 12, "{}", third.len());
        // Requests that end are not replaced beyond the share, so all end up with equal ones.
        drop(first);
        let first = fill(&limiter, from(1));
        assert!((25..=31).contains(&first.len()), "{}", first.len());
        assert_eq!(fill(&limiter, from(4)).len(), 16);
    }

    #[test]
    fn one_address_may_have_all_where_the_limits_say_so() {
        let limiter = limiter(10, 10);
        assert_eq!(fill(&limiter, from(1)).len(), 10);
    }

    #[test]
    fn addresses_of_one_network_count_as_one() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = network_of(address("2001:db8:1:2::1"));
        assert_eq!(one, network_of(address("2001:db8:1:2:ffff::9")));
        assert_ne!(one, network_of(address("2001:db8:1:3::1")));
        assert_eq!(network_of(address("::ffff:10.0.0.7")), from_v4(10, 0, 0, 7));
        assert_ne!(network_of(from(1)), network_of(from(2)));
    }

    fn from_v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
        IpAddr::from([a, b, c, d])
    }
}

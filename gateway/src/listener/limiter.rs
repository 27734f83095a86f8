//! Who may hold a connection: bounds in total and per address, kept by sending away who has nothing to do.
//!
//! A guest is *busy* while a request of it runs, else it *waits*: it has sent nothing, half a head, or keeps its
//! connection for later. Waiting guests may be sent away at any time, but for those whose last answer still waits for the
//! socket; nothing is lost with them, and a client that kept its
//! connection opens another. So sockets that only wait, however many, never keep out who asks for something.
//!
//! ```text
//! enter ──> waiting ──begin──> busy ──end (the answer has gone)──> waiting
//!              └── sent away, when the house or the share of an address is full
//! ```

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Connections at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) total: usize,
    pub(crate) per_address: usize,
}

/// The door of a gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    caps: Caps,
    house: Mutex<House>,
    /// Somebody left, or waits again.
    room: Notify,
}

#[derive(Debug, Default)]
struct House {
    guests: usize,
    by_address: HashMap<IpAddr, usize>,
    /// In the order in which they began to wait.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    address: IpAddr,
    away: Arc<Notify>,
    sending: Arc<AtomicBool>,
}

impl Waiting {
    fn may_go(&self) -> bool {
        !self.sending.load(Ordering::Relaxed)
    }
}

/// Why a guest does not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All connections of its address are busy.
    Address,
    /// All connections are busy.
    House,
}

/// One connection that was let in.
#[derive(Debug)]
pub(crate) struct Guest {
    door: Door,
    address: IpAddr,
    state: Mutex<State>,
    away: Arc<Notify>,
    /// Bytes of an answer wait for the client: it may be cut off only when it takes none.
    sending: Arc<AtomicBool>,
    sent: Notify,
}

#[derive(Debug, Default)]
struct State {
    busy: usize,
    /// Its place among those that wait.
    place: u64,
}

impl Door {
    pub(crate) fn new(caps: Caps) -> Self {
        Self(Arc::new(Inner { caps, house: Mutex::default(), room: Notify::new() }))
    }

    /// Lets somebody in; sends away who waits longest when there is no room. Answers how many were sent away, too.
    pub(crate) fn enter(&self, address: IpAddr) -> Result<(Arc<Guest>, usize), Full> {
        let mut house = self.0.house.lock();
        let mut sent_away = 0;
        if house.by_address.get(&address).is_some_and(|held| *held >= self.0.caps.per_address) {
            let oldest = house.oldest_of(address).ok_or(Full::Address)?;
            house.send_away(oldest);
            sent_away += 1;
        }
        if house.guests >= self.0.caps.total {
            let oldest = house.oldest_of_the_heaviest().ok_or(Full::House)?;
            house.send_away(oldest);
            sent_away += 1;
        }
        house.guests += 1;
        *house.by_address.entry(address).or_default() += 1;
        let (away, sending) = (Arc::<Notify>::default(), Arc::<AtomicBool>::default());
        let place = house.wait(address, &away, &sending);
        let state = Mutex::new(State { busy: 0, place });
        let guest = Guest { door: self.clone(), address, state, away, sending, sent: Notify::new() };
        Ok((Arc::new(guest), sent_away))
    }

    /// Sends one away who waits, as when the process has no more file descriptors. Answers whether there was one.
    pub(crate) fn make_room(&self) -> bool {
        let mut house = self.0.house.lock();
        let oldest = house.oldest_of_the_heaviest();
        oldest.map(|oldest| house.send_away(oldest)).is_some()
    }

    /// Ends when somebody has left or waits again.
    pub(crate) async fn room(&self) {
        self.0.room.notified().await;
    }
}

impl House {
    fn wait(&mut self, address: IpAddr, away: &Arc<Notify>, sending: &Arc<AtomicBool>) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, Waiting { address, away: away.clone(), sending: sending.clone() });
        self.next
    }

    fn oldest_of(&self, address: IpAddr) -> Option<u64> {
        let of = |waiting: &Waiting| waiting.address == address && waiting.may_go();
        self.waiting.iter().find(|(_, waiting)| of(waiting)).map(|(place, _)| *place)
    }

    /// Whoever floods loses first: the address with the most connections, else anybody.
    fn oldest_of_the_heaviest(&self) -> Option<u64> {
        let heaviest = self.by_address.iter().max_by_key(|(_, held)| **held).map(|(address, _)| *address)?;
        let anybody = || self.waiting.iter().find(|(_, waiting)| waiting.may_go()).map(|(place, _)| *place);
        self.oldest_of(heaviest).or_else(anybody)
    }

    /// It counts no more from now on: its connection ends as soon as its task runs.
    fn send_away(&mut self, place: u64) {
        if let Some(waiting) = self.waiting.remove(&place) {
            self.leave(waiting.address);
            waiting.away.notify_one();
        }
    }

    fn leave(&mut self, address: IpAddr) {
        self.guests = self.guests.saturating_sub(1);
        if let Some(held) = self.by_address.get_mut(&address) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Guest {
    /// A request begins. `false`: the guest was sent away, and the request must not run.
    pub(crate) fn begin(&self) -> bool {
        let (mut house, mut state) = (self.door.0.house.lock(), self.state.lock());
        if state.busy == 0 && house.waiting.remove(&state.place).is_none() {
            return false;
        }
        state.busy += 1;
        true
    }

    /// The answer of a request has gone, or will never go.
    pub(crate) fn end(&self) {
        let (mut house, mut state) = (self.door.0.house.lock(), self.state.lock());
        state.busy = state.busy.saturating_sub(1);
        if state.busy == 0 {
            state.place = house.wait(self.address, &self.away, &self.sending);
            self.door.0.room.notify_one();
        }
    }

    /// Whether bytes wait for the client to take them.
    pub(crate) fn sends(&self, sending: bool) {
        self.sending.store(sending, Ordering::Relaxed);
        if !sending {
            self.sent.notify_one();
            self.door.0.room.notify_one();
        }
    }

    /// Ends when nothing waits for the client to take it.
    pub(crate) async fn has_sent(&self) {
        while self.sending.load(Ordering::Relaxed) {
            self.sent.notified().await;
        }
    }

    /// Ends when the guest is sent away.
    pub(crate) async fn sent_away(&self) {
        self.away.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut house = self.door.0.house.lock();
        let state = self.state.get_mut();
        // Who was sent away has been counted out.
        if state.busy > 0 || house.waiting.remove(&state.place).is_some() {
            house.leave(self.address);
            self.door.0.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn door(total: usize, per_address: usize) -> Door {
        Door::new(Caps { total, per_address })
    }

    fn from(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn is_away(guest: &Guest) -> bool {
        guest.sent_away().now_or_never().is_some()
    }

    #[test]
    fn who_waits_longest_makes_room_and_who_is_busy_stays() {
        let door = door(2, 2);
        let (busy, _) = door.enter(from(1)).unwrap();
        assert!(busy.begin());
        let (idle, _) = door.enter(from(1)).unwrap();
        let (newcomer, sent_away) = door.enter(from(1)).unwrap();
        assert_eq!(sent_away, 1);
        assert!(is_away(&idle) && !is_away(&busy) && !is_away(&newcomer));
        assert!(!idle.begin(), "what was sent away runs no request");
        assert!(newcomer.begin());
        assert_eq!(door.enter(from(1)).map(drop), Err(Full::Address));
        drop(idle);
        assert_eq!(door.enter(from(2)).map(drop), Err(Full::House), "it had been counted out before");
        busy.end();
        let (_, sent_away) = door.enter(from(2)).unwrap();
        assert!(sent_away == 1 && is_away(&busy));
    }

    #[test]
    fn who_has_not_taken_all_of_his_answer_stays_until_he_has() {
        let door = door(2, 2);
        let (sending, _) = door.enter(from(1)).unwrap();
        assert!(sending.begin());
        sending.sends(true);
        sending.end();
        let (other, _) = door.enter(from(1)).unwrap();
        let (newcomer, _) = door.enter(from(1)).unwrap();
        assert!(is_away(&other) && !is_away(&sending));
        assert!(newcomer.begin());
        assert_eq!(door.enter(from(1)).map(drop), Err(Full::Address));
        assert!(sending.has_sent().now_or_never().is_none());
        sending.sends(false);
        assert!(sending.has_sent().now_or_never().is_some());
        assert!(door.enter(from(1)).is_ok() && is_away(&sending));
    }

    #[test]
    fn a_flood_from_one_address_sends_away_its_own() {
        let door = door(4, 3);
        let (good, _) = door.enter(from(1)).unwrap();
        let flood: Vec<_> = (0..3).map(|_| door.enter(from(2)).unwrap().0).collect();
        let more: Vec<_> = (0..50).map(|_| door.enter(from(2)).unwrap().0).collect();
        assert!(!is_away(&good) && flood.iter().all(|guest| is_away(guest)));
        let (other, _) = door.enter(from(3)).unwrap();
        assert!(!is_away(&good) && !is_away(&other), "the heaviest address gives way");
        drop((flood, more));
        assert!(door.enter(from(4)).is_ok());
    }

    #[test]
    fn a_guest_with_two_requests_waits_when_both_have_ended() {
        let door = door(1, 1);
        let (guest, _) = door.enter(from(1)).unwrap();
        assert!(guest.begin() && guest.begin());
        guest.end();
        assert!(!door.make_room());
        guest.end();
        assert!(door.make_room() && is_away(&guest) && !door.make_room());
    }

    #[tokio::test]
    async fn room_is_told_of_by_who_leaves_and_by_who_waits_again() {
        let door = door(1, 1);
        let (guest, _) = door.enter(from(1)).unwrap();
        assert!(guest.begin());
        assert!(door.room().now_or_never().is_none());
        guest.end();
        door.room().await;
        assert!(guest.begin());
        drop(guest);
        door.room().await;
        assert!(door.enter(from(1)).is_ok());
        let house = door.0.house.lock();
        assert!(house.by_address.len() <= 1 && house.guests <= 1);
    }
}

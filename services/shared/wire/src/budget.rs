//! The memory of blocks on their way out: counted from BEFORE a block is read until the socket has
//! taken its last byte.
//!
//! ```text
//! reserve ─▶ the connection's budget ─▶ the process's budget, or the turn that it does not count
//!   ─▶ read ─▶ a part of the reservation travels with each frame ─▶ written, or the connection ended
//! ```
//! Invariants
//! * A reservation waits for nothing else once it is made: its bytes are written, or its connection
//!   ends within the progress deadline. So waiting for one while another is held cannot deadlock.
//! * A peer that does not read holds its connection's budget, and no more. One reservation of each
//!   connection counts for the connection only, so peers that do not read take the process's budget
//!   away from others without ever stopping them.
//! * Waiting is in order. A reservation larger than a whole budget takes the whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::frame::{HEADER, PREFIX};
use crate::limits::CREDIT_UNIT;

/// Bytes of a frame that carries a block, without the block: its head, index, last flag and status.
const BLOCK_FRAME: usize = HEADER + PREFIX + 6;

/// Budget of the bytes of blocks that all connections of a process hold. Clones share it.
#[derive(Debug, Clone)]
pub struct ReadBudget {
    units: Arc<Semaphore>,
    all: u32,
    held: Arc<AtomicU64>,
}

impl ReadBudget {
    /// Returns a budget of `bytes`, at least one unit.
    pub fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes / CREDIT_UNIT as u64).unwrap_or(u32::MAX);
        let all = all.clamp(1, u32::MAX >> 3);
        Self {
            units: Arc::new(Semaphore::new(all as usize)),
            all,
            held: Arc::default(),
        }
    }

    /// Returns the bytes that are held at the moment, in whole units. Those that count for their
    /// connection only are among them.
    pub fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// Budget of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionBudget {
    units: Arc<Semaphore>,
    all: u32,
    /// Turn of the one reservation that the process's budget does not count.
    first: Arc<Semaphore>,
    process: ReadBudget,
}

impl ConnectionBudget {
    pub(crate) fn new(bytes: u32, process: ReadBudget) -> Self {
        let all = units_of(bytes as usize).max(1);
        Self {
            units: Arc::new(Semaphore::new(all as usize)),
            all,
            first: Arc::new(Semaphore::new(1)),
            process,
        }
    }

    /// Waits until frames with blocks of these lengths may be held. `None` if the budget is closed.
    /// Cancel safe.
    pub(crate) async fn reserve(&self, lens: &[usize]) -> Option<HeldBytes> {
        let units = lens
            .iter()
            .map(|len| units_of(len.saturating_add(BLOCK_FRAME)));
        let units = units.fold(0, u32::saturating_add).min(self.all);
        // The connection's budget comes first: whoever holds a part of the process's waits for
        // nothing.
        let connection = self.units.clone().acquire_many_owned(units).await.ok()?;
        let shared = units.min(self.process.all);
        let share = tokio::select! {
            biased;
            first = self.first.clone().acquire_owned() => Share::First(Arc::new(first.ok()?)),
            shared = self.process.units.clone().acquire_many_owned(shared) => {
                Share::Process(shared.ok()?)
            }
        };
        let count = HeldCount::new(self.process.held.clone(), units);
        Some(HeldBytes {
            connection,
            share,
            count,
        })
    }
}

fn units_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(CREDIT_UNIT)).unwrap_or(u32::MAX)
}

/// A reservation of bytes, or a part of one. Dropping it returns them.
#[derive(Debug)]
pub struct HeldBytes {
    connection: OwnedSemaphorePermit,
    share: Share,
    count: HeldCount,
}

#[derive(Debug)]
enum Share {
    /// Counts for the connection only. The turn ends with the last part of the reservation.
    First(Arc<OwnedSemaphorePermit>),
    Process(OwnedSemaphorePermit),
}

impl HeldBytes {
    /// Takes the part for a block of `len` bytes out; all that is left, if that is less.
    pub(crate) fn split_block(&mut self, len: usize) -> Option<Self> {
        self.split(len.saturating_add(BLOCK_FRAME))
    }

    /// Takes the part for a frame of `bytes` out; all that is left, if that is less.
    pub(crate) fn split(&mut self, bytes: usize) -> Option<Self> {
        let units = units_of(bytes).min(self.count.units);
        let share = match &mut self.share {
            Share::First(turn) => Share::First(turn.clone()),
            Share::Process(shared) => {
                let units = (units as usize).min(shared.num_permits());
                Share::Process(shared.split(units)?)
            }
        };
        Some(Self {
            connection: self.connection.split(units as usize)?,
            share,
            count: self.count.split(units),
        })
    }
}

/// Units that count as held until they are dropped.
#[derive(Debug)]
struct HeldCount {
    held: Arc<AtomicU64>,
    units: u32,
}

impl HeldCount {
    fn new(held: Arc<AtomicU64>, units: u32) -> Self {
        held.fetch_add(bytes_of(units), Ordering::Relaxed);
        Self { held, units }
    }

    fn split(&mut self, units: u32) -> Self {
        self.units = self.units.saturating_sub(units);
        Self {
            held: self.held.clone(),
            units,
        }
    }
}

impl Drop for HeldCount {
    fn drop(&mut self) {
        self.held.fetch_sub(bytes_of(self.units), Ordering::Relaxed);
    }
}

fn bytes_of(units: u32) -> u64 {
    u64::from(units).saturating_mul(CREDIT_UNIT as u64)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const KIB: usize = 1_024;
    /// A block whose frame takes 4 units.
    const BLOCK: usize = 4 * KIB - BLOCK_FRAME;

    fn now(budget: &ConnectionBudget, blocks: usize) -> Option<HeldBytes> {
        budget
            .reserve(&vec![BLOCK; blocks])
            .now_or_never()
            .flatten()
    }

    #[test]
    fn a_reservation_larger_than_the_budgets_gets_through_alone() {
        let process = ReadBudget::new(8 << 10);
        let connection = ConnectionBudget::new(16 << 10, process.clone());
        let mut all = now(&connection, 100).unwrap();
        assert_eq!(process.held_bytes(), 16 << 10);
        assert!(now(&connection, 1).is_none());
        // Take the whole budget of the process, even if the connection has used its exemption.
        let first = all.split(4 * KIB).unwrap();
        drop(all);
        let mut whole = now(&connection, 3).unwrap();
        assert_eq!(process.held_bytes(), 16 << 10);
        drop(first);
        drop(whole.split(8 * KIB));
        drop(whole);
        assert_eq!(process.held_bytes(), 0);
        assert!(now(&connection, 100).is_some());
    }

    #[test]
    fn connections_that_hold_everything_do_not_stop_another_one() {
        let process = ReadBudget::new(16 << 10);
        let connection = || ConnectionBudget::new(64 << 10, process.clone());
        let (slow, other) = (connection(), connection());
        let mut held: Vec<HeldBytes> = std::iter::from_fn(|| now(&slow, 1)).collect();
        assert_eq!(held.len(), 1 + 4, "its turn, and the process's budget");
        for _ in 0..3 {
            let turn = now(&other, 2).unwrap();
            assert!(now(&other, 1).is_none());
            drop(turn);
        }
        // Waiting requests get returned bytes in the order of their arrival.
        let turn = now(&other, 1).unwrap();
        let mut waiting = Box::pin(other.reserve(&[BLOCK]));
        assert!(waiting.as_mut().now_or_never().is_none());
        held.pop();
        assert!(now(&slow, 1).is_none(), "others were first");
        assert!(waiting.as_mut().now_or_never().flatten().is_some());
        drop(turn);
    }

    #[test]
    fn a_reservation_that_is_given_up_returns_its_bytes() {
        let process = ReadBudget::new(8 << 10);
        let connection = ConnectionBudget::new(8 << 10, process.clone());
        let held = now(&connection, 2).unwrap();
        let mut waiting = Box::pin(connection.reserve(&[BLOCK, BLOCK]));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        drop(held);
        assert_eq!(process.held_bytes(), 0);
        assert!(now(&connection, 2).is_some());
    }
}

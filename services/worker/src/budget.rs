//! Memory that all streams of a worker may hold together (`CSTORE_MEMORY_BUDGET`), and its division
//! among them.
//!
//! | part | for | when there is no more |
//! |---|---|---|
//! | a half | blocks of uploads on their way to storage | the upload waits, and its client with it |
//! | five sixteenths | what a download holds for as long as it is open | refused as overloaded |
//! | a sixteenth | the same, for downloads that hold less than [`OPEN_BYTES`] | taken from the part above, or refused |
//! | a sixteenth | the first window of blocks of each download | the download waits; buffers behind it take a first window at once |
//! | a sixteenth | the windows after it | the download waits for others, which send or give up theirs |
//!
//! A download whose reader pauses gives its window up and fetches it again later, so readers that
//! take nothing cannot keep the windows from those that do, and small files never wait for them. Nor
//! can large downloads to slow readers take the last places: small ones have a part of their own.

use std::sync::Arc;

use cstore_types::{ErrorCode, Fault};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::{BUDGET_UNIT, DOWNLOAD_PATIENCE, OPEN_BYTES, SMALL_UPLOAD_PATIENCE};

/// Bytes that are held until this is dropped.
pub(crate) type Hold = OwnedSemaphorePermit;

/// A number of bytes that several streams share.
#[derive(Debug, Clone)]
struct Share {
    units: Arc<Semaphore>,
    all: u32,
}

impl Share {
    fn of(bytes: u64) -> Self {
        let all = u32::try_from(bytes / BUDGET_UNIT)
            .unwrap_or(u32::MAX)
            .max(1);
        Self {
            units: Arc::new(Semaphore::new(all as usize)),
            all,
        }
    }

    fn units_for(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(BUDGET_UNIT))
            .unwrap_or(u32::MAX)
            .min(self.all)
    }

    /// Takes `bytes` if they are free now.
    fn try_take(&self, bytes: u64) -> Option<Hold> {
        let units = self.units_for(bytes);
        self.units.clone().try_acquire_many_owned(units).ok()
    }

    /// Waits for `bytes`, in order of the calls. A caller that wants more than the whole gets the
    /// whole.
    async fn take(&self, bytes: u64) -> Result<Hold, Fault> {
        let units = self.units_for(bytes);
        let held = self.units.clone().acquire_many_owned(units).await;
        held.map_err(|error| Fault::from_error(ErrorCode::Unavailable, error))
    }
}

/// The budget. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    uploads: Share,
    open: Share,
    open_small: Share,
    first: Share,
    next: Share,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            uploads: Share::of(bytes / 2),
            open: Share::of(bytes / 16 * 5),
            open_small: Share::of(bytes / 16),
            first: Share::of(bytes / 16),
            next: Share::of(bytes / 16),
        }
    }

    /// Takes bytes for blocks of an upload.
    pub(crate) async fn upload(&self, bytes: u64) -> Result<Hold, Fault> {
        self.uploads.take(bytes).await
    }

    /// Takes bytes for an upload in one call, whose body is in memory already.
    ///
    /// # Errors
    /// `Overloaded` if other uploads held the memory for [`SMALL_UPLOAD_PATIENCE`].
    pub(crate) async fn small_upload(&self, bytes: usize) -> Result<Hold, Fault> {
        let taken = timeout(SMALL_UPLOAD_PATIENCE, self.uploads.take(bytes as u64)).await;
        let busy = "uploads hold all memory of this worker";
        taken.unwrap_or_else(|_| Err(Fault::new(ErrorCode::Overloaded, busy)))
    }

    /// Takes `bytes` for a download, for as long as it is open.
    ///
    /// # Errors
    /// `Overloaded` when there were too many for too long.
    pub(crate) async fn open(&self, bytes: u64) -> Result<Hold, Fault> {
        let is_small = bytes < OPEN_BYTES;
        let taking = async {
            if !is_small {
                return self.open.take(OPEN_BYTES).await;
            }
            // The small ones are first in their own part, and use what large ones leave.
            let free = [&self.open_small, &self.open]
                .into_iter()
                .find_map(|share| share.try_take(bytes));
            match free {
                Some(held) => Ok(held),
                None => self.open_small.take(bytes).await,
            }
        };
        let taken = timeout(DOWNLOAD_PATIENCE, taking).await;
        taken.unwrap_or_else(|_| {
            Err(Fault::new(
                ErrorCode::Overloaded,
                "too many downloads are open at this worker",
            ))
        })
    }

    /// Takes bytes for a window of blocks of a download.
    pub(crate) async fn window(&self, is_first: bool, bytes: u64) -> Result<Hold, Fault> {
        let share = if is_first { &self.first } else { &self.next };
        share.take(bytes).await
    }

    /// Returns the bytes that are held at the moment, in whole units.
    #[cfg(test)]
    pub(crate) fn held(&self) -> u64 {
        let shares = [
            &self.uploads,
            &self.open,
            &self.open_small,
            &self.first,
            &self.next,
        ];
        let held = |share: &Share| {
            (share.all as usize - share.units.available_permits()) as u64 * BUDGET_UNIT
        };
        shares.into_iter().map(held).sum()
    }

    /// The largest window that leaves room for some others.
    pub(crate) fn max_window(&self) -> u64 {
        u64::from(self.next.all) * BUDGET_UNIT / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn downloads_beyond_the_budget_are_refused_as_overloaded_and_small_ones_cost_what_they_are()
     {
        let budget = Budget::new(16 << 20);
        let mut open = Vec::new();
        while let Some(Ok(held)) = budget.open(u64::MAX).now_or_never() {
            open.push(held);
        }
        assert_eq!(open.len() as u64, (5 << 20) / OPEN_BYTES);
        assert_eq!(
            budget.open(u64::MAX).await.unwrap_err().code,
            ErrorCode::Overloaded
        );
        // Small ones have places of their own, and then those that large ones leave.
        let open_small = |n: usize| {
            (0..n).all(|_| match budget.open(4_096).now_or_never() {
                Some(Ok(held)) => {
                    std::mem::forget(held);
                    true
                }
                _ => false,
            })
        };
        assert!(open_small((1 << 20) / 4_096));
        let left = (5 << 20) % OPEN_BYTES / 4_096;
        assert!(open_small(left as usize) && !open_small(1));
        open.pop();
        assert!(open_small(90));
    }

    #[tokio::test]
    async fn a_window_larger_than_the_share_takes_all_of_it_instead_of_waiting_for_ever() {
        let budget = Budget::new(16 << 20);
        let all = budget.window(false, 4 << 20).await.unwrap();
        assert!(budget.window(false, 1).now_or_never().is_none());
        assert!(
            budget.window(true, 1).now_or_never().is_some(),
            "new downloads do not wait for it"
        );
        drop(all);
        assert!(budget.window(false, 1).now_or_never().is_some());
    }
}

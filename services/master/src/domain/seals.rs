//! Seals: whether a disk still holds what it proved for an upload, and whether it is the disk that
//! the master remembers.
//!
//! The master remembers the newest seal of each disk on which a file rests, and tells it to the
//! disk in every answer. A disk that lost it is seen by that, whatever it has written since. So
//! nothing may raise the memory over a loss: a seal counts only if the disk has told this life of
//! the master that it holds it, or takes it now; and the seals of a disk in doubt raise a memory of
//! their own, so that neither the right disk nor this one passes without what the other has.
//!
//! ```text
//! told epochs hold the seal                    ─▶ committed
//! of the disk's current epoch, beyond its head ─▶ committed: it is newer than the last report
//! other                                        ─▶ the upload is gone: its disk went back behind it
//! disk not heard in this life of the master    ─▶ unavailable, repeat
//! ```

use cstore_types::epoch::{self, Epoch, SealPoint, SeenSeals};
use cstore_types::{ErrorCode, Fault, SealSeq, StoreUuid};
use tokio::sync::OwnedRwLockReadGuard;

use super::membership::{DiskReport, DoubtReport, Membership, Node};
use crate::store::keys::{self, StoreRecord};
use crate::store::{Batch, DoubtedSeal};

/// Version of the protocol from which on a storage node judges its disk by both seals.
const JUDGES_IN_DOUBT: u32 = 4;

/// The word by which a storage node names the doubt that its disk is an older copy.
const STORE_OLDER: &str = "store_older";

/// A seal, judged by what its disk has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JudgedSeal {
    /// The disk holds it.
    Held {
        point: SealPoint,
        /// Set if the disk is in doubt because of its age.
        in_doubt: Option<DoubtedSeal>,
    },
    /// The disk does not hold it, and never will.
    Gone,
}

/// Keeps disks from registering. What they have told stays true while it lives.
pub(super) type ToldGuard = OwnedRwLockReadGuard<()>;

/// What this life of the master has been told of the sequences of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Told {
    /// The disk is not open yet.
    Nothing,
    /// The program of its node knows no epochs.
    #[default]
    Sequence,
    /// Epochs, oldest first. The last one is that of its open, and goes on.
    Epochs(Vec<Epoch>),
}

impl Told {
    /// Returns true if a disk with its last report at `head` holds `point`. It goes on in its
    /// current epoch, so a seal beyond the report counts as held there.
    fn holds(&self, head: SealSeq, point: &SealPoint) -> bool {
        match self {
            Self::Nothing | Self::Sequence => point.seq <= head,
            Self::Epochs(epochs) => epoch::is_held(epochs, head.0, point),
        }
    }

    /// Returns true if both were told by the same open of a disk.
    pub(super) fn is_same_open(&self, other: &Self) -> bool {
        let current = |epoch: &Epoch| (epoch.number, epoch.nonce);
        match (self, other) {
            (Self::Epochs(ours), Self::Epochs(theirs)) => {
                ours.last().map(current) == theirs.last().map(current)
            }
            (Self::Sequence, Self::Sequence) => true,
            _ => false,
        }
    }

    /// Returns the seal of a sequence. Its nonce is 0 if the epoch is not told (any more).
    fn point(&self, seq: SealSeq) -> SealPoint {
        let number = epoch::epoch_of(seq.0);
        let nonce = match self {
            Self::Nothing | Self::Sequence => None,
            Self::Epochs(epochs) => epochs.iter().find(|epoch| epoch.number == number),
        };
        SealPoint {
            seq,
            nonce: nonce.map_or(0, |epoch| epoch.nonce),
        }
    }
}

impl Node {
    /// Returns true if the disk of the node does not hold `seen`, as far as it has told.
    pub(super) fn is_older_than(&self, seen: &SeenSeals) -> bool {
        // An older program does not receive the seal in doubt, so it could list no doubt about it.
        let judges_both = self.protocol >= JUDGES_IN_DOUBT;
        self.lacks(&seen.newest) || (judges_both && self.lacks(&seen.in_doubt))
    }

    fn lacks(&self, seal: &SealPoint) -> bool {
        let lacks = |disk: &DiskReport| !self.told.holds(disk.seal_seq, seal);
        self.disk.as_ref().is_some_and(lacks)
    }

    /// Returns true if the node says that its disk is older than what the master has seen of it.
    pub(super) fn is_in_doubt(&self) -> bool {
        let is_open = |doubt: &DoubtReport| doubt.kind == STORE_OLDER && !doubt.accepted;
        self.doubts.iter().any(is_open)
    }

    /// Returns the newest seal of the disk, as far as it has told.
    fn head(&self) -> Option<SealPoint> {
        Some(self.told.point(self.disk.as_ref()?.seal_seq))
    }
}

impl Membership {
    /// Keeps disks from registering until the guard is dropped: what a commit was judged by must be
    /// true until it is durable.
    pub(super) async fn told(&self) -> ToldGuard {
        self.told.clone().read_owned().await
    }

    /// Judges a seal of a store by what the store has told this life of the master.
    ///
    /// # Errors
    /// `unavailable` if the store was not heard in this life, or is not known.
    pub(super) fn judge_seal(
        &self,
        _told: &ToldGuard,
        store: StoreUuid,
        seal: SealPoint,
        seen: &SeenSeals,
    ) -> Result<JudgedSeal, Fault> {
        let mut inner = self.inner.lock();
        let has_store =
            |node: &&mut Node| node.disk.as_ref().is_some_and(|disk| disk.store == store);
        let known = inner.nodes.values_mut().find(has_store);
        let Some(node) = known.filter(|node| node.told != Told::Nothing) else {
            let text =
                format!("store {store} was not heard since the master started, or is being opened");
            return Err(Fault::new(ErrorCode::Unavailable, text));
        };
        // A program that does not say the nonce of a seal is taken to mean the epoch that was told.
        let point = match seal.nonce {
            0 => node.told.point(seal.seq),
            _ => seal,
        };
        let head = node.disk.as_ref().map_or(SealSeq(0), |disk| disk.seal_seq);
        // A program without epochs cannot tell.
        if node.told != Told::Sequence && !node.told.holds(head, &point) {
            return Ok(JudgedSeal::Gone);
        }
        node.newest_held = node.newest_held.max(point);
        let doubted = DoubtedSeal {
            before: seen.in_doubt,
            is_lacking: !node.told.holds(head, &seen.in_doubt),
        };
        Ok(JudgedSeal::Held {
            point,
            in_doubt: node.suspect.then_some(doubted),
        })
    }

    /// Takes in what a report of a storage node says for good: the store is not excused any more,
    /// and is taken as it is if the node has accepted that.
    ///
    /// # Errors
    /// The error of the metadata store. The node reports the same again.
    pub(crate) async fn take_reported(&self, store: StoreUuid) -> Result<(), Fault> {
        self.is_back(store).await;
        self.take_accepted(store).await
    }

    /// Takes the disk of a store as it is, if its node has accepted, on behalf of a person, that it
    /// does not hold the newest seal that the master has seen: from now on that is its head.
    ///
    /// # Errors
    /// Those of the store of metadata. The node goes on reporting the accepted doubt.
    async fn take_accepted(&self, store: StoreUuid) -> Result<(), Fault> {
        let is_accepted = |node: &Node| {
            let has_store = node.disk.as_ref().is_some_and(|disk| disk.store == store);
            let mut doubts = node.doubts.iter();
            has_store && doubts.any(|doubt| doubt.kind == STORE_OLDER && doubt.accepted)
        };
        if !self.inner.lock().nodes.values().any(is_accepted) {
            return Ok(());
        }

        // No commit is between its judgement and its end now, so nothing is raised meanwhile.
        let _telling = self.told.write().await;
        let key = keys::store_key(store);
        let Some(current) = self.context.store.get(&key).await? else {
            return Ok(());
        };
        let record = StoreRecord::decode(&current.value)?;
        let accepts = |doubt: &DoubtReport| {
            let seen = record.seen.all();
            doubt.kind == STORE_OLDER
                && doubt.accepted
                && doubt.seal.is_some_and(|seal| seen.contains(&seal))
        };
        let taken = {
            let inner = self.inner.lock();
            let node = inner.nodes.get(&record.node);
            let node = node.filter(|node| is_accepted(node));
            node.and_then(|node| {
                let accepted: Vec<SealPoint> = node
                    .doubts
                    .iter()
                    .filter(|doubt| accepts(doubt))
                    .filter_map(|doubt| doubt.seal)
                    .collect();
                // A seal that was committed on the disk since its last report counts, too.
                let head = node.head()?.max(node.newest_held);
                let holds = |seal: &SealPoint| !node.lacks(seal);
                (!accepted.is_empty()).then(|| record.seen.without(&accepted, head, holds))
            })
        };
        let Some(seen) = taken.filter(|seen| *seen != record.seen) else {
            return Ok(());
        };

        let mut batch = Batch::default();
        batch.require_version(key.clone(), current.version);
        batch.put(key, StoreRecord { seen, ..record }.encode());
        // On a conflict the node reports it again.
        if self.context.propose(batch).await?.is_some() {
            tracing::warn!(%store, newest = %seen.newest, "an older disk is taken as it is, as an operator has accepted");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 0xa;
    const B: u64 = 0xb;

    fn point(number: u32, counter: u64, nonce: u64) -> SealPoint {
        SealPoint {
            seq: SealSeq(epoch::first_seq(number) - 1 + counter),
            nonce,
        }
    }

    #[test]
    fn i4_a_seal_counts_only_if_its_disk_has_told_that_it_holds_it_or_takes_it_now() {
        let epoch = |number, nonce, end_before| Epoch {
            number,
            nonce,
            end_before,
        };
        let told = Told::Epochs(vec![epoch(1, A, 0), epoch(2, B, point(1, 36, A).seq.0)]);
        let head = point(2, 4, B).seq;
        let holds = |point| told.holds(head, &point);
        assert!(holds(point(1, 36, A)));
        assert!(holds(point(2, 4, B)));
        assert!(holds(point(2, 9, B)), "newer than the last report");
        assert!(!holds(point(1, 37, A)), "lost");
        assert!(!holds(point(2, 4, A)), "of another copy");
        assert!(!holds(point(3, 1, B)), "of an epoch that was not told");
        assert_eq!(told.point(point(1, 5, 0).seq), point(1, 5, A));
    }

    #[test]
    fn a_disk_without_epochs_is_judged_by_its_sequence() {
        let holds = |head| Told::Sequence.holds(SealSeq(head), &point(0, 9, 0));
        assert!(!holds(8));
        assert!(holds(9));
    }
}

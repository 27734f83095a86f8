//! A proposed change of the metadata: what must hold for it, and what it changes.

use std::sync::Arc;

use cstore_types::epoch::{SealPoint, SeenSeals};
use tokio::sync::OwnedRwLockReadGuard;

use super::keys::{NAMES, StoreRecord};
use super::{Position, Versioned};

/// A requirement on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Require {
    /// The key does not exist.
    Absent(Vec<u8>),
    /// The value written at this position is still there.
    Equals(Vec<u8>, Position),
}

impl Require {
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Self::Absent(key) | Self::Equals(key, _) => key,
        }
    }

    pub(super) fn holds(&self, current: Option<&Versioned>) -> bool {
        match self {
            Self::Absent(_) => current.is_none(),
            Self::Equals(_, version) => current.is_some_and(|current| current.version == *version),
        }
    }
}

/// An edit of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    Put(Vec<u8>),
    Delete,
    /// Raises the newest seal of a store record; resolved by the writer against the current record,
    /// so that commits of one store neither conflict nor lower it.
    RaiseSeal {
        point: SealPoint,
        /// The seal was made while the disk was in doubt, which lacks or has this seal of an earlier
        /// time of doubt.
        in_doubt: Option<DoubtedSeal>,
    },
}

/// Seal in doubt that was remembered before a new one, and whether the disk holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DoubtedSeal {
    /// Seal that was remembered when the new one was judged.
    pub(crate) before: SealPoint,
    /// The disk does not hold it: it is another copy.
    pub(crate) is_lacking: bool,
}

/// Right that lives until the outcome of a batch is known, also if its caller is gone.
#[derive(Clone, Default)]
pub(crate) struct Right(Option<Arc<OwnedRwLockReadGuard<()>>>);

/// Rights say nothing about what a batch does.
impl PartialEq for Right {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Right {}

impl std::fmt::Debug for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Right").field(&self.0.is_some()).finish()
    }
}

/// Edits that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Batch {
    /// Never read.
    pub(super) right: Right,
    pub(super) require: Vec<Require>,
    pub(super) edits: Vec<(Vec<u8>, Edit)>,
}

impl Batch {
    pub(crate) fn require_absent(&mut self, key: Vec<u8>) {
        self.require.push(Require::Absent(key));
    }

    pub(crate) fn require_version(&mut self, key: Vec<u8>, version: Position) {
        self.require.push(Require::Equals(key, version));
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.edits.push((key, Edit::Put(value)));
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.edits.push((key, Edit::Delete));
    }

    /// Keeps `right` until the outcome of the batch is known.
    pub(crate) fn keep(&mut self, right: OwnedRwLockReadGuard<()>) {
        self.right = Right(Some(Arc::new(right)));
    }

    pub(crate) fn raise_seal(
        &mut self,
        key: Vec<u8>,
        point: SealPoint,
        in_doubt: Option<DoubtedSeal>,
    ) {
        self.edits.push((key, Edit::RaiseSeal { point, in_doubt }));
    }

    /// Returns true if the batch adds a name. All other batches must work on a full disk.
    pub(super) fn adds_names(&self) -> bool {
        let adds = |(key, edit): &(Vec<u8>, Edit)| {
            key.first() == Some(&NAMES) && matches!(edit, Edit::Put(_))
        };
        self.edits.iter().any(adds)
    }
}

/// Returns the record of a store with a newer seal; `None` if the seal is not newer.
pub(super) fn raised(
    old: Option<&Versioned>,
    point: SealPoint,
    in_doubt: Option<DoubtedSeal>,
) -> Option<StoreRecord> {
    let mut record = StoreRecord::decode(&old?.value).ok()?;
    let SeenSeals {
        newest,
        in_doubt: doubted,
    } = &mut record.seen;
    match in_doubt {
        // Seals of two copies cannot be compared: the last one counts, which the other lacks.
        Some(seen) if seen.is_lacking && *doubted == seen.before => *doubted = point,
        // A disk that holds the newest seal holds this earlier one of the same epoch.
        Some(_) if newest.nonce == point.nonce && *newest >= point => return None,
        Some(_) if *doubted < point => *doubted = point,
        None if *newest < point => {
            *newest = point;
            // This disk holds both seals, so a disk that holds the later one holds the other, too.
            if *doubted < point {
                *doubted = SealPoint::default();
            }
        }
        _ => return None,
    }
    Some(record)
}

//! Groups: batches that become one frame of the log, and what their keys hold meanwhile.

use std::collections::HashMap;

use cstore_types::history::Life;

use super::index::Index;
use super::record;
use super::writer::Job;
use super::{Link, MetaError, Position, Versioned};

/// One change of an accepted batch.
#[derive(Debug)]
pub(super) struct AppliedChange {
    pub(super) key: Vec<u8>,
    /// Value before the change. Set only for keys whose old value is needed.
    pub(super) old: Option<Versioned>,
    pub(super) new: Option<Versioned>,
}

/// A batch whose requirements hold, with the position that it will have.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) position: Position,
    pub(super) changes: Vec<AppliedChange>,
    /// Life that begins with the batch.
    pub(super) begins: Option<Life>,
    pub(super) job: Job,
}

impl Accepted {
    /// Returns the job as it was proposed, to be decided again.
    pub(super) fn into_job(self) -> Job {
        self.job
    }

    /// Returns the payload of its record behind the batch of link `before`, and its own link.
    pub(super) fn payload(&self, before: Link) -> (Vec<u8>, Link) {
        let values = self.changes.iter().map(|change| {
            (
                change.key.as_slice(),
                change.new.as_ref().map(|new| new.value.as_slice()),
            )
        });
        record::encode(self.position, before, values)
    }
}

/// Current values of the keys that a group has touched, over those of the index.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) current: HashMap<Vec<u8>, Option<Versioned>>,
    /// Values before the group.
    pub(super) original: HashMap<Vec<u8>, Option<Versioned>>,
}

impl Overlay {
    pub(super) fn read(
        &mut self,
        index: &Index,
        key: &[u8],
    ) -> Result<Option<&Versioned>, MetaError> {
        if !self.current.contains_key(key) {
            let value = index.get(key)?;
            self.current.insert(key.to_vec(), value);
        }
        Ok(self.current.get(key).and_then(Option::as_ref))
    }

    /// Returns the current value of a key that was read or written before; `None` also if it was
    /// neither.
    pub(super) fn known(&self, key: &[u8]) -> Option<&Versioned> {
        self.current.get(key).and_then(Option::as_ref)
    }

    pub(super) fn write(&mut self, key: &[u8], value: Option<Versioned>) {
        let before = self.current.insert(key.to_vec(), value);
        if let Some(before) = before {
            self.original.entry(key.to_vec()).or_insert(before);
        }
    }
}

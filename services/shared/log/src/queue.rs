//! The queue of groups that wait for the committer, and the other state that the committer shares
//! with its callers.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use cstore_types::{CommitFacts, error_chain};
use parking_lot::{Condvar, Mutex};

use crate::committer::Begun;
use crate::error::LogError;
use crate::file::Files;
use crate::types::{Done, FileInfo, Observer, Options, Record, Urgency};

/// Request to end the committer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stop {
    /// The committer continues.
    #[default]
    No,
    /// The committer drains the queue, seals the active file and ends.
    Close,
    /// The committer ends at once and fails the groups that wait.
    Abandon,
}

/// Groups that wait for the disk.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) groups: VecDeque<Group>,
    pub(crate) bytes: usize,
    pub(crate) stop: Stop,
    /// Number of groups for which the committer is woken; 0 wakes it for each.
    pub(crate) wanted: usize,
}

impl Queue {
    pub(crate) fn push(&mut self, group: Group) {
        self.bytes += group.bytes();
        self.groups.push_back(group);
    }

    /// Returns true if the committer is to be woken: `wanted` groups wait, or the bytes of a full frame.
    pub(crate) fn is_enough(&self, max_frame_bytes: usize) -> bool {
        self.groups.len() >= self.wanted || self.bytes >= max_frame_bytes
    }
}

/// Records that become durable together, with the callback for their outcome.
pub(crate) struct Group {
    pub(crate) records: Vec<Record>,
    pub(crate) key_bytes: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) urgency: Urgency,
    pub(crate) done: Done,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Group({} records, {} bytes)",
            self.records.len(),
            self.payload_bytes
        )
    }
}

impl Group {
    pub(crate) fn new(records: Vec<Record>, urgency: Urgency, done: Done) -> Self {
        let key_bytes = records.iter().map(|record| record.key.len()).sum();
        let payload_bytes = records.iter().map(|record| record.payload.len()).sum();
        Self {
            records,
            key_bytes,
            payload_bytes,
            urgency,
            done,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.payload_bytes + self.key_bytes + 64 * self.records.len()
    }

    pub(crate) fn fail(self, error: LogError) {
        (self.done)(Err(error));
    }
}

/// State that the committer and its callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) files: Files,
    pub(crate) options: Options,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) wake: Condvar,
    /// Highest sequence of a frame whose sync has returned.
    pub(crate) durable_seq: AtomicU64,
    pub(crate) poisoned: Mutex<Option<Arc<LogError>>>,
    pub(crate) observer: Observed,
}

impl Shared {
    /// Makes the name of a new file durable, if it is not, and notes the change of files in the
    /// inventory.
    pub(crate) fn note(
        &self,
        sealed: Option<&FileInfo>,
        begun: Option<&Begun>,
    ) -> Result<(), LogError> {
        if begun.is_some_and(|begun| !begun.is_named) {
            self.files.sync_names()?;
        }
        match &self.options.inventory {
            Some(inventory) => inventory
                .rolled(sealed, begun.map(|begun| &begun.info))
                .map_err(LogError::io("note change of log files")),
            None => Ok(()),
        }
    }

    pub(crate) fn poison(&self, why: Arc<LogError>) {
        tracing::error!(why = %error_chain(&*why), "log is poisoned: nothing is written any more until a restart");
        self.poisoned.lock().get_or_insert(why);
    }
}

/// The observer of group commits, once it is set.
#[derive(Default)]
pub(crate) struct Observed(OnceLock<Observer>);

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Observed({})", self.0.get().is_some())
    }
}

impl Observed {
    pub(crate) fn set(&self, observer: Observer) {
        let _ = self.0.set(observer);
    }

    pub(crate) fn tell(&self, frame: &CommitFacts) {
        if let Some(observer) = self.0.get() {
            observer(frame);
        }
    }
}

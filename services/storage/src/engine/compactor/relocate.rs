//! The copy of one batch of records from a victim to the end of the log.

use bytes::Bytes;
use cstore_log::{Record, Urgency};
use cstore_types::error_chain;

use super::super::appender::{Append, Appender};
use super::super::counters::Counters;
use super::super::error::EngineError;
use super::super::fences::{Fence, Fences};
use super::super::index::{Live, SharedIndex};
use super::super::reader::BlockReader;
use super::super::sets::SetReader;
use super::victim::{Entry, Victim};
use crate::limits::{COMPACTION_LOOKUPS, MAX_COPIED_RECORDS};

/// Copies records. Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Relocator {
    pub(super) appender: Appender,
    pub(super) index: SharedIndex,
    pub(super) fences: Fences,
    pub(super) blocks: BlockReader,
    pub(super) sets: SetReader,
    pub(super) counters: Counters,
}

/// A record with its verified payload.
#[derive(Debug)]
struct Verified {
    entry: Entry,
    payload: Bytes,
}

impl Relocator {
    /// Returns the next entries of the victim that are needed.
    pub(super) fn gather(&self, victim: &mut Victim) -> Vec<Entry> {
        let index = self.index.lock();
        let mut batch: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        // Bounded, so that requests do not wait long for the index.
        for entry in victim
            .entries
            .iter()
            .skip(victim.at)
            .take(COMPACTION_LOOKUPS)
        {
            if !index.is_live(&entry.live, entry.location) {
                victim.at += 1;
                continue;
            }
            // Sets and releases are asked when they are fenced: what keeps them now may end until
            // then.
            if matches!(entry.live, Live::Block(_)) && !index.may_move(&entry.live) {
                victim.at += 1;
                victim.damaged = true;
                continue;
            }

            bytes += entry.location.len as usize;
            if !batch.is_empty() && (bytes > victim.limit || batch.len() >= MAX_COPIED_RECORDS) {
                break;
            }
            victim.at += 1;
            batch.push(*entry);
        }
        batch
    }

    /// Reads, verifies and appends a batch. When this returns, the records that could move have
    /// their new places. Returns the copied payload bytes.
    ///
    /// # Errors
    /// [`EngineError`] of the log. Nothing has moved then.
    pub(super) async fn copy(
        &self,
        victim: &mut Victim,
        batch: Vec<Entry>,
    ) -> Result<u64, EngineError> {
        let wanted = batch.len();
        let reader = self.clone();
        let read = cstore_node::blocking(move || {
            let read = |entry| {
                let payload = reader.read_entry(&entry).transpose()?;
                Some(payload.map(|payload| Verified { entry, payload }))
            };
            let read = batch.into_iter().filter_map(read);
            read.collect::<Result<Vec<_>, EngineError>>()
        });
        let verified = read.await??;
        victim.damaged |= verified.len() < wanted;

        let mut fence = self.fences.fence();
        let batch = self.fence(&mut fence, verified, &mut victim.kept);
        if batch.is_empty() {
            return Ok(0);
        }

        let bytes = batch
            .iter()
            .map(|record| u64::from(record.entry.location.len))
            .sum();
        // No span: a step of compaction belongs to no request.
        self.append(fence, batch).outcome().await?;
        self.counters.moved_bytes.inc_by(bytes);
        Ok(bytes)
    }

    /// Returns true if all needed records among `entries` are good. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::Busy`] if one could not be read for a passing reason.
    pub(super) fn verify(&self, entries: &[Entry]) -> Result<bool, EngineError> {
        for chunk in entries.chunks(MAX_COPIED_RECORDS) {
            let needed: Vec<Entry> = {
                let index = self.index.lock();
                let is_live = |entry: &&Entry| index.is_live(&entry.live, entry.location);
                chunk.iter().filter(is_live).copied().collect()
            };
            for entry in &needed {
                if !self.is_good(entry)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Returns true if a record is good, or not needed any more.
    fn is_good(&self, entry: &Entry) -> Result<bool, EngineError> {
        // A block that was found to be damaged before does not move, whatever its bytes are now.
        let may_move =
            !matches!(entry.live, Live::Block(_)) || self.index.lock().may_move(&entry.live);
        if may_move && self.read_entry(entry)?.is_some() {
            return Ok(true);
        }
        // A record that could not be read because it went in between is no damage.
        Ok(!self.index.lock().is_live(&entry.live, entry.location))
    }

    /// Returns the verified payload of a record, or `None` if it is damaged: a damaged record stays
    /// where it is.
    ///
    /// # Errors
    /// [`EngineError::Busy`] if it could not be read for a passing reason.
    fn read_entry(&self, entry: &Entry) -> Result<Option<Bytes>, EngineError> {
        let payload = match &entry.live {
            Live::Block(id) => match self.blocks.read_at(id, entry.location) {
                Err(busy @ EngineError::Busy(_)) => return Err(busy),
                read => read.ok(),
            },
            Live::Set(session, part) => {
                match self.sets.read_payload(*session, *part, entry.location) {
                    Ok(payload) => Some(payload),
                    Err(error) => {
                        self.counters.damaged_sets.inc();
                        let error = error_chain(&error);
                        tracing::error!(%session, part = part.0, %error, "reference set is damaged and not moved");
                        None
                    }
                }
            }
            Live::Release(_) | Live::Verdict(..) => Some(Bytes::new()),
        };
        Ok(payload)
    }

    /// Returns the records that are still needed and may move, and claims their sessions: seals and
    /// releases of those are kept away until the copy is durable. Records that may move later are
    /// added to `kept`.
    fn fence(
        &self,
        fence: &mut Fence,
        records: Vec<Verified>,
        kept: &mut Vec<Entry>,
    ) -> Vec<Verified> {
        let index = self.index.lock();
        let mut claims = self.fences.lock();
        let mut batch = Vec::with_capacity(records.len());
        for record in records {
            let Entry { live, location, .. } = &record.entry;
            // It died while it was read.
            if !index.is_live(live, *location) {
                continue;
            }

            // Blocks need no claim: their moves are compare-and-set.
            if live.session().is_some() {
                if !index.may_move(live) {
                    continue;
                }
                if claims.is_kept(live, Some(fence)) {
                    kept.push(record.entry);
                    continue;
                }
                claims.claim_move(fence, live);
            }

            batch.push(record);
        }
        batch
    }

    /// Waits until one of the kept records may move. Returns false if `kept` is empty.
    pub(super) async fn wait_until_free(&self, kept: &[Entry]) -> bool {
        if kept.is_empty() {
            return false;
        }
        let freed = self.fences.session_freed();
        tokio::pin!(freed);
        // From here on no end of a claim is missed.
        freed.as_mut().enable();

        let all_kept = {
            let claims = self.fences.lock();
            kept.iter().all(|entry| claims.is_kept(&entry.live, None))
        };
        if all_kept {
            freed.await;
        }
        true
    }

    fn append(&self, fence: Fence, batch: Vec<Verified>) -> Append<()> {
        let record = |copied: &Verified| Record {
            kind: copied.entry.kind,
            key: copied.entry.key(),
            payload: copied.payload.clone(),
        };
        let records = batch.iter().map(record).collect();
        let entries: Vec<Entry> = batch.into_iter().map(|copied| copied.entry).collect();
        let index = self.index.clone();
        let moved_records = self.counters.moved_records.clone();

        self.appender
            .append(records, Urgency::Compaction, move |committed| {
                let mut index = index.lock();
                let mut moved = 0;
                for (entry, to) in entries.iter().zip(committed.locations) {
                    moved += u64::from(index.relocate(&entry.live, entry.location, *to));
                }
                drop(index);
                moved_records.inc_by(moved);
                fence.end();
            })
    }
}

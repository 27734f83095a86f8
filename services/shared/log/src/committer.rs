//! The one thread that writes: it takes all that waits, builds a frame, syncs once and tells the
//! callers.
//!
//! The next batch collects during a sync, and after it as [`Gather`] plans.

mod change;
mod zeros;

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use cstore_types::CommitFacts;
use cstore_types::epoch::{Epoch, epoch_of};

use crate::disk::DiskFile;
use crate::error::LogError;
use crate::file::{LogFile, NewFile};
use crate::format::{
    BLOCK, Directory, EncodedFrame, Entry, FramePlace, Seed, encode_frame, footer_bytes,
    frame_bytes,
};
use crate::gather::Gather;
use crate::queue::{Group, Shared, Stop};
use crate::recovery::next_seq;
use crate::types::{Committed, FileInfo, FileState, Location, Urgency};
pub(crate) use change::Begun;
use change::FileChange;
use zeros::{ZeroAhead, zeros};

/// Sums of a frame in the making.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    records: usize,
    key_bytes: usize,
    payload_bytes: usize,
}

impl Sums {
    fn with(self, group: &Group) -> Self {
        Self {
            records: self.records + group.records.len(),
            key_bytes: self.key_bytes + group.key_bytes,
            payload_bytes: self.payload_bytes + group.payload_bytes,
        }
    }

    fn frame_bytes(self) -> u64 {
        frame_bytes(self.records, self.key_bytes, self.payload_bytes)
    }
}

/// The file that frames go to.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) file: Arc<LogFile>,
    /// The file, open for as long as it takes frames.
    pub(crate) out: Arc<dyn DiskFile>,
    pub(crate) offset: u64,
    entries: Directory,
    /// `None` for a recycled file, whose blocks are written, and on a file system that copies on write or
    /// does not allocate space, where zeros would take space.
    zero_ahead: Option<ZeroAhead>,
}

impl Active {
    /// A new file, nothing in it.
    pub(crate) fn new(new: NewFile) -> Self {
        let NewFile {
            file,
            out,
            is_recycled,
        } = new;
        let has_zeros = !is_recycled && out.is_overwritten_in_place().unwrap_or(false);
        Self {
            file,
            out,
            offset: BLOCK,
            entries: Directory::default(),
            zero_ahead: has_zeros.then(ZeroAhead::default),
        }
    }

    /// Records so far.
    pub(crate) fn entries(&self) -> &Directory {
        &self.entries
    }

    /// Counts a frame that was written and synced.
    pub(crate) fn advance(&mut self, seq: u64, entries: &[Entry], disk_len: u64) {
        self.offset += disk_len;
        entries.iter().for_each(|entry| self.entries.push(entry));
        let mut info = self.file.info.lock();
        info.used = self.offset;
        info.records = self.entries.len() as u64;
        info.seqs = Some((info.seqs.map_or(seq, |(first, _)| first), seq));
    }

    /// Writes and syncs a frame, with the zeros that [`ZeroAhead`] puts behind it.
    fn write(&mut self, frame: &mut EncodedFrame) -> io::Result<()> {
        let (len, end) = (frame.disk_len, self.offset + frame.disk_len);
        let size = self.file.info.lock().size;
        let ahead = self.zero_ahead.as_mut();
        let count = ahead
            .as_ref()
            .map_or(0, |ahead| ahead.behind(end, len, size));
        frame.buffers.extend(zeros(count));
        self.out
            .write_all_vectored_at(&frame.buffers, self.offset)?;
        self.out.sync_data()?;
        if let Some(ahead) = ahead {
            ahead.advance(end, len, count);
        }
        Ok(())
    }

    /// Takes no more frames. Called when that is noted everywhere: from now on the file may be
    /// retired.
    fn end(&self, sealed: &FileInfo) {
        let mut info = self.file.info.lock();
        info.state = FileState::Sealed;
        info.footer_crc = sealed.footer_crc;
    }

    /// Returns true if a frame of these sums fits, with the footer that the file will need then.
    fn fits(&self, sums: Sums) -> bool {
        let footer = footer_bytes(
            self.entries.len() + sums.records,
            self.entries.key_bytes() + sums.key_bytes,
        );
        self.offset + sums.frame_bytes() + footer <= self.file.info.lock().size
    }

    /// Returns true if so much is left that the file is cut when it is sealed.
    fn wastes_much(&self) -> bool {
        self.free() > self.file.info.lock().size / 16
    }

    fn free(&self) -> u64 {
        let footer = footer_bytes(self.entries.len(), self.entries.key_bytes());
        self.file
            .info
            .lock()
            .size
            .saturating_sub(self.offset + footer)
    }
}

/// Writes frames; lives on its own thread, or with its callers if they write themselves.
#[derive(Debug)]
pub(crate) struct Committer {
    shared: Arc<Shared>,
    active: Option<Active>,
    last_seq: u64,
    /// Epoch of the frames that are written.
    epoch: Epoch,
    /// Thread that prepares the next file. It ends before the committer does: whoever opens the log
    /// then finds nobody who writes.
    preparing: Option<JoinHandle<()>>,
    /// Change to the active file, until its first frame is written.
    change: Option<FileChange>,
    /// Empty queue, kept for its capacity: the next turn exchanges it for the full one.
    emptied: VecDeque<Group>,
    gather: Gather,
}

impl Drop for Committer {
    fn drop(&mut self) {
        if let Some(preparing) = self.preparing.take() {
            let _ = preparing.join();
        }
        if let Some(change) = self.change.take() {
            change.abandon();
        }
    }
}

impl Committer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        active: Option<Active>,
        last_seq: u64,
        epoch: Epoch,
    ) -> Self {
        Self {
            shared,
            active,
            last_seq,
            epoch,
            preparing: None,
            change: None,
            emptied: VecDeque::new(),
            gather: Gather::default(),
        }
    }

    pub(crate) fn run(mut self) -> Result<(), LogError> {
        self.publish_free();
        loop {
            {
                let mut queue = self.shared.queue.lock();
                while queue.groups.is_empty() && queue.stop == Stop::No {
                    self.shared.wake.wait(&mut queue);
                }
                if let Some(wait) = self.gather.plan()
                    && queue.stop == Stop::No
                {
                    queue.wanted = wait.groups;
                    if !queue.is_enough(self.shared.options.max_frame_bytes) {
                        self.shared.wake.wait_for(&mut queue, wait.longest);
                    }
                    queue.wanted = 0;
                }
            }
            if let Some(end) = self.turn() {
                return end;
            }
        }
    }

    /// Does what waits, at once. `Some` when it was the last turn.
    pub(crate) fn turn(&mut self) -> Option<Result<(), LogError>> {
        let (groups, stop) = {
            let mut queue = self.shared.queue.lock();
            queue.bytes = 0;
            let empty = std::mem::take(&mut self.emptied);
            (std::mem::replace(&mut queue.groups, empty), queue.stop)
        };
        if stop == Stop::Abandon {
            groups
                .into_iter()
                .for_each(|group| group.fail(LogError::Closed));
            return Some(Ok(()));
        }
        if groups.is_empty() && stop == Stop::Close {
            return Some(self.finish());
        }
        self.gather.taken(groups.len());
        self.emptied = self.write_all(groups);
        None
    }

    /// Writes groups as few frames as bounds allow. A panic, which would be a defect, poisons the
    /// log like a failed sync: whether the frame is on the disk is unknown then.
    ///
    /// Returns the empty queue.
    fn write_all(&mut self, mut groups: VecDeque<Group>) -> VecDeque<Group> {
        while !groups.is_empty() {
            if let Some(why) = self.shared.poisoned.lock().clone() {
                for group in groups.drain(..) {
                    group.fail(LogError::Poisoned(why.clone()));
                }
                return groups;
            }
            match self.prepare(&groups) {
                Ok(count) => {
                    let batch: Vec<Group> = groups.drain(..count).collect();
                    if catch_unwind(AssertUnwindSafe(|| self.write_frame(batch))).is_err() {
                        self.poison(Arc::new(LogError::Panicked));
                    }
                }
                Err(error) => {
                    if let LogError::Poisoned(why) = &error {
                        self.poison(why.clone());
                    }
                    if let Some(group) = groups.pop_front() {
                        group.fail(error);
                    }
                }
            }
            self.publish_free();
        }
        // Callers have their answers by now.
        if self.shared.files.takes_real_time() {
            self.prepare_next();
        }
        groups
    }

    /// Preallocates spare files and writes the header of the next one, on a thread of its own if
    /// the disk takes time.
    pub(crate) fn prepare_next(&mut self) {
        let is_at_work = |thread: &JoinHandle<()>| !thread.is_finished();
        let files = &self.shared.files;
        if self.preparing.as_ref().is_some_and(is_at_work) || !files.has_to_prepare() {
            return;
        }
        if let Some(ended) = self.preparing.take() {
            let _ = ended.join();
        }
        let durable_seq = self.durable_seq();
        let prepare = move |shared: &Shared| {
            shared.files.make_ready();
            shared.files.prepare(durable_seq);
        };
        if files.takes_real_time() {
            let (shared, thread) = (self.shared.clone(), std::thread::Builder::new());
            let thread = thread.name("log-preparer".to_owned());
            if let Ok(thread) = thread.spawn(move || prepare(&shared)) {
                self.preparing = Some(thread);
                return;
            }
        }
        prepare(&self.shared);
    }

    /// Makes sure that the first group fits the active file, and answers how many groups the next
    /// frame takes.
    fn prepare(&mut self, groups: &VecDeque<Group>) -> Result<usize, LogError> {
        let Some(first) = groups.front() else {
            return Ok(0);
        };
        let alone = Sums::default().with(first);
        let fits = self
            .active
            .as_ref()
            .is_some_and(|active| active.fits(alone));
        self.admit(alone, first.urgency, fits)?;
        if !fits {
            self.roll(alone)?;
        }
        let Some(active) = &self.active else {
            return Ok(0);
        };
        let mut sums = Sums::default();
        let mut count = 0;
        for group in groups {
            let next = sums.with(group);
            let small = next.frame_bytes() <= self.shared.options.max_frame_bytes as u64;
            let fits = small && active.fits(next) && self.admit(next, group.urgency, true).is_ok();
            if count > 0 && !fits {
                break;
            }
            sums = next;
            count += 1;
        }
        Ok(count)
    }

    /// Checks that a frame of these sums leaves the room that groups of this urgency leave to
    /// others. What the active file has left is lost when the frame goes to the next one, unless
    /// the file will be cut.
    fn admit(&self, sums: Sums, urgency: Urgency, into_active: bool) -> Result<(), LogError> {
        let active = self
            .active
            .as_ref()
            .filter(|active| into_active || active.wastes_much());
        let footer = footer_bytes(sums.records, sums.key_bytes);
        let needed = sums.frame_bytes() + if into_active { 0 } else { BLOCK + footer };
        let active_free = active.map_or(0, Active::free);
        self.shared.files.admit(needed, active_free, urgency)
    }

    /// Seals the file so that a stop does not keep preallocated space.
    fn finish(&mut self) -> Result<(), LogError> {
        if self.shared.poisoned.lock().is_some() {
            return Ok(());
        }
        let Some(active) = self.active.take() else {
            return Ok(());
        };
        let seal = self.plan_seal(&active, true);
        let sealed = seal.info.clone();
        self.write_seal(&active, seal)?;
        self.shared.note(Some(&sealed), None)?;
        active.end(&sealed);
        Ok(())
    }

    fn write_frame(&mut self, batch: Vec<Group>) {
        let Some(active) = &mut self.active else {
            return;
        };
        let seq = next_seq(self.last_seq, self.epoch);
        if epoch_of(seq) != self.epoch.number {
            self.poison(Arc::new(LogError::LastSequence));
            let why = self.shared.poisoned.lock().clone();
            let why = why.unwrap_or_else(|| Arc::new(LogError::LastSequence));
            batch
                .into_iter()
                .for_each(|group| group.fail(LogError::Poisoned(why.clone())));
            return;
        }
        let durable_seq = self.shared.durable_seq.load(Ordering::Acquire);
        let place = FramePlace {
            file: active.file.id,
            offset: active.offset,
            seq,
            durable_seq,
        };
        let records = batch.iter().flat_map(|group| &group.records);
        let views = records.map(|record| (record.kind, &record.key, &record.payload));
        let mut frame = encode_frame(
            Seed::new(&self.shared.options.owner, active.file.id),
            place,
            views,
        );
        let locate = |entry: &Entry| Location {
            file: active.file.id,
            offset: entry.offset,
            len: entry.len,
        };
        let locations: Vec<Location> = frame.entries.iter().map(locate).collect();
        #[allow(
            clippy::disallowed_types,
            reason = "the log has no runtime, and a sync takes real time"
        )]
        let begun = std::time::Instant::now();
        let mut facts = CommitFacts {
            seq,
            records: frame.entries.len(),
            bytes: frame.disk_len,
            requests: batch.len(),
            took: Duration::ZERO,
        };
        let compacted = bytes_of_compaction(&batch, frame.disk_len);
        let written = active
            .write(&mut frame)
            .map_err(LogError::io("write log frame"));
        // Finish the roll after a failed frame, too: footer and inventory entry may be on the disk.
        let noted = self.finish_change();
        if let Err(error) = written.and(noted) {
            let why = Arc::new(error);
            self.poison(why.clone());
            batch
                .into_iter()
                .for_each(|group| group.fail(LogError::Poisoned(why.clone())));
            return;
        }
        facts.took = begun.elapsed();
        self.gather.synced(facts.took);
        self.shared.observer.tell(&facts);
        let Some(active) = &mut self.active else {
            return;
        };
        active.advance(seq, &frame.entries, frame.disk_len);
        self.last_seq = seq;
        self.shared.durable_seq.store(seq, Ordering::Release);
        // Before the callers are told: they look at once whether there is room for more.
        self.shared.files.landed(active.free(), compacted);
        // Prepare before the answer on a disk in memory, so that tests see no writes after it.
        if !self.shared.files.takes_real_time() {
            self.prepare_next();
        }
        tell(batch, facts, &locations);
    }

    fn durable_seq(&self) -> u64 {
        self.shared.durable_seq.load(Ordering::Acquire)
    }

    fn poison(&self, why: Arc<LogError>) {
        self.shared.poison(why);
    }

    pub(crate) fn publish_free(&self) {
        let free = self.active.as_ref().map_or(0, Active::free);
        self.shared.files.set_active_free(free);
    }
}

/// Returns the bytes that groups of compaction took of a frame: all of it when they are alone.
fn bytes_of_compaction(batch: &[Group], disk_len: u64) -> u64 {
    let ours = batch
        .iter()
        .filter(|group| group.urgency == Urgency::Compaction);
    let (count, bytes) = ours.fold((0, 0), |(n, sum), group| {
        (n + 1, sum + group.payload_bytes + group.key_bytes)
    });
    if count == batch.len() {
        disk_len
    } else {
        bytes as u64
    }
}

fn tell(batch: Vec<Group>, frame: CommitFacts, locations: &[Location]) {
    let mut rest = locations;
    for group in batch {
        let (own, others) = rest.split_at(group.records.len());
        rest = others;
        (group.done)(Ok(Committed {
            frame_seq: frame.seq,
            locations: own,
            frame,
        }));
    }
}

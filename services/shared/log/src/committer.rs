//! The one thread that writes: it takes all that waits, builds a frame, syncs once and tells the
//! callers.
//!
//! There is no timer: while one sync runs the next batch collects.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use cstore_types::CommitFacts;
use cstore_types::epoch::{Epoch, epoch_of};

use crate::disk::DiskFile;
use crate::error::LogError;
use crate::file::{LogFile, NewFile};
use crate::format::{
    BLOCK, Entry, FramePlace, Seed, encode_footer, encode_frame, footer_bytes, frame_bytes,
    frame_crc,
};
use crate::queue::{Group, Shared, Stop};
use crate::recovery::next_seq;
use crate::types::{Committed, FileInfo, FileState, Location, Urgency};

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
    entries: Vec<Entry>,
    key_bytes: usize,
}

impl Active {
    /// A new file, nothing in it.
    pub(crate) fn new((file, out): NewFile) -> Self {
        Self {
            file,
            out,
            offset: BLOCK,
            entries: Vec::new(),
            key_bytes: 0,
        }
    }

    /// Records so far.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Counts a frame that was written and synced.
    pub(crate) fn advance(&mut self, seq: u64, entries: Vec<Entry>, disk_len: u64) {
        self.offset += disk_len;
        self.key_bytes += entries.iter().map(|entry| entry.key.len()).sum::<usize>();
        self.entries.extend(entries);
        let mut info = self.file.info.lock();
        info.used = self.offset;
        info.records = self.entries.len() as u64;
        info.seqs = Some((info.seqs.map_or(seq, |(first, _)| first), seq));
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
            self.key_bytes + sums.key_bytes,
        );
        self.offset + sums.frame_bytes() + footer <= self.file.info.lock().size
    }

    /// Returns true if so much is left that the file is cut when it is sealed.
    fn wastes_much(&self) -> bool {
        self.free() > self.file.info.lock().size / 16
    }

    fn free(&self) -> u64 {
        let footer = footer_bytes(self.entries.len(), self.key_bytes);
        self.file
            .info
            .lock()
            .size
            .saturating_sub(self.offset + footer)
    }
}

/// The footer of a file that is about to be sealed.
#[derive(Debug)]
struct Seal {
    offset: u64,
    footer: Bytes,
    /// The file is cut behind the footer.
    cut: bool,
    /// Figures of the file when it is sealed.
    info: FileInfo,
}

/// Writes frames; lives on its own thread, or with its callers on a disk that has one thread only.
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
}

impl Drop for Committer {
    fn drop(&mut self) {
        if let Some(preparing) = self.preparing.take() {
            let _ = preparing.join();
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
            (std::mem::take(&mut queue.groups), queue.stop)
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
        self.write_all(groups);
        None
    }

    /// Writes groups as few frames as bounds allow. A panic, which would be a defect, poisons the
    /// log like a failed sync: whether the frame is on the disk is unknown then.
    fn write_all(&mut self, mut groups: VecDeque<Group>) {
        while !groups.is_empty() {
            if let Some(why) = self.shared.poisoned.lock().clone() {
                for group in groups.drain(..) {
                    group.fail(LogError::Poisoned(why.clone()));
                }
                return;
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
        self.prepare_next();
    }

    /// Makes files ready, and prepares the next one, beside the frames that are written meanwhile.
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
        let (files, left) = self.shared.files.room_and_left(urgency);
        if left == 0 {
            return Ok(());
        }
        let active = self
            .active
            .as_ref()
            .filter(|active| into_active || active.wastes_much());
        let room = files + active.map_or(0, Active::free);
        let footer = footer_bytes(sums.records, sums.key_bytes);
        let needed = sums.frame_bytes() + if into_active { 0 } else { BLOCK + footer };
        if room < needed + left {
            return Err(LogError::Full {
                needed,
                free: room.saturating_sub(left),
            });
        }
        Ok(())
    }

    /// Goes to the next file. The old one is sealed only when the new one is there, so that a full
    /// disk goes on taking small groups; or when the end that it gives back is what the new one
    /// lacks.
    fn roll(&mut self, first: Sums) -> Result<(), LogError> {
        let needed = BLOCK + first.frame_bytes() + footer_bytes(first.records, first.key_bytes);
        let mut sealed = None;
        let acquired = match self.shared.files.acquire(needed, self.durable_seq()) {
            Err(LogError::Full { .. }) if self.has_room_behind(needed) => {
                sealed = self.seal_or_poison(None, true)?;
                self.shared.files.acquire(needed, self.durable_seq())?
            }
            other => other?,
        };
        let is_named = acquired.is_named;
        let next = Active::new(acquired.file);
        // What the old one has left counts no more: its end is given back when it is cut, or lost.
        self.shared.files.set_active_free(next.free());

        let begun = next.file.info.lock().clone();
        match sealed {
            Some(_) => self
                .note(None, Some(&begun), is_named)
                .inspect_err(|error| self.poison(Arc::new(error.clone())))?,
            None => {
                self.seal_or_poison(Some(&begun), is_named)?;
            }
        }
        self.active = Some(next);
        Ok(())
    }

    fn seal_or_poison(
        &mut self,
        begun: Option<&FileInfo>,
        is_named: bool,
    ) -> Result<Option<FileInfo>, LogError> {
        self.seal(begun, is_named)
            .inspect_err(|error| self.poison(Arc::new(error.clone())))
    }

    /// Returns true if a new file of so many bytes fits when the active one is cut.
    fn has_room_behind(&self, needed: u64) -> bool {
        let (files, _) = self.shared.files.room_and_left(Urgency::Compaction);
        let cut = self.active.as_ref().filter(|active| active.wastes_much());
        cut.is_some_and(|active| files + active.free() >= needed)
    }

    /// Ends the active file, if there is one, with a synced footer, and returns its final figures.
    /// With `begun` the change of files is noted in the inventory, at the same time; before that, the
    /// name of a file that is not named yet is made durable.
    ///
    /// The footer is synced because the file after it may be retired one day, and then nothing else
    /// would prove that this one is complete. A file that has much left is cut behind its footer;
    /// one that keeps its standard size can be recycled.
    fn seal(
        &mut self,
        begun: Option<&FileInfo>,
        is_named: bool,
    ) -> Result<Option<FileInfo>, LogError> {
        let Some(active) = self.active.take() else {
            return self.note(None, begun, is_named).map(|()| None);
        };
        let seal = self.plan_seal(&active, active.wastes_much());
        let sealed = seal.info.clone();
        // Before anybody may retire the file, because an entry of a file that is gone would be
        // missed.
        let has_to_note = self.shared.options.inventory.is_some() || !is_named;
        if begun.is_none() || !has_to_note || self.shared.files.has_one_thread() {
            self.write_seal(&active, seal)?;
            self.note(Some(&sealed), begun, is_named)?;
        } else {
            self.seal_and_note(&active, seal, (&sealed, begun, is_named))?;
        }
        active.end(&sealed);
        Ok(Some(sealed))
    }

    /// Writes the footer and notes the change of files at the same time; one after the other on a
    /// system that has no thread to give.
    fn seal_and_note(
        &self,
        active: &Active,
        seal: Seal,
        (sealed, begun, is_named): (&FileInfo, Option<&FileInfo>, bool),
    ) -> Result<(), LogError> {
        std::thread::scope(|scope| {
            let note = || self.note(Some(sealed), begun, is_named);
            let noting = std::thread::Builder::new().spawn_scoped(scope, note);
            let written = self.write_seal(active, seal);
            let noted = match noting {
                Ok(noting) => noting.join().unwrap_or(Err(LogError::Panicked)),
                Err(_) => note(),
            };
            written.and(noted)
        })
    }

    /// Makes the name of the new file durable, if it is not, and notes the change of files in the
    /// inventory.
    fn note(
        &self,
        sealed: Option<&FileInfo>,
        begun: Option<&FileInfo>,
        is_named: bool,
    ) -> Result<(), LogError> {
        if !is_named {
            self.shared.files.sync_names()?;
        }
        match &self.shared.options.inventory {
            Some(inventory) => inventory
                .rolled(sealed, begun)
                .map_err(LogError::io("note change of log files")),
            None => Ok(()),
        }
    }

    fn plan_seal(&self, active: &Active, cut: bool) -> Seal {
        let mut info = active.file.info.lock().clone();
        let len = footer_bytes(active.entries.len(), active.key_bytes);
        let offset = if cut { active.offset } else { info.size - len };
        let place = FramePlace {
            file: info.id,
            offset,
            seq: self.last_seq,
            durable_seq: self.durable_seq(),
        };
        let seed = Seed::new(&self.shared.options.owner, info.id);
        let footer = encode_footer(seed, place, &active.entries);

        info.size = offset + len;
        info.state = FileState::Sealed;
        info.footer_crc = frame_crc(&footer);
        Seal {
            offset,
            footer,
            cut,
            info,
        }
    }

    fn write_seal(&self, active: &Active, seal: Seal) -> Result<(), LogError> {
        let handle = &active.out;
        let io = LogError::io("seal log file");
        handle
            .write_all_vectored_at(&[seal.footer], seal.offset)
            .map_err(&io)?;
        handle.sync_data().map_err(&io)?;
        if seal.cut {
            let io = LogError::io("cut log file");
            handle.set_len(seal.info.size).map_err(&io)?;
            handle.sync_data().map_err(&io)?;
            self.shared.files.shrunk(&active.file, seal.info.size);
        }
        Ok(())
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
        self.note(Some(&sealed), None, true)?;
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
        let frame = encode_frame(
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
            .out
            .write_all_vectored_at(&frame.buffers, active.offset);
        if let Err(error) = written.and_then(|()| active.out.sync_data()) {
            let why = Arc::new(LogError::io("write log frame")(error));
            self.poison(why.clone());
            batch
                .into_iter()
                .for_each(|group| group.fail(LogError::Poisoned(why.clone())));
            return;
        }
        facts.took = begun.elapsed();
        self.shared.observer.tell(&facts);
        active.advance(seq, frame.entries, frame.disk_len);
        self.last_seq = seq;
        self.shared.durable_seq.store(seq, Ordering::Release);
        // Before the callers are told: they look at once whether there is room for more.
        self.shared.files.landed(active.free(), compacted);
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

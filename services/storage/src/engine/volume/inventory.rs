//! The inventory file: written at every change of segments, compared at every open.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use cstore_log::{
    Disk, DiskFile, FileInfo, FileState, Inventory, RecoveryReport, SealedFigures, read_again,
};
use cstore_types::StoreUuid;
use cstore_types::epoch::Epoch;
use parking_lot::Mutex;

use crate::limits::{KEPT_EPOCHS, MAX_EPOCHS, MAX_INVENTORY_AREA};

use super::super::error::is_passing;
use super::super::format::{
    EpochEntry, FileEntry, FileStanding, FormatError, INVENTORY_FILE, Image,
};

/// Entries for which a new inventory has room beside two for each segment that the disk can hold.
const SPARE_ENTRIES: usize = 64;
/// Largest area that is made at first. It grows when there are more segments.
const FIRST_AREA_MAX: u64 = 1 << 20;
pub(in crate::engine) const UNFINISHED: &str = "inventory.new";

/// Keeper of the inventory of an open disk. Images are written one after the other, each to the
/// area that the one before it did not use.
#[derive(Debug)]
pub(in crate::engine) struct SegmentInventory {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    /// Taken after `state`, and never held over I/O: heartbeats read it.
    epochs: Mutex<Epochs>,
}

/// Epochs of the disk.
#[derive(Debug, Default)]
struct Epochs {
    /// Those that images list, by their numbers.
    listed: BTreeMap<u32, Epoch>,
    /// Epoch of this open. It is listed from its first file on.
    current: Epoch,
}

#[derive(Debug)]
struct State {
    /// The file and the bytes of each of its areas; `None` until the first image is written.
    file: Option<(Arc<dyn DiskFile>, u64)>,
    store: StoreUuid,
    generation: u64,
    /// An image of this inventory counts already. Until then changes are kept in memory.
    is_begun: bool,
    crc: u32,
    highest: u32,
    superblock_seq: u64,
    files: BTreeMap<u32, FileEntry>,
    /// Segments that are not what their entries say, as the open found them.
    as_found: BTreeMap<u32, FileEntry>,
    /// Files that are not listed and may be read all the same: those above `highest` at the open,
    /// or all without an inventory.
    reads_unlisted_above: u32,
}

/// Contents of the inventory file, as an open found it.
#[derive(Debug)]
pub(in crate::engine) enum FoundInventory {
    /// The newest valid image, and its checksum.
    Valid(Image, u32),
    /// No image can be used. The error is that of an area that is not empty, if there is one.
    Unusable(Option<FormatError>),
}

/// Returns the store that the inventory says it is of, if an area says so and is whole.
///
/// # Errors
/// Passing ones of the system.
pub(in crate::engine) fn store_of(disk: &Arc<dyn Disk>) -> io::Result<Option<StoreUuid>> {
    let areas = match read_areas(disk) {
        Err(error) if is_passing(&error) => return Err(error),
        areas => areas.ok(),
    };
    Ok(areas.iter().flatten().find_map(|area| {
        let store = Image::store_of(area)?;
        Image::decode(store, area).is_ok().then_some(store)
    }))
}

/// Reads the newest valid image. An area that cannot be read counts as damaged.
///
/// # Errors
/// Passing ones of the system.
pub(in crate::engine) fn read(
    disk: &Arc<dyn Disk>,
    store: StoreUuid,
) -> io::Result<FoundInventory> {
    let areas = match read_areas(disk) {
        Ok(areas) => areas,
        Err(error) if is_passing(&error) => return Err(error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(FoundInventory::Unusable(None));
        }
        Err(error) => {
            tracing::warn!(%error, "inventory of segments cannot be read");
            return Ok(FoundInventory::Unusable(Some(FormatError::Damaged)));
        }
    };

    let mut best: Option<(Image, u32)> = None;
    let mut problem = None;
    for area in areas {
        match Image::decode(store, &area) {
            Ok((image, crc)) => {
                let is_newer = |(best, _): &(Image, u32)| best.generation < image.generation;
                if best.as_ref().is_none_or(is_newer) {
                    best = Some((image, crc));
                }
            }
            Err(FormatError::Empty) => {}
            Err(error) => problem = Some(error),
        }
    }
    Ok(match best {
        Some((image, crc)) => FoundInventory::Valid(image, crc),
        None => FoundInventory::Unusable(problem),
    })
}

fn read_areas(disk: &Arc<dyn Disk>) -> io::Result<[Vec<u8>; 2]> {
    let file = read_again(|| disk.open(INVENTORY_FILE))?;
    let area = read_again(|| file.size())? / 2;
    if area > MAX_INVENTORY_AREA {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // One area that cannot be read does not take the other with it.
    let read = |offset| {
        let mut bytes = vec![0; area as usize];
        match read_again(|| file.read_exact_at(&mut bytes, offset)) {
            Err(error) if is_passing(&error) => Err(error),
            Err(_) => Ok(vec![1; 8]),
            Ok(()) => Ok(bytes),
        }
    };
    Ok([read(0)?, read(area)?])
}

/// Returns the bytes that the inventory of a disk takes, unless very many small segments make it
/// grow.
pub(in crate::engine) const fn allowance(capacity: u64, segment_bytes: u64) -> u64 {
    let area = area_for((2 * capacity / segment_bytes) as usize + SPARE_ENTRIES, 0);
    if area < FIRST_AREA_MAX {
        2 * area
    } else {
        2 * FIRST_AREA_MAX
    }
}

const fn area_for(entries: usize, epochs: usize) -> u64 {
    (Image::bytes_of(entries, epochs) as u64).div_ceil(4_096) * 4_096
}

impl Epochs {
    /// Takes the epochs that an open found in the segments, and its own one. Older ones than those
    /// that are listed were forgotten before.
    fn take(&mut self, report: &RecoveryReport) {
        let first = self.listed.keys().next().copied().unwrap_or(0);
        for epoch in report.epochs.iter().filter(|epoch| epoch.number >= first) {
            let known = *self.listed.entry(epoch.number).or_insert(*epoch);
            if known.nonce != epoch.nonce {
                tracing::error!(?known, found = ?epoch, "segments were written by two copies of this disk");
            }
        }
        // A segment that has come back ends an epoch later than an open without it has noted.
        let mut before = 0;
        for epoch in self.listed.values_mut() {
            let end = report.ends.get(&before).copied().unwrap_or(0);
            epoch.end_before = epoch.end_before.max(end);
            before = epoch.number;
        }
        self.current = report.epoch;
        self.bound();
    }

    /// Lists the epoch of this open, as it has a file now.
    fn list_current(&mut self) {
        if self.current.number > 0 {
            self.listed.insert(self.current.number, self.current);
        }
        self.bound();
    }

    /// Keeps room for the epoch of this open. Where the oldest ones ended stands in the first that
    /// stays.
    fn bound(&mut self) {
        while self.listed.len() >= MAX_EPOCHS {
            self.listed.pop_first();
        }
    }
}

impl SegmentInventory {
    /// Begins an inventory on a disk that has none that can be used. Nothing is written before
    /// [`Self::replace`].
    /// Images follow `generation`: what an interrupted upgrade left must not be newer.
    pub(in crate::engine) fn unwritten(
        disk: Arc<dyn Disk>,
        store: StoreUuid,
        generation: u64,
    ) -> Self {
        let keeper = Self::with(disk, store, None);
        keeper.state.lock().generation = generation;
        keeper
    }

    /// Goes on with the image that an open found.
    pub(in crate::engine) fn resumed(disk: Arc<dyn Disk>, image: &Image, crc: u32) -> Self {
        Self::with(disk, image.store, Some((image, crc)))
    }

    fn with(disk: Arc<dyn Disk>, store: StoreUuid, found: Option<(&Image, u32)>) -> Self {
        let files = found.map(|(image, _)| image.files.iter().map(|file| (file.id, *file)));
        let epochs = found.map(|(image, _)| {
            image
                .epochs
                .iter()
                .map(|epoch| (epoch.epoch, epoch.epoch()))
        });
        let state = State {
            file: None,
            store,
            generation: found.map_or(0, |(image, _)| image.generation),
            is_begun: found.is_some(),
            crc: found.map_or(0, |(_, crc)| crc),
            highest: found.map_or(0, |(image, _)| image.highest),
            superblock_seq: found.map_or(0, |(image, _)| image.superblock_seq),
            files: files.into_iter().flatten().collect(),
            as_found: BTreeMap::new(),
            reads_unlisted_above: found.map_or(0, |(image, _)| image.highest),
        };
        let epochs = Epochs {
            listed: epochs.into_iter().flatten().collect(),
            current: Epoch::default(),
        };
        Self {
            disk,
            state: Mutex::new(state),
            epochs: Mutex::new(epochs),
        }
    }

    /// Returns true if a segment is listed now.
    pub(in crate::engine) fn lists(&self, file: u32) -> bool {
        self.state.lock().files.contains_key(&file)
    }

    /// Returns generation and checksum of the newest image.
    pub(in crate::engine) fn mark(&self) -> (u64, u32) {
        let state = self.state.lock();
        (state.generation, state.crc)
    }

    /// Notes the sequence of a superblock that was written, for the images that follow.
    pub(in crate::engine) fn superblock_written(&self, seq: u64) {
        self.state.lock().superblock_seq = seq;
    }

    /// Returns the highest epoch that is listed.
    pub(in crate::engine) fn highest_epoch(&self) -> u32 {
        let epochs = self.epochs.lock();
        epochs.listed.keys().next_back().copied().unwrap_or(0)
    }

    /// Returns all epochs that are known, oldest first. The last one is that of this open. Does not
    /// wait for the disk.
    pub(in crate::engine) fn epochs(&self) -> Vec<Epoch> {
        let epochs = self.epochs.lock();
        let current = epochs.current;
        let listed = epochs.listed.values().copied();
        let before = listed.filter(|epoch| epoch.number < current.number);
        before.chain([current]).collect()
    }

    /// Returns the nonce of an epoch, unless it was forgotten. Does not wait for the disk.
    pub(in crate::engine) fn nonce_of(&self, number: u32) -> Option<u64> {
        let epochs = self.epochs.lock();
        let current = Some(epochs.current).filter(|epoch| epoch.number == number);
        let epoch = current.or_else(|| epochs.listed.get(&number).copied());
        epoch.map(|epoch| epoch.nonce)
    }

    /// Forgets epochs in front of `number`, at the next image, but for the last ones: uploads that
    /// have sealed parts in them may be under way.
    pub(in crate::engine) fn forget_epochs(&self, number: u32) {
        let mut epochs = self.epochs.lock();
        let older = epochs.listed.range(..number);
        let last = older.rev().nth(KEPT_EPOCHS).map(|(last, _)| *last);
        if let Some(last) = last {
            epochs.listed = epochs.listed.split_off(&(last + 1));
        }
    }

    /// Ids up to `id` were used, whatever the images say.
    pub(in crate::engine) fn raise_highest(&self, id: u32) {
        let mut state = self.state.lock();
        state.highest = state.highest.max(id);
    }

    /// Replaces all entries and writes them. Makes the file if there is none. `as_found` are the
    /// figures of segments that are not what their entries say.
    ///
    /// # Errors
    /// The error of the disk. The image before this one stays valid.
    pub(in crate::engine) fn replace(
        &self,
        entries: impl IntoIterator<Item = FileEntry>,
        as_found: impl IntoIterator<Item = FileEntry>,
        capacity: u64,
        segment_bytes: u64,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        state.files = entries.into_iter().map(|file| (file.id, file)).collect();
        state.as_found = as_found.into_iter().map(|file| (file.id, file)).collect();
        let mut epochs = self.epochs.lock();
        let current = epochs.current.number;
        if state.files.values().any(|file| file.epoch == current) {
            epochs.list_current();
        }
        drop(epochs);
        let highest = state.files.keys().next_back().copied().unwrap_or(0);
        state.highest = state.highest.max(highest);
        // A file that is too small, because the disk was made larger, is replaced.
        self.write(&mut state, allowance(capacity, segment_bytes) / 2)
    }

    /// Gives up a file for good: it is not read any more, even if it comes back.
    ///
    /// # Errors
    /// The error of the disk. Whether the image before this one counts is unknown.
    pub(in crate::engine) fn give_up(&self, file: u32) -> io::Result<()> {
        self.change(|state| {
            if let Some(entry) = state.files.get_mut(&file) {
                entry.standing = FileStanding::Lost;
            }
        })
    }

    /// Takes the figures of a file as the open found it. A file of which nothing could be read is
    /// given up for good.
    ///
    /// # Errors
    /// The error of the disk. Whether the image before this one counts is unknown.
    pub(in crate::engine) fn take_as_found(&self, file: u32) -> io::Result<()> {
        if !self.state.lock().as_found.contains_key(&file) {
            return self.give_up(file);
        }
        self.change(|state| {
            if let Some(found) = state.as_found.remove(&file) {
                state.files.insert(file, found);
            }
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.state.lock();
        change(&mut state);
        // An open of a disk without an image writes all entries at its end.
        match state.is_begun {
            true => self.write(&mut state, 0),
            false => Ok(()),
        }
    }

    /// Opens the file; `None` if it is not there.
    fn open(&self) -> io::Result<Option<(Arc<dyn DiskFile>, u64)>> {
        match self.disk.open(INVENTORY_FILE) {
            Ok(file) => {
                let area = file.size()? / 2;
                Ok(Some((file, area)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the next image to the area of its generation and syncs it. A file whose areas are
    /// smaller than the image, or than `least`, is replaced.
    fn write(&self, state: &mut State, least: u64) -> io::Result<()> {
        let image = Image {
            store: state.store,
            generation: state.generation + 1,
            highest: state.highest,
            superblock_seq: state.superblock_seq,
            files: state.files.values().copied().collect(),
            epochs: {
                let epochs = self.epochs.lock();
                epochs.listed.values().map(EpochEntry::from).collect()
            },
        };
        let bytes = image.encode();
        let crc = bytes.last_chunk().map_or(0, |raw| u32::from_le_bytes(*raw));

        if state.file.is_none() {
            state.file = self.open()?;
        }
        match &state.file {
            Some((file, area)) if *area >= least.max(bytes.len() as u64) => {
                let offset = image.generation % 2 * area;
                file.write_all_vectored_at(&[bytes], offset)?;
                file.sync_data()?;
            }
            _ => state.file = Some(self.grow(&image, bytes, least)?),
        }

        state.generation = image.generation;
        state.is_begun = true;
        state.crc = crc;
        Ok(())
    }

    /// Writes an image to a new, larger file, which takes the place of the old one when it is
    /// synced.
    fn grow(
        &self,
        image: &Image,
        bytes: bytes::Bytes,
        least: u64,
    ) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        let epochs = 2 * image.epochs.len();
        let area = least.max(area_for(2 * image.files.len() + SPARE_ENTRIES, epochs));
        match self.disk.remove(UNFINISHED) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(UNFINISHED, 2 * area)?;
        file.write_all_vectored_at(&[bytes], image.generation % 2 * area)?;
        file.sync_data()?;
        self.disk.rename(UNFINISHED, INVENTORY_FILE)?;
        self.disk.sync_dir()?;
        Ok((file, area))
    }
}

impl Inventory for SegmentInventory {
    fn highest(&self) -> u32 {
        self.state.lock().highest
    }

    fn superblock_seq(&self) -> u64 {
        self.state.lock().superblock_seq
    }

    fn recovered(&self, report: &RecoveryReport) {
        self.epochs.lock().take(report);
    }

    fn may_read(&self, file: u32) -> bool {
        let state = self.state.lock();
        match state.files.get(&file) {
            Some(entry) => matches!(entry.standing, FileStanding::Live | FileStanding::Sealed),
            None => file > state.reads_unlisted_above,
        }
    }

    fn sealed_figures(&self, file: u32) -> Option<SealedFigures> {
        let state = self.state.lock();
        let entry = state.files.get(&file)?;
        let is_sealed = entry.standing == FileStanding::Sealed && entry.seqs.1 > 0;
        is_sealed.then_some(SealedFigures {
            size: entry.size,
            first_seq: entry.seqs.0,
            last_seq: entry.seqs.1,
            records: entry.records.into(),
            footer_crc: entry.footer_crc,
        })
    }

    fn known_holes(&self, file: u32) -> u32 {
        let state = self.state.lock();
        state.files.get(&file).map_or(0, |entry| entry.holes_crc)
    }

    fn epoch(&self, number: u32) -> Option<Epoch> {
        self.epochs.lock().listed.get(&number).copied()
    }

    fn rolled(&self, sealed: Option<&FileInfo>, begun: Option<&FileInfo>) -> io::Result<()> {
        self.change(|state| {
            for file in [sealed, begun].into_iter().flatten() {
                state.highest = state.highest.max(file.id);
                state.files.insert(file.id, entry_of(file, false));
            }
            if begun.is_some() {
                self.epochs.lock().list_current();
            }
        })
    }

    fn leaving(&self, file: u32) -> io::Result<()> {
        self.change(|state| {
            if let Some(entry) = state.files.get_mut(&file) {
                entry.standing = FileStanding::Leaving;
            }
        })
    }

    fn may_remove(&self, file: u32, superseded: &BTreeSet<u64>) -> bool {
        let state = self.state.lock();
        let entry = state.files.get(&file);
        entry.is_none_or(|entry| lost_seqs(entry, 0, superseded).is_none())
    }

    fn gone(&self, file: u32) {
        self.state.lock().files.remove(&file);
    }
}

/// Returns the entry of a file as the log knows it.
pub(in crate::engine) fn entry_of(file: &FileInfo, unproven: bool) -> FileEntry {
    let is_live = file.state == FileState::Active;
    FileEntry {
        id: file.id,
        standing: if is_live {
            FileStanding::Live
        } else {
            FileStanding::Sealed
        },
        unproven,
        epoch: file.epoch,
        records: u32::try_from(file.records).unwrap_or(u32::MAX),
        size: file.size,
        seqs: file.seqs.unwrap_or_default(),
        footer_crc: file.footer_crc,
        header_crc: file.header_crc,
        checkpoint: 0,
        holes_crc: file.holes_crc,
    }
}

/// Returns the listed segments that must be there and are not among `names`.
pub(in crate::engine) fn missing_entries(image: &Image, present: &BTreeSet<u32>) -> Vec<FileEntry> {
    let must = |file: &&FileEntry| {
        matches!(file.standing, FileStanding::Live | FileStanding::Sealed)
            && !present.contains(&file.id)
    };
    image.files.iter().filter(must).copied().collect()
}

/// Returns the sequences that a file has lost of those that its entry says, if `kept` is its last
/// one; `None` if it has all. A footer that is torn is no loss, nor is a frame that recovery has
/// copied to another file.
pub(in crate::engine) fn lost_seqs(
    entry: &FileEntry,
    kept: u64,
    superseded: &BTreeSet<u64>,
) -> Option<(u64, u64)> {
    let (first, last) = entry.seqs;
    if last == 0 {
        return None;
    }
    let mut lost = (first.max(kept + 1)..=last).filter(|seq| !superseded.contains(seq));
    let first = lost.next()?;
    Some((first, lost.next_back().unwrap_or(first)))
}

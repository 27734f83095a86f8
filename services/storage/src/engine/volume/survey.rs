//! The survey of an open: what lies on the disk, compared with what the inventory and the
//! superblock say.
//!
//! ```text
//! listed live or sealed, no file           ─▶ missing
//! listed, but the file has another owner   ─▶ foreign
//! listed, and its last frames are gone      ─▶ short
//! listed, and a part of it cannot be told   ─▶ damaged
//! leaving or lost, still there             ─▶ not read; leaving ones go when nothing is in doubt
//! not listed, id above all that were       ─▶ read: its roll was under way, nothing of it is acknowledged
//! not listed, id in use before             ─▶ named, never read, never removed
//! inventory older than the superblock says ─▶ inventory; superblock older than the inventory says ─▶ superblock
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use cstore_log::{
    ANY_SEQS, Damage, Disk, FileInfo, HeaderFacts, Hole, Inventory, RecoveryReport, file_name,
    header_facts, parse_file_name, read_again,
};

use cstore_types::epoch::first_seq;
use cstore_types::{SealSeq, StoreUuid};

use super::super::doubts::Finding;
use super::super::error::is_passing;
use super::super::format::{Doubt, DoubtKind, FileEntry, FileStanding, Image, Superblock};
use super::inventory::{
    self, FoundInventory, SegmentInventory, entry_of, lost_seqs, missing_entries,
};

/// Bytes of the smallest frame.
const BLOCK_BYTES: u64 = 4_096;

/// Findings of an open about the segments so far.
#[derive(Debug)]
pub(in crate::engine) struct Survey {
    pub(in crate::engine) inventory: Arc<SegmentInventory>,
    /// The image that counted before this open; `None` on a disk that had none.
    image: Option<Image>,
    segments: Arc<dyn Disk>,
    /// Segments that have given up their place and lie there still.
    leaving: Vec<u32>,
    /// Bytes of files that are there and are not read.
    pub(in crate::engine) ignored_bytes: u64,
    findings: Vec<Finding>,
    /// Ids of all segments that lie there.
    present: BTreeSet<u32>,
    /// Every segment that holds records is missing.
    pub(in crate::engine) is_empty: bool,
    /// The log could not tell whether frames are missing at the ends of segments.
    are_gaps_unknown: bool,
}

impl Survey {
    /// Compares names with the inventory, BEFORE the log is opened. Changes nothing. A superblock
    /// that `is_rebuilt` is a finding: nobody knows what the lost one said.
    ///
    /// # Errors
    /// The error of the disk.
    pub(in crate::engine) fn begin(
        disk: &Arc<dyn Disk>,
        segments: Arc<dyn Disk>,
        (superblock, is_rebuilt): (&Superblock, bool),
    ) -> io::Result<Self> {
        let mut findings = Vec::new();
        if is_rebuilt {
            findings.push(Finding::new(DoubtKind::Superblock));
        }
        let (generation, crc) = superblock.inventory;
        let image = match inventory::read(disk, superblock.store)? {
            FoundInventory::Valid(image, found_crc) => {
                let is_older = image.generation < generation
                    || (image.generation == generation && found_crc != crc);
                if is_older {
                    findings.push(Finding::new(DoubtKind::Inventory));
                }
                if image.superblock_seq > superblock.seq && !is_rebuilt {
                    findings.push(Finding::new(DoubtKind::Superblock));
                }
                Some((image, found_crc))
            }
            // An upgrade that was interrupted may have left an image; it is written anew.
            FoundInventory::Unusable(_) if generation == 0 => None,
            FoundInventory::Unusable(problem) => {
                tracing::error!(?problem, "inventory of segments cannot be used");
                findings.push(Finding::new(DoubtKind::Inventory));
                None
            }
        };
        // An image under a superblock that knows of none was left by an interrupted upgrade. The
        // program before this one may have written since.
        let left = image.as_ref().map_or(0, |(image, _)| image.generation);
        let left = left.max(generation);
        let image = image.filter(|_| generation > 0);
        let keeper = match &image {
            Some((image, crc)) => SegmentInventory::resumed(disk.clone(), image, *crc),
            None => SegmentInventory::unwritten(disk.clone(), superblock.store, left),
        };
        // A doubt may know of a segment that no image does any more.
        let doubted = superblock.doubts.iter().map(|doubt| doubt.file).max();
        keeper.raise_highest(doubted.unwrap_or(0));

        let mut survey = Self {
            inventory: Arc::new(keeper),
            image: image.map(|(image, _)| image),
            segments,
            leaving: Vec::new(),
            ignored_bytes: 0,
            findings,
            present: BTreeSet::new(),
            is_empty: false,
            are_gaps_unknown: false,
        };
        survey.compare_names()?;
        Ok(survey)
    }

    fn compare_names(&mut self) -> io::Result<()> {
        let names = self.segments.list()?;
        let present: BTreeSet<u32> = names
            .iter()
            .filter_map(|name| parse_file_name(name))
            .collect();
        self.present.clone_from(&present);
        let Some(image) = &self.image else {
            return Ok(());
        };

        for entry in image
            .files
            .iter()
            .filter(|entry| entry.standing == FileStanding::Live && present.contains(&entry.id))
        {
            if self.is_foreign(entry.id, image.store)? {
                self.findings.push(Finding {
                    file: entry.id,
                    seqs: entry.seqs,
                    ..Finding::new(DoubtKind::Foreign)
                });
            }
        }
        for entry in missing_entries(image, &present) {
            self.findings.push(Finding {
                file: entry.id,
                seqs: entry.seqs,
                ..Finding::new(DoubtKind::Missing)
            });
        }
        let listed: Vec<u32> = image
            .files
            .iter()
            .filter(|entry| is_needed(entry))
            .map(|entry| entry.id)
            .collect();
        self.is_empty = !listed.is_empty() && listed.iter().all(|id| !present.contains(id));

        let standings: BTreeMap<u32, FileStanding> = image
            .files
            .iter()
            .map(|entry| (entry.id, entry.standing))
            .collect();
        for id in present {
            if self.inventory.may_read(id) {
                continue;
            }
            let size = read_again(|| self.segments.open(&file_name(id))?.size());
            match size {
                Ok(size) => self.ignored_bytes += size,
                Err(error) if is_passing(&error) => return Err(error),
                Err(_) => {}
            }
            if standings.get(&id) == Some(&FileStanding::Leaving) {
                self.leaving.push(id);
            } else {
                tracing::warn!(file = %file_name(id), "segment is extra: it is neither read nor removed");
            }
        }
        Ok(())
    }

    /// Returns true if the header of a file names another log. One that cannot be read is not
    /// judged here.
    fn is_foreign(&self, file: u32, store: StoreUuid) -> io::Result<bool> {
        let mut header = vec![0; BLOCK_BYTES as usize];
        let name = file_name(file);
        let read = read_again(|| self.segments.open(&name)?.read_exact_at(&mut header, 0));
        match read {
            Ok(()) => {
                let is_other =
                    |named: HeaderFacts| (named.owner, named.file) != (*store.as_bytes(), file);
                Ok(header_facts(&header).is_some_and(is_other))
            }
            Err(error) if is_passing(&error) => Err(error),
            // The log says what is wrong with it.
            Err(_) => Ok(false),
        }
    }

    /// Returns true if something is in doubt already.
    pub(in crate::engine) fn is_in_doubt(&self) -> bool {
        !self.findings.is_empty()
    }

    /// Returns the highest epoch that is listed.
    pub(in crate::engine) fn highest_epoch(&self) -> u32 {
        self.inventory.highest_epoch()
    }

    /// Returns the highest sequence that is known to be durable: of the superblock, or of a listed
    /// segment, also if it is missing.
    pub(in crate::engine) fn proven_seq(&self, seal_seq: SealSeq) -> u64 {
        let files = self.image.iter().flat_map(|image| &image.files);
        let known = files.map(|entry| entry.seqs.1).max().unwrap_or(0);
        known.max(seal_seq.0)
    }

    /// Compares the files that the log has read, AFTER it was opened. Of the `unexplained` holes it
    /// is not known what they hide. Returns all findings.
    pub(in crate::engine) fn compare_files(
        &mut self,
        files: &[FileInfo],
        report: &RecoveryReport,
        unexplained: &[Hole],
        superblock: &Superblock,
    ) -> &[Finding] {
        self.are_gaps_unknown = report.are_gaps_unknown;
        let is_found = |finding: &Finding| finding.kind == DoubtKind::Superblock;
        if report.superblock_seq > superblock.seq && !self.findings.iter().any(is_found) {
            self.findings.push(Finding::new(DoubtKind::Superblock));
        }
        let found_damage = damage_findings(report, unexplained);
        let Some(image) = &self.image else {
            self.findings.extend(found_damage);
            return &self.findings;
        };
        let found: BTreeMap<u32, &FileInfo> = files.iter().map(|file| (file.id, file)).collect();
        let mut more = Vec::new();

        for entry in &image.files {
            let is_known = |finding: &Finding| finding.file == entry.id;
            if !is_needed(entry) || self.findings.iter().any(is_known) {
                continue;
            }
            if report.foreign.contains(&entry.id) {
                more.push(Finding {
                    file: entry.id,
                    seqs: entry.seqs,
                    ..Finding::new(DoubtKind::Foreign)
                });
                continue;
            }
            let file = found.get(&entry.id);
            let kept = file.and_then(|file| file.seqs).unwrap_or_default().1;
            let damage = found_damage.iter().find(|found| found.file == entry.id);
            // Accepted and explained holes are found again at each open.
            let is_known = file.is_some_and(|file| file.holes_crc == entry.holes_crc);
            if let Some(found) = damage.filter(|_| file.is_none()) {
                more.push(Finding {
                    seqs: entry.seqs,
                    ..*found
                });
            } else if let Some(seqs) = lost_seqs(entry, kept, &report.superseded) {
                more.push(Finding {
                    file: entry.id,
                    seqs,
                    ..Finding::new(DoubtKind::Short)
                });
            } else if let Some(found) = damage.filter(|_| !is_known) {
                more.push(*found);
            }
        }
        // An unlisted segment may be newer than the list, and hold acknowledged records.
        let is_unlisted = |found: &&Finding| image.files.iter().all(|entry| entry.id != found.file);
        more.extend(found_damage.iter().filter(is_unlisted));
        self.findings.extend(more);
        &self.findings
    }

    /// Returns the sequences that segments may have which are not there, are of another disk or were
    /// given up.
    pub(in crate::engine) fn absent_seqs(&self) -> Vec<(u64, u64)> {
        let is_found = |kind| self.findings.iter().any(|finding| finding.kind == kind);
        let Some(image) = &self.image else {
            // Without a list anything may be missing, unless there never was one.
            let had_list = is_found(DoubtKind::Inventory);
            return had_list.then_some(ANY_SEQS).into_iter().collect();
        };
        let is_away = |entry: &&FileEntry| {
            let is_of = |finding: &Finding| {
                let is_away = matches!(finding.kind, DoubtKind::Missing | DoubtKind::Foreign);
                is_away && finding.file == entry.id
            };
            entry.standing == FileStanding::Lost || self.findings.iter().any(is_of)
        };
        let away = image.files.iter().filter(is_away);
        away.map(|entry| match (entry.seqs, entry.standing) {
            // A segment that was given up while it took frames hides the end of its epoch.
            ((0, 0), FileStanding::Lost) if entry.epoch > 0 => (
                first_seq(entry.epoch),
                first_seq(entry.epoch.saturating_add(1)).saturating_sub(1),
            ),
            ((0, 0), _) => ANY_SEQS,
            (seqs, _) => seqs,
        })
        .collect()
    }

    /// Returns true if a doubt about segments that was open before is not found again.
    pub(in crate::engine) fn disproves(&self, doubt: &Doubt) -> bool {
        let is_about_files = |kind| {
            matches!(
                kind,
                DoubtKind::Missing | DoubtKind::Short | DoubtKind::Damaged | DoubtKind::Foreign
            )
        };
        let same_file =
            |finding: &Finding| is_about_files(finding.kind) && finding.file == doubt.file;
        // Only a list that counts can say that nothing is missing.
        let is_about_end = matches!(doubt.kind, DoubtKind::Short | DoubtKind::Damaged);
        let has_list = self.image.is_some()
            && !(is_about_end && self.are_gaps_unknown)
            && !self
                .findings
                .iter()
                .any(|finding| finding.kind == DoubtKind::Inventory);
        let is_found = self.findings.iter().any(same_file);
        is_about_files(doubt.kind) && !doubt.accepted && has_list && !is_found
    }

    /// Writes the image of this open: the files as they are, and the entries of those that are
    /// missing or are not what they were. Removes files that had given up their place, if
    /// `may_free`.
    ///
    /// # Errors
    /// The error of the disk. The image before this one counts then.
    pub(in crate::engine) fn finish(
        &self,
        files: &[FileInfo],
        superblock: &Superblock,
        may_free: bool,
    ) -> io::Result<()> {
        if may_free && !self.leaving.is_empty() {
            for id in &self.leaving {
                self.segments.remove(&file_name(*id))?;
            }
            self.segments.sync_dir()?;
        }

        let mut entries: BTreeMap<u32, FileEntry> = files
            .iter()
            .map(|file| (file.id, entry_of(file, self.image.is_none())))
            .collect();
        let in_doubt: BTreeSet<u32> = self.findings.iter().map(|finding| finding.file).collect();
        let mut as_found = Vec::new();
        as_found.extend(self.list_damage_as_new(&mut entries));
        for entry in self.image.iter().flat_map(|image| &image.files) {
            let keeps = match entry.standing {
                FileStanding::Lost => true,
                FileStanding::Leaving => !may_free && self.leaving.contains(&entry.id),
                // One that lies there and is not read now must not become an extra one.
                FileStanding::Live | FileStanding::Sealed => {
                    let is_left =
                        self.present.contains(&entry.id) && self.inventory.lists(entry.id);
                    in_doubt.contains(&entry.id) || (is_left && !entries.contains_key(&entry.id))
                }
            };
            if keeps {
                as_found.extend(entries.insert(entry.id, *entry));
            }
        }
        self.inventory.superblock_written(superblock.seq);
        self.inventory.replace(
            entries.into_values(),
            as_found,
            superblock.capacity,
            superblock.segment_bytes,
        )
    }
}

impl Survey {
    /// Lists damaged segments that the list has not as if they were whole, so that the next open finds
    /// their damage again. Returns their entries as they were found.
    fn list_damage_as_new(&self, entries: &mut BTreeMap<u32, FileEntry>) -> Vec<FileEntry> {
        let is_damage = |kind| matches!(kind, DoubtKind::Damaged | DoubtKind::Short);
        let listed = self.image.iter().flat_map(|image| &image.files);
        let listed: BTreeSet<u32> = listed.map(|entry| entry.id).collect();
        let damaged = self
            .findings
            .iter()
            .filter(|finding| is_damage(finding.kind) && !listed.contains(&finding.file));
        let mut as_found = Vec::new();
        for finding in damaged {
            match entries.get_mut(&finding.file) {
                Some(entry) => {
                    as_found.push(*entry);
                    *entry = FileEntry::unread(finding.file);
                }
                None => drop(entries.insert(finding.file, FileEntry::unread(finding.file))),
            }
        }
        as_found
    }
}

/// Returns a finding for each segment with a hole that nothing explains, or of which nothing can be
/// read.
fn damage_findings(report: &RecoveryReport, unexplained: &[Hole]) -> Vec<Finding> {
    let mut findings: BTreeMap<u32, Finding> = BTreeMap::new();
    for hole in unexplained {
        let is_end = matches!(hole.damage, Damage::Lost(_) | Damage::Short(_));
        let kind = match is_end {
            true => DoubtKind::Short,
            false => DoubtKind::Damaged,
        };
        let found = findings.entry(hole.file).or_insert_with(|| Finding {
            file: hole.file,
            seqs: hole.seqs,
            ..Finding::new(kind)
        });
        found.seqs = (found.seqs.0.min(hole.seqs.0), found.seqs.1.max(hole.seqs.1));
    }
    for unreadable in &report.unreadable {
        let (file, damage) = (unreadable.file, unreadable.damage);
        tracing::error!(file = %file_name(file), %damage, "segment cannot be read");
        let finding = Finding {
            file,
            ..Finding::new(DoubtKind::Damaged)
        };
        findings.insert(file, finding);
    }
    findings.into_values().collect()
}

/// Returns true if a listed segment must be there.
fn is_needed(entry: &FileEntry) -> bool {
    matches!(entry.standing, FileStanding::Live | FileStanding::Sealed)
}

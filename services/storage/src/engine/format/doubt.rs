//! Doubts: what may hide references on a disk. They stand in the superblock.
//!
//! ```text
//! doubt, 48 bytes
//!   0 kind u8 · 1 state u8 (1 open, 2 accepted) · 2 zero u16 · 4 number u32 · 8 file u32 · 12 count u32
//!  16 first seq u64 · 24 last seq u64 · 32 aux [16]
//! ```

use std::fmt;

use bytes::BufMut;
use cstore_types::SealSeq;
use cstore_types::codec::Fields;
use cstore_types::epoch::SealPoint;
use cstore_types::history::Point;

use super::FormatError;

/// Doubts that a superblock holds. More are counted into the last one of their kind.
pub(crate) const MAX_DOUBTS: usize = 32;
/// Number of lost sets that an accept has covered and no audit has counted yet.
pub(crate) const UNCOUNTED: u32 = u32::MAX;
/// Bytes of one doubt.
pub(super) const DOUBT: usize = 48;

const OPEN: u8 = 1;
const ACCEPTED: u8 = 2;

/// Reason why references may be hidden: while one is open, nothing on the disk is freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// Kind of what is wrong.
    pub kind: DoubtKind,
    /// True if a person said that the disk is to go on without what is missing.
    pub accepted: bool,
    /// Number by which it is listed and accepted. Never used twice on a disk.
    pub number: u32,
    /// Segment file, 0 if it is about no file.
    pub file: u32,
    /// Times that it was found, or how many things are concerned.
    pub count: u32,
    /// Sequences that may be missing; (0, 0) if they are not known. For an older disk the seal that
    /// is missing and the head of its log, for another master the position that was noted and the
    /// master's.
    pub seqs: (u64, u64),
    /// Session of a damaged set or of the first lost one, nonce of the missing seal's epoch, or the lives of both positions;
    /// zero otherwise.
    pub aux: [u8; 16],
}

/// Kinds of doubt, with their numbers on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DoubtKind {
    /// A segment that the inventory lists is not there.
    Missing = 1,
    /// A segment is shorter, or ends earlier, than the inventory says.
    Short = 2,
    /// A header, directory, set, release or trim note cannot be read.
    Damaged = 3,
    /// A file of another log lies under the name of a listed segment.
    Foreign = 4,
    /// The inventory is missing, damaged or older than the superblock says.
    Inventory = 5,
    /// The superblock was lost, or is older than the segments or the inventory say.
    Superblock = 6,
    /// Reference sets name blocks that are not here.
    Absent = 7,
    /// The bytes of a reference set are damaged.
    Set = 8,
    /// The master has seen writes of this disk that are not on it.
    StoreOlder = 9,
    /// The master is older than what this disk has obeyed, or another one.
    Master = 10,
    /// The master has committed sessions of which no set is here.
    LostSets = 11,
}

impl DoubtKind {
    const ALL: [Self; 11] = [
        Self::Missing,
        Self::Short,
        Self::Damaged,
        Self::Foreign,
        Self::Inventory,
        Self::Superblock,
        Self::Absent,
        Self::Set,
        Self::StoreOlder,
        Self::Master,
        Self::LostSets,
    ];

    /// Returns the word by which metrics and commands name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "segment_missing",
            Self::Short => "segment_short",
            Self::Damaged => "segment_damaged",
            Self::Foreign => "segment_foreign",
            Self::Inventory => "inventory",
            Self::Superblock => "superblock",
            Self::Absent => "blocks_absent",
            Self::Set => "set_damaged",
            Self::StoreOlder => "store_older",
            Self::Master => "master",
            Self::LostSets => "sets_lost",
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// One sentence for operators.
impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = format_args!("segment {:08x}", self.file);
        match self.kind {
            DoubtKind::Missing => write!(f, "{file} is missing")?,
            DoubtKind::Short => write!(f, "{file} has lost its end")?,
            DoubtKind::Damaged => write!(f, "{file} is damaged")?,
            DoubtKind::Foreign => write!(f, "{file} belongs to another disk")?,
            DoubtKind::Inventory => {
                f.write_str("the inventory of segments was missing, damaged or too old")?
            }
            DoubtKind::Superblock => {
                f.write_str("the superblock was lost, or is older than the segments")?
            }
            DoubtKind::Absent => {
                return write!(f, "{} blocks that files need are not here", self.count);
            }
            DoubtKind::Set => {
                write!(
                    f,
                    "a reference set of session {} is damaged",
                    hex::encode(self.aux)
                )?;
            }
            DoubtKind::StoreOlder => {
                let head = SealPoint {
                    seq: SealSeq(self.seqs.1),
                    nonce: 0,
                };
                let seal = self.lost_seal().unwrap_or_default();
                return write!(
                    f,
                    "the disk is older than what the master has seen of it: seal {seal} is not here, the last one is {head:#}"
                );
            }
            DoubtKind::LostSets if self.count == UNCOUNTED => {
                return f.write_str(
                    "what was accepted may have taken reference sets; the next audit counts them",
                );
            }
            DoubtKind::LostSets => {
                return write!(
                    f,
                    "the reference sets of {} committed uploads are not here, that of session {} is the first; the \
                     master's log names their files",
                    self.count,
                    hex::encode(self.aux)
                );
            }
            DoubtKind::Master => {
                let [noted, head] = self.points();
                return write!(
                    f,
                    "the master is older than what this disk has obeyed, or another one: noted {noted}, it is at {head}"
                );
            }
        }

        if self.seqs != (0, 0) {
            let (first, last) = self.seqs;
            write!(f, " (writes {first} to {last})")?;
        }
        Ok(())
    }
}

impl Doubt {
    /// Returns what this disk had noted of the master's history, and where the master was; for a
    /// doubt about the master.
    fn points(&self) -> [Point; 2] {
        let mut fields = Fields::new(&self.aux);
        let mut point = |position| Point {
            life: fields.u64().unwrap_or_default(),
            position,
            ..Point::default()
        };
        [point(self.seqs.0), point(self.seqs.1)]
    }

    /// Returns the seal that the master has seen and that is not on the disk, if it is about one.
    pub fn lost_seal(&self) -> Option<SealPoint> {
        let nonce = self.aux.first_chunk().copied().unwrap_or_default();
        (self.kind == DoubtKind::StoreOlder).then_some(SealPoint {
            seq: SealSeq(self.seqs.0),
            nonce: u64::from_le_bytes(nonce),
        })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(self.kind as u8);
        out.put_u8(if self.accepted { ACCEPTED } else { OPEN });
        out.put_u16_le(0);
        out.put_u32_le(self.number);
        out.put_u32_le(self.file);
        out.put_u32_le(self.count);
        out.put_u64_le(self.seqs.0);
        out.put_u64_le(self.seqs.1);
        out.put_slice(&self.aux);
    }

    pub(super) fn take(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        let kind = DoubtKind::from_number(fields.u8()?).ok_or(FormatError::Unknown)?;
        let accepted = match fields.u8()? {
            OPEN => false,
            ACCEPTED => true,
            _ => return Err(FormatError::Unknown),
        };
        fields.u16()?;
        Ok(Self {
            kind,
            accepted,
            number: fields.u32()?,
            file: fields.u32()?,
            count: fields.u32()?,
            seqs: (fields.u64()?, fields.u64()?),
            aux: fields.array()?,
        })
    }
}

//! Records as the index knows them: their places, what they stand for and what they cost.

use cstore_log::Location;
use cstore_types::{BlockId, PartNo, SealSeq, SessionId};

use crate::engine::format::Place;

/// Bytes of the keys of records.
pub(super) const BLOCK_KEY: u64 = 32;
pub(super) const SET_KEY: u64 = 20;
pub(super) const RELEASE_KEY: u64 = 16;
pub(super) const BAD_KEY: u64 = 40;

/// Returns the bytes of directory entries that one record costs: in its frame and in the footer of
/// its segment.
pub(crate) const fn record_overhead(key_len: u64) -> u64 {
    2 * (6 + key_len) + 8
}

/// One durable reference set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefSet {
    pub(crate) location: Location,
    pub(crate) seal_seq: SealSeq,
}

/// A record by what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    /// A block that a set, a seal or a pin holds.
    Block(BlockId),
    /// A reference set.
    Set(SessionId, PartNo),
    /// A release that keeps a set from coming back.
    Release(SessionId),
    /// The verdict that the record of a block at this place is damaged.
    Verdict(BlockId, Place),
}

impl Live {
    /// Returns the session whose sets and releases MUST NOT change while the record moves.
    pub(crate) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Block(_) | Self::Verdict(..) => None,
            Self::Set(session, _) | Self::Release(session) => Some(*session),
        }
    }
}

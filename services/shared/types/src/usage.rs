//! The space that upload sessions hold, and what would come back if some of them ended.

use crate::ids::SessionId;

/// A session whose use of space is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionUsage {
    /// Owner of the reference sets.
    pub session: SessionId,
    /// `true` if its sets would be dropped, `false` if they would stay.
    pub ends: bool,
}

/// Distinct blocks of some sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceUsage {
    /// Distinct blocks.
    pub blocks: u64,
    /// Bytes of `blocks`.
    pub bytes: u64,
    /// Those of `blocks` that would still be held after the ending sessions are gone.
    pub shared_blocks: u64,
    /// Bytes of `shared_blocks`.
    pub shared_bytes: u64,
}

impl std::ops::AddAssign for SpaceUsage {
    /// Adds the blocks of another store. Saturates: the numbers come from peers.
    fn add_assign(&mut self, other: Self) {
        self.blocks = self.blocks.saturating_add(other.blocks);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.shared_blocks = self.shared_blocks.saturating_add(other.shared_blocks);
        self.shared_bytes = self.shared_bytes.saturating_add(other.shared_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_added_up_without_overflow() {
        let mut sum = SpaceUsage {
            blocks: 1,
            bytes: u64::MAX,
            shared_blocks: 0,
            shared_bytes: 2,
        };
        sum += SpaceUsage {
            blocks: 2,
            bytes: 1,
            shared_blocks: 1,
            shared_bytes: 3,
        };
        assert_eq!(
            sum,
            SpaceUsage {
                blocks: 3,
                bytes: u64::MAX,
                shared_blocks: 1,
                shared_bytes: 5
            }
        );
    }
}

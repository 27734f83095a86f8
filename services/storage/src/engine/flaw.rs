//! Ways to break compaction on purpose, to show that the tests find it; a program can only have [`Flaw::None`].

use cstore_log::Location;

use super::state::{Live, State};

/// A defect of compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flaw {
    /// A working engine.
    #[default]
    None,
    /// Reference sets are taken for dead and stay behind.
    #[cfg(feature = "faulty")]
    ForgottenSet,
    /// A moved record keeps its old place in memory.
    #[cfg(feature = "faulty")]
    StaleIndex,
    /// Blocks move whatever their bytes are, and count as good then.
    #[cfg(feature = "faulty")]
    UnverifiedMove,
    /// Releases do not wait for moves, nor moves for releases.
    #[cfg(feature = "faulty")]
    NoFence,
    /// A release forgets the copies of its sets that moves left behind.
    #[cfg(feature = "faulty")]
    ForgottenCopies,
}

impl Flaw {
    /// Whether damaged bytes are copied too.
    pub(super) fn moves_unverified(self) -> bool {
        #[cfg(feature = "faulty")]
        return self == Self::UnverifiedMove;
        #[cfg(not(feature = "faulty"))]
        false
    }

    /// Whether moves and releases of a session may pass each other.
    pub(super) fn has_no_fence(self) -> bool {
        #[cfg(feature = "faulty")]
        return self == Self::NoFence;
        #[cfg(not(feature = "faulty"))]
        false
    }

    /// Whether a set counts as moved although nothing was written.
    pub(super) fn forgets(self, live: &Live) -> bool {
        #[cfg(feature = "faulty")]
        return self == Self::ForgottenSet && matches!(live, Live::Set(..));
        #[cfg(not(feature = "faulty"))]
        {
            let _ = live;
            false
        }
    }

    /// Undoes what a move did to memory, as the flaw has it.
    pub(super) fn after_move(self, state: &mut State, live: &Live, from: Location) {
        #[cfg(feature = "faulty")]
        match self {
            Self::StaleIndex => state.misplace(live, from),
            Self::ForgottenCopies => state.forget_copies(live, from),
            _ => {}
        }
        #[cfg(not(feature = "faulty"))]
        let _ = (state, live, from);
    }
}

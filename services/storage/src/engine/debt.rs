//! The verification debt of a disk: up to which sequence blocks are unverified since a doubt, and
//! what makes them trusted again. A value: no I/O, no lock.
//!
//! ```text
//! doubt is entered ─▶ below = head of the log (never lower than before)
//!   ├─ the last one is disproved, none was accepted ─▶ below = 0
//!   └─ one is accepted ─▶ owed ─▶ every unverified segment was read ─▶ below = 0
//! ```

use super::format::{Doubt, DoubtKind, Superblock};

/// The blocks of a disk that have to be read before they are trusted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct VerificationDebt {
    /// Highest sequence whose blocks are unverified; 0 if every block is trusted. A later doubt
    /// never lowers it.
    below: u64,
    /// A doubt was accepted since `below` was set: only a whole verification clears both.
    is_owed: bool,
}

impl VerificationDebt {
    /// Returns the debt that stands in a superblock.
    pub(super) fn of(superblock: &Superblock) -> Self {
        Self {
            below: superblock.verify_below,
            is_owed: superblock.owes_verification,
        }
    }

    /// Puts the debt into a superblock that is about to be written.
    pub(super) fn put_into(self, superblock: &mut Superblock) {
        superblock.verify_below = self.below;
        superblock.owes_verification = self.is_owed;
    }

    /// Returns the highest sequence whose blocks are unverified; 0 if every block is trusted.
    pub(super) fn below(self) -> u64 {
        self.below
    }

    /// Makes the blocks of a log up to its `head` unverified, for a new doubt of this kind.
    pub(super) fn enter(&mut self, kind: DoubtKind, head: u64) {
        if questions_blocks(kind) {
            self.below = self.below.max(head);
        }
    }

    /// Makes up for a program that entered doubts and noted no debt: while one of them is open, the
    /// blocks up to `head` are unverified.
    pub(super) fn make_up(&mut self, doubts: &[Doubt], head: u64) {
        if self.below == 0 && doubts.iter().any(questions_now) {
            self.below = head;
        }
    }

    /// Keeps the debt until a whole verification: a person has accepted a doubt of this kind.
    pub(super) fn accept(&mut self, kind: DoubtKind) {
        self.is_owed |= questions_blocks(kind);
    }

    /// Clears the debt if the last doubt that questioned blocks is among the `closed` ones, which
    /// were disproved, and none was accepted before. `left` are the doubts that stay.
    pub(super) fn close(&mut self, closed: &[Doubt], left: &[Doubt]) {
        let mut ended = closed.iter().filter(|doubt| questions_now(doubt));
        let is_last = ended.clone().next().is_some() && !left.iter().any(questions_now);
        if !is_last || self.is_owed {
            return;
        }
        // Uploads that brought absent blocks back say nothing about the blocks that were there, nor
        // does the removal of files whose sets were lost.
        let says_nothing = |kind| matches!(kind, DoubtKind::Absent | DoubtKind::LostSets);
        match ended.all(|doubt| says_nothing(doubt.kind)) {
            true => self.is_owed = true,
            false => self.below = 0,
        }
    }
}

fn questions_now(doubt: &Doubt) -> bool {
    !doubt.accepted && questions_blocks(doubt.kind)
}

/// Returns true if a doubt of this kind says that stored blocks may not be what they were.
///
/// An older disk counts: it was copied back from somewhere, or has lost writes that were synced, and
/// what lost the last ones may have lost others in the middle. A wrong master says nothing about the
/// disk.
fn questions_blocks(kind: DoubtKind) -> bool {
    kind != DoubtKind::Master
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(kind: DoubtKind, accepted: bool) -> Doubt {
        Doubt {
            kind,
            accepted,
            number: 1,
            file: 0,
            count: 1,
            seqs: (0, 0),
            aux: [0; 16],
        }
    }

    fn entered(kind: DoubtKind, head: u64) -> VerificationDebt {
        let mut debt = VerificationDebt::default();
        debt.enter(kind, head);
        debt
    }

    #[test]
    fn a_later_doubt_never_lowers_the_debt_and_one_about_the_master_makes_none() {
        let mut debt = entered(DoubtKind::Missing, 40);
        debt.enter(DoubtKind::StoreOlder, 30);
        assert_eq!(debt.below(), 40);
        debt.enter(DoubtKind::Set, 50);
        assert_eq!(debt.below(), 50);
        debt.enter(DoubtKind::Master, 60);
        assert_eq!(debt.below(), 50);
        assert_eq!(entered(DoubtKind::Master, 60), VerificationDebt::default());
    }

    #[test]
    fn the_last_disproved_doubt_clears_the_debt_unless_one_was_accepted() {
        let (missing, short) = (
            doubt(DoubtKind::Missing, false),
            doubt(DoubtKind::Short, false),
        );
        let mut debt = entered(DoubtKind::Missing, 40);
        debt.close(&[missing], &[short]);
        assert_eq!(debt.below(), 40, "another one is open");
        debt.close(&[], &[]);
        debt.close(&[doubt(DoubtKind::Master, false)], &[]);
        assert_eq!(debt.below(), 40, "none that questions blocks was closed");
        debt.close(&[short], &[doubt(DoubtKind::Master, false)]);
        assert_eq!(debt, VerificationDebt::default());

        // The accepted one may be forgotten since.
        let mut debt = entered(DoubtKind::Missing, 40);
        debt.accept(DoubtKind::Missing);
        debt.close(&[doubt(DoubtKind::Missing, true)], &[]);
        debt.close(&[short], &[]);
        assert_eq!(debt.below(), 40);
    }

    #[test]
    fn absent_blocks_that_were_uploaded_again_disprove_nothing() {
        let absent = doubt(DoubtKind::Absent, false);
        let mut debt = entered(DoubtKind::Absent, 40);
        debt.close(&[absent], &[]);
        debt.close(&[doubt(DoubtKind::Short, false)], &[]);
        assert_eq!(debt.below(), 40);

        // They are back with their segment.
        let mut debt = entered(DoubtKind::Absent, 40);
        debt.close(&[absent, doubt(DoubtKind::Missing, false)], &[]);
        assert_eq!(debt.below(), 0);
    }

    #[test]
    fn open_doubts_of_a_program_that_noted_no_debt_are_made_up_for() {
        let mut debt = VerificationDebt::default();
        debt.make_up(&[doubt(DoubtKind::Missing, true)], 40);
        debt.make_up(&[doubt(DoubtKind::Master, false)], 40);
        assert_eq!(debt.below(), 0);
        debt.make_up(&[doubt(DoubtKind::Missing, false)], 40);
        debt.make_up(&[doubt(DoubtKind::Missing, false)], 50);
        assert_eq!(debt.below(), 40);
    }
}

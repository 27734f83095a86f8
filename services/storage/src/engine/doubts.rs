//! The list of a disk's doubts: what enters it, what covers what, what an accept and a disproof
//! change. A value: no I/O, no lock (`hold.rs`).

use cstore_types::SessionId;

use super::debt::VerificationDebt;
use super::format::{Doubt, DoubtKind, MAX_DOUBTS, Superblock, UNCOUNTED};
use super::index::RefSet;

/// Result of an audit, up to one of its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostSets {
    /// Committed sessions without a set here.
    pub(super) count: u32,
    /// The first one of them.
    pub(super) first: Option<SessionId>,
    /// All committed sessions were compared.
    pub(super) is_whole: bool,
}

/// The doubts of a disk, accepted ones among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Doubts {
    list: Vec<Doubt>,
    next: u32,
    /// More was found than the list takes. The next open finds it again.
    more: bool,
    debt: VerificationDebt,
}

/// Outcome of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// The doubt is open and holds the disk.
    Open,
    /// A person has accepted it before.
    Accepted,
}

/// Reason for doubt, before it has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) kind: DoubtKind,
    /// 0 if it is about no segment.
    pub(super) file: u32,
    pub(super) count: u32,
    pub(super) seqs: (u64, u64),
    pub(super) aux: [u8; 16],
}

impl Finding {
    pub(super) const fn new(kind: DoubtKind) -> Self {
        Self {
            kind,
            file: 0,
            count: 1,
            seqs: (0, 0),
            aux: [0; 16],
        }
    }

    /// Makes the finding about a reference set that cannot be read.
    pub(super) fn of_set(session: SessionId, set: RefSet) -> Self {
        Self {
            file: set.location.file,
            seqs: (set.seal_seq.0, set.seal_seq.0),
            aux: *session.as_bytes(),
            ..Self::new(DoubtKind::Set)
        }
    }

    /// Returns true if `doubt`, which is about the same thing, says all that was found. What an
    /// accept has settled is not found again; sets that are damaged and blocks that are absent are.
    fn is_covered_by(&self, doubt: &Doubt) -> bool {
        match (doubt.accepted, self.kind) {
            (false, _) | (true, DoubtKind::Set) => true,
            (true, DoubtKind::Absent | DoubtKind::LostSets) => self.count <= doubt.count,
            // The master remembers the accepted seal until it hears of the accept.
            (true, DoubtKind::StoreOlder) => self.seqs.0 <= doubt.seqs.0,
            (true, _) => false,
        }
    }

    /// Returns true if a doubt is about the same thing.
    pub(super) fn is_of(&self, doubt: &Doubt) -> bool {
        let is_same_kind = (self.kind, self.file) == (doubt.kind, doubt.file);
        // There is one master at a time, and one count of lost sets.
        let is_one = matches!(self.kind, DoubtKind::Master | DoubtKind::LostSets);
        is_same_kind && (is_one || self.aux == doubt.aux)
    }
}

impl Doubts {
    /// Returns the doubts that stand in a superblock.
    pub(super) fn of(superblock: &Superblock) -> Self {
        Self {
            list: superblock.doubts.clone(),
            next: superblock.next_doubt,
            more: false,
            debt: VerificationDebt::of(superblock),
        }
    }

    /// Puts the doubts into a superblock that is about to be written.
    pub(super) fn put_into(&self, superblock: &mut Superblock) {
        superblock.doubts.clone_from(&self.list);
        superblock.next_doubt = self.next;
        self.debt.put_into(superblock);
    }

    pub(super) fn list(&self) -> &[Doubt] {
        &self.list
    }

    pub(super) fn are_open(&self) -> bool {
        self.more || self.list.iter().any(|doubt| !doubt.accepted)
    }

    pub(super) fn reason(&self) -> Option<String> {
        let open = self.list.iter().find(|doubt| !doubt.accepted);
        match open {
            Some(doubt) => Some(doubt.to_string()),
            None => self
                .more
                .then(|| "more is in doubt than can be listed; restart the node".to_owned()),
        }
    }

    /// Notes what an audit has found. Lost sets are a doubt of their own, unless another one that is
    /// open may hide them, or a person has accepted as many.
    pub(super) fn note_lost(&mut self, lost: &LostSets, head: u64) {
        if self
            .list
            .iter()
            .any(|doubt| !doubt.accepted && may_lose_sets(doubt.kind))
        {
            return;
        }
        let is_lost_sets = |doubt: &Doubt| doubt.kind == DoubtKind::LostSets;
        let Some(first) = lost.first else {
            if lost.is_whole {
                self.close(is_lost_sets);
            }
            return;
        };

        let known = self.list.iter_mut().find(|doubt| is_lost_sets(doubt));
        match known.filter(|known| !known.accepted || lost.count <= known.count) {
            Some(known) if lost.is_whole => {
                known.count = lost.count;
                known.aux = *first.as_bytes();
            }
            Some(known) if !known.accepted => known.count = known.count.max(lost.count),
            Some(_) => {}
            None => {
                let finding = Finding {
                    count: lost.count,
                    aux: *first.as_bytes(),
                    ..Finding::new(DoubtKind::LostSets)
                };
                self.enter(finding, head);
            }
        }
    }

    /// Lists that a person has accepted a loss which may have taken reference sets: the next audit
    /// counts them, and holds nothing because of them.
    pub(super) fn expect_lost_sets(&mut self) {
        let is_lost_sets = |doubt: &&mut Doubt| doubt.kind == DoubtKind::LostSets;
        if let Some(known) = self.list.iter_mut().find(is_lost_sets) {
            if known.accepted {
                known.count = UNCOUNTED;
            }
        } else if self.has_room(DoubtKind::LostSets) {
            let expected = self.push(Finding::new(DoubtKind::LostSets));
            (expected.accepted, expected.count) = (true, UNCOUNTED);
        }
    }

    /// Returns true if the list takes another doubt of this kind. One place is kept for lost sets.
    fn has_room(&self, kind: DoubtKind) -> bool {
        let is_lost_sets = |kind| kind == DoubtKind::LostSets;
        let is_kept =
            !is_lost_sets(kind) && !self.list.iter().any(|doubt| is_lost_sets(doubt.kind));
        self.list.len() + usize::from(is_kept) < MAX_DOUBTS
    }

    fn push(&mut self, finding: Finding) -> &mut Doubt {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        self.list.push_mut(Doubt {
            kind: finding.kind,
            accepted: false,
            number,
            file: finding.file,
            count: finding.count,
            seqs: finding.seqs,
            aux: finding.aux,
        })
    }

    /// Adds a doubt. One that is open already, or that a person accepted as it is, is not added
    /// again. With a new one, the blocks of the log up to its `head` become unverified.
    pub(super) fn enter(&mut self, finding: Finding, head: u64) -> Entered {
        let same = |doubt: &&mut Doubt| finding.is_of(doubt);
        if let Some(known) = self.list.iter_mut().find(same) {
            if finding.is_covered_by(known) {
                known.count = finding.count.max(known.count);
                return match known.accepted {
                    true => Entered::Accepted,
                    false => Entered::Open,
                };
            }
            // The doubt was accepted, and more is wrong now.
            let number = known.number;
            self.list.retain(|doubt| doubt.number != number);
        }

        self.debt.enter(finding.kind, head);
        if !self.has_room(finding.kind) {
            self.forget_one_accepted();
        }
        // A doubt that the master's answer has caused takes the place of one that the next open finds
        // again by itself.
        let is_told = |kind| matches!(kind, DoubtKind::StoreOlder | DoubtKind::Master);
        if !self.has_room(finding.kind)
            && is_told(finding.kind)
            && let Some(at) = self.list.iter().rposition(|doubt| !is_told(doubt.kind))
        {
            self.more = true;
            self.list.remove(at);
        }
        if !self.has_room(finding.kind) {
            self.more = true;
            let same = |doubt: &&mut Doubt| doubt.kind == finding.kind && !doubt.accepted;
            if let Some(last) = self.list.iter_mut().rev().find(same) {
                last.count = last.count.saturating_add(finding.count);
            }
            return Entered::Open;
        }

        self.push(finding);
        Entered::Open
    }

    /// Drops the doubts, open and accepted ones, that `is_disproved`. Returns them. With the last
    /// open one that questioned blocks, blocks are trusted again, unless a person has accepted
    /// another one.
    pub(super) fn close(&mut self, is_disproved: impl Fn(&Doubt) -> bool) -> Vec<Doubt> {
        let closed: Vec<Doubt> = self
            .list
            .extract_if(.., |doubt| is_disproved(doubt))
            .collect();

        // A doubt that is not listed may be open still.
        if !self.more {
            self.debt.close(&closed, &self.list);
        }
        closed
    }

    /// Returns what is unverified since a doubt.
    pub(super) fn debt(&self) -> VerificationDebt {
        self.debt
    }

    /// Returns the same doubts with another debt.
    pub(super) fn with_debt(&self, debt: VerificationDebt) -> Self {
        Self {
            debt,
            ..self.clone()
        }
    }

    /// Makes up for doubts of an earlier program, which noted no debt and, unless it `audits`, no
    /// lost sets of what was accepted. The log ends at `head`.
    pub(super) fn make_up(&mut self, head: u64, audits: bool) {
        self.debt.make_up(&self.list, head);
        let mut accepted = self.list.iter().filter(|doubt| doubt.accepted);
        if !audits && accepted.any(|doubt| may_lose_sets(doubt.kind)) {
            self.expect_lost_sets();
        }
    }

    /// Notes what follows from the accept of a doubt of this kind.
    pub(super) fn prepare_accept(&mut self, kind: DoubtKind) {
        self.debt.accept(kind);
        if may_lose_sets(kind) {
            self.expect_lost_sets();
        }
    }

    /// Marks the doubt of a number as accepted. What follows from that ([`Self::prepare_accept`])
    /// MUST be durable before.
    pub(super) fn accept(&mut self, number: u32) {
        let found = self.list.iter_mut().find(|doubt| doubt.number == number);
        let Some(doubt) = found else { return };
        doubt.accepted = true;
        if doubt.kind == DoubtKind::LostSets {
            // An audit that goes on finds more of the same loss.
            doubt.count = UNCOUNTED;
        }
    }

    fn forget_one_accepted(&mut self) {
        // Doubts that every open finds again must stay, or they would be open again.
        let stays = |doubt: &Doubt| {
            let found_again = [
                DoubtKind::Set,
                DoubtKind::Absent,
                DoubtKind::StoreOlder,
                DoubtKind::LostSets,
            ];
            found_again.contains(&doubt.kind)
        };
        let goes = |doubt: &Doubt| doubt.accepted && !stays(doubt);
        if let Some(at) = self.list.iter().position(goes) {
            self.list.remove(at);
        }
    }
}

/// Returns true if reference sets may be missing without a word of their own because of a doubt.
fn may_lose_sets(kind: DoubtKind) -> bool {
    match kind {
        DoubtKind::Missing
        | DoubtKind::Short
        | DoubtKind::Damaged
        | DoubtKind::Foreign
        | DoubtKind::Inventory
        | DoubtKind::Superblock
        | DoubtKind::StoreOlder
        | DoubtKind::Master => true,
        // A damaged set is known by its session.
        DoubtKind::Absent | DoubtKind::Set | DoubtKind::LostSets => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Damaged sets are found again at every open, so nothing takes their places.
    #[test]
    fn i12_lost_sets_have_a_place_on_a_disk_with_many_accepted_damaged_sets() {
        let mut doubts = Doubts::default();
        for n in 0..MAX_DOUBTS {
            let aux = [u8::try_from(n).unwrap(); 16];
            let finding = Finding {
                aux,
                ..Finding::new(DoubtKind::Set)
            };
            doubts.enter(finding, 1);
        }
        for number in 0..doubts.next {
            doubts.accept(number);
        }
        doubts.more = false;
        let lost = LostSets {
            count: 3,
            first: Some(SessionId::from_bytes([9; 16])),
            is_whole: true,
        };
        doubts.note_lost(&lost, 1);
        let open: Vec<&Doubt> = doubts.list.iter().filter(|doubt| !doubt.accepted).collect();
        assert!(matches!(open[..], [doubt] if doubt.kind == DoubtKind::LostSets));
        let number = open[0].number;
        doubts.accept(number);
        assert!(!doubts.are_open());
        doubts.note_lost(&lost, 1);
        assert!(!doubts.are_open());
    }
}

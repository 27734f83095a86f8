//! History of a run: requests and answers, and therefore what readers may see.
//!
//! Every upload has a body of its own, so that what is seen says which upload it was. A body is
//! *open* until the master's word is known; then it is committed, or it never was and never will
//! be.
//!
//! * A body that never was is never seen, nor one under a name that nobody gave it.
//! * A name with one writer is known exactly, but for uploads that are open: what was acknowledged
//!   is there, what was refused changed nothing. It is uncertain for good once a change that cannot
//!   be asked about went unanswered.
//! * A name that several create has one winner.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::BLOCK;

/// Blocks that bodies share, so that deletes meet blocks that others hold.
const POOL: u64 = 6;

/// One upload and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BodyId(pub(crate) u64);

impl BodyId {
    /// Returns the bytes: a block that names the body, blocks of the pool, a tail.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut rng = StdRng::seed_from_u64(self.0);
        let mut bytes = self.0.to_le_bytes().repeat(BLOCK / 8);
        for _ in 0..rng.random_range(0..5) {
            let mut block = [0; BLOCK];
            StdRng::seed_from_u64(1 << 40 | rng.random_range(0..POOL)).fill(&mut block[..]);
            bytes.extend(block);
        }
        let tail: usize = rng.random_range(0..BLOCK);
        bytes.extend((0..tail).map(|_| rng.random::<u8>()));
        bytes
    }

    /// Returns the body that these bytes are, if they are one.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let id = Self(u64::from_le_bytes(*bytes.first_chunk()?));
        (id.bytes() == bytes).then_some(id)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Never,
}

/// State of a name that only one client writes.
#[derive(Debug, Clone)]
struct Private {
    /// Body that the name may have if no upload is open.
    is: Option<BodyId>,
    open: Option<BodyId>,
    certain: bool,
}

/// The history of one run.
#[derive(Debug, Default)]
pub(crate) struct Book {
    trace: Vec<String>,
    violation: Option<String>,
    next_body: u64,
    fates: BTreeMap<BodyId, Fate>,
    /// Bodies that each name was ever given.
    given: BTreeMap<String, BTreeSet<BodyId>>,
    private: BTreeMap<String, Private>,
    /// Acknowledged creates of names that several clients create.
    winners: BTreeMap<String, Vec<BodyId>>,
    pub(crate) acknowledged: u64,
    pub(crate) uncertain_changes: u64,
}

impl Book {
    pub(crate) fn say(&mut self, line: String) {
        self.trace.push(line);
    }

    pub(crate) fn violated(&mut self, what: String) {
        self.trace.push(format!("VIOLATED: {what}"));
        self.violation.get_or_insert(what);
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.clone()
    }

    pub(crate) fn trace(&self) -> &[String] {
        &self.trace
    }

    /// Adds a new body for `name`, which is open.
    pub(crate) fn send(&mut self, name: &str, shared: bool) -> BodyId {
        self.next_body += 1;
        let body = BodyId(self.next_body);
        self.fates.insert(body, Fate::Open);
        self.given.entry(name.to_owned()).or_default().insert(body);
        if !shared {
            self.private_mut(name).open = Some(body);
        }
        body
    }

    fn private_mut(&mut self, name: &str) -> &mut Private {
        let fresh = Private {
            is: None,
            open: None,
            certain: true,
        };
        self.private.entry(name.to_owned()).or_insert(fresh)
    }

    /// Returns what a name with one writer holds for certain: the inner `None` means that it has no
    /// file.
    pub(crate) fn certain(&self, name: &str) -> Option<Option<BodyId>> {
        match self.private.get(name) {
            None => Some(None),
            Some(private) if private.certain && private.open.is_none() => Some(private.is),
            Some(_) => None,
        }
    }

    /// Notes that the upload is committed: acknowledged, or the master says so.
    pub(crate) fn committed(&mut self, name: &str, body: BodyId) {
        self.acknowledged += 1;
        self.close(body, Fate::Committed);
        if let Some(private) = self.private.get_mut(name) {
            (private.is, private.open) = (Some(body), None);
        } else {
            let winners = self.winners.entry(name.to_owned()).or_default();
            winners.push(body);
            if winners.len() > 1 {
                let why = format!("{name} was created once and has the winners {winners:?}");
                self.violated(why);
            }
        }
    }

    /// Notes that the upload was refused, or aborted according to the master.
    pub(crate) fn never(&mut self, name: &str, body: BodyId) {
        self.close(body, Fate::Never);
        if let Some(private) = self.private.get_mut(name) {
            private.open = None;
        }
    }

    fn close(&mut self, body: BodyId, fate: Fate) {
        if self.fates.insert(body, fate) != Some(Fate::Open) {
            self.violated(format!("{body:?} was closed twice"));
        }
    }

    /// Notes that the writer of `name` changed it otherwise than by an upload.
    pub(crate) fn changed(&mut self, name: &str, is: Option<BodyId>) {
        if let Some(body) = is {
            self.given.entry(name.to_owned()).or_default().insert(body);
        }
        self.private_mut(name).is = is;
    }

    /// Notes that nobody can tell any more what `name` holds, but that it may be `body`.
    pub(crate) fn uncertain(&mut self, name: &str, body: Option<BodyId>) {
        self.uncertain_changes += 1;
        if let Some(body) = body {
            self.given.entry(name.to_owned()).or_default().insert(body);
        }
        self.private_mut(name).certain = false;
    }

    /// Returns the body whose create of a name that several clients create was acknowledged.
    pub(crate) fn winner(&self, name: &str) -> Option<BodyId> {
        self.winners.get(name).and_then(|won| won.first()).copied()
    }

    /// Checks a read of `name`: these bytes, or no file. `winner` is the winner that was known when
    /// the read began.
    pub(crate) fn read(&mut self, name: &str, winner: Option<BodyId>, bytes: Option<&[u8]>) {
        let Some(bytes) = bytes else {
            return self.saw(name, winner, None);
        };
        match BodyId::of(bytes) {
            Some(body) => self.saw(name, winner, Some(body)),
            None => self.violated(format!(
                "{name} holds {} bytes that nobody sent",
                bytes.len()
            )),
        }
    }

    fn saw(&mut self, name: &str, winner: Option<BodyId>, body: Option<BodyId>) {
        if let Some(body) = body {
            if !self
                .given
                .get(name)
                .is_some_and(|given| given.contains(&body))
            {
                return self.violated(format!("{name} holds {body:?}, which nobody gave it"));
            }
            if self.fates.get(&body) == Some(&Fate::Never) {
                return self.violated(format!(
                    "{name} holds {body:?}, which was refused or aborted"
                ));
            }
        }
        let problem = match (self.private.get(name), winner) {
            (Some(private), _) if private.certain => {
                let expected =
                    private.is == body || (private.open.is_some() && private.open == body);
                (!expected)
                    .then(|| format!("{name} holds {body:?}, but should hold {:?}", private.is))
            }
            (None, Some(winner)) if body != Some(winner) => Some(format!(
                "{name} holds {body:?}, but {winner:?} was acknowledged"
            )),
            _ => None,
        };
        if let Some(problem) = problem {
            self.violated(problem);
        }
    }

    /// Returns all names that were ever given a body.
    pub(crate) fn names(&self) -> Vec<String> {
        self.given.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(act: impl FnOnce(&mut Book, BodyId)) -> bool {
        let mut book = Book::default();
        let body = book.send("a", false);
        act(&mut book, body);
        book.violation().is_none()
    }

    #[test]
    fn a_body_says_which_it_is_and_a_changed_one_is_none() {
        for n in 1..50 {
            let mut bytes = BodyId(n).bytes();
            assert_eq!(BodyId::of(&bytes), Some(BodyId(n)));
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            assert_ne!(BodyId::of(&bytes), Some(BodyId(n)));
        }
        assert_eq!(BodyId::of(b"short"), None);
    }

    #[test]
    fn the_book_notices_what_must_not_be() {
        assert!(
            kept(|book, body| book.read("a", None, Some(&body.bytes()))),
            "it is open: it may be there"
        );
        assert!(kept(|book, _| book.read("a", None, None)), "and it may not");
        assert!(!kept(|book, body| {
            book.committed("a", body);
            book.read("a", None, None);
        }));
        assert!(!kept(|book, body| {
            book.never("a", body);
            book.read("a", None, Some(&body.bytes()));
        }));
        assert!(
            !kept(|book, body| book.read("b", None, Some(&body.bytes()))),
            "nobody gave it that name"
        );
        assert!(!kept(|book, body| book.read(
            "a",
            None,
            Some(&body.bytes()[1..])
        )));
        assert!(kept(|book, body| {
            book.committed("a", body);
            book.uncertain("a", None);
            book.read("a", None, None);
        }));
    }

    #[test]
    fn a_name_that_several_create_has_one_winner() {
        let mut book = Book::default();
        let (one, two) = (book.send("s", true), book.send("s", true));
        book.committed("s", one);
        book.read("s", book.winner("s"), Some(&one.bytes()));
        assert_eq!(book.violation(), None);
        book.committed("s", two);
        assert!(book.violation().is_some());
    }
}

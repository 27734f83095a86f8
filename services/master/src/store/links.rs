//! Links of the newest batches: what tells two copies of one process apart that both write on in
//! one life, such as a virtual machine that was resumed twice with its memory.

use std::collections::VecDeque;

use super::{Link, Position};
use crate::limits::MAX_LINKS;

/// Links of the batches up to the newest one, as far back as they are kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    newest: Position,
    /// Oldest first. The last one is that of the newest batch.
    links: VecDeque<Link>,
}

impl Links {
    /// Begins with the link of the batch at `position`; 0 if it has none.
    pub(super) fn starting(position: Position, link: Link) -> Self {
        Self {
            newest: position,
            links: VecDeque::from([link]),
        }
    }

    /// Begins behind the batch at `position`, whose link nobody knows.
    pub(super) fn unknown(position: Position) -> Self {
        Self {
            newest: position,
            links: VecDeque::new(),
        }
    }

    /// Adds the link of the batch behind the newest one.
    pub(super) fn push(&mut self, link: Link) {
        if self.links.len() >= MAX_LINKS {
            self.links.pop_front();
        }
        self.links.push_back(link);
        self.newest += 1;
    }

    /// Returns the link of the newest batch; 0 if it has none.
    pub(super) fn last(&self) -> Link {
        self.links.back().copied().unwrap_or_default()
    }

    pub(super) fn newest(&self) -> Position {
        self.newest
    }

    /// Returns the link of the batch at `position`, if it is kept; 0 if the batch has none.
    pub(super) fn known(&self, position: Position) -> Option<Link> {
        let back = usize::try_from(self.newest.checked_sub(position)?).ok()?;
        let at = self.links.len().checked_sub(back.checked_add(1)?)?;
        self.links.get(at).copied()
    }

    /// Returns the link of the batch at `position`, if it is kept and has one.
    pub(super) fn at(&self, position: Position) -> Option<Link> {
        self.known(position).filter(|link| *link != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_links_are_kept_and_older_ones_are_unknown() {
        let mut links = Links::starting(10, 0);
        assert_eq!(
            (links.at(9), links.at(10), links.at(11)),
            (None, None, None)
        );
        for link in 1..=MAX_LINKS as u64 {
            links.push(link);
        }
        let newest = 10 + MAX_LINKS as u64;
        assert_eq!((links.newest(), links.last()), (newest, MAX_LINKS as u64));
        assert_eq!(links.at(newest), Some(MAX_LINKS as u64));
        assert_eq!(links.at(11), Some(1), "all of them");
        links.push(7);
        assert_eq!((links.at(11), links.at(12)), (None, Some(2)));
        assert_eq!(Links::default().at(0), None);

        assert_eq!(Links::starting(10, 0).known(10), Some(0));
        let mut behind = Links::unknown(10);
        assert_eq!((behind.known(10), behind.newest()), (None, 10));
        behind.push(7);
        assert_eq!((behind.known(10), behind.known(11)), (None, Some(7)));
    }
}

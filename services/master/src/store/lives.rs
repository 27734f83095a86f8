//! Lives: which process has written which part of the metadata.
//!
//! A process begins its life with the first batch that it writes, by one more change in that batch.
//! So two copies of a folder are one history until one of them is written to, and then differ for
//! ever, whichever is longer (`cstore_types::history`).

use std::path::Path;
use std::sync::Arc;

use cstore_types::history::{Life, Place, Point, place};
use parking_lot::Mutex;

use super::index::{Index, StoredPair, decode_stored};
use super::links::Links;
use super::{Link, MetaError, Position, keys, snapshot};
use crate::limits::MAX_LIVES;

/// Lives of this history, and the links of its newest batches. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Lives(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first.
    lives: Vec<Life>,
    links: Links,
}

/// The lives of a history and the position of its last batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct History {
    /// Lives up to the position, oldest first; never empty. The first one has number 0 if batches
    /// were written before lives were recorded.
    pub(crate) lives: Vec<Life>,
    pub(crate) position: Position,
    /// Link of the batch at the position; 0 if it is not known.
    pub(crate) link: Link,
}

impl Kept {
    /// Returns the lives that have begun at or before `position`.
    fn begun(&self, position: Position) -> &[Life] {
        let begun = self.lives.partition_point(|life| life.first <= position);
        self.lives.get(..begun).unwrap_or_default()
    }

    /// Returns true if batches were written before lives were recorded.
    fn has_unrecorded(&self) -> bool {
        let first = self.lives.first();
        first.is_none_or(|first| first.first > 1 && first.term == 1)
    }
}

impl History {
    /// Returns the place that the history has reached.
    pub(crate) fn head(&self) -> Point {
        let life = self.lives.last().copied();
        point_in(&life.unwrap_or_default(), self.position, self.link)
    }

    /// Returns the lives that somebody needs to judge `noted` by this history.
    pub(crate) fn lives_since(&self, noted: &Point) -> Vec<Life> {
        let lives = self.lives.iter();
        lives
            .filter(|life| life.term >= noted.term)
            .copied()
            .collect()
    }
}

fn point_in(life: &Life, position: Position, link: Link) -> Point {
    Point {
        incarnation: life.incarnation,
        term: life.term,
        life: life.life,
        position,
        chain: link,
    }
}

impl Lives {
    /// Reads the lives that an index holds. `links` are those of the newest batches.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] if a record cannot be decoded; those of the index.
    pub(super) fn read(index: &Index, links: Links) -> Result<Self, MetaError> {
        let found = index.scan(&[keys::LIVES], None, MAX_LIVES + 1, None)?;
        let lives = found
            .iter()
            .map(|(key, value)| keys::decode_life(key, &value.value));
        let lives = lives.collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Mutex::new(Kept { lives, links }))))
    }

    /// Reads the lives of an index like [`Self::read`], without those that are damaged.
    ///
    /// # Errors
    /// Those of the index.
    pub(super) fn read_readable(index: &Index, links: Links) -> Result<Self, MetaError> {
        let newest = links.newest();
        let found = index.scan_readable(&[keys::LIVES], None, MAX_LIVES + 1, None, newest)?;
        let lives = found.iter().filter_map(|(key, value)| {
            let life = keys::decode_life(key, &value.value);
            life.ok()
        });
        let lives = lives.collect();
        Ok(Self(Arc::new(Mutex::new(Kept { lives, links }))))
    }

    /// Reads the lives that the snapshot in `dir` holds, without links.
    ///
    /// # Errors
    /// [`MetaError::Damaged`], also behind the lives; `Io`.
    pub(super) fn of_snapshot(dir: &Path) -> Result<Self, MetaError> {
        let mut lives = Vec::new();
        snapshot::read(dir, &mut |pairs| {
            let is_life = |pair: &&StoredPair| pair.0.first() == Some(&keys::LIVES);
            for (key, stored) in pairs.iter().filter(is_life) {
                let value = decode_stored(key, stored)?.value;
                lives.push(keys::decode_life(key, &value)?);
            }
            Ok(())
        })?;
        let links = Links::unknown(0);
        Ok(Self(Arc::new(Mutex::new(Kept { lives, links }))))
    }

    /// Returns the life that follows the last one, with this random number. Where it begins is not
    /// known yet.
    pub(super) fn next(&self, number: u64) -> Life {
        let last = self.0.lock().lives.last().copied().unwrap_or_default();
        Life {
            term: last.term + 1,
            life: number,
            ..last
        }
    }

    /// Returns the oldest life if there is no room for another one.
    pub(super) fn surplus(&self) -> Option<Life> {
        let lives = &self.0.lock().lives;
        lives.first().filter(|_| lives.len() >= MAX_LIVES).copied()
    }

    /// Adds batches that are durable: their links, and the life that one of them began. Called
    /// BEFORE their positions are published.
    pub(super) fn landed(&self, life: Option<Life>, links: impl Iterator<Item = Link>) {
        let mut kept = self.0.lock();
        links.for_each(|link| kept.links.push(link));
        if let Some(life) = life {
            if kept.lives.len() >= MAX_LIVES {
                kept.lives.remove(0);
            }
            kept.lives.push(life);
        }
    }

    /// Returns the link of the newest batch; 0 if none is known.
    pub(super) fn last_link(&self) -> Link {
        self.0.lock().links.last()
    }

    /// Returns the link of the batch at `position`, if it is one of the newest.
    pub(super) fn link_at(&self, position: Position) -> Option<Link> {
        self.0.lock().links.at(position)
    }

    /// Returns the place of `position`, which was read BEFORE.
    pub(super) fn head(&self, position: Position) -> Point {
        let kept = self.0.lock();
        let life = kept.lives.iter().rfind(|life| life.first <= position);
        let link = kept.links.at(position).unwrap_or_default();
        point_in(&life.copied().unwrap_or_default(), position, link)
    }

    /// Returns true if the history up to `position`, which was read BEFORE, has the place `point`.
    pub(super) fn contains(&self, position: Position, point: &Point) -> bool {
        let kept = self.0.lock();
        let lives = kept.begun(position);
        let is_unrecorded = kept.has_unrecorded() && (point.term, point.life) == (0, 0);
        if is_unrecorded {
            let end = lives.first().map_or(position, |first| first.first - 1);
            return point.position <= end;
        }
        place(lives, position, |at| kept.links.at(at), point) == Place::Contains
    }

    /// Returns the history up to `position`, which was read BEFORE: a life that begins behind it is
    /// not a part of what the position stands for.
    pub(super) fn upto(&self, position: Position) -> History {
        let kept = self.0.lock();
        let mut upto = Vec::with_capacity(kept.lives.len() + 1);
        upto.extend(kept.has_unrecorded().then(Life::default));
        upto.extend_from_slice(kept.begun(position));
        History {
            lives: upto,
            position,
            link: kept.links.at(position).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{open, put};
    use super::super::{Batch, MetaStore, SledMeta};
    use super::*;
    use cstore_log::FaultyDisk;

    /// Lives and position of a history, without the life in front of all others.
    fn lives_of(meta: &SledMeta) -> (Vec<(u64, Position)>, Position) {
        let history = meta.history();
        let lives = history.lives.iter().filter(|life| life.life != 0);
        (
            lives.map(|life| (life.term, life.first)).collect(),
            history.position,
        )
    }

    #[tokio::test]
    async fn i4_a_process_begins_its_life_with_its_first_batch_and_an_idle_one_begins_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = FaultyDisk::new();
        let mut expected = Vec::new();
        let mut position = 0;
        for term in 1..=3 {
            for _ in 0..2 {
                let idle = open(dir.path(), &disk, 1 << 30);
                assert_eq!(lives_of(&idle), (expected.clone(), position));
                drop(idle);
                disk = disk.kill();
            }

            let meta = open(dir.path(), &disk, 1 << 30);
            let mut refused = Batch::default();
            refused.require_version(b"nothere".to_vec(), 1);
            assert!(matches!(
                meta.commit(refused).await,
                Err(MetaError::Conflict)
            ));
            assert_eq!(lives_of(&meta), (expected.clone(), position), "refused");
            for n in 0..3 {
                let at = meta.commit(put(format!("n{n}").as_bytes(), vec![7])).await;
                position = at.unwrap();
                if n == 0 {
                    expected.push((term, position));
                }
                assert_eq!(lives_of(&meta), (expected.clone(), position));
                let head = meta.head();
                assert_eq!((head.term, head.position), (term, position));
                assert_eq!(head, meta.history().head());
            }
            // The log alone knows them as well.
            drop(meta);
            disk = disk.kill();
            if term == 2 {
                std::fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn i4_two_copies_of_a_folder_are_one_history_until_both_have_written() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new();
        let meta = open(dir.path(), &disk, 1 << 30);
        for n in 0..5 {
            meta.commit(put(&[b'n', n], vec![n])).await.unwrap();
        }
        let common = meta.head();
        meta.commit(put(b"nlost", vec![1])).await.unwrap();
        let lost = meta.head();
        drop(meta);

        // The log of this process is rolled back by its last batch, and goes on.
        let older = tempfile::tempdir().unwrap();
        let other = FaultyDisk::new();
        let copy = open(older.path(), &other, 1 << 30);
        for n in 0..5 {
            copy.commit(put(&[b'n', n], vec![n])).await.unwrap();
        }
        let history = copy.history();
        let judge = |point| place(&history.lives, history.position, |_| None, point);
        assert_eq!(
            judge(&common),
            Place::Fork,
            "another process wrote the same"
        );
        assert_eq!(judge(&lost), Place::Fork);

        let again = open(dir.path(), &disk.kill(), 1 << 30);
        again.commit(put(b"nmore", vec![1])).await.unwrap();
        let history = again.history();
        let judge = |point| place(&history.lives, history.position, |_| None, point);
        assert_eq!(judge(&common), Place::Contains);
        assert_eq!(judge(&lost), Place::Contains);
        assert_eq!(judge(&again.head()), Place::Contains);
        assert!(history.lives_since(&again.head()).len() == 1);
    }

    /// An answer must not carry a position with the life of another one.
    #[tokio::test]
    async fn i4_a_position_is_never_shown_with_a_life_that_has_not_written_it() {
        let dir = tempfile::tempdir().unwrap();
        let meta = Arc::new(open(dir.path(), &FaultyDisk::new(), 1 << 30));
        let (ended, seen) = (
            Arc::new(std::sync::atomic::AtomicBool::new(false)),
            meta.clone(),
        );
        let watching = {
            let ended = ended.clone();
            std::thread::spawn(move || {
                let mut heads = Vec::new();
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    let head = seen.head();
                    if heads.last() != Some(&head) {
                        heads.push(head);
                    }
                }
                heads
            })
        };
        for n in 0..50 {
            meta.commit(put(&[b'n', n], vec![n])).await.unwrap();
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        let history = meta.history();
        for head in watching.join().unwrap() {
            let found = place(&history.lives, history.position, |_| None, &head);
            assert_eq!(found, Place::Contains, "{head}");
        }
    }
}

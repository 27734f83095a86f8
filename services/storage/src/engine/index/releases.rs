//! Release records: how long each is needed, and because of which files.

use std::collections::{BTreeMap, HashMap, HashSet};

use cstore_log::Location;
use cstore_types::SessionId;

#[derive(Debug, Default)]
struct Release {
    location: Location,
    /// Files that still hold a copy of a reference set that this release dropped.
    graves: HashSet<u32>,
}

impl Release {
    /// Its own file goes with the sets in it, so only others keep it needed.
    fn is_needed(&self) -> bool {
        self.graves.iter().any(|file| *file != self.location.file)
    }
}

/// The releases that are needed. There may be millions, so that a file that goes must find its own.
#[derive(Debug, Default)]
pub(super) struct Releases {
    of: BTreeMap<SessionId, Release>,
    /// For each file the sessions whose release it is a grave of. Some may be released again or
    /// needed no more since.
    by_grave: HashMap<u32, Vec<SessionId>>,
}

impl Releases {
    pub(super) fn location(&self, session: SessionId) -> Option<Location> {
        self.of.get(&session).map(|release| release.location)
    }

    /// Adds a release if it is needed. Returns whether it is, and the place of the release that it
    /// replaces.
    pub(super) fn put(
        &mut self,
        session: SessionId,
        location: Location,
        mut graves: HashSet<u32>,
    ) -> (bool, Option<Location>) {
        // A session can be released twice: a worker that did not know sealed more sets in between.
        let old = self.of.remove(&session);
        let replaced = old.as_ref().map(|old| old.location);
        let old = old.unwrap_or_default();
        for file in graves.difference(&old.graves) {
            self.by_grave.entry(*file).or_default().push(session);
        }

        // The sets that the release before dropped must stay away, too.
        graves.extend(&old.graves);
        let release = Release { location, graves };
        let is_needed = release.is_needed();
        if is_needed {
            self.of.insert(session, release);
        }
        (is_needed, replaced)
    }

    /// Gives a release another place. Returns true if it is still needed there.
    pub(super) fn relocate(&mut self, session: SessionId, to: Location) -> bool {
        let Some(release) = self.of.get_mut(&session) else {
            return false;
        };
        release.location = to;
        let is_needed = release.is_needed();
        if !is_needed {
            self.of.remove(&session);
        }
        is_needed
    }

    /// Takes up to `max` of the graves in a file that is gone away from their releases. Returns the
    /// places of the releases that are not needed any more.
    ///
    /// A session that is released again before all graves are taken keeps its place in the list, so
    /// a later call meets it.
    pub(super) fn take_graves(&mut self, file: u32, max: usize) -> Vec<Location> {
        let Some(sessions) = self.by_grave.get_mut(&file) else {
            return Vec::new();
        };
        let some = sessions.split_off(sessions.len().saturating_sub(max));
        if sessions.is_empty() {
            self.by_grave.remove(&file);
        }

        let mut done = Vec::new();
        for session in some {
            let Some(release) = self.of.get_mut(&session) else {
                continue;
            };
            release.graves.remove(&file);
            if !release.is_needed() {
                done.push(release.location);
                self.of.remove(&session);
            }
        }
        done
    }

    /// Returns true if no release has a grave in a file.
    pub(super) fn has_no_graves(&self, file: u32) -> bool {
        !self.by_grave.contains_key(&file)
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "a random test prints its seed")]
mod tests {
    use cstore_types::{PartNo, SealSeq};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::engine::index::{Index, RefSet};
    use crate::limits::INDEX_STEP;

    const S: SessionId = SessionId::from_bytes([1; 16]);

    fn at(file: u32, offset: u32) -> Location {
        Location {
            file,
            offset,
            len: 100,
        }
    }

    #[test]
    fn a_release_record_outlives_the_files_of_the_sets_that_it_dropped() {
        let mut index = Index::default();
        index.insert_refset(
            S,
            PartNo(0),
            RefSet {
                location: at(1, 900),
                seal_seq: SealSeq(1),
            },
        );
        for (_, set) in index.release(S, at(2, 950)) {
            index.drop_set_record(set);
        }
        assert!(index.is_dead(1));
        assert!(
            !index.is_dead(2),
            "a restart before file 1 is gone would bring the set back"
        );
        index.remove_file(1);
        assert!(index.is_dead(2));
    }

    #[test]
    fn i3_a_file_is_forgotten_in_steps_and_its_releases_count_until_their_turn() {
        let mut index = Index::default();
        for n in 0..=INDEX_STEP {
            let session = SessionId::from_bytes(
                [(n as u64).to_le_bytes(), [1; 8]]
                    .concat()
                    .try_into()
                    .unwrap(),
            );
            let offset = u32::try_from(n).unwrap();
            let set = RefSet {
                location: at(1, offset),
                seal_seq: SealSeq(1),
            };
            index.insert_refset(session, PartNo(0), set);
            for (_, set) in index.release(session, at(2, offset)) {
                index.drop_set_record(set);
            }
        }
        assert!(!index.remove_file(1));
        assert_eq!(index.file_use(2).live, 1);
        assert!(index.remove_file(1) && index.is_dead(2));
    }

    #[test]
    fn i3_a_session_that_is_released_again_between_two_steps_keeps_its_later_release() {
        let session = |n: u8| SessionId::from_bytes([n; 16]);
        let mut releases = Releases::default();
        for n in 1..=3 {
            releases.put(session(n), at(2, n.into()), HashSet::from([1]));
        }
        assert_eq!(releases.take_graves(1, 1), [at(2, 3)]);
        // Its turn has not come, and the file of its new sets stays.
        let again = releases.put(session(1), at(3, 0), HashSet::from([4]));
        assert_eq!(again, (true, Some(at(2, 1))));
        assert_eq!(releases.take_graves(1, 1), [at(2, 2)]);
        assert!(!releases.has_no_graves(1));
        assert_eq!(releases.take_graves(1, 1), []);
        assert!(releases.has_no_graves(1));
        assert_eq!(releases.location(session(1)), Some(at(3, 0)));
        assert_eq!(releases.take_graves(4, 1), [at(3, 0)]);
    }

    #[test]
    fn a_release_that_moves_beside_the_only_sets_that_it_dropped_is_needed_no_more() {
        let mut releases = Releases::default();
        assert_eq!(
            releases.put(S, at(2, 0), HashSet::from([1, 3])),
            (true, None)
        );
        assert_eq!(releases.take_graves(3, usize::MAX), []);
        assert!(!releases.relocate(S, at(1, 900)));
        assert_eq!(
            (releases.location(S), releases.take_graves(1, usize::MAX)),
            (None, vec![])
        );
    }

    /// Returns what is needed by the definition, looking at all of them each time.
    #[test]
    fn i3_the_index_by_file_finds_the_same_releases_as_a_look_at_all_of_them() {
        let mut rng = StdRng::seed_from_u64(cstore_testkit::seed(1));
        let (mut releases, mut all) = (Releases::default(), HashMap::<u8, Release>::new());
        for step in 0..20_000 {
            let (n, file) = (rng.random_range(0..40u8), rng.random_range(0..12));
            let session = SessionId::from_bytes([n; 16]);
            match rng.random_range(0..4) {
                0 => {
                    let graves: HashSet<u32> = (0..2).map(|_| rng.random_range(0..12)).collect();
                    let (_, replaced) = releases.put(session, at(file, step), graves.clone());
                    let old = all.remove(&n);
                    assert_eq!(replaced, old.as_ref().map(|old| old.location));
                    let graves = &graves | &old.unwrap_or_default().graves;
                    all.insert(
                        n,
                        Release {
                            location: at(file, step),
                            graves,
                        },
                    );
                }
                1 => {
                    releases.relocate(session, at(file, step));
                    all.entry(n)
                        .and_modify(|release| release.location = at(file, step));
                }
                2 => {
                    let mut done = releases.take_graves(file, usize::MAX);
                    let gone = |release: &mut Release| {
                        release.graves.remove(&file) && !release.is_needed()
                    };
                    let mut expected: Vec<Location> = all
                        .values_mut()
                        .filter_map(|release| gone(release).then_some(release.location))
                        .collect();
                    let key = |place: &Location| (place.file, place.offset);
                    done.sort_unstable_by_key(key);
                    expected.sort_unstable_by_key(key);
                    assert_eq!(done, expected, "step {step}");
                }
                _ => {}
            }
            all.retain(|_, release| release.is_needed());
            for n in 0..40 {
                let found = releases.location(SessionId::from_bytes([n; 16]));
                assert_eq!(
                    found,
                    all.get(&n).map(|release| release.location),
                    "step {step}"
                );
            }
        }
    }
}

//! Damage to a copy of a data folder, and its end: the original bytes are put back.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cells::{Cell, Damage, Structure};
use super::corpus::Numbers;
use super::fixture::{Fixture, copy, files_of};
use super::format::BLOCK;
use super::site::{Choices, Site};

/// Contents of a path.
#[derive(Debug, PartialEq, Eq)]
enum Contents {
    Absent,
    Folder,
    Bytes(Vec<u8>),
}

/// Damage that was done.
#[derive(Debug)]
pub(super) struct Strike {
    cell: Cell,
    /// Path of the damaged file below the data folder.
    pub(super) path: PathBuf,
    /// Bytes that were changed in it; empty if the file was replaced.
    ranges: Vec<Range<usize>>,
    /// Bytes that cannot be read.
    pub(super) eio: Option<Range<usize>>,
    /// Contents that the damage left, by path.
    left: Vec<(PathBuf, Contents)>,
    /// Files that need a block with damaged bytes.
    pub(super) hit_payloads: Numbers,
    /// Files that need a block of a frame with damaged bytes.
    pub(super) hit_frames: Numbers,
}

fn contents(path: &Path) -> Contents {
    if path.is_dir() {
        return Contents::Folder;
    }
    std::fs::read(path).map_or(Contents::Absent, Contents::Bytes)
}

fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else if path.try_exists().unwrap() {
        std::fs::remove_file(path).unwrap();
    }
}

/// Puts a copy of a file or a folder in the place of another one.
fn replace(from: &Path, to: &Path) {
    remove(to);
    copy(from, to);
}

impl Strike {
    /// Damages `folder`, a copy of the cell's undamaged folder. `None` if the cell does not apply:
    /// there is no such structure, or no other copy of it.
    pub(super) fn apply(
        fixture: &Fixture,
        cell: &Cell,
        folder: &Path,
        choices: &mut Choices,
    ) -> Option<Self> {
        let site = Site::find(fixture, cell, choices)?;
        let mut strike = Self {
            cell: *cell,
            path: site.path.clone(),
            ranges: Vec::new(),
            eio: None,
            left: Vec::new(),
            hit_payloads: Numbers::new(),
            hit_frames: Numbers::new(),
        };
        match cell.damage {
            Damage::Flip | Damage::Zero | Damage::Truncate | Damage::Eio => {
                strike.damage_bytes(folder, site, choices)?;
            }
            _ => strike.damage_file(fixture, folder, choices)?,
        }
        if cell.without_index {
            std::fs::remove_dir_all(folder.join("master/index")).unwrap();
        }
        strike.ask_oracle(fixture);
        Some(strike)
    }

    fn damage_bytes(&mut self, folder: &Path, site: Site, choices: &mut Choices) -> Option<()> {
        let path = folder.join(&site.path);
        let mut bytes = std::fs::read(&path).unwrap();
        let start = site.ranges.iter().map(|range| range.start).min()?;
        let end = site.ranges.iter().map(|range| range.end).max()?;
        let is_one_structure = matches!(
            self.cell.structure,
            Structure::Bitmap | Structure::Snapshot | Structure::Index | Structure::LogOwner
        );

        match self.cell.damage {
            Damage::Flip => {
                for range in site.ranges {
                    let at = range.start + choices.below(range.len().max(1));
                    *bytes.get_mut(at)? ^= 1 << choices.below(8);
                    self.ranges.push(at..at + 1);
                }
            }
            Damage::Zero => {
                for range in site.ranges {
                    // An empty file gets content.
                    let length = if range.is_empty() {
                        BLOCK
                    } else {
                        range.len().min(BLOCK)
                    };
                    let zeroed = range.start..range.start + length;
                    bytes.resize(bytes.len().max(zeroed.end), 0);
                    bytes[zeroed.clone()].fill(0);
                    self.ranges.push(zeroed);
                }
            }
            Damage::Truncate => {
                let cut = if is_one_structure { end / 2 } else { start };
                self.ranges.push(cut..bytes.len());
                bytes.truncate(cut);
            }
            _ => {
                // Sectors fail, not bytes. Of a structure with several places all fail, else the
                // first sector of it.
                let first = start / BLOCK * BLOCK;
                let behind = match site.ranges.len() {
                    1 => first + BLOCK,
                    _ => end.next_multiple_of(BLOCK),
                };
                self.eio = Some(first..behind);
                return Some(());
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        self.left.push((site.path, Contents::Bytes(bytes)));
        Some(())
    }

    fn damage_file(
        &mut self,
        fixture: &Fixture,
        folder: &Path,
        choices: &mut Choices,
    ) -> Option<()> {
        if self.cell.structure == Structure::Index {
            self.path = "master/index".into();
        }
        let path = folder.join(&self.path);
        match self.cell.damage {
            Damage::Delete => remove(&path),
            Damage::Folder => {
                remove(&path);
                std::fs::create_dir(&path).unwrap();
            }
            Damage::Older => replace(&fixture.older(self.cell.state, &self.path)?, &path),
            Damage::Foreign => replace(&fixture.foreign(&self.path)?, &path),
            _ => {
                let others = files_of(path.parent()?);
                let other = choices.pick(others.into_iter().filter(|other| *other != path))?;
                let aside = path.with_extension("aside");
                std::fs::rename(&path, &aside).unwrap();
                std::fs::rename(&other, &path).unwrap();
                std::fs::rename(&aside, &other).unwrap();
                let relative = other.strip_prefix(folder).unwrap().to_path_buf();
                self.left.push((relative, contents(&other)));
            }
        }
        self.left.push((self.path.clone(), contents(&path)));
        Some(())
    }

    /// Paths of all damaged files below the data folder.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let left = self.left.iter().map(|(path, _)| path.as_path());
        left.chain([self.path.as_path()])
    }

    /// Finds out which files the damage may hit.
    fn ask_oracle(&mut self, fixture: &Fixture) {
        let oracle = fixture.oracle(self.cell.state);
        let whole_file = 0..usize::MAX;
        let is_header = matches!(
            self.cell.structure,
            Structure::SealedHeader | Structure::CrashedHeader
        );
        let mut ranges = self.ranges.clone();
        ranges.extend(self.eio.clone());
        let mut reach: Vec<(PathBuf, Vec<Range<usize>>)> = vec![(self.path.clone(), ranges)];
        if is_header || (self.ranges.is_empty() && self.eio.is_none()) {
            let paths = self.left.iter().map(|(path, _)| path).chain([&self.path]);
            reach = paths
                .map(|path| (path.clone(), vec![whole_file.clone()]))
                .collect();
        }
        for (path, ranges) in reach {
            self.hit_payloads
                .extend(oracle.hit_payloads(&path, &ranges));
            self.hit_frames.extend(oracle.hit_frames(&path, &ranges));
        }
    }

    /// Puts back what an operator would: everything if the role refused to start, and otherwise
    /// what the program has not replaced itself.
    pub(super) fn undo(&self, fixture: &Fixture, folder: &Path, view: &View) {
        let original = fixture.folder(self.cell.state);
        let index = Path::new("master/index");
        if self.cell.without_index && view.refused {
            replace(&original.join(index), &folder.join(index));
        }
        for (path, left) in &self.left {
            let (from, to) = (original.join(path), folder.join(path));
            let is_untouched = contents(&to) == *left;
            let is_segment = path
                .parent()
                .is_some_and(|parent| parent.ends_with("segments"));
            if view.refused || view.is_read_only && self.cell.structure.is_of_master() {
                replace(&from, &to);
            } else if is_segment && !self.ranges.is_empty() && self.cell.damage != Damage::Truncate
            {
                self.undo_bytes(&from, &to, left);
            } else if is_segment {
                // Without a doubt the program has mended the file itself. With one, the operator
                // brings back the file.
                if view.on_hold || is_untouched {
                    replace(&from, &to);
                }
            } else if is_untouched && !self.cell.structure.is_of_master() {
                replace(&from, &to);
            }
        }
    }

    /// Puts back bytes of a segment that are as the damage left them.
    fn undo_bytes(&self, from: &Path, to: &Path, left: &Contents) {
        let (Contents::Bytes(original), Contents::Bytes(mut bytes)) =
            (contents(from), contents(to))
        else {
            return;
        };
        let Contents::Bytes(left) = left else { return };
        let end = self.ranges.iter().map(|range| range.end).max();
        if end.is_some_and(|end| end > bytes.len()) {
            // It was cut in front of the damage: the whole file is brought back.
            replace(from, to);
            return;
        }
        for range in &self.ranges {
            if bytes[range.clone()] == left[range.clone()] {
                bytes[range.clone()].copy_from_slice(&original[range.clone()]);
            }
        }
        std::fs::write(to, bytes).unwrap();
    }
}

/// View of an operator before the damage is undone.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) refused: bool,
    pub(super) on_hold: bool,
    pub(super) is_read_only: bool,
}

//! The blocks of a file, or of a range of it, in order: walks the recipe tree and fetches its
//! leaves.

use std::ops::Range;

use cstore_types::limits::MAX_RECIPE_DEPTH;
use cstore_types::{BlockId, Entry, ErrorCode, Fault, Leaf, Root};

use crate::cluster::Route;

/// A data block of the range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) id: BlockId,
    /// Offset of the block in the file.
    pub(crate) offset: u64,
    /// Bytes of the whole block.
    pub(crate) len: u64,
}

/// A table on the way down.
#[derive(Debug)]
struct Level {
    entries: Vec<Entry>,
    next: usize,
    /// Where the table starts in the file.
    base: u64,
    depth: u8,
}

impl Level {
    /// Skips everything that ends at or before `offset`.
    fn new(entries: Vec<Entry>, base: u64, depth: u8, offset: u64) -> Self {
        let next = entries.partition_point(|entry| base + entry.end <= offset);
        Self {
            entries,
            next,
            base,
            depth,
        }
    }
}

/// Walks a recipe; memory of one table per level.
#[derive(Debug)]
pub(crate) struct RecipeWalk {
    levels: Vec<Level>,
    range: Range<u64>,
}

impl RecipeWalk {
    pub(crate) fn new(root: &Root, range: Range<u64>) -> Self {
        let level = Level::new(root.entries().to_vec(), 0, root.depth(), range.start);
        Self {
            levels: vec![level],
            range,
        }
    }

    /// The next blocks: up to `max_bytes` and `max_blocks`, at least one while there are any.
    pub(crate) async fn next(
        &mut self,
        route: &Route,
        max_bytes: u64,
        max_blocks: usize,
    ) -> Result<Vec<Piece>, Fault> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut bytes = 0;
        while let Some(level) = self.levels.last_mut() {
            let before = level
                .next
                .checked_sub(1)
                .and_then(|at| level.entries.get(at))
                .map_or(0, |entry| entry.end);
            let (offset, depth) = (level.base + before, level.depth);
            let Some(entry) = level
                .entries
                .get(level.next)
                .copied()
                .filter(|_| offset < self.range.end)
            else {
                self.levels.pop();
                continue;
            };
            let len = entry.end - before;
            if depth > 0 {
                level.next += 1;
                let leaf = fetch_leaf(route, entry.id, depth - 1, len).await?;
                self.levels
                    .push(Level::new(leaf, offset, depth - 1, self.range.start));
                continue;
            }
            if !pieces.is_empty() && (bytes + len > max_bytes || pieces.len() == max_blocks) {
                break;
            }
            level.next += 1;
            bytes += len;
            pieces.push(Piece {
                id: entry.id,
                offset,
                len,
            });
        }
        Ok(pieces)
    }
}

async fn fetch_leaf(
    route: &Route,
    id: BlockId,
    level: u8,
    covers: u64,
) -> Result<Vec<Entry>, Fault> {
    let damaged =
        |what: &str| Fault::new(ErrorCode::DataLoss, format!("recipe leaf {id:?} {what}"));
    if level >= MAX_RECIPE_DEPTH {
        return Err(damaged("lies too deep"));
    }
    let bytes = crate::fetch::fetch_one(route, id).await?;
    let leaf =
        Leaf::decode(&bytes).map_err(|error| damaged("cannot be read").with_source(error))?;
    if leaf.level() != level || leaf.entries().last().map(|entry| entry.end) != Some(covers) {
        return Err(damaged("does not fit the table above it"));
    }
    Ok(leaf.entries().to_vec())
}

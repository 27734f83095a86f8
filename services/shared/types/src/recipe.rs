//! The recipe of a file: which blocks, in which order.
//!
//! A tree. An entry is (id, end offset); the end counts from the start of what its table covers, so
//! equal runs of a file give equal leaves wherever they stand. Tables below the root ("leaves", up
//! to 1,024 entries) are stored as blocks of kind `manifest`; the root (at most 100 entries, at
//! most 4 KiB) is kept by the master.
//!
//! ```text
//! root  version u8 = 1 · depth u8 · chunking u8 (1 = fixed) · 0 u8 · block size u32 · file size u64 · count u32 · entries
//! leaf  version u8 = 1 · level u8 · count u16 · 0 u32 · entries              level 0 names data, level n leaves of n-1
//! entry id [32] · end offset u64                                             little-endian, ends strictly increase
//! ```
//! A root of depth 0 names data blocks; one of depth n names leaves of level n-1.

use crate::block_id::BlockId;
use crate::chunking::Chunking;
use crate::limits::{MAX_LEAF_ENTRIES, MAX_RECIPE_DEPTH, MAX_ROOT_ENTRIES};

const VERSION: u8 = 1;
const ROOT_HEADER: usize = 20;
const LEAF_HEADER: usize = 8;
const ENTRY: usize = 40;

/// Bytes that are no recipe, or a recipe beyond the limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// Ends before its header or count says.
    #[error("recipe table is {found} bytes long, expected {expected}")]
    Length {
        /// Bytes there.
        found: usize,
        /// Bytes announced.
        expected: usize,
    },
    /// A version this program does not know.
    #[error("recipe version {0} is unknown")]
    Version(u8),
    /// Depth, level, count or chunking out of bounds.
    #[error("recipe field {0} is out of bounds")]
    Field(&'static str),
    /// Ends that do not increase, or do not add up to the size.
    #[error("recipe offsets do not add up")]
    Offsets,
    /// A file of more blocks than a recipe can name.
    #[error("file has more blocks than a recipe can name")]
    TooMany,
}

/// One line of a table: a block (or leaf) and where it ends, in bytes from the start of what the
/// table covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The block or leaf.
    pub id: BlockId,
    /// Offset of the byte after it.
    pub end: u64,
}

/// The part of a recipe that the master keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    chunking: Chunking,
    depth: u8,
    entries: Vec<Entry>,
}

impl Root {
    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.end)
    }

    /// Levels of leaves below this table; 0 when the entries are data blocks.
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// How the file was cut.
    pub fn chunking(&self) -> Chunking {
        self.chunking
    }

    /// The table.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes of the module's table.
    pub fn encode(&self) -> Vec<u8> {
        let Chunking::Fixed(block_size) = self.chunking;
        let mut out = Vec::with_capacity(ROOT_HEADER + ENTRY * self.entries.len());
        out.extend([VERSION, self.depth, 1, 0]);
        out.extend(block_size.to_le_bytes());
        out.extend(self.size().to_le_bytes());
        out.extend((self.entries.len() as u32).to_le_bytes());
        put_entries(&mut out, &self.entries);
        out
    }

    /// # Errors
    /// [`RecipeError`] for anything that [`Self::encode`] does not make.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecipeError> {
        let short = RecipeError::Length {
            found: bytes.len(),
            expected: ROOT_HEADER,
        };
        let (header, rest) = bytes.split_first_chunk::<ROOT_HEADER>().ok_or(short)?;
        let [
            version,
            depth,
            chunking,
            _,
            b0,
            b1,
            b2,
            b3,
            size @ ..,
            c0,
            c1,
            c2,
            c3,
        ] = *header;
        let size: [u8; 8] = size;
        if version != VERSION {
            return Err(RecipeError::Version(version));
        }
        if depth > MAX_RECIPE_DEPTH {
            return Err(RecipeError::Field("depth"));
        }
        if chunking != 1 {
            return Err(RecipeError::Field("chunking"));
        }
        let block_size = u32::from_le_bytes([b0, b1, b2, b3]);
        let chunking =
            Chunking::fixed(block_size.into()).map_err(|_| RecipeError::Field("block size"))?;
        let count = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
        if count > MAX_ROOT_ENTRIES {
            return Err(RecipeError::Field("count"));
        }
        let root = Self {
            chunking,
            depth,
            entries: take_entries(rest, count)?,
        };
        if root.size() != u64::from_le_bytes(size) {
            return Err(RecipeError::Offsets);
        }
        Ok(root)
    }
}

/// A table below the root, stored as a block of kind `manifest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    level: u8,
    entries: Vec<Entry>,
}

impl Leaf {
    /// 0 when the entries are data blocks.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// The table.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes of the module's table.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEAF_HEADER + ENTRY * self.entries.len());
        out.extend([VERSION, self.level]);
        out.extend((self.entries.len() as u16).to_le_bytes());
        out.extend([0; 4]);
        put_entries(&mut out, &self.entries);
        out
    }

    /// # Errors
    /// [`RecipeError`] for anything that [`Self::encode`] does not make.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecipeError> {
        let short = RecipeError::Length {
            found: bytes.len(),
            expected: LEAF_HEADER,
        };
        let (header, rest) = bytes.split_first_chunk::<LEAF_HEADER>().ok_or(short)?;
        let [version, level, c0, c1, ..] = *header;
        if version != VERSION {
            return Err(RecipeError::Version(version));
        }
        if level >= MAX_RECIPE_DEPTH {
            return Err(RecipeError::Field("level"));
        }
        let count = usize::from(u16::from_le_bytes([c0, c1]));
        if count == 0 || count > MAX_LEAF_ENTRIES {
            return Err(RecipeError::Field("count"));
        }
        Ok(Self {
            level,
            entries: take_entries(rest, count)?,
        })
    }
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    for entry in entries {
        out.extend(entry.id.as_bytes());
        out.extend(entry.end.to_le_bytes());
    }
}

fn take_entries(bytes: &[u8], count: usize) -> Result<Vec<Entry>, RecipeError> {
    if bytes.len() != count * ENTRY {
        return Err(RecipeError::Length {
            found: bytes.len(),
            expected: count * ENTRY,
        });
    }
    let mut entries = Vec::with_capacity(count);
    let mut before = 0;
    for (id, end) in bytes
        .chunks_exact(ENTRY)
        .filter_map(|raw| raw.split_first_chunk::<32>())
    {
        let end = end.first_chunk().map_or(0, |raw| u64::from_le_bytes(*raw));
        if end <= before {
            return Err(RecipeError::Offsets);
        }
        before = end;
        entries.push(Entry {
            id: BlockId::from_bytes(*id),
            end,
        });
    }
    Ok(entries)
}

/// Builds a recipe from blocks in file order, in memory of one table per level.
#[derive(Debug)]
pub struct RootBuilder {
    chunking: Chunking,
    levels: Vec<Vec<Entry>>,
}

impl RootBuilder {
    /// An empty file.
    pub fn new(chunking: Chunking) -> Self {
        Self {
            chunking,
            levels: vec![Vec::new()],
        }
    }

    /// Adds the next data block of `len` bytes. `store` takes each finished leaf and answers its
    /// id.
    ///
    /// # Errors
    /// [`RecipeError::TooMany`] when the tree would be deeper than the limit.
    pub fn push(
        &mut self,
        id: BlockId,
        len: u64,
        store: &mut impl FnMut(Vec<u8>) -> BlockId,
    ) -> Result<(), RecipeError> {
        self.push_at(0, id, len, store)
    }

    fn push_at(
        &mut self,
        level: usize,
        id: BlockId,
        len: u64,
        store: &mut impl FnMut(Vec<u8>) -> BlockId,
    ) -> Result<(), RecipeError> {
        if level > usize::from(MAX_RECIPE_DEPTH) {
            return Err(RecipeError::TooMany);
        }
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        if self
            .levels
            .get(level)
            .is_some_and(|table| table.len() == MAX_LEAF_ENTRIES)
        {
            self.fold(level, store)?;
        }
        if let Some(table) = self.levels.get_mut(level) {
            let before = table.last().map_or(0, |entry| entry.end);
            table.push(Entry {
                id,
                end: before + len,
            });
        }
        Ok(())
    }

    /// Turns the table of `level` into one entry of the level above.
    fn fold(
        &mut self,
        level: usize,
        store: &mut impl FnMut(Vec<u8>) -> BlockId,
    ) -> Result<(), RecipeError> {
        let entries = self
            .levels
            .get_mut(level)
            .map(std::mem::take)
            .unwrap_or_default();
        let covered = entries.last().map_or(0, |entry| entry.end);
        let leaf = Leaf {
            level: level as u8,
            entries,
        };
        let id = store(leaf.encode());
        self.push_at(level + 1, id, covered, store)
    }

    /// The root over all blocks pushed. `store` takes the last leaves.
    ///
    /// # Errors
    /// [`RecipeError::TooMany`] when the tree would be deeper than the limit.
    pub fn finish(
        mut self,
        store: &mut impl FnMut(Vec<u8>) -> BlockId,
    ) -> Result<Root, RecipeError> {
        let mut level = 0;
        loop {
            let top = level + 1 == self.levels.len();
            let table = self.levels.get(level).map_or(0, Vec::len);
            if top && table <= MAX_ROOT_ENTRIES {
                let entries = self.levels.pop().unwrap_or_default();
                return Ok(Root {
                    chunking: self.chunking,
                    depth: level as u8,
                    entries,
                });
            }
            self.fold(level, store)?;
            level += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_id::DedupKey;
    use crate::limits::MAX_ROOT_BYTES;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn id(n: u64) -> BlockId {
        BlockId::of_many(&DedupKey::from_bytes([3; 32]), &[&n.to_le_bytes()])[0]
    }

    fn build(blocks: u64, len: u64) -> (Root, HashMap<BlockId, Vec<u8>>) {
        let mut leaves = HashMap::new();
        let mut store = |bytes: Vec<u8>| {
            let id = BlockId::of_many(&DedupKey::from_bytes([3; 32]), &[&bytes])[0];
            leaves.insert(id, bytes);
            id
        };
        let mut builder = RootBuilder::new(Chunking::Fixed(64));
        for n in 0..blocks {
            builder.push(id(n), len, &mut store).unwrap();
        }
        let root = builder.finish(&mut store).unwrap();
        (root, leaves)
    }

    fn walk(
        entries: &[Entry],
        depth: u8,
        leaves: &HashMap<BlockId, Vec<u8>>,
        out: &mut Vec<BlockId>,
    ) {
        for entry in entries {
            if depth == 0 {
                out.push(entry.id);
            } else {
                let leaf = Leaf::decode(&leaves[&entry.id]).unwrap();
                assert_eq!(leaf.level(), depth - 1);
                walk(leaf.entries(), depth - 1, leaves, out);
            }
        }
    }

    #[test]
    fn every_size_of_tree_names_all_blocks_in_order() {
        for blocks in [
            0, 1, 99, 100, 101, 1_023, 1_024, 1_025, 102_400, 102_401, 110_000,
        ] {
            let (root, leaves) = build(blocks, 7);
            assert_eq!(root.size(), blocks * 7);
            assert!(root.encode().len() <= MAX_ROOT_BYTES);
            assert_eq!(Root::decode(&root.encode()).as_ref(), Ok(&root));
            let mut found = Vec::new();
            walk(root.entries(), root.depth(), &leaves, &mut found);
            assert!(
                found.iter().copied().eq((0..blocks).map(id)),
                "{blocks} blocks"
            );
        }
    }

    #[test]
    fn the_layout_of_a_root_is_pinned() {
        let (root, _) = build(1, 5);
        let bytes = root.encode();
        assert_eq!(
            hex::encode(&bytes[..20]),
            "0100010040000000050000000000000001000000"
        );
        assert_eq!(&bytes[20..52], id(0).as_bytes());
        assert_eq!(&bytes[52..], 5u64.to_le_bytes());
    }

    #[test]
    fn tables_that_do_not_add_up_are_refused() {
        let bytes = build(3, 5).0.encode();
        let flip = |at: usize, to: u8| {
            let mut copy = bytes.clone();
            copy[at] = to;
            Root::decode(&copy)
        };
        assert_eq!(flip(0, 2), Err(RecipeError::Version(2)));
        assert_eq!(flip(1, 9), Err(RecipeError::Field("depth")));
        assert_eq!(flip(2, 0), Err(RecipeError::Field("chunking")));
        assert_eq!(flip(8, 99), Err(RecipeError::Offsets));
        assert!(matches!(flip(16, 4), Err(RecipeError::Length { .. })));
        assert_eq!(flip(17, 1), Err(RecipeError::Field("count")));
        assert_eq!(flip(92, 0), Err(RecipeError::Offsets));
    }

    proptest! {
        #[test]
        fn i10_decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let _ = Root::decode(&bytes);
            let _ = Leaf::decode(&bytes);
        }
    }
}

//! Writing a snapshot.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::{HEAD_BYTES, Head, NAME, UNFINISHED, block_crc};
use crate::limits::{
    MAX_SNAPSHOT_ITEM, SNAPSHOT_BLOCK_BYTES, SNAPSHOT_BUFFER, SNAPSHOT_CHUNK_BYTES,
    SNAPSHOT_CHUNK_PAIRS, SNAPSHOT_SYNC_BYTES,
};
use crate::store::index::{Index, decode_stored};
use crate::store::keys::{CLUSTER, ClusterRecord};
use crate::store::{DamageKind, Link, MetaError, Position};

/// Facts about a snapshot that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Written {
    pub(in crate::store) items: u64,
    /// Size of the file.
    pub(in crate::store) bytes: u64,
}

/// A snapshot that is being written. Dropped before [`SnapshotWriter::finish`], it leaves no file.
#[derive(Debug)]
pub(in crate::store) struct SnapshotWriter {
    /// The file that is written.
    path: PathBuf,
    /// Snapshot whose place the file takes when it is whole; `None` if it keeps its name.
    replaces: Option<PathBuf>,
    out: BufWriter<File>,
    /// The number of items and their bytes are known at the end: it is written last.
    head: Head,
    /// Block that is being filled.
    block: Vec<u8>,
    blocks: u64,
    unsynced: u64,
    /// Bytes that were allocated when the file was created; 0 if the file system cannot.
    allocated: u64,
    finished: bool,
}

impl SnapshotWriter {
    /// Creates a snapshot that replaces the one in `dir` when it is finished. Allocates `bytes` bytes
    /// for the file if the file system supports that; the snapshot may become larger.
    ///
    /// # Errors
    /// `Full` if the file system has no space for `bytes`, `Io`. No file is left.
    pub(in crate::store) fn create(
        dir: &Path,
        at: (Position, Link),
        bytes: u64,
    ) -> Result<Self, MetaError> {
        let path = dir.join(UNFINISHED);
        let file = File::create(&path).map_err(unwritten)?;
        let mut out = Self::begin(file, path, Some(dir.join(NAME)), at)?;
        if bytes > 0 {
            match fallocate(out.out.get_ref(), FallocateFlags::empty(), 0, bytes) {
                Ok(()) => out.allocated = bytes,
                Err(Errno::NOSPC) => return Err(MetaError::Full),
                // The file system cannot allocate in advance: the file grows with its writes.
                Err(_) => {}
            }
        }
        Ok(out)
    }

    /// Begins a snapshot in a file of its own, which only its owner may read. Until it is finished,
    /// no reader takes the file for a snapshot.
    ///
    /// # Errors
    /// `Io`, also if there is something at `path`, which stays as it is.
    pub(in crate::store) fn create_new(
        path: &Path,
        at: (Position, Link),
    ) -> Result<Self, MetaError> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        Self::begin(file.map_err(unwritten)?, path.to_path_buf(), None, at)
    }

    fn begin(
        file: File,
        path: PathBuf,
        replaces: Option<PathBuf>,
        (position, link): (Position, Link),
    ) -> Result<Self, MetaError> {
        let mut out = BufWriter::with_capacity(SNAPSHOT_BUFFER, file);
        out.write_all(&[0; HEAD_BYTES]).map_err(unwritten)?;
        Ok(Self {
            path,
            replaces,
            out,
            head: Head {
                position,
                link,
                ..Head::default()
            },
            block: Vec::with_capacity(SNAPSHOT_BLOCK_BYTES),
            blocks: 0,
            unsynced: 0,
            allocated: 0,
            finished: false,
        })
    }

    /// Returns the position of the cut.
    pub(in crate::store) fn position(&self) -> Position {
        self.head.position
    }

    /// Returns the bytes that were allocated when the file was created.
    pub(in crate::store) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Returns the bytes of the items so far.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.head.bytes
    }

    /// Appends one item, as the index stores it. Keys MUST come in byte order.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] for an item that a reader would refuse, or whose value is damaged: a
    /// snapshot that cannot be read must not replace one that can, and the log still has the value.
    pub(in crate::store) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), MetaError> {
        if key.len().max(value.len()) > MAX_SNAPSHOT_ITEM as usize {
            return Err(DamageKind::SnapshotItem.into());
        }
        let content = decode_stored(key, value)?;
        if key == CLUSTER
            && let Ok(cluster) = ClusterRecord::decode(&content.value)
        {
            self.head.incarnation = cluster.incarnation.0;
        }

        self.append(&(key.len() as u32).to_le_bytes())?;
        self.append(&(value.len() as u32).to_le_bytes())?;
        self.append(key)?;
        self.append(value)?;
        self.head.items += 1;
        if self.unsynced > SNAPSHOT_SYNC_BYTES {
            self.out
                .flush()
                .and_then(|()| self.out.get_ref().sync_data())
                .map_err(unwritten)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), MetaError> {
        self.head.bytes += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = SNAPSHOT_BLOCK_BYTES - self.block.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == SNAPSHOT_BLOCK_BYTES {
                self.end_block()?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), MetaError> {
        let crc = block_crc(self.head.position, self.blocks, &self.block);
        self.out.write_all(&self.block).map_err(unwritten)?;
        self.out.write_all(&crc.to_le_bytes()).map_err(unwritten)?;
        self.block.clear();
        self.blocks += 1;
        Ok(())
    }

    /// Writes the rest and the head, syncs, and takes the place of the snapshot before.
    pub(in crate::store) fn finish(mut self) -> Result<Written, MetaError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let head = self.head.encode();
        let allocated = self.allocated;
        let write = |out: &mut BufWriter<File>| {
            out.flush()?;
            if allocated > 0 {
                let end = out.stream_position()?;
                out.get_ref().set_len(end)?;
            }
            out.seek(SeekFrom::Start(0))?;
            out.write_all(&head)?;
            out.flush()?;
            out.get_ref().sync_all()
        };
        write(&mut self.out).map_err(unwritten)?;

        if let Some(replaced) = &self.replaces {
            std::fs::rename(&self.path, replaced).map_err(unwritten)?;
        }
        self.finished = true;
        let dir = self.path.parent().filter(|dir| *dir != Path::new(""));
        File::open(dir.unwrap_or_else(|| Path::new(".")))
            .and_then(|dir| dir.sync_all())
            .map_err(unwritten)?;
        Ok(Written {
            items: self.head.items,
            bytes: self.head.file_bytes().unwrap_or_default(),
        })
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Half a snapshot must not take the room that the log lacks.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes all of an index that nobody changes meanwhile as the snapshot of `position`.
///
/// # Errors
/// [`MetaError::Damaged`] if a value of the index is damaged, else of the disk. The snapshot before
/// stays then.
pub(in crate::store) fn write_all(
    dir: &Path,
    index: &Index,
    at: (Position, Link),
) -> Result<Written, MetaError> {
    let mut out = SnapshotWriter::create(dir, at, 0)?;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let (pairs, is_complete) =
            index.stored_after(after.as_deref(), SNAPSHOT_CHUNK_PAIRS, SNAPSHOT_CHUNK_BYTES)?;
        for (key, value) in &pairs {
            out.put(key, value)
                .inspect_err(|error| index.distrust_for(error))?;
        }
        if is_complete {
            return out.finish();
        }
        after = pairs.into_iter().last().map(|(key, _)| key);
    }
}

/// Opens the snapshot of `dir` for [`std::fs::File::set_len`]; `None` if there is no snapshot or no
/// descriptor.
///
/// The caller MUST NOT truncate the file before another snapshot has replaced it durably; otherwise
/// the only snapshot is lost.
pub(in crate::store) fn open_for_truncation(dir: &Path) -> Option<File> {
    OpenOptions::new().write(true).open(dir.join(NAME)).ok()
}

/// Removes what an earlier process left of a snapshot that it did not finish.
pub(in crate::store) fn remove_unfinished(dir: &Path) -> Result<(), MetaError> {
    match std::fs::remove_file(dir.join(UNFINISHED)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(unwritten(error)),
        _ => Ok(()),
    }
}

fn unwritten(error: std::io::Error) -> MetaError {
    MetaError::io("write the metadata snapshot")(error)
}

//! Report on a disk for people: `cstore admin inspect`.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use cstore_log::{Disk, RealDisk};

use crate::engine::OpenError;
use crate::engine::peek;

/// Writes what the superblock and the folders say. Opens nothing for writing and takes no lock.
///
/// # Errors
/// [`OpenError`] when there is no usable disk; the writer's own.
pub fn inspect(path: &Path, out: &mut dyn Write) -> Result<(), InspectError> {
    let io = |source| OpenError::Io {
        doing: "read disk folder",
        source,
    };
    if !path.try_exists().map_err(io)? {
        return Err(OpenError::Io {
            doing: "read disk folder",
            source: io::ErrorKind::NotFound.into(),
        }
        .into());
    }
    let disk: Arc<dyn Disk> = RealDisk::open(path).map_err(io)?;
    let name = path.display().to_string();
    let Some(superblock) = peek(&disk, &name)? else {
        writeln!(out, "{name}: not formatted")?;
        return Ok(());
    };
    let mut segments = (0u64, 0u64);
    let mut other = 0;
    for (folder, in_segments) in [(path.to_path_buf(), false), (path.join("segments"), true)] {
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let metadata = entry.and_then(|entry| entry.metadata()).map_err(io)?;
            match (in_segments, metadata.is_file()) {
                (true, true) => segments = (segments.0 + 1, segments.1 + metadata.len()),
                (false, true) => other += metadata.len(),
                (_, false) => {}
            }
        }
    }
    writeln!(out, "disk                 {name}")?;
    writeln!(out, "store                {}", superblock.store)?;
    writeln!(out, "cluster              {}", superblock.cluster)?;
    writeln!(out, "node                 {}", superblock.node)?;
    writeln!(
        out,
        "capacity             {} bytes (FS_SIZE; bounds everything below this folder)",
        superblock.capacity
    )?;
    writeln!(
        out,
        "segment size         {} bytes",
        superblock.segment_bytes
    )?;
    writeln!(out, "block size at format {} bytes", superblock.block_size)?;
    writeln!(
        out,
        "seal sequence        {} (when the superblock was written)",
        superblock.seal_seq
    )?;
    writeln!(
        out,
        "stopped cleanly      {}",
        if superblock.clean {
            "yes"
        } else {
            "no, or it is running"
        }
    )?;
    writeln!(
        out,
        "segments             {} files, {} bytes",
        segments.0, segments.1
    )?;
    writeln!(out, "superblock, bitmap   {other} bytes")?;
    Ok(())
}

/// Why nothing could be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The disk cannot be read.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// The output cannot be written.
    #[error("write: {0}")]
    Output(#[from] io::Error),
}

//! Rescue: a snapshot of all that a folder still has, in a file from which another folder can start.
//!
//! A session that the snapshot does not know may have committed, in a change or by a value that is
//! missing. So the snapshot begins another era: unknown sessions are kept, instead of ended and
//! released (`docs/adr/0014`).

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use cstore_log::Disk;
use cstore_types::SessionEra;

use super::engine::SledOptions;
use super::error::Extent;
use super::index::stored;
use super::keys::{CLUSTER, ERA, NAMES, PLACEMENT, encode_era};
use super::read_only::{Folder, Remains};
use super::room::{SharedGauge, by_statvfs};
use super::snapshot::{SnapshotWriter, Written, verify_file};
use super::{DamageKind, MetaError};

/// Facts about a snapshot that was rescued.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rescue {
    pub(crate) extent: Extent,
    /// Names in the snapshot.
    pub(crate) names: u64,
    /// Size of the file.
    pub(crate) bytes: u64,
}

/// Writes all that is whole of the folder `dir` to the new file `path`, and calls `leave_out` with
/// the key of each value that is not. The file is durable and was read back when this returns.
///
/// Nobody may have the folder open. Nothing in it is changed; what has to be written besides the
/// snapshot is written beside it.
///
/// # Errors
/// [`MetaError::Damaged`] if nothing can be used, two parts contradict each other, or a value is
/// damaged without which blocks are not found; `Full`, `Io`. No file is left then.
pub(crate) fn rescue(
    dir: &Path,
    log: Option<Arc<dyn Disk>>,
    path: &Path,
    leave_out: &mut dyn FnMut(&[u8]),
) -> Result<Rescue, MetaError> {
    rescue_with(
        dir,
        log,
        path,
        leave_out,
        (&SledOptions::default(), &by_statvfs()),
    )
}

/// Rescues like [`rescue`], with other options and another way to measure the file system.
pub(super) fn rescue_with(
    dir: &Path,
    log: Option<Arc<dyn Disk>>,
    path: &Path,
    leave_out: &mut dyn FnMut(&[u8]),
    (options, gauge): (&SledOptions, &SharedGauge),
) -> Result<Rescue, MetaError> {
    let mut scratch = OsString::from(path);
    scratch.push(".scratch");
    let folder = Folder {
        dir,
        log,
        scratch: scratch.into(),
        options,
        gauge,
    };
    let remains = Remains::find(&folder)?;
    let extent = remains.extent;

    let out = SnapshotWriter::create_new(path, (extent.position, remains.link))?;
    let (names, Written { bytes, .. }) = write(&remains, out, leave_out)?;
    drop(remains);
    if let Err(error) = verify_file(path) {
        // A disk that does not give back what was written: nobody may rely on the file.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(Rescue {
        extent,
        names,
        bytes,
    })
}

/// Writes the whole values of `remains` to `out`, with another era. Returns the number of names.
fn write(
    remains: &Remains,
    mut out: SnapshotWriter,
    leave_out: &mut dyn FnMut(&[u8]),
) -> Result<(u64, Written), MetaError> {
    let era = SessionEra::random().map_err(MetaError::Random)?;
    let era = stored(ERA, remains.extent.position, &encode_era(era));
    let mut era = Some(era);
    let mut names = 0;
    remains.for_each(&mut |key, stored, value| {
        if key >= ERA
            && let Some(era) = era.take()
        {
            out.put(ERA, &era)?;
        }
        if key == ERA {
            return Ok(());
        }
        if value.is_some() {
            names += u64::from(key.first() == Some(&NAMES));
            return out.put(key, stored);
        }
        if key == CLUSTER || key == PLACEMENT {
            // Without these another start would make new ones, and find no block.
            let key = key.escape_ascii().to_string();
            return Err(DamageKind::Value { key }.into());
        }
        leave_out(key);
        Ok(())
    })?;
    if let Some(era) = era {
        out.put(ERA, &era)?;
    }
    Ok((names, out.finish()?))
}

//! Examination of a folder of metadata: the very open of a start, over a log that keeps its changes in
//! memory and over a copy of the index, so that the folder stays as it is.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cstore_log::Disk;
use cstore_types::error_chain;

use super::engine::SledOptions;
use super::read_only::ReadOnlyMeta;
use super::recovery::{self, SurveyNote};
use super::room::{SharedGauge, by_statvfs};
use super::scratch::Scratch;
use super::{MetaError, MetaStore, Observer, SledMeta, snapshot};

/// Name of the snapshot.
const SNAPSHOT: &str = "snapshot.bin";
/// Name of the file with the owner of the log.
const OWNER: &str = "log-owner";

/// Facts about a folder of metadata.
#[derive(Debug)]
pub(crate) struct Examination {
    /// The metadata as a start opens it; the reason if it refuses.
    pub(crate) store: Result<Arc<dyn MetaStore>, MetaError>,
    /// Findings of an open for writing, if it gets that far.
    pub(crate) note: Option<SurveyNote>,
    /// Words about the snapshot.
    pub(crate) snapshot: String,
    /// Dropped AFTER the store, whose index lies in it.
    _scratch: Scratch,
}

/// Opens the folder `dir` as a start does, with its log on `log`, and feeds `observer` every key. The
/// folder is not changed: what has to be written is written to a new folder at `scratch`, which is
/// removed with the result. If `verifies`, all of snapshot and log is read.
///
/// # Errors
/// `Full` if there is no room for a copy of the index, `Io`.
pub(crate) fn examine(
    dir: &Path,
    log: &Arc<dyn Disk>,
    scratch: PathBuf,
    observer: Arc<dyn Observer>,
    verifies: bool,
) -> Result<Examination, MetaError> {
    let scratch = Scratch::with_index(scratch, dir, &by_statvfs())?;
    let io = MetaError::io("link the metadata into the scratch folder");
    for name in [SNAPSHOT, OWNER] {
        let file = dir.join(name);
        if file.try_exists().map_err(&io)? {
            symlink(&file, scratch.path().join(name)).map_err(&io)?;
        }
    }
    // Room counts where the metadata lies, not where the copy does.
    let (measured, folder) = (by_statvfs(), dir.to_path_buf());
    let gauge = SharedGauge(Arc::new(move |_: &Path| (measured.0)(&folder)));

    let snapshot = match snapshot::look(dir) {
        Ok(Some(found)) => format!("up to position {}, {} bytes", found.position, found.bytes),
        Ok(None) => "missing".to_owned(),
        Err(error) => error_chain(&error).to_string(),
    };
    let options = SledOptions::default();
    let surveyed = recovery::survey(scratch.path(), log, &options, &gauge);
    let note = surveyed.ok();
    let note = note.map(|survey| survey.note(scratch.path(), verifies));

    let opened = SledMeta::open_with(
        scratch.path(),
        log.clone(),
        &options,
        observer.clone(),
        gauge.clone(),
    );
    let store: Result<Arc<dyn MetaStore>, MetaError> = match opened {
        Ok(store) => Ok(Arc::new(store)),
        Err(damage) => {
            let rest = ReadOnlyMeta::open_with(
                scratch.path(),
                log.clone(),
                &options,
                &*observer,
                damage,
                &gauge,
            );
            rest.map(|rest| Arc::new(rest) as Arc<dyn MetaStore>)
        }
    };
    Ok(Examination {
        store,
        note,
        snapshot,
        _scratch: scratch,
    })
}

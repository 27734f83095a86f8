//! `cstore admin rescue`: what is left of a master's metadata, in a file from which another start can
//! go on.

use std::io::Write;
use std::path::{Path, PathBuf};

use cstore_master::{RescueError, Rescued};
use cstore_node::{Env, Source};
use serde_json::{Value, json};

use crate::exit::{End, Failure, printable};
use crate::paths::PickedPath;

/// Rescues the metadata below the data folder `data` to `file`, and says what is in it, what is not
/// and what to do with it.
pub(crate) fn run(
    data: Option<&Path>,
    file: &Path,
    is_json: bool,
    source: &dyn Source,
) -> Result<(), Failure> {
    let mut env = Env::new(source);
    let default = env.path("CSTORE_DATA_DIR", "./data");
    env.finish().map_err(Failure::usage)?;
    if data.is_none() {
        PickedPath::data(&default, "--data", source).tell();
    }
    let folder = data.map_or(default, Path::to_path_buf).join("master");

    let mut left_out = Ok(0_u64);
    let leave_out = &mut |what: &str| {
        if let Ok(count) = &mut left_out {
            *count += 1;
            let line = match is_json {
                true => json!({"left_out": what}).to_string(),
                false => format!("left out, damaged: {}", printable(what)),
            };
            if let Err(error) = writeln!(std::io::stdout().lock(), "{line}") {
                left_out = Err(error);
            }
        }
    };
    let rescued = cstore_master::rescue(&folder, file, leave_out).map_err(failure)?;
    // The file is there, also if nobody reads what is said about it.
    let n_left_out = left_out.map_err(Failure::output)?;

    let out = &mut std::io::stdout().lock();
    match is_json {
        true => writeln!(out, "{}", as_json(file, &rescued, n_left_out)),
        false => say(out, &folder, file, &rescued),
    }
    .map_err(Failure::output)?;
    match rescued.is_partial {
        false => Ok(()),
        true => Err(Failure::client(
            End::Partial,
            "something is not in the file that was rescued; the output says what",
        )),
    }
}

/// Returns the line about the file for programs.
fn as_json(file: &Path, rescued: &Rescued, n_left_out: u64) -> Value {
    json!({
        "file": file.display().to_string(),
        "names": rescued.names,
        "bytes": rescued.bytes,
        "position": rescued.position,
        "newest": rescued.newest,
        "lost_changes": rescued.lost_changes,
        "unused_changes": rescued.unused_changes,
        "may_lack_later": rescued.may_lag,
        "left_out_values": n_left_out,
        "is_partial": rescued.is_partial,
    })
}

fn failure(error: RescueError) -> Failure {
    let end = match &error {
        RescueError::Exists(_) => End::Conflict,
        RescueError::NoMetadata(_) => End::Usage,
        RescueError::InUse(_)
        | RescueError::NoRoom(_)
        | RescueError::Folder(..)
        | RescueError::Meta(_) => End::Failed,
    };
    Failure::client(end, Failure::failed(error).to_string())
}

fn say(out: &mut impl Write, folder: &Path, file: &Path, rescued: &Rescued) -> std::io::Result<()> {
    let Rescued {
        names,
        bytes,
        extent,
        position,
        unused_changes,
        ..
    } = rescued;
    let aside = PathBuf::from(format!("{}.damaged", folder.display()));
    let (folder, file, aside) = (folder.display(), file.display(), aside.display());
    writeln!(
        out,
        "{file}: written as of {extent}; names: {names}; bytes: {bytes}"
    )?;
    if *unused_changes > 0 {
        writeln!(
            out,
            "it has every change up to {position} and none after it: one that does not follow on the one before cannot be \
             applied. {unused_changes} of the changes that are left out lie whole in {folder}/log: if you find what is missing \
             or damaged, put it back and rescue again, and all of them are in the file"
        )?;
    }
    writeln!(
        out,
        "to go on from it, without what is missing, while the master is stopped:\n\
         \x20   mv {folder} {aside}\n\
         \x20   mkdir -m 700 {folder}\n\
         \x20   cp {file} {folder}/snapshot.bin\n\
         then start the master as the user that ran it before. If storage nodes have obeyed changes that are missing, \
         they free nothing until you accept it: cstore admin hold list. Uploads that the master does not know are kept: \
         cstore admin kept list. Keep {aside} until all is well"
    )
}

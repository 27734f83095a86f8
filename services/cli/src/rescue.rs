//! `cstore admin rescue`: what is left of a master's metadata, in a file from which another start can
//! go on.

use std::io::Write;
use std::path::{Path, PathBuf};

use cstore_master::{RescueError, Rescued};
use cstore_node::{Env, Source};

use crate::exit::{End, Failure, printable};

/// Rescues the metadata below the data folder `data` to `file`, and says what is in it, what is not
/// and what to do with it.
pub(crate) fn run(data: Option<&Path>, file: &Path, source: &dyn Source) -> Result<(), Failure> {
    let mut env = Env::new(source);
    let default = env.path("CSTORE_DATA_DIR", "./data");
    env.finish().map_err(Failure::usage)?;
    let folder = data.map_or(default, Path::to_path_buf).join("master");

    let mut left_out = Ok(0_u64);
    let leave_out = &mut |what: &str| {
        if let Ok(count) = &mut left_out {
            *count += 1;
            let line = writeln!(
                std::io::stdout().lock(),
                "left out, damaged: {}",
                printable(what)
            );
            if let Err(error) = line {
                left_out = Err(error);
            }
        }
    };
    let rescued = cstore_master::rescue(&folder, file, leave_out).map_err(failure)?;
    // The file is there, also if nobody reads what is said about it.
    left_out.map_err(Failure::output)?;
    say(&mut std::io::stdout().lock(), &folder, file, &rescued).map_err(Failure::output)?;
    match rescued.is_partial {
        false => Ok(()),
        true => Err(Failure::client(
            End::Partial,
            "something is missing from what was rescued; the output says what",
        )),
    }
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
        is_partial: _,
    } = rescued;
    let aside = PathBuf::from(format!("{}.damaged", folder.display()));
    let (folder, file, aside) = (folder.display(), file.display(), aside.display());
    writeln!(
        out,
        "{file}: written as of {extent}; names: {names}; bytes: {bytes}"
    )?;
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

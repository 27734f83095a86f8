//! Places for the files of a folder. Names come from the gateway and are not trusted.
//!
//! A name must obey the rules of all names (no `..`, no empty part, no control characters), begin
//! with the folder that was asked for, and lead through real folders only: one that is a symbolic
//! link could lead out of the destination.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cstore_types::FileName;
use rustix::fs::{Access, access};

use super::part;
use crate::exit::{End, Failure};

/// Returns the path of a name below the root, and makes its folders.
pub(super) fn below(root: &Path, prefix: &str, name: &str) -> Result<PathBuf, Failure> {
    let hostile = |why: String| {
        Failure::Failed(format!(
            "the gateway's list has a name that cannot be: {why}"
        ))
    };
    FileName::new(name).map_err(|error| hostile(error.to_string()))?;
    let relative = name
        .strip_prefix(prefix)
        .ok_or_else(|| hostile(format!("it is not below {prefix:?}")))?;
    let relative = FileName::new(relative).map_err(|error| hostile(error.to_string()))?;
    let mut parts: Vec<&str> = relative.as_str().split('/').collect();
    let last = parts.pop().unwrap_or_default();
    if part::is_reserved(last) {
        return Err(reserved());
    }
    std::fs::create_dir_all(root).map_err(|error| unusable(root, &error))?;
    let mut path = root.to_path_buf();
    for folder in parts {
        path.push(folder);
        enter(&path)?;
    }
    path.push(last);
    Ok(path)
}

/// Returns the failure for a name that would be taken for an unfinished download, or be destroyed
/// by one.
pub(super) fn reserved() -> Failure {
    Failure::client(
        End::Conflict,
        "unfinished downloads have such names on this machine; get it under another name: cstore get NAME DEST",
    )
}

/// Looks once whether the files of a folder can go below `root`, which need not be there yet.
/// Nothing is made: there may be no file.
pub(super) fn check_root(root: &Path) -> Result<(), Failure> {
    for place in root.ancestors() {
        let place = if place.as_os_str().is_empty() {
            Path::new(".")
        } else {
            place
        };
        match std::fs::metadata(place) {
            Ok(found) if !found.is_dir() => return Err(no_folder(place)),
            // The files that exist may all be unchanged, so that nothing is written.
            Ok(_) if place == root => return Ok(()),
            Ok(_) => {
                return access(place, Access::WRITE_OK | Access::EXEC_OK)
                    .map_err(|error| unusable(place, &error.into()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(place, &error)),
        }
    }
    Ok(())
}

fn no_folder(path: &Path) -> Failure {
    Failure::client(
        End::Conflict,
        format!("{} is in the way: it is no folder", path.display()),
    )
}

/// Returns the failure for a path of this machine that cannot be used.
pub(super) fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::local(error, format!("cannot use {}: {error}", path.display()))
}

fn enter(path: &Path) -> Result<(), Failure> {
    match std::fs::create_dir(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unusable(path, &error)),
    }
    // The link itself is looked at, not where it leads.
    match std::fs::symlink_metadata(path)
        .as_ref()
        .map(Metadata::is_dir)
    {
        Ok(true) => Ok(()),
        Ok(false) => Err(no_folder(path)),
        Err(error) => Err(unusable(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_can_hold_nothing_is_told_once_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        check_root(dir.path()).unwrap();
        check_root(&dir.path().join("new/er")).unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        for bad in ["file", "file/below"] {
            assert!(check_root(&dir.path().join(bad)).is_err(), "{bad}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let full = |kind: ErrorKind| unusable(dir.path(), &kind.into()).concerns_all();
        assert!(full(ErrorKind::StorageFull) && full(ErrorKind::ReadOnlyFilesystem));
        assert!(full(ErrorKind::QuotaExceeded) && !full(ErrorKind::PermissionDenied));
    }

    #[test]
    fn hostile_names_stay_below_the_root_or_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        assert_eq!(
            below(&root, "d/", "d/a/b.txt").unwrap(),
            root.join("a/b.txt")
        );
        assert_eq!(below(&root, "", "a/b.txt").unwrap(), root.join("a/b.txt"));
        for bad in [
            "../x",
            "d/../x",
            "d/../../x",
            "d/",
            "d//x",
            "d//etc/passwd",
            "/etc/passwd",
            "d/a/../../x",
            "d/.",
            "d",
            "other/x",
            "d/link/x",
            "d/file/x",
            "d/a\0b",
            "d/a\nb",
            "d/x.cstore-part",
            "d/x.cstore-part.json",
            "",
            "d/./x",
        ] {
            assert!(below(&root, "d/", bad).is_err(), "{bad:?}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        // Names that look odd and are harmless.
        for good in [
            "d/..a",
            "d/a..",
            "d/ ",
            "d/~",
            "d/a\\..\\b",
            "d/C:",
            "d/-rf",
        ] {
            let path = below(&root, "d/", good).unwrap();
            assert_eq!(path.parent(), Some(root.as_path()), "{good:?}");
        }
    }
}

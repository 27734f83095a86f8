//! Files to upload, and their names: found one after the other, never all at once.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::rc::Rc;

use cstore_types::FileName;
use walkdir::{DirEntry, WalkDir};

use super::body::{Source, unreadable};
use crate::args::files::Put;
use crate::exit::Failure;
use crate::files::get::is_reserved;
use crate::files::pattern::is_excluded;
use crate::files::summary::Summary;
use crate::files::{folder, name, target};

/// One file to upload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) source: Source,
    pub(super) name: FileName,
}

type Items<'a> = Box<dyn Iterator<Item = Result<Item, Failure>> + 'a>;

/// Returns all files of the command line. Mistakes of the command line are errors before any file is
/// sent. Skipped entries are counted in the summary.
pub(super) fn items<'a>(
    options: &'a Put,
    summary: &'a Summary,
) -> Result<impl Iterator<Item = Result<Item, Failure>> + use<'a>, Failure> {
    let into = options.dest.ends_with('/');
    if options.src.len() > 1 && !into {
        return Err(Failure::Usage(format!(
            "several files cannot have one name; {:?} with a / behind is a folder",
            options.dest
        )));
    }
    if into {
        folder(&options.dest)?
    } else {
        name(&options.dest)?.to_string()
    };
    refuse_twins(options)?;
    let mut sources: Vec<Items<'_>> = Vec::new();
    for path in &options.src {
        if path == Path::new("-") {
            if into {
                return Err(Failure::Usage(
                    "stdin has no name of its own: say one as DEST".to_owned(),
                ));
            }
            let item = Item {
                source: Source::Stdin,
                name: name(&options.dest)?,
            };
            sources.push(Box::new(std::iter::once(Ok(item))));
        } else if path.is_dir() {
            sources.push(Box::new(below(path, options, summary)?));
        } else {
            let item = last(path).and_then(|last| {
                Ok(Item {
                    source: Source::File(path.clone()),
                    name: target(&options.dest, last)?,
                })
            });
            sources.push(Box::new(std::iter::once(item)));
        }
    }
    Ok(sources.into_iter().flatten())
}

/// Two sources of one last name would become one file, or their folders one. Those without a name,
/// such as `..`, go straight into the folder and are meant to meet.
fn refuse_twins(options: &Put) -> Result<(), Failure> {
    let mut seen: HashMap<&OsStr, &Path> = HashMap::new();
    for path in &options.src {
        let Some(last) = path.file_name() else {
            continue;
        };
        if let Some(other) = seen.insert(last, path) {
            return Err(Failure::Usage(format!(
                "{other:?} and {path:?} would get one name, {last:?}"
            )));
        }
    }
    Ok(())
}

/// The files of a folder.
fn below<'a>(
    root: &'a Path,
    options: &'a Put,
    summary: &'a Summary,
) -> Result<impl Iterator<Item = Result<Item, Failure>> + use<'a>, Failure> {
    if !options.recursive {
        return Err(Failure::Usage(format!(
            "{} is a folder; --recursive takes it",
            root.display()
        )));
    }
    // `.` and `/` have no name of their own: what is in them goes straight into the folder.
    let prefix = match (options.dest.ends_with('/'), root.file_name()) {
        (true, Some(_)) => format!("{}{}/", folder(&options.dest)?, last(root)?),
        (true, None) => folder(&options.dest)?,
        (false, _) => folder(&format!("{}/", options.dest))?,
    };
    // The names of one folder are held, for the order; those of all folders are not.
    let walk = WalkDir::new(root)
        .follow_links(options.follow)
        .sort_by_file_name();
    // Depth of the last entry that was left out since the last one that was not.
    let left_out = Rc::new(Cell::new(None));
    let leaves_out = left_out.clone();
    let walk = walk.into_iter().filter_entry(move |entry| {
        let relative = entry
            .path()
            .strip_prefix(root)
            .unwrap_or_else(|_| entry.path());
        let is_taken = entry.depth() == 0
            || !is_excluded(&options.exclude, relative, entry.file_type().is_dir());
        if !is_taken {
            // The first is the one that may be in the last folder.
            leaves_out.set(leaves_out.get().or_else(|| Some(entry.depth())));
        }
        is_taken
    });

    // A folder is followed by its entries, which are deeper; an empty one by something else. A folder
    // all of whose entries are left out is not empty.
    let mut last_folder = None;
    let entries = walk.map(Some).chain(std::iter::once(None));
    Ok(entries.filter_map(move |found| {
        let depth = match &found {
            Some(Ok(entry)) => entry.depth(),
            // A folder that cannot be read is not known to be empty.
            Some(Err(_)) => usize::MAX,
            None => 0,
        };
        let first_left_out = left_out.take();
        let is_empty = |folder| depth <= folder && first_left_out.is_none_or(|out| out <= folder);
        if last_folder.take().is_some_and(is_empty) {
            summary.add_empty_folder();
        }
        match found? {
            Ok(entry) if entry.depth() == 0 || entry.file_type().is_dir() => {
                last_folder = Some(entry.depth());
                None
            }
            Ok(entry) if entry.path_is_symlink() && options.skip_links => {
                summary.add_skipped_link();
                None
            }
            Ok(entry) => Some(item(root, &prefix, &entry)),
            Err(error) => Some(Err(unwalkable(root, &prefix, &error))),
        }
    }))
}

/// Returns the failure for a path that cannot be walked, under the name that it would have had.
fn unwalkable(root: &Path, prefix: &str, error: &walkdir::Error) -> Failure {
    let path = error.path().unwrap_or(root);
    let relative = path.strip_prefix(root).unwrap_or(path).to_string_lossy();
    let failure = match (error.loop_ancestor(), error.io_error()) {
        (Some(above), _) => {
            let message = format!(
                "{} leads back to {}: a loop",
                path.display(),
                above.display()
            );
            Failure::Failed(message)
        }
        (None, Some(io)) => unreadable(path, io),
        (None, None) => Failure::Failed(format!("cannot read {error}")),
    };
    failure.of(format!("{prefix}{relative}").trim_end_matches('/'))
}

fn item(root: &Path, prefix: &str, entry: &DirEntry) -> Result<Item, Failure> {
    let relative = entry
        .path()
        .strip_prefix(root)
        .unwrap_or_else(|_| entry.path())
        .to_string_lossy();
    let would_be = format!("{prefix}{relative}");
    ordinary(root, prefix, entry).map_err(|failure| failure.of(&would_be))
}

fn ordinary(root: &Path, prefix: &str, entry: &DirEntry) -> Result<Item, Failure> {
    let path = entry.path();
    let kind = entry.file_type();
    if kind.is_symlink() {
        let message = format!(
            "{} is a symbolic link; --follow reads through it, --skip-links leaves it out",
            path.display()
        );
        return Err(Failure::Failed(message));
    }
    if !kind.is_file() {
        return Err(Failure::Failed(format!(
            "{} is no ordinary file",
            path.display()
        )));
    }
    if entry.file_name().to_str().is_some_and(is_reserved) {
        let message = format!(
            "{} is an unfinished download by its name; put it alone",
            path.display()
        );
        return Err(Failure::Failed(message));
    }
    let relative = path.strip_prefix(root).unwrap_or(path);
    let relative = relative.to_str().ok_or_else(|| not_utf8(path))?;
    Ok(Item {
        source: Source::File(path.to_path_buf()),
        name: name(&format!("{prefix}{relative}"))?,
    })
}

fn last(path: &Path) -> Result<&str, Failure> {
    let last = path
        .file_name()
        .ok_or_else(|| unreadable(path, &std::io::ErrorKind::IsADirectory.into()))?;
    last.to_str().ok_or_else(|| not_utf8(path))
}

fn not_utf8(path: &Path) -> Failure {
    Failure::Failed(format!(
        "{} cannot be a name: it is not UTF-8",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;

    fn put(args: &[&str]) -> Put {
        match Args::try_parse_from([&["cstore", "put"], args].concat())
            .unwrap()
            .command
        {
            Command::Put(options) => options,
            other => panic!("{other:?}"),
        }
    }

    fn names(args: &[&str]) -> Result<Vec<String>, String> {
        let options = put(args);
        let summary = Summary::begin("put");
        let all = items(&options, &summary).map_err(|failure| failure.to_string())?;
        all.map(|item| {
            Ok(item
                .map_err(|failure| failure.to_string())?
                .name
                .to_string())
        })
        .collect()
    }

    #[test]
    fn a_folder_whose_files_are_excluded_is_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["a", "b", "c/d"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for file in ["a/x.log", "a/y.log", "c/z.log", "b.log"] {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        let options = put(&[
            "-r",
            dir.path().to_str().unwrap(),
            "x/",
            "--exclude",
            "*.log",
        ]);
        let summary = Summary::begin("put");
        assert_eq!(items(&options, &summary).unwrap().count(), 0);
        assert_eq!(
            summary.lines(false),
            ["2 empty folders are not kept"],
            "b and c/d are empty, a is not"
        );
    }

    #[test]
    fn where_things_go() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("sub/empty")).unwrap();
        for file in ["b", "a.txt", "sub/c"] {
            std::fs::write(tree.join(file), file).unwrap();
        }
        let (tree, a) = (tree.to_str().unwrap().to_owned(), tree.join("a.txt"));
        let (a, inside) = (a.to_str().unwrap(), format!("{tree}/sub/.."));
        let found = |args: &[&str]| names(args).map(|names| names.join(" "));
        assert_eq!(found(&[a, "x"]).as_deref(), Ok("x"));
        assert_eq!(found(&[a, "x/"]).as_deref(), Ok("x/a.txt"));
        assert_eq!(
            found(&[a, &format!("{tree}/b"), "/"]).as_deref(),
            Ok("a.txt b")
        );
        assert_eq!(found(&["-", "x"]).as_deref(), Ok("x"));
        assert_eq!(
            found(&["-r", &tree, "x"]).as_deref(),
            Ok("x/a.txt x/b x/sub/c")
        );
        assert_eq!(
            found(&["-r", &tree, "x/"]).as_deref(),
            Ok("x/tree/a.txt x/tree/b x/tree/sub/c")
        );
        assert_eq!(
            found(&["-r", &tree, "/"]).as_deref(),
            Ok("tree/a.txt tree/b tree/sub/c")
        );
        assert_eq!(
            found(&["-r", &inside, "x/"]).as_deref(),
            Ok("x/a.txt x/b x/sub/c")
        );
        for (args, said) in [
            (&[a, a, "x"][..], "several files"),
            (&[a, a, "/"], "one name"),
            (&["-r", &tree, a, &tree, "/"], "one name"),
            (&["-", "x/"], "stdin"),
            (&[&tree, "x"], "--recursive"),
            (&[a, "../x"], "'..'"),
            (&[a, ""], "none"),
        ] {
            assert!(
                found(args).unwrap_err().contains(said),
                "{args:?}: {:?}",
                found(args)
            );
        }
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for folder in ["a/empty", "full/.git/refs", "z"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["b.log", "b.txt", "full/c.log", "full/.git/d", "full/e"] {
            std::fs::write(root.join(file), file).unwrap();
        }
        std::os::unix::fs::symlink("b", root.join("link")).unwrap();
        let root = root.to_str().unwrap();
        for (more, found, left_out) in [
            (
                &["--exclude", "z"][..],
                "x/b.log x/b.txt x/full/.git/d x/full/c.log x/full/e",
                &["2 empty folders are not kept"][..],
            ),
            (
                &["--exclude", "*.log", "--exclude", "full/.git/"],
                "x/b.txt x/full/e",
                &["2 empty folders are not kept"],
            ),
            (
                &[
                    "--exclude=full/e",
                    "--exclude=/b.*",
                    "--exclude=refs",
                    "--exclude=a",
                ],
                "x/full/.git/d x/full/c.log",
                &["1 empty folder is not kept"],
            ),
        ] {
            let options = put(&[&["-r", root, "x", "--skip-links"], more].concat());
            let summary = Summary::begin("put");
            let names = items(&options, &summary).unwrap();
            let names: Vec<String> = names.map(|item| item.unwrap().name.to_string()).collect();
            assert_eq!(names.join(" "), found, "{more:?}");
            let left_out = [left_out, &["1 symbolic link was skipped"]].concat();
            assert_eq!(summary.lines(false), left_out, "{more:?}");
        }
    }

    #[test]
    fn what_is_no_ordinary_file_is_told_and_not_left_out_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../root", root.join("self")).unwrap();
        let root = root.to_str().unwrap();
        let told = |args: &[&str]| {
            let options = put(args);
            let summary = Summary::begin("put");
            let all = items(&options, &summary).unwrap().map(|item| match item {
                Ok(item) => item.name.to_string(),
                Err(failure) => failure.to_string(),
            });
            all.collect::<Vec<_>>()
        };
        let plain = told(&["-r", root, "x"]);
        assert!(plain[0] == "x/file" && plain.len() == 3, "{plain:?}");
        assert!(
            plain[1..].iter().all(|line| line.contains("symbolic link")),
            "{plain:?}"
        );
        let followed = told(&["-r", "-L", root, "x"]);
        assert!(
            followed[..2] == ["x/file", "x/link"] && followed[2].contains("loop"),
            "{followed:?}"
        );
        let absent = dir.path().join("absent");
        assert_eq!(
            told(&[absent.to_str().unwrap(), "x"]),
            ["x"],
            "it is told when it is opened"
        );
        // A name of an unfinished download goes alone: get would refuse it ever after.
        std::fs::remove_file(format!("{root}/self")).unwrap();
        std::fs::rename(format!("{root}/file"), format!("{root}/a.cstore-part")).unwrap();
        assert!(
            told(&["-r", root, "x"])[0].contains("unfinished download"),
            "{:?}",
            told(&["-r", root, "x"])
        );
        let part = format!("{root}/a.cstore-part");
        assert_eq!(told(&[&part, "x/"]), ["x/a.cstore-part"]);
    }
}

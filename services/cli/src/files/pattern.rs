//! Patterns of `--exclude`.

use std::path::Path;

use super::glob::Glob;

/// A [`Glob`] that leaves out files and folders.
///
/// A pattern without a `/` inside matches the last part of a path at any depth; one with a `/` matches
/// the whole path below the folder that is copied. A pattern with a trailing `/` matches folders only.
/// An excluded folder is skipped with all its contents.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    glob: Glob,
    is_of_path: bool,
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// The rule that `text` breaks.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let inner = text.strip_suffix('/').unwrap_or(text);
        let path = text.strip_prefix('/').unwrap_or(text);
        if matches!(path, "" | "/") {
            return Err("must be a pattern such as *.log, .git/ or build/*.o".to_owned());
        }
        Ok(Self {
            glob: Glob::new(path)?,
            is_of_path: inner.contains('/'),
        })
    }

    fn is_match(&self, relative: &Path, is_folder: bool) -> bool {
        if self.glob.is_of_folders() && !is_folder {
            return false;
        }
        let compared = match relative.file_name() {
            Some(last) if !self.is_of_path => last.to_string_lossy(),
            _ => relative.to_string_lossy(),
        };
        self.glob.is_folder_match(&compared)
    }
}

/// Returns true if a pattern excludes the file or folder at the path `relative` itself.
pub(super) fn is_excluded(patterns: &[Pattern], relative: &Path, is_folder: bool) -> bool {
    patterns
        .iter()
        .any(|pattern| pattern.is_match(relative, is_folder))
}

/// Returns true if a pattern excludes the file at the path `relative`, or a folder above it.
pub(super) fn is_file_excluded(patterns: &[Pattern], relative: &Path) -> bool {
    let mut above = relative.ancestors().skip(1);
    is_excluded(patterns, relative, false)
        || above.any(|folder| !folder.as_os_str().is_empty() && is_excluded(patterns, folder, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_about_last_parts_paths_and_folders() {
        for (pattern, path, excluded) in [
            ("*.log", "a/b.log", true),
            ("*.log", "b.log.txt", false),
            ("*.log", "a.log/b", true),
            (".git/", "a/.git/refs/x", true),
            (".git/", "a/.git", false),
            ("/b", "b", true),
            ("/b", "a/b", false),
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", true),
            ("a/*.o", "a/b/c.o", false),
            ("a/**/*.o", "a/b/c.o", true),
            ("[ab]?", "b1", true),
            ("{x,y}", "y", true),
        ] {
            let patterns = [Pattern::new(pattern).unwrap()];
            assert_eq!(
                is_file_excluded(&patterns, Path::new(path)),
                excluded,
                "{pattern} {path}"
            );
        }
        for bad in ["", "/", "[a", "{a"] {
            assert!(Pattern::new(bad).is_err(), "{bad:?}");
        }
    }
}

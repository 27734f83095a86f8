//! Files that an argument stands for: one file, a folder, or what a pattern matches.
//!
//! A name that exists takes precedence over the pattern of the same text, since names may contain `*`. Names
//! come from the gateway page by page, so memory does not grow with them.

use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};

use super::glob::{Glob, has_wildcards};
use super::list::{Entry, Names, is_any_below};
use super::{Session, folder, name, prefix};
use crate::args::files::Expand;
use crate::exit::{End, Failure};

/// Files that one argument stands for.
#[derive(Debug)]
pub(super) enum Selection {
    File(String),
    /// All files whose names begin with this prefix, which is that of a folder.
    Folder(String),
    /// Files that the pattern matches, and if `recursive` all files below folders that it matches.
    Pattern {
        glob: Glob,
        recursive: bool,
    },
}

impl Selection {
    /// Finds out what an argument stands for. Asks the gateway only if it has wildcards.
    ///
    /// # Errors
    /// If the text is mistyped, or the gateway does not say whether there is such a name.
    pub(super) async fn of(
        session: &Session,
        text: &str,
        recursive: bool,
        expand: Expand,
    ) -> Result<Self, Failure> {
        if let Some(glob) = glob(text, expand) {
            // Checks what no name can have, such as a leading /.
            prefix(text)?;
            if !is_there(session, text, recursive).await? {
                return Ok(Self::Pattern { glob, recursive });
            }
        }
        if recursive {
            folder(text).map(Self::Folder)
        } else {
            name(text).map(|name| Self::File(name.to_string()))
        }
    }

    /// Returns true if the file is one of these.
    pub(super) fn takes(&self, name: &str) -> bool {
        match self {
            Self::File(file) => file == name,
            Self::Folder(prefix) => name.starts_with(prefix.as_str()),
            Self::Pattern { glob, recursive } if *recursive => glob.covers(name),
            Self::Pattern { glob, .. } => glob.is_match(name),
        }
    }

    /// Returns the argument as users type it.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Folder(prefix) if prefix.is_empty() => "/",
            Self::File(text) | Self::Folder(text) => text,
            Self::Pattern { glob, .. } => glob.text(),
        }
    }

    /// Returns true if the argument stands for all files of the store, or for all files or folders
    /// at its root: `/`, `*`, `**`, `*/*`, and patterns that do the same.
    pub(super) fn is_everything(&self) -> bool {
        // Private characters, which are in no name. Patterns that match names of some length only do
        // not match both.
        let every = |folders: &str| {
            ["\u{f8ff}\u{f8fe}\u{f8ff}\u{f8fe}", "\u{f8fe}"]
                .map(|part| format!("{folders}{}", part.repeat(7)))
                .iter()
                .all(|name| self.takes(name))
        };
        match self {
            Self::File(_) => false,
            Self::Folder(prefix) => prefix.is_empty(),
            Self::Pattern { .. } => ["", "\u{f8fe}/", "\u{f8fe}/\u{f8ff}/"]
                .iter()
                .any(|folders| every(folders)),
        }
    }

    /// Returns the names, with sizes where a list has them. A folder or a pattern without a file is
    /// a failure.
    pub(super) fn names<'a>(
        &'a self,
        session: &'a Session,
    ) -> BoxStream<'a, Result<(String, Option<u64>), Failure>> {
        let (prefix, is_of_one_folder) = match self {
            Self::File(name) => {
                return stream::iter([Ok((name.clone(), None))]).boxed();
            }
            Self::Folder(prefix) => (prefix.as_str(), false),
            Self::Pattern { glob, recursive } => (glob.prefix(), glob.is_flat() && !recursive),
        };
        let names = if is_of_one_folder {
            Names::of_one_folder(session, prefix)
        } else {
            Names::below(session, prefix)
        };
        let listing = Listing {
            session,
            selection: self,
            names,
            is_any: false,
            is_any_folder: false,
        };
        stream::unfold(listing, |mut listing| async {
            let next = listing.next().await?;
            Some((next, listing))
        })
        .boxed()
    }
}

/// Names of a folder or of a pattern, as they come.
struct Listing<'a> {
    session: &'a Session,
    selection: &'a Selection,
    names: Names<'a>,
    /// True after a name, or a failure.
    is_any: bool,
    /// True if the pattern matches a folder, which it does not take without --recursive.
    is_any_folder: bool,
}

impl Listing<'_> {
    async fn next(&mut self) -> Option<Result<(String, Option<u64>), Failure>> {
        loop {
            // Boxed, because this future is part of larger ones.
            match self.names.next_entry().boxed().await {
                Some(Ok(Entry::File(name, size))) if self.is_listed(&name) => {
                    self.is_any = true;
                    return Some(Ok((name, Some(size))));
                }
                Some(Ok(Entry::File(name, _))) => {
                    let folder = name.rsplit_once('/').map(|(folder, _)| folder);
                    self.is_any_folder |= folder.is_some_and(|folder| self.is_folder(folder));
                }
                Some(Ok(Entry::Folder(prefix))) => {
                    self.is_any_folder |= self.is_folder(prefix.trim_end_matches('/'));
                }
                Some(Err(failure)) => {
                    self.is_any = true;
                    return Some(Err(failure));
                }
                None if self.is_any => return None,
                None => {
                    self.is_any = true;
                    return Some(Err(self.nothing().boxed().await));
                }
            }
        }
    }

    /// Returns true if the list of the gateway shall have the name. A name that is not below the
    /// folder is passed on, so that its failure shows that the gateway is wrong.
    fn is_listed(&self, name: &str) -> bool {
        matches!(self.selection, Selection::Folder(_)) || self.selection.takes(name)
    }

    fn is_folder(&self, folder: &str) -> bool {
        matches!(self.selection, Selection::Pattern { glob, .. } if glob.is_folder_match(folder))
    }

    async fn nothing(&self) -> Failure {
        match self.selection {
            Selection::Pattern { glob, .. } => no_match(glob, self.is_any_folder),
            selection => nothing_below(self.session, selection.text()).await,
        }
    }
}

/// Returns the failure of a folder without a file, with a hint if the name is that of a file.
pub(super) async fn nothing_below(session: &Session, shown: &str) -> Failure {
    let name = shown.trim_end_matches('/');
    // Asked once: it is only a hint.
    if !name.is_empty()
        && session
            .gateway
            .head(name)
            .await
            .is_ok_and(|answer| answer.is_success())
    {
        let why = "it is a file, and --recursive takes folders: leave --recursive away";
        return Failure::client(End::NotFound, why).of(name);
    }
    Failure::client(End::NotFound, "there is no file below it").of(shown)
}

/// Returns the failure of a pattern that matches no file, but perhaps folders.
pub(super) fn no_match(glob: &Glob, is_any_folder: bool) -> Failure {
    let why = if is_any_folder {
        "this pattern matches folders only, which --recursive takes"
    } else {
        "no name matches this pattern"
    };
    Failure::client(End::NotFound, why).of(glob.text())
}

/// Returns the pattern that a text is, if it has wildcards and may be expanded. A text that breaks
/// the syntax of patterns can only be a name.
pub(super) fn glob(text: &str, expand: Expand) -> Option<Glob> {
    let is_pattern = !expand.no_glob && has_wildcards(text);
    is_pattern.then(|| Glob::new(text).ok()).flatten()
}

/// Returns true if there is a file, or if `recursive` a folder, whose name is this text.
async fn is_there(session: &Session, text: &str, recursive: bool) -> Result<bool, Failure> {
    if recursive {
        return match folder(text) {
            Ok(prefix) => is_any_below(session, &prefix).await,
            Err(_) => Ok(false),
        };
    }
    if name(text).is_err() {
        return Ok(false);
    }
    match session.head(text).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.end() == End::NotFound => Ok(false),
        Err(failure) => Err(failure.of(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_spare_nothing_at_the_root_are_known() {
        for (text, recursive, expected) in [
            ("*", false, true),
            ("**", false, true),
            ("*/*", false, true),
            ("**/*", false, true),
            ("?*", false, true),
            ("[!x]*", false, true),
            ("{*,x}", false, true),
            ("*/", true, true),
            ("*", true, true),
            ("*/*/x", true, false),
            ("a*", true, false),
            ("*.jpg", true, false),
            ("**/*.jpg", true, false),
            ("a/**", true, false),
            ("????", false, false),
        ] {
            let glob = Glob::new(text).unwrap();
            let selection = Selection::Pattern { glob, recursive };
            assert_eq!(selection.is_everything(), expected, "{text} {recursive}");
        }
    }

    #[test]
    fn only_what_has_wildcards_and_is_well_formed_is_a_pattern() {
        let is_glob = |text, no_glob| glob(text, Expand { no_glob }).is_some();
        for text in ["*", "a?", "[ab]", "x/{a,b}", "a/**"] {
            assert!(is_glob(text, false) && !is_glob(text, true), "{text}");
        }
        for text in ["a", "{0a-1b}", "a[1", "a]", "a\\b"] {
            assert!(!is_glob(text, false), "{text}");
        }
    }
}

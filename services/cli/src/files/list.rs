//! `cstore ls`, and the names of a folder for the commands that work on all of them.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io::IsTerminal;

use serde::{Deserialize, Serialize};

use super::glob::{Glob, folders_of};
use super::out::human;
use super::{Session, prefix};
use crate::args::files::{Ls, SortKey};
use crate::exit::{End, Failure, printable};
use crate::limits::{LIST_PAGE, MAX_SORTED_NAMES};

#[derive(Debug, Deserialize)]
struct Page {
    files: Vec<File>,
    #[serde(default)]
    prefixes: Vec<String>,
    #[serde(default)]
    next_page_token: Option<String>,
}

impl Page {
    /// Returns the files and folders of the page, without an order.
    fn lines(self) -> Vec<Line> {
        let folders = self.prefixes.into_iter();
        let folders = folders.map(|prefix| Line::Folder { prefix });
        self.files
            .into_iter()
            .map(Line::File)
            .chain(folders)
            .collect()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    name: String,
    size: u64,
    etag: String,
    #[serde(default)]
    content_type: String,
    #[serde(default)]
    modified: String,
    #[serde(default)]
    modified_ms: i64,
    #[serde(default)]
    blocks: u64,
}

/// Line of a list: a file, or a folder with its content.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Line {
    File(File),
    Folder { prefix: String },
}

impl Line {
    fn name(&self) -> &str {
        match self {
            Self::File(file) => &file.name,
            Self::Folder { prefix } => prefix,
        }
    }

    /// Returns the order of two lines. Equal sizes and times are ordered by name.
    fn order(&self, other: &Self, key: SortKey) -> Ordering {
        let by_name = || self.name().cmp(other.name());
        match (self, other) {
            (Self::File(one), Self::File(other)) => match key {
                SortKey::Name => by_name(),
                SortKey::Size => other.size.cmp(&one.size).then_with(by_name),
                SortKey::Time => other.modified_ms.cmp(&one.modified_ms).then_with(by_name),
            },
            (Self::File(_), Self::Folder { .. }) if key != SortKey::Name => Ordering::Less,
            (Self::Folder { .. }, Self::File(_)) if key != SortKey::Name => Ordering::Greater,
            _ => by_name(),
        }
    }

    fn text(&self, columns: Option<Columns>) -> String {
        let Some(columns) = columns else {
            return printable(self.name());
        };
        let (size, modified, etag, kind) = match self {
            Self::File(file) => (
                human(file.size),
                printable(&file.modified),
                printable(&file.etag),
                printable(&file.content_type),
            ),
            Self::Folder { .. } => {
                let none = String::new;
                ("folder".to_owned(), none(), none(), none())
            }
        };
        let mut line = format!("{size:>10}  {modified:<29}  ");
        if columns.has_etag {
            line.push_str(&format!("{etag:<40}  "));
        }
        if columns.has_type {
            line.push_str(&format!("{kind:<24}  "));
        }
        line + &printable(self.name())
    }
}

/// Columns of a long list beside size, time and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Columns {
    has_etag: bool,
    has_type: bool,
}

impl Columns {
    /// Chooses the columns that leave room for names on a terminal of `width` characters; all of
    /// them if the output is no terminal.
    fn fitting(width: Option<u16>) -> Self {
        /// Characters of size and time with their gaps.
        const ALWAYS: u16 = 43;
        /// Characters of the type with its gap.
        const TYPE: u16 = 26;
        /// Characters of the ETag with its gap.
        const ETAG: u16 = 42;
        /// Characters of a name that must have room.
        const NAME: u16 = 30;
        let width = width.unwrap_or(u16::MAX);
        Self {
            has_etag: width >= ALWAYS + TYPE + ETAG + NAME,
            has_type: width >= ALWAYS + TYPE + NAME,
        }
    }
}

/// Returns the width of the terminal that stdout is.
fn terminal_width() -> Option<u16> {
    let is_terminal = std::io::stdout().is_terminal();
    let size = is_terminal.then(|| console::Term::stdout().size_checked())?;
    size.map(|(_, columns)| columns)
}

pub(super) async fn run(session: &Session, options: &Ls) -> Result<(), Failure> {
    let choice = Choice::of(session, options).await?;
    let columns = options.long.then(|| Columns::fitting(terminal_width()));
    let is_in_order = options.sort == SortKey::Name && !options.reverse;
    let limit = options.limit.unwrap_or(u64::MAX);
    let mut shown = 0;
    let mut held = Vec::new();
    let mut last = String::new();
    let mut pages = Pages::new(session, choice.prefix(), choice.delimiter());
    while shown < limit
        && let Some(page) = pages
            .next(match (is_in_order, &choice.glob) {
                (true, None) => limit - shown,
                _ => LIST_PAGE,
            })
            .await?
    {
        let mut lines = page.lines();
        lines.sort_by(|one, other| one.order(other, SortKey::Name));
        let mut lines = choice.lines(lines, &mut last);
        if !is_in_order {
            held.append(&mut lines);
            if held.len() > MAX_SORTED_NAMES {
                return Err(Failure::Failed(format!(
                    "more than {MAX_SORTED_NAMES} names are not sorted here; without --sort and --reverse they are listed by name"
                )));
            }
            continue;
        }
        shown += show(session, &lines, columns, limit - shown)?;
    }
    held.sort_by(|one, other| one.order(other, options.sort));
    if options.reverse {
        held.reverse();
    }
    shown += show(session, &held, columns, limit - shown)?;

    match &choice.glob {
        _ if shown > 0 => Ok(()),
        Some(glob) => Err(super::select::no_match(glob, false)),
        None if choice.prefix().is_empty() => Ok(()),
        None => Err(nothing(&options.prefix)),
    }
}

/// Names that a list shows: those with a prefix, or those that a pattern matches.
struct Choice<'a> {
    prefix: &'a str,
    glob: Option<Glob>,
    recursive: bool,
}

impl<'a> Choice<'a> {
    /// Takes the argument as a pattern if it has wildcards and no name begins with it.
    async fn of(session: &Session, options: &'a Ls) -> Result<Self, Failure> {
        let prefix = prefix(&options.prefix)?;
        let glob = match super::select::glob(prefix, options.expand) {
            Some(glob) if !is_any_below(session, prefix).await? => Some(glob),
            _ => None,
        };
        Ok(Self {
            prefix,
            glob,
            recursive: options.recursive,
        })
    }

    fn prefix(&self) -> &str {
        self.glob.as_ref().map_or(self.prefix, Glob::prefix)
    }

    fn delimiter(&self) -> &'static str {
        let is_of_one_folder = self.glob.as_ref().is_none_or(Glob::is_flat);
        if is_of_one_folder && !self.recursive {
            "/"
        } else {
            ""
        }
    }

    /// Returns those of `lines` that are shown, with a line for each folder that the pattern
    /// matches. `lines` MUST be in the order of names; `last` is the last name of the lines before.
    fn lines(&self, lines: Vec<Line>, last: &mut String) -> Vec<Line> {
        let Some(glob) = &self.glob else {
            return lines;
        };
        let mut chosen = Vec::new();
        for line in lines {
            let name = line.name();
            if self.recursive {
                if glob.covers(name) {
                    chosen.push(line);
                }
                continue;
            }
            // A name below a folder that the name before is in as well shows no folder again.
            for folder in folders_of(name) {
                let is_seen = last
                    .strip_prefix(folder)
                    .is_some_and(|rest| rest.starts_with('/'));
                if !is_seen && glob.is_folder_match(folder) {
                    let prefix = format!("{folder}/");
                    chosen.push(Line::Folder { prefix });
                }
            }
            name.clone_into(last);
            if matches!(line, Line::File(_)) && glob.is_match(name) {
                chosen.push(line);
            }
        }
        chosen
    }
}

/// Returns the failure of a list that is empty although a prefix was given.
fn nothing(prefix: &str) -> Failure {
    let message = format!("there is no name that begins with {prefix:?}");
    Failure::client(End::NotFound, message)
}

/// Prints lines, at most `limit`, and returns how many.
fn show(
    session: &Session,
    lines: &[Line],
    columns: Option<Columns>,
    limit: u64,
) -> Result<u64, Failure> {
    let mut shown = 0;
    for line in lines {
        if shown == limit {
            break;
        }
        session.out.show(line, || line.text(columns))?;
        shown += 1;
    }
    Ok(shown)
}

/// Pages, one after the other.
struct Pages<'a> {
    session: &'a Session,
    prefix: &'a str,
    delimiter: &'a str,
    /// Token of the next page; `None` after the last one.
    token: Option<String>,
}

impl<'a> Pages<'a> {
    fn new(session: &'a Session, prefix: &'a str, delimiter: &'a str) -> Self {
        Self {
            session,
            prefix,
            delimiter,
            token: Some(String::new()),
        }
    }

    async fn next(&mut self, most: u64) -> Result<Option<Page>, Failure> {
        let Some(token) = self.token.take() else {
            return Ok(None);
        };
        let gateway = &self.session.gateway;
        let ask = || {
            gateway.list_some(
                self.prefix,
                self.delimiter,
                Some(most.min(LIST_PAGE)),
                &token,
            )
        };
        let mut page: Page = self.session.ask(ask).await?.parse()?;
        self.token = page.next_page_token.take().filter(|next| !next.is_empty());
        if self.token.as_ref() == Some(&token) {
            return Err(Failure::Failed(
                "the gateway's list does not go on: two pages begin alike".to_owned(),
            ));
        }
        Ok(Some(page))
    }
}

/// Entry of a list: a file with its size, or a folder that was not opened.
#[derive(Debug)]
pub(super) enum Entry {
    File(String, u64),
    Folder(String),
}

/// Names with a prefix, a page of them in memory.
pub(super) struct Names<'a> {
    pages: Pages<'a>,
    found: VecDeque<Entry>,
    broken: bool,
}

impl<'a> Names<'a> {
    /// Makes a list of all files whose names begin with `prefix`.
    pub(super) fn below(session: &'a Session, prefix: &'a str) -> Self {
        Self::new(session, prefix, "")
    }

    /// Makes a list of the files and folders of one folder: names with a `/` behind `prefix` are
    /// listed as their folder.
    pub(super) fn of_one_folder(session: &'a Session, prefix: &'a str) -> Self {
        Self::new(session, prefix, "/")
    }

    fn new(session: &'a Session, prefix: &'a str, delimiter: &'a str) -> Self {
        Self {
            pages: Pages::new(session, prefix, delimiter),
            found: VecDeque::new(),
            broken: false,
        }
    }

    /// Returns the next file or folder. Returns `None` after a failure.
    pub(super) async fn next_entry(&mut self) -> Option<Result<Entry, Failure>> {
        while self.found.is_empty() && !self.broken {
            match self.pages.next(LIST_PAGE).await {
                Ok(None) => return None,
                Ok(Some(page)) => {
                    let files = page.files.into_iter();
                    self.found
                        .extend(files.map(|file| Entry::File(file.name, file.size)));
                    self.found
                        .extend(page.prefixes.into_iter().map(Entry::Folder));
                }
                Err(failure) => {
                    self.broken = true;
                    return Some(Err(failure));
                }
            }
        }
        self.found.pop_front().map(Ok)
    }
}

/// Returns true if a name begins with `prefix`.
pub(super) async fn is_any_below(session: &Session, prefix: &str) -> Result<bool, Failure> {
    let mut pages = Pages::new(session, prefix, "");
    while let Some(page) = pages.next(1).await? {
        if !page.files.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size: u64, modified_ms: i64) -> Line {
        Line::File(File {
            name: name.to_owned(),
            size,
            etag: "e-1".to_owned(),
            content_type: "text/plain".to_owned(),
            modified: "M".to_owned(),
            modified_ms,
            blocks: 1,
        })
    }

    fn folder(prefix: &str) -> Line {
        Line::Folder {
            prefix: prefix.to_owned(),
        }
    }

    #[test]
    fn lists_have_the_order_that_was_asked_for() {
        for (key, expected) in [
            (SortKey::Name, "a b c/ d e/"),
            (SortKey::Size, "b a d c/ e/"),
            (SortKey::Time, "d a b c/ e/"),
        ] {
            let mut lines = [
                folder("e/"),
                file("a", 5, 2),
                folder("c/"),
                file("d", 5, 3),
                file("b", 9, 2),
            ];
            lines.sort_by(|one, other| one.order(other, key));
            let names: Vec<&str> = lines.iter().map(Line::name).collect();
            assert_eq!(names.join(" "), expected, "{key:?}");
        }
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_a_pipe_gets_all() {
        let all = Columns {
            has_etag: true,
            has_type: true,
        };
        assert_eq!(Columns::fitting(None), all);
        assert_eq!(Columns::fitting(Some(141)), all);
        let narrow = Columns::fitting(Some(80));
        assert!(!narrow.has_etag && !narrow.has_type);
        assert!(Columns::fitting(Some(120)).has_type && !Columns::fitting(Some(120)).has_etag);
        let line = file("a-name", 5, 0).text(Some(narrow));
        assert!(
            line.ends_with("M                              a-name") && line.len() < 80,
            "{line}"
        );
        // A folder stands in the column of names, too.
        for columns in [narrow, all] {
            let (one, other) = (
                file("xx", 1, 0).text(Some(columns)),
                folder("xx").text(Some(columns)),
            );
            assert_eq!(one.find("xx"), other.find("xx"));
        }
    }
}

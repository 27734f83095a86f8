//! `cstore ls`, and the names of a folder for the commands that work on all of them.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io::IsTerminal;

use serde::{Deserialize, Serialize};

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
    let delimiter = if options.recursive { "" } else { "/" };
    let columns = options.long.then(|| Columns::fitting(terminal_width()));
    let is_in_order = options.sort == SortKey::Name && !options.reverse;
    let limit = options.limit.unwrap_or(u64::MAX);
    let mut shown = 0;
    let mut held = Vec::new();
    let mut pages = Pages::new(session, prefix(&options.prefix)?, delimiter);
    while shown < limit
        && let Some(page) = pages
            .next(if is_in_order {
                limit - shown
            } else {
                LIST_PAGE
            })
            .await?
    {
        let mut lines = page.lines();
        if !is_in_order {
            held.append(&mut lines);
            if held.len() > MAX_SORTED_NAMES {
                return Err(Failure::Failed(format!(
                    "more than {MAX_SORTED_NAMES} names are not sorted here; without --sort and --reverse they are listed by name"
                )));
            }
            continue;
        }
        lines.sort_by(|one, other| one.order(other, SortKey::Name));
        shown += show(session, &lines, columns, limit - shown)?;
    }
    held.sort_by(|one, other| one.order(other, options.sort));
    if options.reverse {
        held.reverse();
    }
    shown += show(session, &held, columns, limit - shown)?;

    if shown == 0 && !prefix(&options.prefix)?.is_empty() {
        return Err(nothing(&options.prefix));
    }
    Ok(())
}

/// Returns the failure of a list that is empty although a prefix was given.
fn nothing(prefix: &str) -> Failure {
    let hint = match prefix.contains(['*', '?', '[']) {
        true => "; patterns are not expanded",
        false => "",
    };
    let message = format!("there is no name that begins with {prefix:?}{hint}");
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

/// All names with a prefix, a page of them in memory.
pub(super) struct Names<'a> {
    pages: Pages<'a>,
    found: VecDeque<(String, u64)>,
    broken: bool,
}

impl<'a> Names<'a> {
    pub(super) fn below(session: &'a Session, prefix: &'a str) -> Self {
        Self {
            pages: Pages::new(session, prefix, ""),
            found: VecDeque::new(),
            broken: false,
        }
    }

    /// Returns the next name and its size. Returns `None` after a failure.
    pub(super) async fn next(&mut self) -> Option<Result<(String, u64), Failure>> {
        while self.found.is_empty() && !self.broken {
            match self.pages.next(LIST_PAGE).await {
                Ok(None) => return None,
                Ok(Some(page)) => self
                    .found
                    .extend(page.files.into_iter().map(|file| (file.name, file.size))),
                Err(failure) => {
                    self.broken = true;
                    return Some(Err(failure));
                }
            }
        }
        self.found.pop_front().map(Ok)
    }
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

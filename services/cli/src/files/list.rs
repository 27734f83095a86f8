//! `cstore ls`, and the names of a folder for the commands that work on all of them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::out::human;
use super::{Session, all_of};
use crate::args::files::Ls;
use crate::exit::{Failure, printable};
use crate::limits::LIST_PAGE;

#[derive(Debug, Deserialize)]
struct Page {
    files: Vec<File>,
    #[serde(default)]
    prefixes: Vec<String>,
    #[serde(default)]
    next_page_token: Option<String>,
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

    fn text(&self, long: bool) -> String {
        match self {
            Self::File(file) if long => format!(
                "{:>10}  {:<29}  {:<40}  {:<24}  {}",
                human(file.size),
                printable(&file.modified),
                printable(&file.etag),
                printable(&file.content_type),
                printable(&file.name)
            ),
            Self::Folder { prefix } if long => {
                format!("{:>10}{:<101}{}", "folder", "", printable(prefix))
            }
            line => printable(line.name()),
        }
    }
}

pub(super) async fn run(session: &Session, options: &Ls) -> Result<(), Failure> {
    let delimiter = if options.recursive { "" } else { "/" };
    let mut left = options.limit.unwrap_or(u64::MAX);
    let mut pages = Pages::new(session, all_of(&options.prefix), delimiter);
    while left > 0
        && let Some(page) = pages.next(left).await?
    {
        let folders = page
            .prefixes
            .into_iter()
            .map(|prefix| Line::Folder { prefix });
        let mut lines: Vec<Line> = page
            .files
            .into_iter()
            .map(Line::File)
            .chain(folders)
            .collect();
        lines.sort_by(|one, other| one.name().cmp(other.name()));
        for line in lines {
            if left == 0 {
                break;
            }
            session.out.show(&line, || line.text(options.long))?;
            left -= 1;
        }
    }
    Ok(())
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

//! Lists of files, page by page, with folders rolled up.

use cstore_types::limits::{MAX_NAME_BYTES, MAX_PAGE_SIZE};
use cstore_types::{Fault, FileMeta, Tenant};

use super::Namespace;
use crate::limits::SCANNED_NAMES;
use crate::store::keys::{self, FileRecord};

/// A request for one page of names.
#[derive(Debug, Clone)]
pub(crate) struct ListQuery {
    pub(crate) tenant: Tenant,
    pub(crate) prefix: String,
    pub(crate) delimiter: Option<char>,
    pub(crate) page_size: usize,
    pub(crate) page_token: String,
}

/// One page of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) files: Vec<ListedFile>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) next_page_token: String,
}

/// A file in a list. Its name is the text that the store has, so that no name can break a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListedFile {
    pub(crate) name: String,
    pub(crate) meta: FileMeta,
}

impl ListQuery {
    /// Checks the fields of a request.
    ///
    /// # Errors
    /// `invalid_argument` that names the field and its bound.
    pub(crate) fn new(
        tenant: Tenant,
        prefix: String,
        delimiter: &str,
        page_size: u32,
        page_token: String,
    ) -> Result<Self, Fault> {
        let invalid = |text: String| Err(Fault::invalid(text));
        let mut characters = delimiter.chars();
        let delimiter = characters.next();
        if characters.next().is_some() {
            return invalid("delimiter must be empty or one character".to_owned());
        }
        if prefix.len() > MAX_NAME_BYTES {
            return invalid(format!(
                "prefix must have at most {MAX_NAME_BYTES} bytes, found {}",
                prefix.len()
            ));
        }
        if page_size > MAX_PAGE_SIZE {
            return invalid(format!(
                "page size must be 1 to {MAX_PAGE_SIZE}, found {page_size}"
            ));
        }
        let page_size = if page_size == 0 {
            MAX_PAGE_SIZE
        } else {
            page_size
        } as usize;
        Ok(Self {
            tenant,
            prefix,
            delimiter,
            page_size,
            page_token,
        })
    }

    /// Returns a checksum that binds a token to the query that it continues.
    fn check_value(&self) -> u32 {
        let parts = [self.tenant.as_str(), "\0", &self.prefix, "\0"];
        let crc = parts
            .iter()
            .fold(0, |crc, part| crc32c::crc32c_append(crc, part.as_bytes()));
        crc32c::crc32c_append(crc, &self.delimiter.map_or(0, u32::from).to_le_bytes())
    }

    fn token(&self, after: &[u8]) -> String {
        format!("1-{:08x}-{}", self.check_value(), hex::encode(after))
    }

    /// Returns the key after which the page begins.
    fn after(&self) -> Result<Option<Vec<u8>>, Fault> {
        if self.page_token.is_empty() {
            return Ok(None);
        }
        let invalid = || Fault::invalid("page token does not belong to this list");
        let rest = self
            .page_token
            .strip_prefix(&format!("1-{:08x}-", self.check_value()))
            .ok_or_else(invalid)?;
        let after = hex::decode(rest).map_err(|_| invalid())?;
        if after.starts_with(&keys::names_prefix(&self.tenant)) {
            Ok(Some(after))
        } else {
            Err(invalid())
        }
    }
}

impl Namespace {
    /// Returns the page of names that the query asks for.
    ///
    /// # Errors
    /// `invalid_argument` for a page token of another list.
    pub(crate) async fn list_files(&self, query: &ListQuery) -> Result<Page, Fault> {
        let names = keys::names_prefix(&query.tenant);
        let mut range = names.clone();
        range.extend(query.prefix.as_bytes());
        let mut after = query.after()?;
        let mut page = Page::default();
        loop {
            let found = self
                .context()
                .store
                .scan(&range, after.as_deref(), SCANNED_NAMES)
                .await?;
            let complete = found.len() < SCANNED_NAMES;
            let mut skipped = false;
            for (key, value) in found {
                if page.files.len() + page.prefixes.len() == query.page_size {
                    page.next_page_token = query.token(after.as_deref().unwrap_or_default());
                    return Ok(page);
                }
                let name = String::from_utf8_lossy(key.get(names.len()..).unwrap_or_default())
                    .into_owned();
                if let Some(folder) = roll_up(&name, query) {
                    // The next key that can be listed lies after everything in this folder.
                    let mut last = names.clone();
                    last.extend(folder.as_bytes());
                    last.push(0xff);
                    page.prefixes.push(folder);
                    after = Some(last);
                    skipped = true;
                    break;
                }
                page.files.push(ListedFile {
                    name,
                    meta: FileRecord::decode(&value.value)?.meta,
                });
                after = Some(key);
            }
            if complete && !skipped {
                return Ok(page);
            }
        }
    }
}

/// Returns the folder that stands for a name: its text up to the first delimiter after the prefix.
fn roll_up(name: &str, query: &ListQuery) -> Option<String> {
    let rest = name.get(query.prefix.len()..)?;
    let delimiter = query.delimiter?;
    let at = rest.find(delimiter)?;
    name.get(..query.prefix.len() + at + delimiter.len_utf8())
        .map(str::to_owned)
}

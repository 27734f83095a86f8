//! Lists of files, page by page, with folders rolled up.

use std::sync::Arc;

use cstore_types::limits::{MAX_NAME_BYTES, MAX_PAGE_SIZE};
use cstore_types::{Fault, FileMeta, Tenant};

use super::Namespace;
use crate::limits::SCANNED_NAMES;
use crate::store::SkipAfter;
use crate::store::keys::{self, FileRecord};

/// A request for one page of names.
#[derive(Debug, Clone)]
pub(crate) struct ListQuery {
    pub(crate) tenant: Tenant,
    pub(crate) prefix: String,
    /// Text that ends a folder; empty for none.
    pub(crate) delimiter: String,
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
        if delimiter.len() > MAX_NAME_BYTES {
            return invalid(format!(
                "delimiter must have at most {MAX_NAME_BYTES} bytes, found {}",
                delimiter.len()
            ));
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
            delimiter: delimiter.to_owned(),
            page_size,
            page_token,
        })
    }

    /// Returns a checksum that binds a token to the query that it continues.
    fn check_value(&self) -> u32 {
        let parts = [
            self.tenant.as_str(),
            "\0",
            &self.prefix,
            "\0",
            &self.delimiter,
        ];
        parts
            .iter()
            .fold(0, |crc, part| crc32c::crc32c_append(crc, part.as_bytes()))
    }

    fn token(&self, after: &[u8]) -> String {
        format!("2-{:08x}-{}", self.check_value(), hex::encode(after))
    }

    /// Returns the key after which the page begins.
    fn after(&self) -> Result<Option<Vec<u8>>, Fault> {
        if self.page_token.is_empty() {
            return Ok(None);
        }
        let invalid = || Fault::invalid("page token does not belong to this list");
        let rest = self
            .page_token
            .strip_prefix(&format!("2-{:08x}-", self.check_value()))
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
        let folders = Arc::new(Folders {
            names_at: names.len(),
            prefix_len: query.prefix.len(),
            delimiter: query.delimiter.clone(),
        });
        let skip: SkipAfter = {
            let folders = folders.clone();
            Arc::new(move |key| folders.end_of(key))
        };

        let mut after = query.after()?;
        let mut page = Page::default();
        loop {
            let listed = page.files.len() + page.prefixes.len();
            // One more than the page takes says whether another page follows.
            let wanted = (query.page_size + 1 - listed).min(SCANNED_NAMES);
            let store = &self.context().store;
            let found = store
                .scan_skipping(&range, after.as_deref(), wanted, Some(skip.clone()))
                .await?;
            let is_complete = found.len() < wanted;
            for (key, value) in found {
                if page.files.len() + page.prefixes.len() == query.page_size {
                    page.next_page_token = query.token(after.as_deref().unwrap_or_default());
                    return Ok(page);
                }
                let name = String::from_utf8_lossy(key.get(names.len()..).unwrap_or_default());
                if let Some(folder) = folders.of(&name) {
                    page.prefixes.push(folder.to_owned());
                    after = folders.end_of(&key).or(Some(key));
                    continue;
                }
                page.files.push(ListedFile {
                    name: name.into_owned(),
                    meta: FileRecord::decode(&value.value)?.meta,
                });
                after = Some(key);
            }
            if is_complete {
                return Ok(page);
            }
        }
    }
}

/// The folders of a list: names are rolled up to the first delimiter after the prefix.
#[derive(Debug)]
struct Folders {
    /// Bytes of a key before the name.
    names_at: usize,
    prefix_len: usize,
    /// Empty if nothing is rolled up.
    delimiter: String,
}

impl Folders {
    /// Returns the folder that stands for a name, with its delimiter at the end.
    fn of<'a>(&self, name: &'a str) -> Option<&'a str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = name.get(self.prefix_len..)?;
        let at = rest.find(&self.delimiter)?;
        name.get(..self.prefix_len + at + self.delimiter.len())
    }

    /// Returns the place after all keys of the folder that `key` is in. No name has a byte 0xff.
    fn end_of(&self, key: &[u8]) -> Option<Vec<u8>> {
        let name = std::str::from_utf8(key.get(self.names_at..)?).ok()?;
        let folder = self.of(name)?;
        let mut end = key.get(..self.names_at + folder.len())?.to_vec();
        end.push(0xff);
        Some(end)
    }
}

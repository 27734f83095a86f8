//! Lists of files, page by page, with folders rolled up.

use cstore_types::limits::{MAX_NAME_BYTES, MAX_PAGE_SIZE};
use cstore_types::{ErrorCode, Tenant};

use crate::core::Master;
use crate::error::Refusal;
use crate::meta::keys::{self, FileRecord};

const SCAN: usize = 256;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct ListQuery {
    pub(crate) tenant: Tenant,
    pub(crate) prefix: String,
    pub(crate) delimiter: Option<char>,
    pub(crate) page_size: usize,
    pub(crate) page_token: String,
}

/// One page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) files: Vec<(String, FileRecord)>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) next_page_token: String,
}

impl ListQuery {
    /// Checks what a caller sent.
    pub(crate) fn new(
        tenant: Tenant,
        prefix: String,
        delimiter: &str,
        page_size: u32,
        page_token: String,
    ) -> Result<Self, Refusal> {
        let invalid = |text: String| Err(Refusal::new(ErrorCode::InvalidArgument, text));
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
            return invalid(format!("page size must be 1 to {MAX_PAGE_SIZE}, found {page_size}"));
        }
        let page_size = if page_size == 0 { MAX_PAGE_SIZE } else { page_size } as usize;
        Ok(Self { tenant, prefix, delimiter, page_size, page_token })
    }

    /// Binds a token to the query that it continues.
    fn check_value(&self) -> u32 {
        let parts = [self.tenant.as_str(), "\0", &self.prefix, "\0"];
        let crc = parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part.as_bytes()));
        crc32c::crc32c_append(crc, &self.delimiter.map_or(0, u32::from).to_le_bytes())
    }

    fn token(&self, after: &[u8]) -> String {
        format!("1-{:08x}-{}", self.check_value(), hex::encode(after))
    }

    /// The key behind which the page begins.
    fn after(&self) -> Result<Option<Vec<u8>>, Refusal> {
        if self.page_token.is_empty() {
            return Ok(None);
        }
        let invalid = || Refusal::new(ErrorCode::InvalidArgument, "page token does not belong to this list");
        let rest =
            self.page_token.strip_prefix(&format!("1-{:08x}-", self.check_value())).ok_or_else(invalid)?;
        let after = hex::decode(rest).map_err(|_| invalid())?;
        if after.starts_with(&keys::names_prefix(&self.tenant)) { Ok(Some(after)) } else { Err(invalid()) }
    }
}

impl Master {
    pub(crate) async fn list_files(&self, query: &ListQuery) -> Result<Page, Refusal> {
        let names = keys::names_prefix(&query.tenant);
        let mut range = names.clone();
        range.extend(query.prefix.as_bytes());
        let mut after = query.after()?;
        let mut page = Page::default();
        loop {
            let found = self.meta.scan(&range, after.as_deref(), SCAN).await?;
            let complete = found.len() < SCAN;
            let mut skipped = false;
            for (key, value) in found {
                if page.files.len() + page.prefixes.len() == query.page_size {
                    page.next_page_token = query.token(after.as_deref().unwrap_or_default());
                    return Ok(page);
                }
                let name = String::from_utf8_lossy(key.get(names.len()..).unwrap_or_default()).into_owned();
                if let Some(folder) = roll_up(&name, query) {
                    // The next key that can be listed lies behind everything in this folder.
                    let mut last = names.clone();
                    last.extend(folder.as_bytes());
                    last.push(0xff);
                    page.prefixes.push(folder);
                    after = Some(last);
                    skipped = true;
                    break;
                }
                page.files.push((name, FileRecord::decode(&value.value)?));
                after = Some(key);
            }
            if complete && !skipped {
                return Ok(page);
            }
        }
    }
}

/// The folder that stands for a name: up to the first delimiter behind the prefix.
fn roll_up(name: &str, query: &ListQuery) -> Option<String> {
    let rest = name.get(query.prefix.len()..)?;
    let delimiter = query.delimiter?;
    let at = rest.find(delimiter)?;
    name.get(..query.prefix.len() + at + delimiter.len_utf8()).map(str::to_owned)
}

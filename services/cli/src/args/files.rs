//! Arguments of the commands over files.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use cstore_types::limits::MAX_CONTENT_TYPE_BYTES;

use crate::files::pattern::Pattern;
use crate::limits::{MAX_JOBS, MAX_RETRIES};

/// Which gateway, who asks, and how it is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Door {
    /// The gateway [default: CSTORE_URL, or http://127.0.0.1:8000]
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// File with an API token that the world cannot read [default: the token in CSTORE_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Results on stdout as JSON, one object a line, and errors on stderr likewise
    #[arg(long)]
    pub(crate) json: bool,
    /// Prints errors and requested output only, and draws no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Repeats of a request that failed, where a repeat is safe
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=MAX_RETRIES))]
    pub(crate) retries: u32,
}

/// How many at a time.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Jobs {
    /// Files at a time
    #[arg(long, short, default_value_t = 4, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_JOBS))]
    pub(crate) jobs: usize,
}

/// Flag that switches the expansion of patterns off.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Expand {
    /// Takes names as they are written: * ? [ and { are ordinary characters
    #[arg(long)]
    pub(crate) no_glob: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// Files, with --recursive also folders, or - for stdin
    #[arg(required = true)]
    pub(crate) src: Vec<PathBuf>,
    /// The new name; one that ends in / is a folder, into which everything goes under its own last
    /// name
    pub(crate) dest: String,
    /// Uploads folders with all files below them; permissions and empty folders are not kept
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Reads through symbolic links inside of folders, which are refused otherwise
    #[arg(long, short = 'L', requires = "recursive")]
    pub(crate) follow: bool,
    /// Leaves symbolic links inside of folders out, which are refused otherwise
    #[arg(long, requires = "recursive", conflicts_with = "follow")]
    pub(crate) skip_links: bool,
    /// Leaves files and folders out, such as '*.log', .git/ or 'build/*.o'; may be given several
    /// times
    #[arg(long, value_name = "GLOB", value_parser = Pattern::new, requires = "recursive")]
    pub(crate) exclude: Vec<Pattern>,
    /// Replaces files that are there
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Replaces only the file with this ETag
    #[arg(long, value_name = "ETAG", value_parser = etag, conflicts_with_all = ["overwrite", "recursive"])]
    pub(crate) if_match: Option<String>,
    /// Content type [default: guessed from the extension]
    #[arg(long, value_name = "TYPE", value_parser = content_type)]
    pub(crate) content_type: Option<String>,
    /// Metadata of the file; capital letters of a key become small ones; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) meta: Vec<(String, String)>,
    /// Reads each file twice and lets the gateway check its SHA-256, which it then keeps; not of
    /// stdin
    #[arg(long)]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) jobs: Jobs,
    #[command(flatten)]
    pub(crate) door: Door,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// A file, with --recursive a folder (/ is all), or a quoted pattern such as 'photos/*.jpg'
    pub(crate) name: String,
    /// Where to [default: the last part of the name, here]; a folder keeps that name, - is stdout. Of
    /// a pattern it is the folder, which is made if it is missing
    pub(crate) dest: Option<PathBuf>,
    /// Downloads all files below the folder
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Leaves files and folders out, such as '*.log', .git/ or 'build/*.o'; may be given several
    /// times
    #[arg(long, value_name = "GLOB", value_parser = Pattern::new, requires = "recursive")]
    pub(crate) exclude: Vec<Pattern>,
    /// Replaces files of this machine; equal files are left as they are
    #[arg(long, short)]
    pub(crate) force: bool,
    /// Reads what was received again and compares it with the digests that the gateway knows
    #[arg(long)]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) expand: Expand,
    #[command(flatten)]
    pub(crate) jobs: Jobs,
    #[command(flatten)]
    pub(crate) door: Door,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Names that begin with this, or that match a quoted pattern such as 'photos/*.jpg' [default:
    /// all]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Lists the files in folders as well
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Prints size, time, ETag and type as well
    #[arg(long, short)]
    pub(crate) long: bool,
    /// Prints at most N lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Order: by name, the largest first or the newest first; folders have neither size nor time and
    /// are last
    #[arg(
        long,
        value_name = "KEY",
        default_value = "name",
        hide_default_value = true
    )]
    pub(crate) sort: SortKey,
    /// Reverses the order
    #[arg(long)]
    pub(crate) reverse: bool,
    #[command(flatten)]
    pub(crate) expand: Expand,
    #[command(flatten)]
    pub(crate) door: Door,
}

/// Order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SortKey {
    Name,
    Size,
    Time,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stat {
    /// The file
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) door: Door,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Files, with --recursive folders (/ is all, and needs --all), or quoted patterns such as
    /// 'tmp/*.log'
    #[arg(required = true)]
    pub(crate) name: Vec<String>,
    /// Removes all files below the folders
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Together with /, or with a pattern that spares nothing such as '*': removes every file
    #[arg(long)]
    pub(crate) all: bool,
    /// Does not ask, whatever the number of files
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Removes nothing; prints which files would go and how much space that would free
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
    /// Removes only the file with this ETag
    #[arg(long, value_name = "ETAG", value_parser = etag, conflicts_with_all = ["recursive", "dry_run"])]
    pub(crate) if_match: Option<String>,
    #[command(flatten)]
    pub(crate) expand: Expand,
    #[command(flatten)]
    pub(crate) jobs: Jobs,
    #[command(flatten)]
    pub(crate) door: Door,
}

/// A second name, or a new one.
#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// The file
    pub(crate) src: String,
    /// The new name; one that ends in / is a folder, into which the file goes under its own last
    /// name
    pub(crate) dest: String,
    /// Replaces a file that is there
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Copies or renames only while the file has this ETag
    #[arg(long, value_name = "ETAG", value_parser = etag)]
    pub(crate) if_match: Option<String>,
    #[command(flatten)]
    pub(crate) door: Door,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Du {
    /// Names that begin with this [default: all]
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Sizes for people, as on a terminal
    #[arg(long, conflicts_with_all = ["bytes", "json"])]
    pub(crate) human: bool,
    /// Sizes in bytes, as in a pipe
    #[arg(long)]
    pub(crate) bytes: bool,
    #[command(flatten)]
    pub(crate) door: Door,
}

/// Checks that `text` can be an ETag in a header. Users type it with quotes or without.
fn etag(text: &str) -> Result<String, String> {
    let inner = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(text);
    let fine = !inner.is_empty()
        && inner
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"');
    if fine {
        Ok(text.to_owned())
    } else {
        Err("must be printable ASCII, as `stat` shows it".to_owned())
    }
}

/// Checks the content type by the gateway's rule: the gateway would refuse each file separately.
fn content_type(text: &str) -> Result<String, String> {
    let fine = (1..=MAX_CONTENT_TYPE_BYTES).contains(&text.len())
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let fine = fine && text.trim() == text;
    if fine {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 255 printable ASCII characters".to_owned())
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let found = text
        .split_once('=')
        .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()));
    found
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| "must be KEY=VALUE".to_owned())
}

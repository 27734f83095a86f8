//! `cstore get`: a file or a folder of the gateway becomes one of this machine, or flows to stdout.
//!
//! ```text
//! part of this very ETag here? ── no ──> GET ──────────────────────┐
//!            └─ yes ──> GET with Range and If-Range                │
//!                         206: the rest ──┐   200: another file ───┴──> part emptied, its ETag noted
//!                                         └──> bytes behind the part, until all are there
//! cut off, busy ──> again from what is here          all there ──> [verify] ─> fsync ─> rename
//! all there since before? ──> HEAD: still this ETag? ─> as above, else as another file
//! ```
//! Invariants: bytes of two states of a file never meet in one part; nothing stands under the final
//! name but a whole file; whatever the gateway says, only files below the destination are written.

mod note;
mod part;
mod place;
mod stdout;

use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use reqwest::header::{HeaderMap, HeaderValue, IF_RANGE, RANGE};
use serde::Serialize;

use self::part::Part;
pub(super) use self::part::is_reserved;
use super::Session;
use super::digest::{self, Same};
use super::known::Known;
use super::many::each;
use super::out::human;
use super::pattern::is_file_excluded;
use super::select::Selection;
use super::summary::{FileTotals, Summary};
use crate::args::files::Get;
use crate::client::{Download, Opened, Wait, header, quoted, stranger};
use crate::exit::{End, Failure, printable};

const CUT_SHORT: &str = "the answer was cut short";

/// Result for one file.
#[derive(Debug, Serialize)]
struct Got {
    /// `received`, `resumed` (a part was there) or `unchanged` (the whole was).
    status: &'static str,
    name: String,
    path: String,
    size: u64,
    etag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<bool>,
}

/// Outcome of a try.
enum Tried {
    Whole,
    /// The failed try may be repeated after this pause.
    Again(Failure, Wait),
}

pub(super) async fn run(session: &Session, options: &Get) -> Result<(), Failure> {
    if options.dest.as_deref() == Some(Path::new("-")) {
        return stdout::run(session, options).await;
    }
    session.out.progress();
    let expand = options.expand;
    let selection = Selection::of(session, &options.name, options.recursive, expand).await?;
    let summary = &Summary::begin("get");
    let (is_one, ended) = match &selection {
        Selection::File(name) => {
            let ended = one_file(session, options, summary, name).await;
            if ended.is_err() {
                summary.add_failure();
            }
            (true, ended)
        }
        Selection::Folder(prefix) => {
            let root = folder_root(options, prefix);
            let ended = many(session, options, summary, &selection, prefix, &root).await;
            (false, ended)
        }
        Selection::Pattern { glob, .. } => {
            let root = options.dest.as_deref().unwrap_or_else(|| Path::new("."));
            let ended = many(session, options, summary, &selection, glob.root(), root).await;
            (false, ended)
        }
    };
    summary.close(session, is_one, ended)
}

async fn one_file(
    session: &Session,
    options: &Get,
    summary: &Summary,
    name: &str,
) -> Result<(), Failure> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let path = match &options.dest {
        None => PathBuf::from(last),
        Some(dest) if is_folder(dest) => {
            make(session, name, dest).await?;
            dest.join(last)
        }
        Some(dest) if dest.is_dir() => dest.join(last),
        Some(dest) => dest.clone(),
    };
    if path
        .file_name()
        .and_then(|last| last.to_str())
        .is_some_and(is_reserved)
    {
        return Err(place::reserved().of(name));
    }
    match one(session, options, summary, name, &path).await {
        Ok(()) => Ok(()),
        Err(failure) => Err(session.hint(name, failure).await.of(name)),
    }
}

/// Makes the folder of a file, but for one that is not there.
async fn make(session: &Session, name: &str, folder: &Path) -> Result<(), Failure> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Err(failure) = Known::ask(session, name).await {
        return Err(session.hint(name, failure).await.of(name));
    }
    std::fs::create_dir_all(folder).map_err(|error| place::unusable(folder, &error).of(name))
}

fn is_folder(dest: &Path) -> bool {
    dest.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// Returns the folder of this machine that the folder of the gateway becomes.
fn folder_root(options: &Get, prefix: &str) -> PathBuf {
    let last = prefix.trim_end_matches('/').rsplit('/').next();
    let last = last.unwrap_or_default();
    match &options.dest {
        None => Path::new(".").join(last),
        Some(dest) if is_folder(dest) => dest.join(last),
        Some(dest) => dest.clone(),
    }
}

/// Downloads the files of a folder or a pattern. `prefix` is cut off their names, and the rest is the
/// path below `root`.
async fn many(
    session: &Session,
    options: &Get,
    summary: &Summary,
    selection: &Selection,
    prefix: &str,
    root: &Path,
) -> Result<(), Failure> {
    place::check_root(root)?;
    let names = selection.names(session).filter_map(|next| async move {
        match next {
            Ok((name, _)) if is_left_out(options, prefix, &name) => None,
            next => Some(next.map(|(name, _)| name)),
        }
    });
    let work = |name: String| async move {
        let path = place::below(root, prefix, &name).map_err(|failure| failure.of(&name))?;
        one(session, options, summary, &name, &path)
            .await
            .map_err(|failure| failure.of(&name))
    };
    let done = each(session, summary, options.jobs.jobs, names.boxed(), work).await?;
    if done == 0 {
        let message = "every file is left out by --exclude";
        return Err(Failure::client(End::NotFound, message).of(selection.text()));
    }
    Ok(())
}

/// Returns true if `--exclude` leaves the file out.
fn is_left_out(options: &Get, prefix: &str, name: &str) -> bool {
    let relative = name.strip_prefix(prefix).unwrap_or(name);
    is_file_excluded(&options.exclude, Path::new(relative))
}

async fn one(
    session: &Session,
    options: &Get,
    summary: &Summary,
    name: &str,
    path: &Path,
) -> Result<(), Failure> {
    session.out.at(name);
    let got = if let Some(known) = in_the_way(session, options, name, path).await? {
        // The bytes that are here were read and compared.
        let verified = options.verify.then_some(true);
        Got {
            status: "unchanged",
            verified,
            ..got(name, path, &known)
        }
    } else {
        fetch(session, options, name, path).await?
    };
    let text = || {
        format!(
            "{} -> {}  {}  {}",
            printable(name),
            printable(&got.path),
            human(got.size),
            got.status
        )
    };
    summary.add(FileTotals {
        is_unchanged: got.status == "unchanged",
        size: Some(got.size),
        new_bytes: None,
    });
    session.out.done(&got, text)
}

fn got(name: &str, path: &Path, known: &Known) -> Got {
    Got {
        status: "received",
        name: name.to_owned(),
        path: path.display().to_string(),
        size: known.size,
        etag: known.etag.clone(),
        verified: None,
    }
}

/// Refuses if the final name is taken and may not be replaced. Returns the file of the gateway if
/// the file in place has the same bytes.
async fn in_the_way(
    session: &Session,
    options: &Get,
    name: &str,
    path: &Path,
) -> Result<Option<Known>, Failure> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(place::unusable(path, &error)),
    };
    let taken = |why: &str| Failure::client(End::Conflict, format!("{} {why}", path.display()));
    if found.is_dir() {
        // If the name is a folder of the store, the failure is that `--recursive` is missing.
        Known::ask(session, name).await?;
        return Err(taken(
            "is a folder of this machine and is in the way; name another DEST, or remove it",
        ));
    }
    // A device or a pipe is there for others, also through a link such as /dev/stdout: not even
    // --force makes a file of it.
    let behind = if found.is_symlink() {
        std::fs::metadata(path).ok()
    } else {
        Some(found.clone())
    };
    if behind.is_some_and(|behind| !behind.is_file() && !behind.is_dir()) {
        return Err(taken(
            "is no ordinary file and is not replaced; - as DEST writes to stdout",
        ));
    }
    if found.is_file() {
        let known = Known::ask(session, name).await?;
        if matches!(digest::compare(path, &known).await, Ok(Same::Yes)) {
            return Ok(Some(known));
        }
    }
    if options.force {
        Ok(None)
    } else {
        Err(taken("is there already; --force replaces it"))
    }
}

async fn fetch(session: &Session, options: &Get, name: &str, path: &Path) -> Result<Got, Failure> {
    let mut part = Part::open(path, session.gateway.url(), name).await?;
    let mut again = session.again();
    loop {
        let before = part.len();
        let tried = match receive(session, name, &mut part).await {
            Ok(tried) => tried,
            Err(failure) => {
                // A removed file has no rest to fetch.
                if failure.end() == End::NotFound {
                    part.discard();
                }
                return Err(failure);
            }
        };
        if part.len() > before {
            again.progressed();
        }
        match tried {
            Tried::Whole => break,
            Tried::Again(failure, wait) => {
                if !session.pause(&mut again, &failure, wait).await {
                    part.keep().await?;
                    return Err(failure);
                }
            }
        }
    }
    let known = part
        .known()
        .cloned()
        .ok_or_else(|| Failure::Failed("nothing was received".to_owned()))?;
    part.keep().await?;
    if options.verify {
        match digest::compare(part.path(), &known)
            .await
            .map_err(|error| place::unusable(part.path(), &error))?
        {
            Same::Yes => {}
            Same::No => {
                part.discard();
                let message = "what arrived is not what the gateway has, and was thrown away";
                return Err(Failure::Failed(message.to_owned()));
            }
            Same::Unknown => {
                let message =
                    "the gateway knows no digest to compare with; without --verify it can be had";
                return Err(Failure::Failed(message.to_owned()));
            }
        }
    }
    let status = if part.is_resumed() {
        "resumed"
    } else {
        "received"
    };
    part.publish(path, options.force).await?;
    Ok(Got {
        status,
        verified: options.verify.then_some(true),
        ..got(name, path, &known)
    })
}

/// One request, and its body behind what is here.
async fn receive(session: &Session, name: &str, part: &mut Part) -> Result<Tried, Failure> {
    if part.is_whole() {
        // Only the bytes that this process has received are surely those of now.
        if !part.is_of_before() {
            return Ok(Tried::Whole);
        }
        match session.gateway.head(name).await {
            Err(lost) => return Ok(Tried::Again(session.lost(lost), lost.wait())),
            Ok(answer) if answer.is_busy() => {
                return Ok(Tried::Again(answer.failure(), answer.wait()));
            }
            Ok(answer) if answer.is_success() => {
                let now = Known::from_headers(&answer.headers, None)?;
                if part
                    .known()
                    .is_some_and(|known| (&known.etag, known.size) == (&now.etag, now.size))
                {
                    part.confirm();
                    return Ok(Tried::Whole);
                }
                part.restart(None).await?;
            }
            Ok(answer) => return Err(answer.failure()),
        }
    }
    let mut headers = HeaderMap::new();
    let from = part.len();
    if let Some(known) = part.known().filter(|_| from > 0) {
        headers.insert(RANGE, value(&format!("bytes={from}-"))?);
        headers.insert(IF_RANGE, value(&quoted(&known.etag))?);
    }
    let mut body = match session.gateway.open(name, headers).await {
        Err(lost) => return Ok(Tried::Again(session.lost(lost), lost.wait())),
        Ok(Opened::Body(body)) => body,
        Ok(Opened::Answer(answer)) if answer.is_busy() => {
            return Ok(Tried::Again(answer.failure(), answer.wait()));
        }
        // The file has become shorter than the part of it.
        Ok(Opened::Answer(answer)) if answer.status.as_u16() == 416 && from > 0 => {
            part.restart(None).await?;
            return Ok(Tried::Again(answer.failure(), Wait::Usual));
        }
        Ok(Opened::Answer(answer)) => return Err(answer.failure()),
    };
    gateways(&body)?;
    if !body.partial {
        part.restart(Some(Known::from_headers(&body.headers, body.length)?))
            .await?;
    } else if !continues(&body, part) {
        part.restart(None).await?;
        let message = "the gateway sent another range than it was asked for";
        return Ok(Tried::Again(
            Failure::Failed(message.to_owned()),
            Wait::Usual,
        ));
    }
    if body.partial {
        part.confirm();
    }
    session.out.expect(part.missing());
    let told = body_into(session, &mut body, part).await;
    session.out.back(0, part.missing());
    told
}

async fn body_into(
    session: &Session,
    body: &mut Download,
    part: &mut Part,
) -> Result<Tried, Failure> {
    loop {
        match body.next().await {
            Ok(Some(piece)) if piece.len() as u64 > part.missing() => {
                part.restart(None).await?;
                return Err(Failure::Failed(
                    "the gateway sent more than the file has".to_owned(),
                ));
            }
            Ok(Some(piece)) => {
                part.write(&piece).await?;
                session.out.moved(piece.len() as u64);
            }
            Ok(None) if part.missing() == 0 => return Ok(Tried::Whole),
            Ok(None) => {
                return Ok(Tried::Again(
                    Failure::client(End::Unavailable, CUT_SHORT),
                    Wait::Usual,
                ));
            }
            Err(lost) => {
                return Ok(Tried::Again(session.lost(lost), lost.wait()));
            }
        }
    }
}

/// Refuses a body that another server than a gateway has sent.
fn gateways(body: &Download) -> Result<(), Failure> {
    let traced = header(&body.headers, "x-cstore-trace-id").is_some();
    if traced {
        Ok(())
    } else {
        Err(stranger("an answer with a body"))
    }
}

/// Returns true if a 206 is the rest of the part.
fn continues(body: &Download, part: &Part) -> bool {
    let Some(known) = part.known() else {
        return false;
    };
    let wanted = format!(
        "bytes {}-{}/{}",
        part.len(),
        known.size.saturating_sub(1),
        known.size
    );
    header(&body.headers, "content-range") == Some(wanted.as_str())
        && header(&body.headers, "etag") == Some(quoted(&known.etag).as_str())
}

fn value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::try_from(text)
        .map_err(|_| Failure::Failed("the gateway's ETag cannot stand in a header".to_owned()))
}

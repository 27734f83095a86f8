//! `cstore get`: a file or a folder of the gateway becomes one of this machine, or flows to stdout.
//!
//! ```text
//! part of this very ETag here? ── no ──> GET ──────────────────────┐
//!            └─ yes ──> GET with Range and If-Range                │
//!                         206: the rest ──┐   200: another file ───┴──> part emptied, its ETag noted
//!                                         └──> bytes behind the part, until all are there
//! cut off, busy ──> again from what is here          all there ──> [verify] ─> fsync ─> rename
//! ```
//! Invariants: bytes of two states of a file never meet in one part; nothing stands under the final name but a whole
//! file; whatever the gateway says, only files below the destination are written.

mod part;
mod place;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use reqwest::header::{HeaderMap, HeaderValue, IF_MATCH, IF_RANGE, RANGE};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use self::part::Part;
use super::digest::{self, Same};
use super::known::Known;
use super::list::Names;
use super::many::each;
use super::out::human;
use super::{Session, folder, name};
use crate::args::files::Get;
use crate::client::{Download, Opened, Wait, header, quoted};
use crate::exit::{End, Failure, printable};

/// What became of one file.
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

/// What a try came to.
enum Tried {
    Whole,
    /// Another one can do no harm, after this pause.
    Again(Failure, Wait),
}

pub(super) async fn run(session: &Session, options: &Get) -> Result<(), Failure> {
    if options.dest.as_deref() == Some(Path::new("-")) {
        return to_stdout(session, options).await;
    }
    session.out.progress();
    if options.recursive {
        return whole_folder(session, options).await;
    }
    let name = name(&options.name)?.to_string();
    let last = name.rsplit('/').next().unwrap_or(&name);
    let path = match &options.dest {
        None => PathBuf::from(last),
        Some(dest) if dest.is_dir() || dest.as_os_str().as_encoded_bytes().ends_with(b"/") => dest.join(last),
        Some(dest) => dest.clone(),
    };
    one(session, options, &name, &path).await.map_err(|failure| failure.of(&name))
}

async fn whole_folder(session: &Session, options: &Get) -> Result<(), Failure> {
    let prefix = folder(&options.name)?;
    let last = prefix.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let root = match &options.dest {
        None => Path::new(".").join(last),
        Some(dest) if dest.as_os_str().as_encoded_bytes().ends_with(b"/") => dest.join(last),
        Some(dest) => dest.clone(),
    };
    let (root, prefix) = (root.as_path(), prefix.as_str());
    let names = stream::unfold(Names::below(session, prefix), |mut names| async {
        let next = names.next().await?;
        Some((next.map(|(name, _)| name), names))
    });
    let work = |name: String| async move {
        let path = place::below(root, prefix, &name).map_err(|failure| failure.of(&name))?;
        one(session, options, &name, &path).await.map_err(|failure| failure.of(&name))
    };
    let done = each(session, options.jobs.jobs, names.boxed(), work).await?;
    if done == 0 {
        return Err(Failure::client(End::NotFound, format!("there is no file below {prefix:?}")));
    }
    Ok(())
}

async fn one(session: &Session, options: &Get, name: &str, path: &Path) -> Result<(), Failure> {
    session.out.at(name);
    let got = if let Some(known) = in_the_way(session, options, name, path).await? {
        Got { status: "unchanged", verified: None, ..got(name, path, &known) }
    } else {
        fetch(session, options, name, path).await?
    };
    let text =
        || format!("{} -> {}  {}  {}", printable(name), printable(&got.path), human(got.size), got.status);
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

/// What stands under the final name is left alone, unless it may be replaced. When it has the same bytes, that is well.
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
        return Err(taken("is a folder"));
    }
    if found.is_file() {
        let known = Known::ask(session, name).await?;
        if matches!(digest::compare(path, &known).await, Ok(Same::Yes)) {
            return Ok(Some(known));
        }
    }
    if options.force { Ok(None) } else { Err(taken("is there already; --force replaces it")) }
}

async fn fetch(session: &Session, options: &Get, name: &str, path: &Path) -> Result<Got, Failure> {
    let mut part = Part::open(path, session.gateway.url(), name)?;
    let resumed = part.len() > 0;
    let mut again = session.again();
    loop {
        let before = part.len();
        let tried = receive(session, name, &mut part).await?;
        if part.len() > before {
            again.progressed();
        }
        match tried {
            Tried::Whole => break,
            Tried::Again(failure, wait) => {
                if !again.pause(wait).await {
                    part.keep().await?;
                    return Err(failure);
                }
            }
        }
    }
    let known = part.known().cloned().ok_or_else(|| Failure::Failed("nothing was received".to_owned()))?;
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
                let message = "the gateway knows no digest to compare with; without --verify it can be had";
                return Err(Failure::Failed(message.to_owned()));
            }
        }
    }
    part.publish(path, options.force).await?;
    let status = if resumed { "resumed" } else { "received" };
    Ok(Got { status, verified: options.verify.then_some(true), ..got(name, path, &known) })
}

/// One request, and its body behind what is here.
async fn receive(session: &Session, name: &str, part: &mut Part) -> Result<Tried, Failure> {
    if part.known().is_some_and(|known| known.size == part.len()) {
        return Ok(Tried::Whole);
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
    if !body.partial {
        part.restart(Some(Known::from_headers(&body.headers, body.length)?)).await?;
    } else if !continues(&body, part) {
        part.restart(None).await?;
        let message = "the gateway sent another range than it was asked for";
        return Ok(Tried::Again(Failure::Failed(message.to_owned()), Wait::Usual));
    }
    session.out.expect(part.missing());
    let told = body_into(session, &mut body, part).await;
    session.out.back(0, part.missing());
    told
}

async fn body_into(session: &Session, body: &mut Download, part: &mut Part) -> Result<Tried, Failure> {
    loop {
        match body.next().await {
            Ok(Some(piece)) if piece.len() as u64 > part.missing() => {
                part.restart(None).await?;
                return Err(Failure::Failed("the gateway sent more than the file has".to_owned()));
            }
            Ok(Some(piece)) => {
                part.write(&piece).await?;
                session.out.moved(piece.len() as u64);
            }
            Ok(None) if part.missing() == 0 => return Ok(Tried::Whole),
            Ok(None) => {
                return Ok(Tried::Again(
                    Failure::client(End::Unavailable, "the answer was cut short"),
                    Wait::Usual,
                ));
            }
            Err(lost) => {
                return Ok(Tried::Again(session.lost(lost), lost.wait()));
            }
        }
    }
}

/// Whether a 206 is the rest of what is here.
fn continues(body: &Download, part: &Part) -> bool {
    let Some(known) = part.known() else { return false };
    let wanted = format!("bytes {}-{}/{}", part.len(), known.size.saturating_sub(1), known.size);
    header(&body.headers, "content-range") == Some(wanted.as_str())
        && header(&body.headers, "etag") == Some(quoted(&known.etag).as_str())
}

/// What has flowed cannot be called back: another state of the file is the end.
async fn to_stdout(session: &Session, options: &Get) -> Result<(), Failure> {
    if options.recursive || options.door.json || options.verify || options.force {
        let message = "stdout takes one file as it comes: no --recursive, --json, --verify or --force";
        return Err(Failure::Usage(message.to_owned()));
    }
    let name = name(&options.name)?.to_string();
    session.out.progress();
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(Failure::output)?;
    let (mut stdout, mut again) = (File::from_std(stdout.into()), session.again());
    let mut state: Option<(Known, u64)> = None;
    loop {
        let before = state.as_ref().map_or(0, |(_, sent)| *sent);
        let tried =
            flow(session, &name, &mut state, &mut stdout).await.map_err(|failure| failure.of(&name))?;
        if state.as_ref().is_some_and(|(_, sent)| *sent > before) {
            again.progressed();
        }
        match tried {
            Tried::Whole => return stdout.flush().await.map_err(Failure::output),
            Tried::Again(failure, wait) => {
                if !again.pause(wait).await {
                    return Err(failure.of(&name));
                }
            }
        }
    }
}

async fn flow(
    session: &Session,
    name: &str,
    state: &mut Option<(Known, u64)>,
    stdout: &mut File,
) -> Result<Tried, Failure> {
    let mut headers = HeaderMap::new();
    if let Some((known, sent)) = state.as_ref() {
        if *sent == known.size {
            return Ok(Tried::Whole);
        }
        headers.insert(IF_MATCH, value(&quoted(&known.etag))?);
        if *sent > 0 {
            headers.insert(RANGE, value(&format!("bytes={sent}-"))?);
        }
    }
    let mut body = match session.gateway.open(name, headers).await {
        Err(lost) => return Ok(Tried::Again(session.lost(lost), lost.wait())),
        Ok(Opened::Body(body)) => body,
        Ok(Opened::Answer(answer)) if answer.is_busy() => {
            return Ok(Tried::Again(answer.failure(), answer.wait()));
        }
        Ok(Opened::Answer(answer)) => return Err(answer.failure()),
    };
    if state.is_none() {
        let known = Known::from_headers(&body.headers, body.length)?;
        session.out.expect(known.size);
        *state = Some((known, 0));
    }
    let Some((known, sent)) = state.as_mut() else { return Ok(Tried::Whole) };
    let start = format!("bytes {sent}-");
    let ranged = header(&body.headers, "content-range").is_some_and(|range| range.starts_with(&start));
    if header(&body.headers, "etag") != Some(quoted(&known.etag).as_str()) || (*sent > 0 && !ranged) {
        return Err(Failure::client(End::Conflict, "the file was replaced while it was read"));
    }
    loop {
        match body.next().await {
            Ok(Some(piece)) if piece.len() as u64 > known.size.saturating_sub(*sent) => {
                return Err(Failure::Failed("the gateway sent more than the file has".to_owned()));
            }
            Ok(Some(piece)) => {
                stdout.write_all(&piece).await.map_err(Failure::output)?;
                *sent += piece.len() as u64;
                session.out.moved(piece.len() as u64);
            }
            Ok(None) if *sent == known.size => return Ok(Tried::Whole),
            Ok(None) => {
                return Ok(Tried::Again(
                    Failure::client(End::Unavailable, "the answer was cut short"),
                    Wait::Usual,
                ));
            }
            Err(lost) => return Ok(Tried::Again(session.lost(lost), lost.wait())),
        }
    }
}

fn value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::try_from(text)
        .map_err(|_| Failure::Failed("the gateway's ETag cannot stand in a header".to_owned()))
}

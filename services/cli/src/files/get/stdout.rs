//! A file of the gateway flows to stdout. What has flowed cannot be called back, so that nothing is
//! begun anew.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use reqwest::header::{HeaderMap, IF_MATCH, RANGE};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::{CUT_SHORT, Tried, gateways, value};
use crate::args::files::Get;
use crate::client::{Opened, Wait, header, quoted};
use crate::exit::{End, Failure};
use crate::files::known::Known;
use crate::files::{Session, name};

/// Another state of the file is the end.
pub(super) async fn run(session: &Session, options: &Get) -> Result<(), Failure> {
    if options.recursive || options.door.json || options.verify || options.force {
        let message =
            "stdout takes one file as it comes: no --recursive, --json, --verify or --force";
        return Err(Failure::Usage(message.to_owned()));
    }
    let name = name(&options.name)?.to_string();
    // A bar on the same terminal would take its lines for its own, and clear them away.
    if !std::io::stdout().is_terminal() {
        session.out.progress();
    }
    let stdout = std::io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(Failure::output)?;
    let (mut stdout, mut again) = (File::from_std(stdout.into()), session.again());
    let mut state: Option<(Known, u64)> = None;
    loop {
        let before = state.as_ref().map_or(0, |(_, sent)| *sent);
        let tried = match flow(session, &name, &mut state, &mut stdout).await {
            Ok(tried) => tried,
            Err(failure) => return Err(session.hint(&name, failure).await.of(&name)),
        };
        if state.as_ref().is_some_and(|(_, sent)| *sent > before) {
            again.progressed();
        }
        match tried {
            Tried::Whole => return stdout.flush().await.map_err(Failure::output),
            Tried::Again(failure, wait) => {
                if !session.pause(&mut again, &failure, wait).await {
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
    gateways(&body)?;
    if state.is_none() {
        let known = Known::from_headers(&body.headers, body.length)?;
        session.out.expect(known.size);
        *state = Some((known, 0));
    }
    let Some((known, sent)) = state.as_mut() else {
        return Ok(Tried::Whole);
    };
    let start = format!("bytes {sent}-");
    let ranged =
        header(&body.headers, "content-range").is_some_and(|range| range.starts_with(&start));
    if header(&body.headers, "etag") != Some(quoted(&known.etag).as_str()) || (*sent > 0 && !ranged)
    {
        return Err(Failure::client(
            End::Conflict,
            "the file was replaced while it was read",
        ));
    }
    loop {
        match body.next().await {
            Ok(Some(piece)) if piece.len() as u64 > known.size.saturating_sub(*sent) => {
                return Err(Failure::Failed(
                    "the gateway sent more than the file has".to_owned(),
                ));
            }
            Ok(Some(piece)) => {
                stdout.write_all(&piece).await.map_err(Failure::output)?;
                *sent += piece.len() as u64;
                session.out.moved(piece.len() as u64);
            }
            Ok(None) if *sent == known.size => return Ok(Tried::Whole),
            Ok(None) => {
                return Ok(Tried::Again(
                    Failure::client(End::Unavailable, CUT_SHORT),
                    Wait::Usual,
                ));
            }
            Err(lost) => return Ok(Tried::Again(session.lost(lost), lost.wait())),
        }
    }
}

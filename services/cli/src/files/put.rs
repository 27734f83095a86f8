//! `cstore put`: files, folders and stdin become files of the gateway.
//!
//! ```text
//! large and must be new ──> HEAD: taken? ──┐
//! PUT, length known, read once ────────────┼─> 201, 200: the size is compared
//!     busy, or the connection is lost: ────┤   409, 412: the same bytes already? done : conflict
//!     again from the first byte            └─> anything else: failed
//! ```
//! With `--overwrite` a second try could replace what somebody else has written: whatever was sent
//! whole is not repeated. Without `--overwrite` a name is written once, so a second try can replace
//! nothing, and a lost answer to the first is recognised by the bytes that are there. A file that
//! changes while it is read is never published: its last bytes are held back until it was looked at
//! again.

mod body;
mod walk;

use std::cell::Cell;
use std::path::Path;

use cstore_types::UserMetadata;
use futures_util::stream;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use self::body::{Source, Upload};
use self::walk::Item;
use super::Session;
use super::digest::{self, Same};
use super::known::Known;
use super::many::each;
use super::out::human;
use super::summary::{FileTotals, Summary};
use crate::args::files::Put;
use crate::client::{Answer, Meter, Wait, quoted};
use crate::exit::{End, Failure, printable};
use crate::limits::ASK_BEFORE_PUT;

/// Result for one file.
#[derive(Debug, Serialize)]
struct Stored {
    /// `created`, `replaced` or `unchanged`.
    status: &'static str,
    name: String,
    source: String,
    size: u64,
    etag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

/// The part of the gateway's answer that counts.
#[derive(Debug, Deserialize)]
struct Said {
    size: u64,
    etag: String,
    #[serde(default)]
    new_bytes: Option<u64>,
}

pub(super) async fn run(session: &Session, options: &Put) -> Result<(), Failure> {
    check(options)?;
    let summary = &Summary::begin("put");
    let items = walk::items(options, summary)?;
    let is_one = options.src.len() == 1 && !options.recursive;
    session.out.progress();
    let work = |item: Item| async move {
        let name = item.name.to_string();
        let stored = Task {
            session,
            options,
            item: &item,
            may_be_stored: Cell::new(false),
            is_lost: Cell::new(false),
        }
        .run()
        .await
        .map_err(|failure| failure.of(&name))?;
        summary.add(FileTotals {
            is_unchanged: stored.status == "unchanged",
            size: Some(stored.size),
            new_bytes: stored.new_bytes,
        });
        let time = is_one.then(|| format!(", {}", summary.time()));
        let text = || format!("{}{}", line(&stored), time.unwrap_or_default());
        session.out.done(&stored, text)
    };
    let items = stream::iter(items);
    let ended = each(session, summary, options.jobs.jobs, items, work).await;
    if summary.close(session, is_one, ended)? == 0 {
        return Err(Failure::client(
            End::NotFound,
            "there is no file in what is to be uploaded",
        ));
    }
    Ok(())
}

/// Returns the line for people about one file.
fn line(stored: &Stored) -> String {
    // Missing for an unchanged file, which was not sent, and for named tenants: the number would reveal
    // what others have.
    let new = match stored.new_bytes {
        Some(new) => format!(", {} new", human(new)),
        None => String::new(),
    };
    format!(
        "{} -> {}  {}  {}{new}",
        printable(&stored.source),
        printable(&stored.name),
        human(stored.size),
        stored.status,
    )
}

/// Checks the options that concern all files, once and before any of them is uploaded.
fn check(options: &Put) -> Result<(), Failure> {
    let usage = |message: String| Err(Failure::Usage(message));
    let pairs = options
        .meta
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    if let Err(error) = UserMetadata::new(pairs) {
        return usage(format!("--meta: {error}"));
    }
    if options.verify && options.src.iter().any(|src| src == Path::new("-")) {
        return usage("--verify reads twice what stdin says once; leave it away".to_owned());
    }
    if options.if_match.is_some() && options.src.len() > 1 {
        return usage("--if-match is for one file".to_owned());
    }
    Ok(())
}

struct Task<'a> {
    session: &'a Session,
    options: &'a Put,
    item: &'a Item,
    /// True after a try that sent the file whole and lost the answer.
    may_be_stored: Cell<bool>,
    /// True if the last try had no response.
    is_lost: Cell<bool>,
}

/// Outcome of a try.
enum Tried {
    Stored(Stored),
    /// The failed try may be repeated after this pause.
    Again(Failure, Wait),
}

impl Task<'_> {
    async fn run(&self) -> Result<Stored, Failure> {
        let sha256 = match &self.item.source {
            Source::File(path) if self.options.verify => {
                // Refuses anything but an ordinary file: reading a pipe would block.
                drop(Upload::open(&self.item.source).await?);
                Some(
                    digest::sha256(path)
                        .await
                        .map_err(|error| body::unreadable(path, &error))?,
                )
            }
            _ => None,
        };
        let headers = self.headers(sha256.as_deref())?;
        let mut again = self.session.again();
        loop {
            let upload = Upload::open(&self.item.source).await?;
            self.session.out.at(self.item.name.as_str());
            if self.must_be_new()
                && upload.size.is_some_and(|size| size >= ASK_BEFORE_PUT)
                && self.is_there().await
            {
                return self
                    .taken(Failure::client(
                        End::Conflict,
                        "there is a file of that name",
                    ))
                    .await;
            }
            match self
                .once(upload, headers.clone(), sha256.as_deref())
                .await?
            {
                Tried::Stored(stored) => return Ok(stored),
                Tried::Again(failure, wait) => {
                    if !self.session.pause(&mut again, &failure, wait).await {
                        return Err(self.advised(failure));
                    }
                }
            }
        }
    }

    async fn once(
        &self,
        upload: Upload,
        mut headers: HeaderMap,
        sha256: Option<&str>,
    ) -> Result<Tried, Failure> {
        let (size, meter, out) = (upload.size, Meter::default(), &self.session.out);
        if let Some(size) = size {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        }
        out.expect(size.unwrap_or_default());
        let (body, ended) = upload.body(meter.clone(), out.mover(size.is_none()));
        let name = self.item.name.as_str();
        let sent = self
            .session
            .gateway
            .send(name, self.options.overwrite, headers, body, &meter)
            .await;
        if !matches!(&sent, Ok(answer) if answer.is_success()) {
            out.back(meter.total(), size.unwrap_or_else(|| meter.total()));
        }
        if let Some(fault) = ended.fault() {
            return Err(Failure::Failed(fault));
        }
        match sent {
            Ok(answer) if answer.is_success() => self
                .stored(&answer, size.unwrap_or_else(|| meter.total()), sha256)
                .map(Tried::Stored),
            Ok(answer) if answer.failure().end() == End::Conflict => {
                self.taken(answer.failure()).await.map(Tried::Stored)
            }
            Ok(answer) if answer.is_busy() && self.repeats() => {
                // A proxy may say so, which does not know what the gateway behind it has done.
                self.is_lost.set(false);
                Ok(Tried::Again(answer.failure(), answer.wait()))
            }
            Ok(answer) => Err(answer.failure()),
            Err(lost) if lost.never_left() => {
                self.is_lost.set(true);
                Ok(Tried::Again(self.session.lost(lost), lost.wait()))
            }
            // A body that was sent without its end is never stored. A whole file may have been
            // stored, and then a second try could replace what somebody else has written since.
            Err(lost) => {
                self.is_lost.set(true);
                if ended.is_whole() {
                    self.may_be_stored.set(true);
                }
                let failure = self.session.lost(lost);
                if self.repeats() && !(self.options.overwrite && ended.is_whole()) {
                    Ok(Tried::Again(failure, lost.wait()))
                } else {
                    Err(self.advised(failure))
                }
            }
        }
    }

    /// Adds to the failure of an unreachable gateway whether the file may have been stored, and what
    /// to do then.
    fn advised(&self, failure: Failure) -> Failure {
        let is_known = !self.is_lost.get() && !self.may_be_stored.get();
        if is_known || failure.end() != End::Unavailable {
            return failure;
        }
        let (is_new, is_file) = (self.must_be_new(), self.repeats());
        let advice = match (self.may_be_stored.get(), is_new && is_file) {
            (true, true) => {
                "the file may have been stored; it is safe to run the command again, because the same bytes \
                 count as unchanged"
            }
            (true, false) => {
                "whether the file was stored is unknown: look with `cstore stat` before you run the command again"
            }
            (false, _) => "the file was not stored; it is safe to run the command again",
        };
        failure.with_advice(advice)
    }

    /// Returns true if the source can be read twice, which a file can.
    fn repeats(&self) -> bool {
        matches!(self.item.source, Source::File(_))
    }

    fn must_be_new(&self) -> bool {
        !self.options.overwrite && self.options.if_match.is_none()
    }

    /// Returns true if the name is taken. Asked once: if the answer is lost, the upload will tell.
    async fn is_there(&self) -> bool {
        let answer = self.session.gateway.head(self.item.name.as_str()).await;
        answer.is_ok_and(|answer| answer.is_success())
    }

    fn stored(&self, answer: &Answer, sent: u64, sha256: Option<&str>) -> Result<Stored, Failure> {
        let said: Said = answer.parse()?;
        if said.size != sent {
            let message = format!(
                "{sent} bytes were sent, and the gateway says that it has {}",
                said.size
            );
            return Err(Failure::Failed(message));
        }
        Ok(Stored {
            status: if answer.status.as_u16() == 201 {
                "created"
            } else {
                "replaced"
            },
            sha256: sha256.map(str::to_owned),
            new_bytes: said.new_bytes,
            trace_id: Some(answer.trace_id.clone()),
            ..self.result(said.size, said.etag)
        })
    }

    /// Handles a name that is taken, or a condition that does not hold: a success if the bytes are
    /// there already, perhaps from a try whose answer was lost.
    async fn taken(&self, refusal: Failure) -> Result<Stored, Failure> {
        let Source::File(path) = &self.item.source else {
            return Err(refusal);
        };
        let Ok(known) = Known::ask(self.session, self.item.name.as_str()).await else {
            return Err(refusal);
        };
        match digest::compare(path, &known).await {
            Ok(Same::Yes) => Ok(Stored {
                sha256: known.sha256,
                ..self.result(known.size, known.etag)
            }),
            _ => Err(refusal),
        }
    }

    fn result(&self, size: u64, etag: String) -> Stored {
        Stored {
            status: "unchanged",
            name: self.item.name.to_string(),
            source: self.item.source.to_string(),
            size,
            etag,
            sha256: None,
            new_bytes: None,
            trace_id: None,
        }
    }

    fn headers(&self, sha256: Option<&str>) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        let mut set = |name: &str, value: &str| {
            let wrong = || Failure::Usage(format!("{name}: {value:?} cannot stand in a header"));
            let name = HeaderName::try_from(name).map_err(|_| wrong())?;
            headers.insert(name, HeaderValue::try_from(value).map_err(|_| wrong())?);
            Ok::<_, Failure>(())
        };
        let guessed = mime_guess::from_path(self.item.name.as_str()).first_or_octet_stream();
        set(
            "content-type",
            self.options
                .content_type
                .as_deref()
                .unwrap_or_else(|| guessed.essence_str()),
        )?;
        for (key, value) in &self.options.meta {
            set(&format!("x-cstore-meta-{key}"), value)?;
        }
        match &self.options.if_match {
            Some(etag) => set("if-match", &quoted(etag))?,
            None if !self.options.overwrite => set("if-none-match", "*")?,
            None => {}
        }
        if let Some(sha256) = sha256 {
            set("x-cstore-sha256", sha256)?;
        }
        Ok(headers)
    }
}

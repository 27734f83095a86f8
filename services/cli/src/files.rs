//! The commands over files: `put get ls stat rm cp mv du`.
//!
//! All of them are clients of the gateway like any other. Invariants: a token never stands among
//! the arguments; memory does not grow with files, trees or lists; a command that is interrupted
//! leaves no half file under its final name, neither here nor there; a request is only repeated
//! where a second one can do no harm.

mod digest;
mod du;
mod get;
pub(crate) mod glob;
mod known;
mod list;
mod many;
mod names;
pub(crate) mod out;
pub(crate) mod pattern;
mod put;
mod remove;
mod second;
mod select;
mod stat;
mod summary;

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use cstore_node::shutdown::on_signal;
use cstore_node::{Shutdown, Source};
use rustix::fs::OFlags;

use self::names::{folder, name, prefix, target};
use self::out::Out;
use crate::args::Command;
use crate::args::files::Door;
use crate::client::{Again, Answer, Gateway, Lost, TOKEN, TOKEN_FORM, Wait, is_token};
use crate::exit::{End, Failure};
use crate::limits::{ANSWER_TIMEOUT, FILE_THREADS_TIMEOUT, FIRST_BYTE_TIMEOUT, MAX_TOKEN_FILE};

/// A gateway, how often it is asked, and where results go.
struct Session {
    gateway: Gateway,
    retries: u32,
    out: Out,
}

/// Runs one of the commands over files to its end, or to a signal.
pub(crate) fn run(command: &Command, door: &Door, source: &dyn Source) -> Result<(), Failure> {
    let mut gateway = Gateway::from_env(door.url.as_deref(), ANSWER_TIMEOUT, source)?
        .answering_within(FIRST_BYTE_TIMEOUT);
    if let Some(path) = &door.token_file {
        gateway = gateway.with_token(&token(path)?);
    }
    let out = Out::new(door.json, door.quiet);
    let session = Session {
        gateway: gateway.telling(out.outage_notice()),
        retries: door.retries,
        out,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::new();
        let signals = on_signal(shutdown.clone()).map_err(Failure::failed)?;
        let ended = tokio::select! {
            ended = work(&session, command) => ended,
            // Dropping the work has cut its connections, so no partial file is published.
            () = shutdown.triggered() => Err(Failure::client(End::Interrupted, "interrupted")),
        };
        signals.abort();
        ended
    });
    session.out.end();
    runtime.shutdown_timeout(FILE_THREADS_TIMEOUT);
    ended
}

async fn work(session: &Session, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Put(options) => Box::pin(put::run(session, options)).await,
        Command::Get(options) => Box::pin(get::run(session, options)).await,
        Command::Ls(options) => list::run(session, options).await,
        Command::Stat(options) => stat::run(session, options).await,
        Command::Rm(options) => remove::run(session, options).await,
        Command::Cp(options) => second::run(session, "copy", options).await,
        Command::Mv(options) => second::run(session, "rename", options).await,
        Command::Du(options) => du::run(session, options).await,
        _ => Err(Failure::Failed("this is no command over files".to_owned())),
    }
}

impl Session {
    fn again(&self) -> Again {
        Again::new(self.retries)
    }

    fn lost(&self, lost: Lost) -> Failure {
        lost.failure(self.gateway.url())
    }

    /// Like [`Self::lost`], for a request that may have been carried out.
    fn unknown(&self, lost: Lost) -> Failure {
        let why = self.lost(lost);
        Failure::client(
            End::Unavailable,
            format!("{why}; whether it was done is unknown, so look"),
        )
    }

    /// Sends a request that changes nothing, and therefore may be repeated after any failure.
    async fn ask<F>(&self, call: impl Fn() -> F) -> Result<Answer, Failure>
    where
        F: Future<Output = Result<Answer, Lost>>,
    {
        let mut again = self.again();
        loop {
            let (failure, wait) = match call().await {
                Ok(answer) if answer.is_success() => return Ok(answer),
                Ok(answer) if answer.is_busy() => (answer.failure(), answer.wait()),
                Ok(answer) => return Err(answer.failure()),
                Err(lost) => (self.lost(lost), lost.wait()),
            };
            if !self.pause(&mut again, &failure, wait).await {
                return Err(failure);
            }
        }
    }

    /// Tells people that the store still frees removed files: until then their blocks count as
    /// those of other files.
    async fn note_pending_releases(&self) {
        if !self.out.is_for_people() {
            return;
        }
        // Asked once: it is only a note. Named tenants do not see the number.
        let answer = self.gateway.stats().await.ok();
        let stats = answer
            .filter(Answer::is_success)
            .map(|answer| answer.json());
        if stats.is_some_and(|stats| stats["pending_releases"].as_u64() > Some(0)) {
            self.out.note(
                "the store still frees files that were removed or refused lately and counts their blocks as shared: \
                 a minute later more may be free",
            );
        }
    }

    /// Asks for the headers of a file.
    async fn head(&self, name: &str) -> Result<Answer, Failure> {
        self.ask(|| self.gateway.head(name))
            .await
            .map_err(|failure| match failure.end() {
                // A response to HEAD has no body with a message.
                End::NotFound => failure.saying(format!("there is no file {name:?}")),
                _ => failure,
            })
    }

    /// Waits until the next try may begin, and tells the user why if that takes long. Returns false
    /// without a wait if no try is left.
    async fn pause(&self, again: &mut Again, failure: &Failure, wait: Wait) -> bool {
        if again.is_telling(wait) {
            self.gateway.tell_retry(failure);
        }
        again.pause(wait).await
    }

    /// Returns the failure to find `name`, with a hint if it is a folder.
    async fn hint(&self, name: &str, failure: Failure) -> Failure {
        let of_folder = "it is a folder, which --recursive takes";
        self.hint_at_folder(name, failure, of_folder).await
    }

    /// Like [`Self::hint`], with the hint for a folder in the words of the command.
    async fn hint_at_folder(&self, name: &str, failure: Failure, of_folder: &str) -> Failure {
        if failure.end() != End::NotFound {
            return failure;
        }
        // Asked once: it is only a hint.
        let found = self
            .gateway
            .list_some(&format!("{name}/"), "", Some(1), "")
            .await;
        let below = found
            .ok()
            .filter(Answer::is_success)
            .map(|answer| answer.json());
        let is_folder = below.is_some_and(|page| {
            page["files"]
                .as_array()
                .is_some_and(|files| !files.is_empty())
        });
        if is_folder {
            failure.because(of_folder)
        } else if glob::has_wildcards(name) {
            failure.because("it is taken as it is written; `ls` lists what a pattern matches")
        } else {
            failure
        }
    }
}

fn token(path: &Path) -> Result<String, Failure> {
    let wrong = |why: String| Failure::Usage(format!("--token-file {}: {why}", path.display()));
    // A pipe would be waited for, perhaps for ever.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags(OFlags::NONBLOCK))
        .open(path);
    let file = file.map_err(|error| wrong(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if !metadata.is_file() {
        return Err(wrong(format!(
            "it is no ordinary file; what comes out of a pipe can stand in {TOKEN}"
        )));
    }
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(wrong("others can use it; run: chmod 600 on it".to_owned()));
    }
    let mut text = String::new();
    file.take(MAX_TOKEN_FILE)
        .read_to_string(&mut text)
        .map_err(|error| wrong(error.to_string()))?;
    let token = text.trim();
    if !is_token(token) {
        return Err(wrong(format!("it has no such token; {TOKEN_FORM}")));
    }
    Ok(token.to_owned())
}

/// Flags for opening a file, as the standard library takes them.
fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode};

    #[test]
    fn i13_a_token_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let good = format!("cst_0f_{}", "A".repeat(43));
        std::fs::write(&path, format!("{good}\n")).unwrap();
        let mode =
            |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let refused = token(&path).unwrap_err().to_string();
        assert!(
            refused.contains("chmod 600") && !refused.contains("cst_0f"),
            "{refused}"
        );
        mode(0o600);
        assert_eq!(token(&path).unwrap(), good);
        for bad in ["", " \n", "two words", "cst_ü", "cst_0f_short", &good[1..]] {
            std::fs::write(&path, bad).unwrap();
            assert!(token(&path).is_err(), "{bad:?}");
        }
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let refused = token(&pipe).unwrap_err().to_string();
        assert!(
            refused.contains("no ordinary file"),
            "nobody writes into it: {refused}"
        );
    }
}

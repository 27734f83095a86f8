//! `cstore cp` and `cstore mv`: names change at the gateway, no byte moves.
//!
//! A request whose answer is lost may have been carried out, and a second one would then be refused
//! for that. It is repeated only when the gateway was not reached or was busy.

use serde::{Deserialize, Serialize};

use super::{Session, name, target};
use crate::args::files::Name;
use crate::client::Answer;
use crate::exit::{Failure, printable};

#[derive(Debug, Serialize)]
struct Done<'a> {
    /// `copied` or `renamed`.
    status: &'static str,
    from: &'a str,
    name: &'a str,
    size: u64,
    etag: String,
}

/// The part of the gateway's answer that counts.
#[derive(Debug, Deserialize)]
struct Said {
    size: u64,
    etag: String,
}

/// `verb` is the gateway's word: `copy` or `rename`.
pub(super) async fn run(
    session: &Session,
    verb: &'static str,
    options: &Name,
) -> Result<(), Failure> {
    let from = name(&options.src)?.to_string();
    let last = from.rsplit('/').next().unwrap_or(&from);
    let to = target(&options.dest, last)?.to_string();
    let answer = match ask(session, verb, options, &from, &to).await {
        Ok(answer) => answer,
        Err(failure) => {
            let of_folder =
                "it is a folder, and `cp` and `mv` take one file; `ls -r` lists the files in it";
            let failure = session.hint_at_folder(&from, failure, of_folder).await;
            return Err(failure.of(&from));
        }
    };
    let Said { size, etag } = answer.parse()?;
    let status = if verb == "copy" { "copied" } else { "renamed" };
    let done = Done {
        status,
        from: &from,
        name: &to,
        size,
        etag,
    };
    session.out.done(&done, || {
        format!("{} -> {}  {status}", printable(&from), printable(&to))
    })
}

async fn ask(
    session: &Session,
    verb: &str,
    options: &Name,
    from: &str,
    to: &str,
) -> Result<Answer, Failure> {
    let etag = options.if_match.as_deref();
    let mut again = session.again();
    loop {
        let (failure, wait) = match session
            .gateway
            .second_name(verb, from, to, options.overwrite, etag)
            .await
        {
            Ok(answer) if answer.is_success() => return Ok(answer),
            Ok(answer) if answer.is_busy() => (answer.failure(), answer.wait()),
            // The new name is the one that is taken; a condition is about the old one.
            Ok(answer) if answer.status.as_u16() == 409 => return Err(answer.failure().of(to)),
            Ok(answer) => return Err(answer.failure()),
            Err(lost) if lost.never_left() => (session.lost(lost), lost.wait()),
            Err(lost) => return Err(session.unknown(lost)),
        };
        if !session.pause(&mut again, &failure, wait).await {
            return Err(failure);
        }
    }
}

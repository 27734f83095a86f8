//! Writes of a client, and how it learns their outcome.

use std::time::Duration;

use bytes::Bytes;
use cstore_proto::v1::write_condition::Condition;
use cstore_proto::{code_of, v1};
use cstore_types::ErrorCode;
use futures_util::stream;
use rand::RngExt;
use tokio::time::timeout;
use tonic::Status;

use super::{Client, now};
use crate::book::BodyId;

impl Client {
    /// Uploads. Shared names and those that are not to be overwritten must be free.
    pub(super) async fn put(&mut self, name: &str, overwrite: bool, shared: bool) {
        let before = self.shared.book.borrow().certain(name);
        let Some(before) = before.filter(|_| !self.open.iter().any(|(open, ..)| open == name))
        else {
            return;
        };
        let condition = if overwrite {
            Condition::Any(true)
        } else {
            Condition::Absent(true)
        };
        let condition = v1::WriteCondition {
            condition: Some(condition),
        };
        let request = v1::BeginUploadRequest {
            name: name.to_owned(),
            condition: Some(condition.clone()),
            count: 1,
            ..v1::BeginUploadRequest::default()
        };
        let must_be_free = !overwrite && !shared;
        let asked = now();
        let ticket = match self.master.begin_upload(request).await {
            Ok(answer) => answer.tickets.into_iter().next(),
            Err(status) => {
                self.say(&format!("may not put {name}: {}", status.message()));
                if must_be_free && before.is_none() && code_of(&status) == ErrorCode::AlreadyExists
                {
                    self.violated(format!("{name} is taken by nothing that was acknowledged"));
                }
                return;
            }
        };
        let Some(ticket) = ticket else {
            return self.violated("no ticket came".to_owned());
        };
        if must_be_free && before.is_some() {
            return self.violated(format!("{name} is taken, and a ticket came for it"));
        }
        self.check_is_live(&ticket.worker_addr, asked, "got a ticket for");
        let body = self.shared.book.borrow_mut().send(name, shared);
        let patience = Duration::from_millis(self.rng.random_range(20..6_000));
        let small = self.rng.random_bool(0.7);
        let sent = timeout(patience, self.send(name, condition, &ticket, body, small)).await;
        match sent {
            Ok(Ok(())) => {
                self.say(&format!("put {name} {body:?}"));
                self.shared.book.borrow_mut().committed(name, body);
            }
            Ok(Err(status)) if is_refusal(code_of(&status)) => {
                self.say(&format!(
                    "put {name} {body:?} refused: {}",
                    status.message()
                ));
                self.shared.book.borrow_mut().never(name, body);
                if !shared && code_of(&status) == ErrorCode::AlreadyExists {
                    self.violated(format!("{name} was free and is said to be taken"));
                }
            }
            failed => {
                let why = failed.map_or_else(
                    |_| "no patience".to_owned(),
                    |sent| sent.map_or_else(|status| status.to_string(), |()| String::new()),
                );
                self.say(&format!("put {name} {body:?} unknown: {why}"));
                self.open.push((name.to_owned(), body, ticket));
                if self.rng.random_bool(0.7) {
                    self.settle().await;
                }
            }
        }
    }

    pub(super) async fn send(
        &self,
        name: &str,
        condition: v1::WriteCondition,
        ticket: &v1::Ticket,
        body: BodyId,
        small: bool,
    ) -> Result<(), Status> {
        let header = v1::UploadHeader {
            ticket: Some(ticket.clone()),
            name: name.to_owned(),
            condition: Some(condition),
            ..v1::UploadHeader::default()
        };
        let bytes = Bytes::from(body.bytes());
        let crc32c = crc32c::crc32c(&bytes);
        let mut worker = self.workers.to(&ticket.worker_addr);
        if small {
            let request = v1::PutSmallRequest {
                header: Some(header),
                body: bytes,
                crc32c,
            };
            worker.put_small(request).await?;
        } else {
            use v1::upload_request::Message::{Chunk, Finish, Header};
            let length = bytes.len() as u64;
            let rest = bytes.slice(bytes.len() / 2..);
            let messages = [
                Header(header),
                Chunk(bytes.slice(..bytes.len() / 2)),
                Chunk(rest),
                Finish(v1::UploadFinish { length, crc32c }),
            ];
            let request = |message| v1::UploadRequest {
                message: Some(message),
            };
            worker.upload(stream::iter(messages.map(request))).await?;
        }
        Ok(())
    }

    /// Asks the master to end the uploads whose outcome is unknown; the answers tell their outcome.
    pub(super) async fn settle(&mut self) {
        for (name, body, ticket) in std::mem::take(&mut self.open) {
            let request = v1::AbortUploadRequest {
                ticket: Some(ticket.clone()),
            };
            match self.master.abort_upload(request).await {
                Ok(answer) => {
                    self.say(&format!(
                        "settled {name} {body:?}: committed {}",
                        answer.committed
                    ));
                    let mut book = self.shared.book.borrow_mut();
                    if answer.committed {
                        book.committed(&name, body);
                    } else {
                        book.never(&name, body);
                    }
                }
                Err(status) => {
                    self.say(&format!(
                        "did not settle {name} {body:?}: {}",
                        status.message()
                    ));
                    self.open.push((name, body, ticket));
                }
            }
        }
    }

    pub(super) async fn delete(&mut self, name: &str) {
        let Some(before) = self.shared.book.borrow().certain(name) else {
            return;
        };
        let request = v1::DeleteFileRequest {
            name: name.to_owned(),
            ..v1::DeleteFileRequest::default()
        };
        let answer = self.master.delete_file(request).await.map(drop);
        let known = self.judge(&format!("delete {name}"), &answer, before.is_some(), true);
        let mut book = self.shared.book.borrow_mut();
        match known {
            Some(true) => book.changed(name, None),
            Some(false) => {}
            None => book.uncertain(name, None),
        }
    }

    pub(super) async fn rename(&mut self, from: &str, to: &str) {
        let Some((body, target)) = self.two(from, to) else {
            return;
        };
        let request = v1::RenameFileRequest {
            from: from.to_owned(),
            to: to.to_owned(),
            ..v1::RenameFileRequest::default()
        };
        let answer = self.master.rename_file(request).await.map(drop);
        let what = format!("rename {from} {to}");
        let known = self.judge(&what, &answer, body.is_some(), target.is_none());
        let mut book = self.shared.book.borrow_mut();
        match known {
            Some(true) => {
                book.changed(to, body);
                book.changed(from, None);
            }
            Some(false) => {}
            None => {
                book.uncertain(to, body);
                book.uncertain(from, None);
            }
        }
    }

    pub(super) async fn copy(&mut self, from: &str, to: &str) {
        let Some((body, target)) = self.two(from, to) else {
            return;
        };
        let request = v1::CopyFileRequest {
            from: from.to_owned(),
            to: to.to_owned(),
            ..v1::CopyFileRequest::default()
        };
        let answer = self.master.copy_file(request).await.map(drop);
        let known = self.judge(
            &format!("copy {from} {to}"),
            &answer,
            body.is_some(),
            target.is_none(),
        );
        let mut book = self.shared.book.borrow_mut();
        match known {
            Some(true) => book.changed(to, body),
            Some(false) => {}
            None => book.uncertain(to, body),
        }
    }

    /// Returns what two different names hold for certain.
    pub(super) fn two(&self, from: &str, to: &str) -> Option<(Option<BodyId>, Option<BodyId>)> {
        let book = self.shared.book.borrow();
        (from != to).then(|| Some((book.certain(from)?, book.certain(to)?)))?
    }

    /// Returns true if a change of names was done; `None` if the answer does not tell. Checks that
    /// the answer is right.
    pub(super) fn judge(
        &self,
        what: &str,
        answer: &Result<(), Status>,
        there: bool,
        free: bool,
    ) -> Option<bool> {
        let code = answer.as_ref().err().map(code_of);
        self.say(&format!(
            "{what}: {}",
            code.map_or("done", ErrorCode::as_str)
        ));
        let (right, done) = match code {
            None => (there && free, Some(true)),
            Some(ErrorCode::NotFound) => (!there, Some(false)),
            Some(ErrorCode::AlreadyExists) => (!free, Some(false)),
            Some(_) => (true, None),
        };
        if !right {
            self.violated(format!(
                "{what} answered {code:?}, but the source was there: {there}, the target free: {free}"
            ));
        }
        done
    }
}

/// Returns true if the code means that the upload did not happen and will not.
const fn is_refusal(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::AlreadyExists
            | ErrorCode::PreconditionFailed
            | ErrorCode::InvalidArgument
            | ErrorCode::NotFound
    )
}

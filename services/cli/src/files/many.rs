//! The same for many files, some at a time. What fails is told at once and the others go on, unless
//! nothing works.

use std::future::Future;

use futures_util::{Stream, StreamExt, pin_mut};

use super::Session;
use super::summary::Summary;
use crate::exit::{End, Failure};
use crate::limits::HOPELESS_FAILURES;

/// Works on all `items`, at most `jobs` at a time, and takes no more of them out of their stream
/// than it works on. Counts failures in `summary`. Returns the number of items that succeeded.
///
/// # Errors
/// The failure of a single item, or the result of all of them together.
pub(super) async fn each<T, F>(
    session: &Session,
    summary: &Summary,
    jobs: usize,
    items: impl Stream<Item = Result<T, Failure>>,
    work: impl Fn(T) -> F,
) -> Result<u64, Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let work = &work;
    let running = items
        .map(|item| async move { work(item?).await })
        .buffer_unordered(jobs);
    pin_mut!(running);
    let mut tally = Tally::default();
    while let Some(ended) = running.next().await {
        match ended {
            Ok(()) => tally.good(session),
            Err(failure) if failure.end() == End::BrokenPipe => return Err(failure),
            Err(failure) => {
                summary.add_failure();
                tally.bad(session, failure);
            }
        }
        if tally.in_a_row >= HOPELESS_FAILURES {
            break;
        }
    }
    tally.end(session)
}

#[derive(Default)]
struct Tally {
    done: u64,
    failed: u64,
    in_a_row: usize,
    /// The first failure waits for a second result: alone it is the end of the command and told
    /// there.
    held: Option<Failure>,
    /// How all failures end, when all do the same.
    end: Option<End>,
}

impl Tally {
    fn good(&mut self, session: &Session) {
        self.release(session);
        self.done += 1;
        self.in_a_row = 0;
    }

    fn bad(&mut self, session: &Session, failure: Failure) {
        let end = failure.end();
        self.in_a_row = if failure.concerns_all() {
            self.in_a_row + 1
        } else {
            0
        };
        let same = self.failed == 0 || self.end == Some(end);
        self.end = same.then_some(end);
        self.release(session);
        self.failed += 1;
        if self.done == 0 && self.failed == 1 {
            self.held = Some(failure);
        } else {
            session.out.tell(&failure);
        }
    }

    fn release(&mut self, session: &Session) {
        if let Some(failure) = self.held.take() {
            session.out.tell(&failure);
        }
    }

    fn end(mut self, session: &Session) -> Result<u64, Failure> {
        if let Some(failure) = self.held.take() {
            session.out.end();
            return Err(failure);
        }
        if self.failed == 0 {
            return Ok(self.done);
        }
        let given_up = if self.in_a_row >= HOPELESS_FAILURES {
            "; given up"
        } else {
            ""
        };
        let message = format!(
            "{} of {} failed{given_up}",
            self.failed,
            self.failed + self.done
        );
        let end = self.end.filter(|_| self.done == 0).unwrap_or(End::Partial);
        Err(Failure::client(end, message))
    }
}

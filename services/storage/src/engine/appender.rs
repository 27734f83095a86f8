//! Appends of groups of records to the log, with a span for each wait.

use std::sync::Arc;

use cstore_log::{Committed, LogError, Record, Urgency};
use cstore_node::commit::CommitSpans;
use cstore_types::CommitFacts;
use tokio::sync::oneshot;
use tracing::Instrument;

use super::error::EngineError;
use super::locked_log::LockedLog;

/// The writing end of the log. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Appender {
    log: Arc<LockedLog>,
    spans: Arc<CommitSpans>,
}

/// A group that was handed to the log.
#[derive(Debug)]
pub(super) struct Append<T> {
    completion: oneshot::Receiver<Result<(T, CommitFacts), EngineError>>,
}

impl Appender {
    pub(super) fn new(log: Arc<LockedLog>) -> Self {
        Self {
            log,
            spans: Arc::default(),
        }
    }

    /// Hands a group to the log.
    ///
    /// Once the group is durable, `apply` runs on the committer's thread: BEFORE any caller learns
    /// the outcome, and also if no caller waits any more. If the write fails, `apply` is dropped
    /// without a call, so everything that it owns MUST undo itself when it is dropped (fences,
    /// reservations, counted references).
    pub(super) fn append<T: Send + 'static>(
        &self,
        records: Vec<Record>,
        urgency: Urgency,
        apply: impl FnOnce(&Committed<'_>) -> T + Send + 'static,
    ) -> Append<T> {
        let (sender, completion) = oneshot::channel();
        let done = move |result: Result<Committed<'_>, LogError>| {
            let outcome = match result {
                Ok(committed) => Ok((apply(&committed), committed.frame)),
                Err(error) => {
                    // Undone BEFORE the caller learns of it, otherwise its next look would still
                    // meet its own claims.
                    drop(apply);
                    Err(EngineError::from(error))
                }
            };
            let _ = sender.send(outcome);
        };

        // The log may refuse the group at once. `done` runs in this call then.
        self.log.append(records, urgency, Box::new(done));
        Append { completion }
    }

    /// Waits until a group of a request is durable, in a span of its own.
    ///
    /// # Errors
    /// [`EngineError`] of the log. After [`EngineError::ReadOnly`] it is unknown whether the group
    /// is durable.
    pub(super) async fn wait<T>(&self, append: Append<T>) -> Result<T, EngineError> {
        let span = self.spans.begin();
        let (value, frame) = append.outcome().instrument(span.clone()).await?;
        self.spans.landed(&span, frame);
        Ok(value)
    }
}

impl<T> Append<T> {
    /// Waits until the group is durable.
    ///
    /// # Errors
    /// The errors of [`Appender::wait`].
    pub(super) async fn outcome(self) -> Result<(T, CommitFacts), EngineError> {
        self.completion
            .await
            .unwrap_or_else(|_| Err(EngineError::writer_gone()))
    }
}

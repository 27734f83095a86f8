//! Release: the reference sets of a session are durably dropped. Reached from the master's heartbeat answer only.

use cstore_log::{Committed, LogError, Record, Urgency};
use cstore_types::SessionId;
use tokio::sync::oneshot;

use super::Engine;
use super::format::KIND_RELEASE;
use crate::EngineError;

impl Engine {
    /// Drops all reference sets of `session`. Idempotent: a session without sets is released already.
    ///
    /// The release record is synced first; only then are references counted down and blocks freed. It may use the
    /// reserve, so that a full disk can always be emptied.
    ///
    /// # Errors
    /// Of the disk. After an error while the sets were read, their space comes back with the next restart.
    pub async fn release(&self, session: SessionId) -> Result<(), EngineError> {
        self.unpin(session);
        if self.shared.lock().state.parts(session).is_empty() {
            return Ok(());
        }
        let record = Record {
            kind: KIND_RELEASE,
            key: bytes::Bytes::copy_from_slice(session.as_bytes()),
            payload: bytes::Bytes::new(),
        };
        let (sender, landed) = oneshot::channel();
        let shared = self.shared.clone();
        let done = move |result: Result<Committed<'_>, LogError>| {
            let answer = result.map_err(EngineError::from).map(|committed| {
                let parts = match committed.locations.first() {
                    Some(location) => shared.lock().state.release(session, *location),
                    None => Vec::new(),
                };
                (parts, committed.frame)
            });
            let _ = sender.send(answer);
        };
        self.log.append(vec![record], Urgency::Urgent, Box::new(done));
        let parts = self.await_commit(landed).await?;
        for (part, set) in parts {
            let engine = self.clone();
            let read = cstore_node::blocking(move || engine.read_refset(session, part, set));
            let ids = read.await.map_err(|error| EngineError::Disk(error.to_string()))??;
            let mut shared = self.shared.lock();
            shared.state.drop_refs(&ids);
            shared.state.bury(set);
        }
        self.counters.releases.add(1);
        Ok(())
    }
}

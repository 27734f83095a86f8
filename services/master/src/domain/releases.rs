//! Verdicts on sessions, and the releases that follow from them.
//!
//! A release is written in the batch that writes the tombstone, so one that is handed out can never
//! be followed by a commit. It ends when every store has acknowledged it.

use cstore_types::limits::MAX_RELEASED_SESSIONS;
use cstore_types::{Fault, SessionId, StoreUuid, error_chain};
use futures_util::future::join_all;

use super::Context;
use super::namespace::end_session;
use crate::limits::{HIGH_PRESSURE, JUDGED_TOGETHER, MAX_DECISIONS};
use crate::store::keys::{self, CommittedSession, Ending, ReleaseRecord, SessionRecord};
use crate::store::{Batch, MetaError};

/// State of a session: open, committed, ended or kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Neither committed nor ended.
    Open,
    Committed(Box<CommittedSession>),
    Ended(Ending),
    /// This master does not know it, and it may have committed in another history: its blocks stay
    /// until an operator drops them.
    Kept,
}

/// The rules of verdicts and releases.
#[derive(Debug, Clone)]
pub(crate) struct Releases {
    context: Context,
}

impl Releases {
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Returns the sessions that `store` has to release now, oldest first. `fill_pressure` is the
    /// percentage of its space that is in use.
    pub(crate) fn due(&self, store: StoreUuid, fill_pressure: u32) -> Vec<SessionId> {
        let until_ms = if fill_pressure >= HIGH_PRESSURE {
            i64::MAX
        } else {
            self.context.clock.now_ms()
        };
        self.context
            .derived
            .releases
            .due(store, until_ms, MAX_RELEASED_SESSIONS)
    }

    /// Returns some of the sessions that wait for `store`, whatever their time.
    pub(crate) fn of_store(&self, store: StoreUuid) -> Vec<SessionId> {
        self.context
            .derived
            .releases
            .due(store, i64::MAX, MAX_RELEASED_SESSIONS)
    }

    /// Takes off the list what `store` has durably dropped.
    ///
    /// # Errors
    /// Of the store of metadata: the sessions stay on the list and are handed out again.
    pub(crate) async fn acknowledge(
        &self,
        store: StoreUuid,
        sessions: &[SessionId],
    ) -> Result<(), Fault> {
        self.context.check_writable()?;
        self.context.check_uncontested()?;
        self.give_up(store, sessions).await
    }

    /// Takes sessions off the list that nobody waits for on `store`, also if this master is
    /// contested.
    ///
    /// # Errors
    /// Of the store of metadata.
    pub(super) async fn give_up(
        &self,
        store: StoreUuid,
        sessions: &[SessionId],
    ) -> Result<(), Fault> {
        for _ in 0..MAX_DECISIONS {
            let mut batch = Batch::default();
            let mut waiting = false;
            for session in sessions {
                let Some(mut release) = self.context.derived.releases.get(*session) else {
                    continue;
                };
                if !release.record.stores.contains(&store) {
                    continue;
                }
                waiting = true;
                release.record.stores.retain(|left| *left != store);
                let key = keys::release_key(*session);
                batch.require_version(key.clone(), release.version);
                if release.record.stores.is_empty() {
                    batch.delete(key);
                } else {
                    batch.put(key, release.record.encode());
                }
            }
            // Another store may have acknowledged some of them at the same time: then look again.
            if !waiting || self.context.propose_contested(batch).await?.is_some() {
                return Ok(());
            }
        }
        Err(MetaError::Conflict.into())
    }

    /// Returns the verdicts on sessions that `store` holds sets of, in their order. If
    /// `may_release`, an open one that was silent for longer than a ticket lives is ended first,
    /// and an ended one that is not on the store's list is put there again.
    ///
    /// A session whose verdict fails is logged and left out: the store reports it again, and the
    /// others must not wait for it.
    pub(crate) async fn judge(
        &self,
        store: StoreUuid,
        sessions: &[SessionId],
        may_release: bool,
    ) -> Vec<(SessionId, Verdict)> {
        let mut verdicts = Vec::with_capacity(sessions.len());
        // Some at a time: their changes share syncs, and leave room for others in the writer's
        // queue.
        for chunk in sessions.chunks(JUDGED_TOGETHER) {
            let judge = |session: &SessionId| self.judge_one(store, *session, may_release);
            let judged = join_all(chunk.iter().map(judge)).await;
            for (session, verdict) in chunk.iter().zip(judged) {
                match verdict {
                    Ok(verdict) => verdicts.push((*session, verdict)),
                    Err(fault) => {
                        tracing::warn!(%session, error = %error_chain(&fault), "verdict on a session is put off");
                    }
                }
            }
        }
        verdicts
    }

    async fn judge_one(
        &self,
        store: StoreUuid,
        session: SessionId,
        may_release: bool,
    ) -> Result<Verdict, Fault> {
        match self.verdict(session).await? {
            verdict @ (Verdict::Open | Verdict::Ended(_)) if !may_release => Ok(verdict),
            Verdict::Ended(ending) => {
                if !self.context.derived.releases.waits_for(session, store) {
                    self.release_again(store, session).await?;
                }
                Ok(Verdict::Ended(ending))
            }
            Verdict::Open if self.is_abandoned(session) => {
                tracing::info!(%session, "abandoned upload is ended");
                Ok(match self.end(session).await? {
                    Verdict::Kept => Verdict::Kept,
                    // The store hears of it with the next report, when its release is on the list.
                    _ => Verdict::Open,
                })
            }
            Verdict::Committed(committed) => {
                // A report of its worker may have come after the commit.
                self.context.derived.activity.forget(session);
                Ok(Verdict::Committed(committed))
            }
            verdict @ (Verdict::Open | Verdict::Kept) => Ok(verdict),
        }
    }

    /// Lets sessions go that are kept, on behalf of a person. Returns the number of those that
    /// were kept.
    ///
    /// # Errors
    /// The error of the metadata store. Some sessions may be dropped already.
    pub(crate) async fn drop_kept(&self, sessions: &[SessionId]) -> Result<u64, Fault> {
        self.context.check_writable()?;
        let mut dropped = 0;
        for chunk in sessions.chunks(JUDGED_TOGETHER) {
            let drops = chunk.iter().map(|session| self.drop_one_kept(*session));
            for outcome in join_all(drops).await {
                dropped += u64::from(outcome?);
            }
        }
        tracing::warn!(
            dropped,
            "uploads of another history are dropped by an operator"
        );
        Ok(dropped)
    }

    async fn drop_one_kept(&self, session: SessionId) -> Result<bool, Fault> {
        // A conflict can only come from another drop of the same session.
        let Some(version) = self.context.derived.kept(session) else {
            return Ok(false);
        };
        let mut batch = Batch::default();
        batch.require_version(keys::session_key(session), version);
        end_session(
            &mut batch,
            session,
            Ending::Aborted,
            &self.release_everywhere(),
        );
        Ok(self.context.propose(batch).await?.is_some())
    }

    fn is_abandoned(&self, session: SessionId) -> bool {
        self.context
            .derived
            .activity
            .is_abandoned(session, self.context.limits.ticket_ttl)
    }

    async fn release_again(&self, store: StoreUuid, session: SessionId) -> Result<(), Fault> {
        for _ in 0..MAX_DECISIONS {
            let key = keys::release_key(session);
            let mut batch = Batch::default();
            let mut release = match self.context.derived.releases.get(session) {
                Some(pending) => {
                    batch.require_version(key.clone(), pending.version);
                    pending.record
                }
                None => {
                    batch.require_absent(key.clone());
                    ReleaseRecord {
                        not_before_ms: 0,
                        stores: Vec::new(),
                    }
                }
            };
            if release.stores.contains(&store) {
                return Ok(());
            }
            release.stores.push(store);
            batch.put(key, release.encode());
            if self.context.propose(batch).await?.is_some() {
                return Ok(());
            }
        }
        Err(MetaError::Conflict.into())
    }

    /// Returns the state of a session.
    pub(crate) async fn verdict(&self, session: SessionId) -> Result<Verdict, Fault> {
        let Some(found) = self.context.store.get(&keys::session_key(session)).await? else {
            return Ok(Verdict::Open);
        };
        Ok(match SessionRecord::decode(&found.value)? {
            SessionRecord::Committed(session) => Verdict::Committed(session),
            SessionRecord::Ended(ending) => Verdict::Ended(ending),
            SessionRecord::Kept => Verdict::Kept,
        })
    }

    fn release_everywhere(&self) -> ReleaseRecord {
        ReleaseRecord {
            not_before_ms: 0,
            stores: self.context.derived.store_uuids(),
        }
    }

    /// Ends a session that is open, and returns its verdict, which is not [`Verdict::Open`] any
    /// more. One that may have committed in another history of the metadata is kept instead: it
    /// never commits here either, but nothing of it is released.
    pub(crate) async fn end(&self, session: SessionId) -> Result<Verdict, Fault> {
        for _ in 0..MAX_DECISIONS {
            match self.verdict(session).await? {
                Verdict::Open => {}
                verdict => return Ok(verdict),
            }
            let mut batch = Batch::default();
            let key = keys::session_key(session);
            batch.require_absent(key.clone());
            let derived = &self.context.derived;
            let verdict = match derived.is_of_other_era(session, &mut batch) {
                true => {
                    tracing::warn!(%session, "upload may have committed in another history of the metadata: it is kept");
                    batch.put(key, SessionRecord::Kept.encode());
                    Verdict::Kept
                }
                false => {
                    let release = self.release_everywhere();
                    end_session(&mut batch, session, Ending::Aborted, &release);
                    Verdict::Ended(Ending::Aborted)
                }
            };
            if self.context.propose(batch).await?.is_some() {
                return Ok(verdict);
            }
        }
        Err(MetaError::Conflict.into())
    }
}

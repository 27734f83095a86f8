//! Upload sessions: tickets, the one batch that publishes a file, aborts.

use std::collections::BTreeMap;

use cstore_proto::{TicketClaims, TicketError};
use cstore_types::epoch::SealPoint;
use cstore_types::limits::{MAX_STORAGE_NODES, MAX_STORE_SEALS, MAX_TICKETS};
use cstore_types::{
    ETag, ErrorCode, Fault, FileMeta, FileName, NamedFile, Root, SessionId, StoreUuid, Tenant,
    UserMetadata, WriteCondition,
};

use tokio::time::Instant;

use super::namespace::{FoundFile, Namespace, missing, taken};
use super::releases::{Releases, Verdict};
use super::seals::{JudgedSeal, ToldGuard};
use super::{Context, Membership, millis};
use crate::limits::MAX_DECISIONS;
use crate::store::keys::{
    self, ClusterRecord, CommittedSession, Ending, FileRecord, Publication, SessionRecord,
};
use crate::store::{Batch, DoubtedSeal, MetaError};

/// The proof of one store that it durably holds its part of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) store: StoreUuid,
    pub(crate) point: SealPoint,
}

/// A seal by which the master remembers how far a disk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RaisingSeal {
    store: StoreUuid,
    point: SealPoint,
    /// Set if the disk was in doubt because of its age.
    in_doubt: Option<DoubtedSeal>,
}

/// A commit as it was asked for, checked as far as no state is needed.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) claims: TicketClaims,
    pub(crate) name: FileName,
    pub(crate) condition: WriteCondition,
    pub(crate) root: Vec<u8>,
    pub(crate) etag: ETag,
    pub(crate) blocks: u64,
    pub(crate) content_type: String,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) metadata: UserMetadata,
    pub(crate) size: u64,
    pub(crate) seals: Vec<Seal>,
}

impl Commit {
    /// Returns the stores that have sealed a part, in the order of their first seals.
    fn stores(&self) -> Vec<StoreUuid> {
        let mut stores = Vec::new();
        for seal in &self.seals {
            if !stores.contains(&seal.store) {
                stores.push(seal.store);
            }
        }
        stores
    }

    fn file(&self, version: u64, modified_ms: i64) -> FileRecord {
        let meta = FileMeta {
            size: self.size,
            version,
            modified_ms,
            etag: self.etag,
            content_type: self.content_type.clone(),
            chunking: self.claims.chunking,
            blocks: self.blocks,
            sha256: self.sha256,
            metadata: self.metadata.clone(),
        };
        FileRecord {
            session: self.claims.session,
            meta,
        }
    }
}

/// A published file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) file: NamedFile,
    /// True if the name had a file before.
    pub(crate) replaced: bool,
}

/// The outcome of an abort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Aborted {
    /// The session never committed and never will.
    Ended,
    /// Too late: the session has published this file, which is still there.
    Committed(NamedFile),
    /// Too late: the session has published a file with this version, and the file was removed or
    /// overwritten since.
    Removed { version: u64 },
}

/// Makes the refusal of an upload whose blocks are gone with the disk that had sealed them.
fn gone() -> Fault {
    let text = "a storage disk went back behind this upload; upload the file again";
    Fault::new(ErrorCode::DataLoss, text)
}

/// The rules of upload sessions.
#[derive(Debug, Clone)]
pub(crate) struct Uploads {
    context: Context,
    identity: ClusterRecord,
    namespace: Namespace,
    releases: Releases,
    members: Membership,
    /// Time at which this life of the master began.
    started: Instant,
}

impl Uploads {
    pub(crate) fn new(
        context: Context,
        identity: ClusterRecord,
        namespace: Namespace,
        releases: Releases,
        members: Membership,
    ) -> Self {
        Self {
            context,
            identity,
            namespace,
            releases,
            members,
            started: Instant::now(),
        }
    }

    /// Returns the claims of `count` tickets (0 means 1), for uploads to ready workers in turn.
    ///
    /// # Errors
    /// Those of `condition` if a name is given; `unavailable` or `full` if an upload could not
    /// succeed now.
    pub(crate) async fn begin(
        &self,
        tenant: &Tenant,
        name: Option<&FileName>,
        condition: &WriteCondition,
        count: u32,
    ) -> Result<Vec<TicketClaims>, Fault> {
        self.context.check_writable()?;
        if count > MAX_TICKETS {
            return Err(Fault::invalid(format!(
                "count must be 1 to {MAX_TICKETS}, found {count}"
            )));
        }
        if let Some(name) = name {
            let found = self.namespace.find(tenant, name).await?;
            check_condition(condition, name, found.as_ref())?;
        }
        if let Some(why) = self.context.store.writer_state().borrow().reason() {
            return Err(why.clone().into());
        }
        self.context.check_uncontested()?;

        let map_version = self.members.check_takes_uploads()?;
        let expires_ms = self
            .context
            .clock
            .now_ms()
            .saturating_add(millis(self.context.limits.ticket_ttl));
        let era = self.context.derived.era();
        let mut tickets = Vec::new();
        for _ in 0..count.max(1) {
            let worker = self.members.next_worker()?;
            let session =
                SessionId::random_in(era).map_err(|error| Fault::from(MetaError::Random(error)))?;
            tickets.push(TicketClaims {
                session,
                cluster: self.identity.cluster,
                incarnation: self.identity.incarnation,
                worker: worker.id,
                worker_addr: worker.addr,
                map_version,
                chunking: self.context.limits.chunking,
                tenant: tenant.clone(),
                expires_ms,
                issued: Some(self.context.store.head()),
            });
        }
        Ok(tickets)
    }

    /// Publishes a file: one durable batch in which everything is checked. Idempotent: a commit
    /// that was published is answered with what it published, also after the file was removed.
    ///
    /// # Errors
    /// Those of the condition, `permission_denied` for a ticket that is not valid (any more) and
    /// `invalid_argument` are final: the session never commits. Any other leaves the outcome
    /// unknown: repeat the call.
    pub(crate) async fn commit(&self, commit: &Commit) -> Result<Published, Fault> {
        self.context.check_writable()?;
        check_recipe(commit)?;
        self.check_origin(&commit.claims)?;
        let mut turn = None;
        for _ in 0..MAX_DECISIONS {
            match self.releases.verdict(commit.claims.session).await? {
                Verdict::Open => {}
                Verdict::Committed(session) => return published_before(commit, *session),
                Verdict::Ended(ending) => return self.ended_before(commit, ending),
                Verdict::Kept => return Err(other_history()),
            }
            if let Err(error) = self.check_expiry(&commit.claims) {
                if self.started.elapsed() < self.context.limits.lease {
                    // After a start nothing is known of the progress that renews tickets, until
                    // workers were heard.
                    let text = "upload ticket has expired, unless its worker reports progress";
                    return Err(Fault::new(ErrorCode::Unavailable, text));
                }
                // Final: no later try may publish.
                match self.releases.end(commit.claims.session).await? {
                    Verdict::Ended(Ending::Aborted) => return Err(error.into()),
                    _ => continue,
                }
            }

            let found = self
                .namespace
                .find(&commit.claims.tenant, &commit.name)
                .await?;
            if let Err(fault) = check_condition(&commit.condition, &commit.name, found.as_ref()) {
                // Final: the session can never commit, and its blocks come back.
                match self.releases.end(commit.claims.session).await? {
                    Verdict::Ended(Ending::Aborted) => return Err(fault),
                    // An earlier try of this commit came through: the condition failed against its
                    // own file.
                    _ => continue,
                }
            }
            if let Some(old) = &found {
                // BEFORE the guard below is taken: it keeps others waiting, too.
                self.namespace
                    .take_turn(&mut turn, old.record.session)
                    .await;
            }
            // Until the batch is durable no disk may take back what it is judged by.
            let told = self.members.told().await;
            let Some(seals) = self.judge_seals(&told, commit)? else {
                drop(told);
                // Final: a disk went back behind its seal.
                match self.releases.end(commit.claims.session).await? {
                    Verdict::Ended(Ending::Aborted) => return Err(gone()),
                    _ => continue,
                }
            };
            let mut batch = Batch::default();
            let derived = &self.context.derived;
            if derived.is_of_other_era(commit.claims.session, &mut batch) {
                drop(told);
                // Final: the history that was given up may have ended the session, and its sets be
                // gone.
                self.releases.end(commit.claims.session).await?;
                continue;
            }
            let tried = self.try_commit(batch, commit, found, seals, told);
            if let Some(published) = tried.await? {
                return Ok(published);
            }
        }
        Err(MetaError::Conflict.into())
    }

    /// Completes `batch`, and publishes the file by it. Returns `None` if another change came first.
    async fn try_commit(
        &self,
        mut batch: Batch,
        commit: &Commit,
        found: Option<FoundFile>,
        seals: Vec<RaisingSeal>,
        told: ToldGuard,
    ) -> Result<Option<Published>, Fault> {
        let session = commit.claims.session;
        let tenant = &commit.claims.tenant;
        let name_key = keys::name_key(tenant, &commit.name);
        batch.require_absent(keys::session_key(session));

        let version = match &found {
            None => {
                batch.require_absent(name_key.clone());
                1
            }
            Some(old) => {
                self.namespace
                    .drop_name(&mut batch, tenant, &commit.name, old)
                    .await?;
                old.record.meta.version + 1
            }
        };
        let file = commit.file(version, self.context.clock.now_ms());
        let record = SessionRecord::Committed(Box::new(CommittedSession {
            names: 1,
            root_crc: crc32c::crc32c(&commit.root),
            stores: commit.stores(),
            name: commit.name.clone(),
            file: file.clone(),
        }));
        batch.put(name_key, file.encode());
        batch.put(keys::session_key(session), record.encode());
        batch.put(keys::root_key(session), commit.root.clone());
        // The caller may be gone before the batch lands.
        batch.keep(told);
        for RaisingSeal {
            store,
            point,
            in_doubt,
        } in seals
        {
            batch.raise_seal(keys::store_key(store), point, in_doubt);
        }

        let published = self.context.propose(batch).await?.map(|_| Published {
            file: NamedFile {
                name: commit.name.clone(),
                meta: file.meta,
            },
            replaced: found.is_some(),
        });
        Ok(published)
    }

    /// Judges the seals of a commit. Returns those by which the master remembers how far each disk
    /// has come; `None` if a disk does not hold what it proved.
    fn judge_seals(
        &self,
        told: &ToldGuard,
        commit: &Commit,
    ) -> Result<Option<Vec<RaisingSeal>>, Fault> {
        let mut raising = Vec::new();
        for seal in &commit.seals {
            let Some(record) = self.context.derived.store(seal.store) else {
                let text = format!("store {} is not registered", seal.store);
                return Err(Fault::new(ErrorCode::Unavailable, text));
            };
            let judged = self
                .members
                .judge_seal(told, seal.store, seal.point, &record.seen)?;
            match judged {
                JudgedSeal::Gone => return Ok(None),
                JudgedSeal::Held { point, in_doubt } => {
                    // The writer looks again, at its turn.
                    let may_raise = in_doubt.is_some() || record.seen.newest < point;
                    let store = seal.store;
                    raising.extend(may_raise.then_some(RaisingSeal {
                        store,
                        point,
                        in_doubt,
                    }));
                }
            }
        }
        Ok(Some(raising))
    }

    /// Makes sure that a session never commits, unless it has.
    ///
    /// # Errors
    /// `unavailable` if the session ended and how was not kept; others leave the outcome unknown.
    pub(crate) async fn abort(&self, claims: &TicketClaims) -> Result<Aborted, Fault> {
        self.context.check_writable()?;
        self.check_origin(claims)?;
        match self.releases.end(claims.session).await? {
            Verdict::Committed(session) => Ok(Aborted::Committed(NamedFile {
                name: session.name,
                meta: session.file.meta,
            })),
            Verdict::Ended(Ending::Removed { version, .. }) => Ok(Aborted::Removed { version }),
            Verdict::Ended(Ending::Unknown) => Err(unknown_ending()),
            Verdict::Ended(Ending::Aborted) | Verdict::Open | Verdict::Kept => Ok(Aborted::Ended),
        }
    }

    /// Checks that this master, or an earlier life of it, made the ticket. One of another history
    /// is refused without a verdict: what its upload has stored is judged by the history that made
    /// it.
    fn check_origin(&self, claims: &TicketClaims) -> Result<(), Fault> {
        if claims.cluster != self.identity.cluster {
            return Err(Fault::new(
                ErrorCode::PermissionDenied,
                "upload ticket is of another cluster",
            ));
        }
        if claims.incarnation != self.identity.incarnation {
            let text = "upload ticket is of another incarnation of the metadata";
            return Err(Fault::new(ErrorCode::PermissionDenied, text));
        }
        if let Some(issued) = claims.issued
            && !self.context.contains(&issued)
        {
            return Err(other_history());
        }
        Ok(())
    }

    fn check_expiry(&self, claims: &TicketClaims) -> Result<(), TicketError> {
        let ttl = self.context.limits.ticket_ttl;
        match claims.check_expiry(self.context.clock.now_ms()) {
            Err(_) if self.context.derived.activity.is_active(claims.session, ttl) => Ok(()),
            checked => checked,
        }
    }

    /// Returns the answer to a commit of a session that has ended.
    fn ended_before(&self, commit: &Commit, ending: Ending) -> Result<Published, Fault> {
        match ending {
            Ending::Removed {
                version,
                publication,
            } => {
                if publication != Publication::new(&commit.name, crc32c::crc32c(&commit.root)) {
                    return Err(committed_otherwise());
                }
                // The record of the file is gone with its last name. The commit asks for the same
                // file, so the record is made again for the answer.
                let file = commit.file(version, self.context.clock.now_ms());
                let file = NamedFile {
                    name: commit.name.clone(),
                    meta: file.meta,
                };
                Ok(Published {
                    file,
                    replaced: version > 1,
                })
            }
            Ending::Aborted => Err(Fault::new(
                ErrorCode::PermissionDenied,
                "this upload was aborted or given up",
            )),
            Ending::Unknown => Err(unknown_ending()),
        }
    }
}

/// Returns the answer to a repeated commit of a session that has committed.
fn published_before(commit: &Commit, session: CommittedSession) -> Result<Published, Fault> {
    if session.root_crc != crc32c::crc32c(&commit.root) || session.name != commit.name {
        return Err(committed_otherwise());
    }
    let replaced = session.file.meta.version > 1;
    Ok(Published {
        file: NamedFile {
            name: session.name,
            meta: session.file.meta,
        },
        replaced,
    })
}

/// Makes the refusal of an upload that another history of the metadata has begun.
fn other_history() -> Fault {
    let text = "upload was begun under another copy of the metadata, older or restored; upload the file again";
    Fault::new(ErrorCode::PermissionDenied, text)
}

fn committed_otherwise() -> Fault {
    let text = "this upload was committed before with another content or name";
    Fault::new(ErrorCode::PreconditionFailed, text)
}

fn unknown_ending() -> Fault {
    let text = "this upload has ended, and an older program did not keep whether it had committed";
    Fault::new(ErrorCode::Unavailable, text)
}

/// Refuses if `condition` does not hold of the file that has the name.
fn check_condition(
    condition: &WriteCondition,
    name: &FileName,
    found: Option<&FoundFile>,
) -> Result<(), Fault> {
    match (condition, found) {
        (WriteCondition::Any, _)
        | (WriteCondition::Absent, None)
        | (WriteCondition::Exists, Some(_)) => Ok(()),
        (WriteCondition::Absent, Some(_)) => Err(taken(name)),
        (WriteCondition::Exists | WriteCondition::EtagEquals(_), None) => Err(Fault {
            code: ErrorCode::PreconditionFailed,
            ..missing(name)
        }),
        (WriteCondition::EtagEquals(etag), Some(found)) => {
            let current = found.record.meta.etag.to_string();
            if *etag == current {
                return Ok(());
            }
            let text = format!("file has etag {current}, expected {etag}");
            Err(Fault::new(ErrorCode::PreconditionFailed, text))
        }
    }
}

fn check_recipe(commit: &Commit) -> Result<(), Fault> {
    let root = Root::decode(&commit.root).map_err(|error| {
        Fault::invalid(format!("field recipe_root: {error}")).with_source(error)
    })?;
    if root.size() != commit.size {
        let text = format!(
            "field size: is {}, but the recipe has {} bytes",
            commit.size,
            root.size()
        );
        return Err(Fault::invalid(text));
    }
    let mut stores: BTreeMap<StoreUuid, usize> = BTreeMap::new();
    for seal in &commit.seals {
        *stores.entry(seal.store).or_default() += 1;
    }
    if stores.len() > MAX_STORAGE_NODES || stores.values().any(|n| *n > MAX_STORE_SEALS) {
        let text = format!(
            "field seals: must name at most {MAX_STORAGE_NODES} stores, each at most {MAX_STORE_SEALS} times"
        );
        return Err(Fault::invalid(text));
    }
    if commit.size > 0 && commit.seals.is_empty() {
        return Err(Fault::invalid(
            "field seals: a file with blocks must be sealed on some store",
        ));
    }
    Ok(())
}

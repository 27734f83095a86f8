//! Upload sessions: tickets, the one transaction that publishes a file, aborts.

use cstore_proto::{TicketClaims, v1};
use cstore_types::limits::MAX_TICKETS;
use cstore_types::{ErrorCode, FileName, Root, SealSeq, SessionId, StoreUuid, Tenant, UserMetadata};

use crate::core::{MAX_TRIES, Master, file_info, now_ms};
use crate::error::Refusal;
use crate::meta::keys::{self, FileRecord, SessionRecord, StoreRecord};
use crate::meta::{Batch, MetaError};
use crate::namespace::{Effect, taken};

/// A commit as it was asked for, checked as far as no state is needed.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) claims: TicketClaims,
    pub(crate) name: FileName,
    pub(crate) condition: Condition,
    pub(crate) root: Vec<u8>,
    pub(crate) etag: String,
    pub(crate) blocks: u64,
    pub(crate) content_type: String,
    pub(crate) sha256: Vec<u8>,
    pub(crate) metadata: UserMetadata,
    pub(crate) size: u64,
    pub(crate) seals: Vec<(StoreUuid, SealSeq)>,
}

/// What must hold of a name when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    Absent,
    Any,
    Exists,
    EtagEquals(String),
}

impl From<Option<v1::WriteCondition>> for Condition {
    fn from(condition: Option<v1::WriteCondition>) -> Self {
        use v1::write_condition::Condition as Wire;
        match condition.and_then(|condition| condition.condition) {
            None | Some(Wire::Absent(_)) => Self::Absent,
            Some(Wire::Any(_)) => Self::Any,
            Some(Wire::Exists(_)) => Self::Exists,
            Some(Wire::EtagEquals(etag)) => Self::EtagEquals(etag),
        }
    }
}

impl Condition {
    /// Refuses when the condition does not hold of what is there.
    pub(crate) fn check(&self, name: &FileName, found: Option<&FileRecord>) -> Result<(), Refusal> {
        let failed = |text: String| Err(Refusal::new(ErrorCode::PreconditionFailed, text));
        match (self, found) {
            (Self::Absent, Some(_)) => Err(taken(name)),
            (Self::Exists | Self::EtagEquals(_), None) => {
                failed(format!("there is no file {:?}", name.as_str()))
            }
            (Self::EtagEquals(etag), Some(file)) if *etag != file.etag => {
                failed(format!("file has etag {}, expected {etag}", file.etag))
            }
            _ => Ok(()),
        }
    }
}

impl Master {
    /// Tickets for uploads to healthy workers in turn.
    pub(crate) async fn begin_upload(
        &self,
        tenant: &Tenant,
        name: Option<&FileName>,
        condition: &Condition,
        count: u32,
    ) -> Result<Vec<v1::Ticket>, Refusal> {
        if count > MAX_TICKETS {
            let text = format!("count must be 1 to {MAX_TICKETS}, found {count}");
            return Err(Refusal::new(ErrorCode::InvalidArgument, text));
        }
        if let Some(name) = name {
            let found = self.find(tenant, name).await?;
            condition.check(name, found.as_ref().map(|(file, _)| file))?;
        }
        if let Some(why) = self.meta.failed() {
            return Err(MetaError::Unavailable(why).into());
        }
        let map_version = self.members.check_takes_uploads(self.config.lease(), self.config.storage_nodes)?;
        let ttl = i64::try_from(self.config.ticket_ttl.as_millis()).unwrap_or(i64::MAX);
        let mut tickets = Vec::new();
        for _ in 0..count.max(1) {
            let (worker, worker_addr) = self.members.next_worker(self.config.lease())?;
            let session =
                SessionId::random().map_err(|e| Refusal::new(ErrorCode::Internal, e.to_string()))?;
            let claims = TicketClaims {
                session,
                cluster: self.cluster,
                incarnation: self.incarnation,
                worker,
                worker_addr,
                map_version,
                chunking: self.config.chunking,
                tenant: tenant.clone(),
                expires_ms: now_ms().saturating_add(ttl),
            };
            tickets.push(claims.sign(&self.ticket_key));
        }
        Ok(tickets)
    }

    /// Publishes a file: one durable transaction in which everything is checked. Answers the file and whether it
    /// replaced one.
    pub(crate) async fn commit_upload(&self, commit: &Commit) -> Result<(v1::FileInfo, bool), Refusal> {
        check_recipe(commit)?;
        self.check_ticket(&commit.claims)?;
        for _ in 0..MAX_TRIES {
            if let Some(answer) = self.committed_before(commit).await? {
                return Ok(answer);
            }
            let found = self.find(&commit.claims.tenant, &commit.name).await?;
            let old = found.as_ref().map(|(file, _)| file);
            if let Err(refusal) = commit.condition.check(&commit.name, old) {
                // Refused is final: the session can never commit, and its blocks come back.
                self.tombstone(commit.claims.session).await?;
                return Err(refusal);
            }
            if let Some(answer) = self.try_commit(commit, found).await? {
                return Ok(answer);
            }
        }
        Err(MetaError::Conflict.into())
    }

    fn check_ticket(&self, claims: &TicketClaims) -> Result<(), Refusal> {
        let denied = |text: &str| Err(Refusal::new(ErrorCode::PermissionDenied, text));
        if claims.cluster != self.cluster {
            return denied("upload ticket is of another cluster");
        }
        if claims.incarnation != self.incarnation {
            return denied("upload ticket is of another incarnation of the metadata");
        }
        let active = self.releases.is_active(claims.session, self.config.ticket_ttl);
        match claims.check_expiry(now_ms()) {
            Err(error) if !active => denied(&error.to_string()),
            _ => Ok(()),
        }
    }

    /// The answer that a repeated commit gets; a refusal when the session ended otherwise.
    async fn committed_before(&self, commit: &Commit) -> Result<Option<(v1::FileInfo, bool)>, Refusal> {
        let Some(found) = self.meta.get(&keys::session_key(commit.claims.session)).await? else {
            return Ok(None);
        };
        match SessionRecord::decode(&found.value)? {
            SessionRecord::Committed { root_crc, name, file, .. } => {
                if root_crc == crc32c::crc32c(&commit.root) && name == commit.name.as_str() {
                    return Ok(Some((file_info(&name, &file), file.version > 1)));
                }
                let text = "this upload was committed before with another content or name";
                Err(Refusal::new(ErrorCode::PreconditionFailed, text))
            }
            SessionRecord::Tombstoned => {
                Err(Refusal::new(ErrorCode::PermissionDenied, "this upload was aborted or given up"))
            }
        }
    }

    async fn try_commit(
        &self,
        commit: &Commit,
        found: Option<(FileRecord, crate::meta::Versioned)>,
    ) -> Result<Option<(v1::FileInfo, bool)>, Refusal> {
        let (session, mut batch) = (commit.claims.session, Batch::default());
        batch.require_absent(keys::session_key(session));
        let replaced = found.is_some();
        let (effect, version) = match found {
            None => {
                batch.require_absent(keys::name_key(&commit.claims.tenant, &commit.name));
                (Effect::default(), 1)
            }
            Some((old, found)) => {
                let version = old.version + 1;
                (
                    self.drop_name(&mut batch, &commit.claims.tenant, &commit.name, old, found.version)
                        .await?,
                    version,
                )
            }
        };
        let file = FileRecord {
            session,
            version,
            size: commit.size,
            modified_ms: now_ms(),
            blocks: commit.blocks,
            etag: commit.etag.clone(),
            content_type: commit.content_type.clone(),
            chunking: commit.claims.chunking.to_string(),
            sha256: commit.sha256.clone(),
            metadata: commit.metadata.clone(),
        };
        let record = SessionRecord::Committed {
            names: 1,
            root_crc: crc32c::crc32c(&commit.root),
            stores: commit.seals.iter().map(|(store, _)| *store).collect(),
            name: commit.name.as_str().to_owned(),
            file: Box::new(file.clone()),
        };
        self.note_seals(&mut batch, commit)?;
        batch.put(keys::name_key(&commit.claims.tenant, &commit.name), file.encode());
        batch.put(keys::session_key(session), record.encode());
        batch.put(keys::root_key(session), commit.root.clone());
        if self.commit(batch, effect).await?.is_none() {
            return Ok(None);
        }
        self.usage.add(&commit.claims.tenant, &file);
        self.releases.forget(session);
        Ok(Some((file_info(commit.name.as_str(), &file), replaced)))
    }

    /// Remembers how far each store's seals have come, to notice a disk that went back in time.
    fn note_seals(&self, batch: &mut Batch, commit: &Commit) -> Result<(), Refusal> {
        for (store, seal_seq) in &commit.seals {
            let Some(node) = self.members.store_node(*store) else {
                let text = format!("store {store} is not registered");
                return Err(Refusal::new(ErrorCode::Unavailable, text));
            };
            if self.members.note_seal(*store, *seal_seq) {
                batch.put(keys::store_key(*store), StoreRecord { seal_seq: *seal_seq, node }.encode());
            }
        }
        Ok(())
    }

    /// Makes sure that a session never commits, unless it has. Answers whether it has.
    pub(crate) async fn abort_upload(&self, claims: &TicketClaims) -> Result<bool, Refusal> {
        if claims.cluster != self.cluster {
            return Err(Refusal::new(ErrorCode::PermissionDenied, "upload ticket is of another cluster"));
        }
        Ok(!self.tombstone(claims.session).await?)
    }
}

fn check_recipe(commit: &Commit) -> Result<(), Refusal> {
    let invalid = |text: String| Err(Refusal::new(ErrorCode::InvalidArgument, text));
    let root = match Root::decode(&commit.root) {
        Ok(root) => root,
        Err(error) => return invalid(format!("field recipe_root: {error}")),
    };
    if root.size() != commit.size {
        return invalid(format!("field size: is {}, but the recipe has {} bytes", commit.size, root.size()));
    }
    if commit.size > 0 && commit.seals.is_empty() {
        return invalid("field seals: a file with blocks must be sealed on some store".to_owned());
    }
    Ok(())
}

//! Names: look up, delete, rename, copy. Each change is one batch.

use std::sync::Arc;

use bytes::Bytes;
use cstore_types::{ErrorCode, Fault, FileMeta, FileName, NamedFile, SessionId, Tenant};

use super::turns::{SessionTurns, Turn};
use super::{Context, millis};
use crate::limits::MAX_DECISIONS;
use crate::store::keys::{
    self, CommittedSession, Ending, FileRecord, Publication, ReleaseRecord, SessionRecord,
};
use crate::store::{Batch, DamageKind, MetaError, Position};

/// Arguments of a copy or rename: gives an existing file the name `to`, in addition to (copy) or
/// instead of (rename) `from`.
#[derive(Debug)]
pub(crate) struct CopyOrRename {
    pub(crate) tenant: Tenant,
    pub(crate) from: FileName,
    pub(crate) to: FileName,
    /// True if a file of the name `to` may be replaced.
    pub(crate) overwrite: bool,
    /// If not empty, the file must have this ETag.
    pub(crate) etag: String,
}

/// A file as it was read, with the version that a change of its name has to require.
#[derive(Debug, Clone)]
pub(super) struct FoundFile {
    pub(super) record: FileRecord,
    pub(super) version: Position,
}

/// File that a name had, which the name's new file displaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Displaced {
    /// The name had no file.
    Nothing,
    /// A file of the same session: both names share its blocks.
    SameSession,
    /// A file of another session, which has one name less.
    OtherSession,
}

/// The fate of a file's old name when it is given another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OldName {
    Kept,
    Removed,
}

/// The rules of names.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    context: Context,
    turns: Arc<SessionTurns>,
}

impl Namespace {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            context,
            turns: Arc::default(),
        }
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Waits for the turn to change the names of `session`, see [`SessionTurns::take`].
    pub(super) async fn take_turn(&self, turn: &mut Option<Turn>, session: SessionId) {
        self.turns.take(turn, session).await;
    }

    pub(super) async fn find(
        &self,
        tenant: &Tenant,
        name: &FileName,
    ) -> Result<Option<FoundFile>, Fault> {
        let Some(found) = self
            .context
            .store
            .get(&keys::name_key(tenant, name))
            .await?
        else {
            return Ok(None);
        };
        Ok(Some(FoundFile {
            record: FileRecord::decode(&found.value)?,
            version: found.version,
        }))
    }

    pub(super) async fn must_find(
        &self,
        tenant: &Tenant,
        name: &FileName,
    ) -> Result<FoundFile, Fault> {
        let found = self.find(tenant, name).await?;
        found.ok_or_else(|| match self.context.read_only() {
            // The name may be one of a change that is not served.
            Some(why) if why.may_lack_names() => MetaError::ReadOnly(why).into(),
            _ => missing(name),
        })
    }

    /// Returns a file and its recipe root.
    ///
    /// # Errors
    /// `not_found`; `unavailable` from a master that is read-only and may lack the name;
    /// `data_loss` if the recipe root is missing.
    pub(crate) async fn get_file(
        &self,
        tenant: &Tenant,
        name: &FileName,
    ) -> Result<(NamedFile, Bytes), Fault> {
        let mut without_root = None;
        for _ in 0..MAX_DECISIONS {
            let FoundFile { record, .. } = self.must_find(tenant, name).await?;
            if let Some(root) = self
                .context
                .store
                .get(&keys::root_key(record.session))
                .await?
            {
                let file = NamedFile {
                    name: name.clone(),
                    meta: record.meta,
                };
                return Ok((file, root.value.into()));
            }
            // The file was replaced or deleted between the two reads: look again. A root goes with
            // the last name of its session, so the same session a second time has lost it.
            if without_root.replace(record.session) == Some(record.session) {
                return Err(DamageKind::Layout("recipe root of a file").into());
            }
        }
        Err(Fault::new(ErrorCode::Overloaded, "the file keeps changing"))
    }

    /// Removes a name.
    ///
    /// # Errors
    /// `not_found`; `precondition_failed` if `etag` is not empty and the file has another.
    pub(crate) async fn delete_file(
        &self,
        tenant: &Tenant,
        name: &FileName,
        etag: &str,
    ) -> Result<(), Fault> {
        self.context.check_writable()?;
        let mut turn = None;
        for _ in 0..MAX_DECISIONS {
            let found = self.must_find(tenant, name).await?;
            check_etag(&found.record.meta, etag)?;
            self.take_turn(&mut turn, found.record.session).await;

            let mut batch = Batch::default();
            batch.delete(keys::name_key(tenant, name));
            self.drop_name(&mut batch, tenant, name, &found).await?;
            if self.context.propose(batch).await?.is_some() {
                return Ok(());
            }
        }
        Err(MetaError::Conflict.into())
    }

    /// Gives a file another name instead of the one that it has.
    ///
    /// # Errors
    /// `not_found`; `already_exists` if the new name is taken and may not be replaced;
    /// `precondition_failed`.
    pub(crate) async fn rename_file(&self, request: &CopyOrRename) -> Result<NamedFile, Fault> {
        self.give_name(request, OldName::Removed).await
    }

    /// Gives a file a second name.
    ///
    /// # Errors
    /// Those of [`Self::rename_file`].
    pub(crate) async fn copy_file(&self, request: &CopyOrRename) -> Result<NamedFile, Fault> {
        self.give_name(request, OldName::Kept).await
    }

    async fn give_name(
        &self,
        request: &CopyOrRename,
        old_name: OldName,
    ) -> Result<NamedFile, Fault> {
        let CopyOrRename {
            tenant, from, to, ..
        } = request;
        self.context.check_writable()?;
        let mut turn = None;
        for _ in 0..MAX_DECISIONS {
            let found = self.source_of(request).await?;
            if from == to {
                if !request.overwrite {
                    return Err(taken(to));
                }
                return Ok(NamedFile {
                    name: to.clone(),
                    meta: found.record.meta,
                });
            }
            self.take_turn(&mut turn, found.record.session).await;

            let mut batch = Batch::default();
            batch.require_version(keys::name_key(tenant, from), found.version);
            let (displaced, version) = self.claim(&mut batch, request, &found.record).await?;
            let lost_by_source = i32::from(old_name == OldName::Removed);
            let lost_by_target = i32::from(displaced == Displaced::SameSession);
            let change = 1 - lost_by_source - lost_by_target;
            if change != 0 {
                self.count_names(&mut batch, found.record.session, change)
                    .await?;
            }

            let named = self.under_new_version(found.record, version);
            if old_name == OldName::Removed {
                batch.delete(keys::name_key(tenant, from));
            }
            batch.put(keys::name_key(tenant, to), named.encode());
            if self.context.propose(batch).await?.is_some() {
                return Ok(NamedFile {
                    name: to.clone(),
                    meta: named.meta,
                });
            }
        }
        Err(MetaError::Conflict.into())
    }

    async fn source_of(&self, request: &CopyOrRename) -> Result<FoundFile, Fault> {
        let found = self.must_find(&request.tenant, &request.from).await?;
        check_etag(&found.record.meta, &request.etag)?;
        Ok(found)
    }

    fn under_new_version(&self, record: FileRecord, version: u64) -> FileRecord {
        let modified_ms = self.context.clock.now_ms();
        FileRecord {
            meta: FileMeta {
                version,
                modified_ms,
                ..record.meta
            },
            ..record
        }
    }

    /// Adds to `batch` what the loss of one name means for its session: one name less, or its end.
    /// The caller changes the name itself.
    pub(super) async fn drop_name(
        &self,
        batch: &mut Batch,
        tenant: &Tenant,
        name: &FileName,
        found: &FoundFile,
    ) -> Result<(), Fault> {
        batch.require_version(keys::name_key(tenant, name), found.version);
        let session = found.record.session;
        let key = keys::session_key(session);
        let Some(stored) = self.context.store.get(&key).await? else {
            return Ok(());
        };
        batch.require_version(key.clone(), stored.version);
        match SessionRecord::decode(&stored.value)? {
            SessionRecord::Committed(committed) if committed.names > 1 => {
                let names = committed.names - 1;
                let fewer = SessionRecord::Committed(Box::new(CommittedSession {
                    names,
                    ..*committed
                }));
                batch.put(key, fewer.encode());
            }
            SessionRecord::Committed(committed) => {
                let not_before_ms = self
                    .context
                    .clock
                    .now_ms()
                    .saturating_add(millis(self.context.limits.release_delay));
                let publication = Publication::new(&committed.name, committed.root_crc);
                let ending = Ending::Removed {
                    version: committed.file.meta.version,
                    publication,
                };
                let release = ReleaseRecord {
                    not_before_ms,
                    stores: committed.stores,
                };
                end_session(batch, session, ending, &release);
            }
            SessionRecord::Ended(_) | SessionRecord::Kept => {}
        }
        Ok(())
    }

    /// Adds to `batch` that a session has one name more or less.
    async fn count_names(
        &self,
        batch: &mut Batch,
        session: SessionId,
        change: i32,
    ) -> Result<(), Fault> {
        let key = keys::session_key(session);
        let Some(stored) = self.context.store.get(&key).await? else {
            return Err(MetaError::Conflict.into());
        };
        batch.require_version(key.clone(), stored.version);
        if let SessionRecord::Committed(committed) = SessionRecord::decode(&stored.value)? {
            let names = committed.names.saturating_add_signed(change);
            let counted = SessionRecord::Committed(Box::new(CommittedSession {
                names,
                ..*committed
            }));
            batch.put(key, counted.encode());
        }
        Ok(())
    }

    /// Frees the name `to` for `file` in `batch`, or refuses. Returns what is displaced and the
    /// version of the name's next file.
    async fn claim(
        &self,
        batch: &mut Batch,
        request: &CopyOrRename,
        file: &FileRecord,
    ) -> Result<(Displaced, u64), Fault> {
        let CopyOrRename { tenant, to, .. } = request;
        let Some(old) = self.find(tenant, to).await? else {
            batch.require_absent(keys::name_key(tenant, to));
            return Ok((Displaced::Nothing, 1));
        };
        if !request.overwrite {
            return Err(taken(to));
        }

        let version = old.record.meta.version + 1;
        if old.record.session == file.session {
            batch.require_version(keys::name_key(tenant, to), old.version);
            return Ok((Displaced::SameSession, version));
        }
        self.drop_name(batch, tenant, to, &old).await?;
        Ok((Displaced::OtherSession, version))
    }
}

/// Refuses if an ETag is demanded and the file has another.
fn check_etag(file: &FileMeta, etag: &str) -> Result<(), Fault> {
    if etag.is_empty() || file.etag.to_string() == etag {
        return Ok(());
    }
    let text = format!("file has etag {}, expected {etag}", file.etag);
    Err(Fault::new(ErrorCode::PreconditionFailed, text))
}

/// Adds the end of a session: tombstone and release in one batch, so that no late commit can
/// follow.
pub(super) fn end_session(
    batch: &mut Batch,
    session: SessionId,
    ending: Ending,
    release: &ReleaseRecord,
) {
    batch.put(
        keys::session_key(session),
        SessionRecord::Ended(ending).encode(),
    );
    batch.delete(keys::root_key(session));
    if !release.stores.is_empty() {
        batch.put(keys::release_key(session), release.encode());
    }
}

pub(super) fn missing(name: &FileName) -> Fault {
    Fault::new(
        ErrorCode::NotFound,
        format!("there is no file {:?}", name.as_str()),
    )
}

pub(super) fn taken(name: &FileName) -> Fault {
    Fault::new(
        ErrorCode::AlreadyExists,
        format!("there is already a file {:?}", name.as_str()),
    )
}

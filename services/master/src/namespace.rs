//! Names: look up, delete, rename, copy. All changes are one batch each, decided again when another came first.

use bytes::Bytes;
use cstore_types::{ErrorCode, FileName, SessionId, Tenant};

use crate::core::{MAX_TRIES, Master, now_ms};
use crate::error::Refusal;
use crate::meta::keys::{self, FileRecord, ReleaseRecord, SessionRecord};
use crate::meta::{Batch, MetaError, Versioned};

/// What a change of names did, to be counted when it is durable.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    /// Whose file is no longer there.
    pub(crate) removed: Option<(Tenant, FileRecord)>,
    pub(crate) released: Option<(SessionId, ReleaseRecord)>,
}

/// A copy or a rename: a file that is there gets this name, too or instead.
#[derive(Debug)]
pub(crate) struct SecondName {
    pub(crate) tenant: Tenant,
    pub(crate) from: FileName,
    pub(crate) to: FileName,
    pub(crate) overwrite: bool,
    /// When not empty, the file must have this ETag.
    pub(crate) etag: String,
}

impl Master {
    pub(crate) async fn find(
        &self,
        tenant: &Tenant,
        name: &FileName,
    ) -> Result<Option<(FileRecord, Versioned)>, Refusal> {
        let Some(found) = self.meta.get(&keys::name_key(tenant, name)).await? else { return Ok(None) };
        Ok(Some((FileRecord::decode(&found.value)?, found)))
    }

    pub(crate) async fn must_find(
        &self,
        tenant: &Tenant,
        name: &FileName,
    ) -> Result<(FileRecord, Versioned), Refusal> {
        let missing = || Refusal::new(ErrorCode::NotFound, format!("there is no file {:?}", name.as_str()));
        self.find(tenant, name).await?.ok_or_else(missing)
    }

    pub(crate) async fn get_file(
        &self,
        tenant: &Tenant,
        name: &FileName,
    ) -> Result<(FileRecord, Bytes), Refusal> {
        for _ in 0..MAX_TRIES {
            let (file, _) = self.must_find(tenant, name).await?;
            if let Some(root) = self.meta.get(&keys::root_key(file.session)).await? {
                return Ok((file, root.value.into()));
            }
            // Replaced or deleted between the two reads: look again.
        }
        Err(Refusal::new(ErrorCode::Overloaded, "the file keeps changing"))
    }

    pub(crate) async fn delete_file(
        &self,
        tenant: &Tenant,
        name: &FileName,
        etag: &str,
    ) -> Result<(), Refusal> {
        for _ in 0..MAX_TRIES {
            let (file, found) = self.must_find(tenant, name).await?;
            check_etag(&file, etag)?;
            let mut batch = Batch::default();
            let effect = self.drop_name(&mut batch, tenant, name, file, found.version).await?;
            batch.delete(keys::name_key(tenant, name));
            if self.commit(batch, effect).await?.is_some() {
                return Ok(());
            }
        }
        Err(MetaError::Conflict.into())
    }

    /// Adds to `batch` what the loss of one name means for its session: one name less, or its end.
    pub(crate) async fn drop_name(
        &self,
        batch: &mut Batch,
        tenant: &Tenant,
        name: &FileName,
        file: FileRecord,
        version: u64,
    ) -> Result<Effect, Refusal> {
        batch.require_version(keys::name_key(tenant, name), version);
        let session = file.session;
        let mut effect = Effect { removed: Some((tenant.clone(), file)), released: None };
        let Some(found) = self.meta.get(&keys::session_key(session)).await? else { return Ok(effect) };
        batch.require_version(keys::session_key(session), found.version);
        match SessionRecord::decode(&found.value)? {
            SessionRecord::Committed { names, root_crc, stores, name, file } if names > 1 => {
                let fewer = SessionRecord::Committed { names: names - 1, root_crc, stores, name, file };
                batch.put(keys::session_key(session), fewer.encode());
            }
            SessionRecord::Committed { stores, .. } => {
                let delay = i64::try_from(self.config.release_delay.as_millis()).unwrap_or(i64::MAX);
                let release = ReleaseRecord { not_before_ms: now_ms().saturating_add(delay), stores };
                end_session(batch, session, &release);
                effect.released = Some((session, release));
            }
            SessionRecord::Tombstoned => {}
        }
        Ok(effect)
    }

    pub(crate) async fn rename_file(
        &self,
        SecondName { tenant, from, to, overwrite, etag }: &SecondName,
    ) -> Result<FileRecord, Refusal> {
        for _ in 0..MAX_TRIES {
            let (file, found) = self.must_find(tenant, from).await?;
            check_etag(&file, etag)?;
            if from == to {
                return Ok(file);
            }
            let mut batch = Batch::default();
            batch.require_version(keys::name_key(tenant, from), found.version);
            let (effect, version) = self.claim(&mut batch, tenant, to, *overwrite, &file).await?;
            if effect.removed.as_ref().is_some_and(|(_, old)| old.session == file.session) {
                // Two names of one session become one.
                self.count_names(&mut batch, file.session, -1).await?;
            }
            let renamed = FileRecord { version, modified_ms: now_ms(), ..file };
            batch.delete(keys::name_key(tenant, from));
            batch.put(keys::name_key(tenant, to), renamed.encode());
            if self.commit(batch, effect).await?.is_some() {
                return Ok(renamed);
            }
        }
        Err(MetaError::Conflict.into())
    }

    pub(crate) async fn copy_file(
        &self,
        SecondName { tenant, from, to, overwrite, etag }: &SecondName,
    ) -> Result<FileRecord, Refusal> {
        for _ in 0..MAX_TRIES {
            let (file, found) = self.must_find(tenant, from).await?;
            check_etag(&file, etag)?;
            if from == to {
                return Ok(file);
            }
            let mut batch = Batch::default();
            batch.require_version(keys::name_key(tenant, from), found.version);
            let (effect, version) = self.claim(&mut batch, tenant, to, *overwrite, &file).await?;
            // A copy over a name that shares its blocks leaves the number of names as it is.
            if effect.removed.as_ref().is_none_or(|(_, old)| old.session != file.session) {
                self.count_names(&mut batch, file.session, 1).await?;
            }
            let copy = FileRecord { version, modified_ms: now_ms(), ..file };
            batch.put(keys::name_key(tenant, to), copy.encode());
            if self.commit(batch, effect).await?.is_some() {
                self.usage.add(tenant, &copy);
                return Ok(copy);
            }
        }
        Err(MetaError::Conflict.into())
    }

    /// Adds to `batch` that a session has one name more or less.
    async fn count_names(&self, batch: &mut Batch, session: SessionId, change: i32) -> Result<(), Refusal> {
        let key = keys::session_key(session);
        let Some(found) = self.meta.get(&key).await? else { return Err(MetaError::Conflict.into()) };
        if let SessionRecord::Committed { names, root_crc, stores, name, file } =
            SessionRecord::decode(&found.value)?
        {
            let names = names.saturating_add_signed(change);
            let record = SessionRecord::Committed { names, root_crc, stores, name, file };
            batch.require_version(key.clone(), found.version);
            batch.put(key, record.encode());
        }
        Ok(())
    }

    /// Makes `to` free for `file`, or refuses. Answers the version of its next file.
    async fn claim(
        &self,
        batch: &mut Batch,
        tenant: &Tenant,
        to: &FileName,
        overwrite: bool,
        file: &FileRecord,
    ) -> Result<(Effect, u64), Refusal> {
        match self.find(tenant, to).await? {
            None => {
                batch.require_absent(keys::name_key(tenant, to));
                Ok((Effect::default(), 1))
            }
            Some(_) if !overwrite => Err(taken(to)),
            Some((old, found)) => {
                let version = old.version + 1;
                if old.session == file.session {
                    // Both names share the session; the caller counts its names.
                    batch.require_version(keys::name_key(tenant, to), found.version);
                    return Ok((Effect { removed: Some((tenant.clone(), old)), released: None }, version));
                }
                Ok((self.drop_name(batch, tenant, to, old, found.version).await?, version))
            }
        }
    }

    /// Commits and counts. `None` when another change came first.
    pub(crate) async fn commit(&self, batch: Batch, effect: Effect) -> Result<Option<u64>, Refusal> {
        match self.meta.commit(batch).await {
            Ok(position) => {
                if let Some((tenant, file)) = &effect.removed {
                    self.usage.remove(tenant, file);
                }
                if let Some((session, release)) = effect.released {
                    self.releases.insert(session, release);
                }
                Ok(Some(position))
            }
            Err(MetaError::Conflict) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Refuses when an ETag is demanded and the file has another.
fn check_etag(file: &FileRecord, etag: &str) -> Result<(), Refusal> {
    if etag.is_empty() || file.etag == etag {
        return Ok(());
    }
    let text = format!("file has etag {}, expected {etag}", file.etag);
    Err(Refusal::new(ErrorCode::PreconditionFailed, text))
}

/// Adds the end of a session: tombstone and release in one transaction, so that no late commit can follow.
pub(crate) fn end_session(batch: &mut Batch, session: SessionId, release: &ReleaseRecord) {
    batch.put(keys::session_key(session), SessionRecord::Tombstoned.encode());
    batch.delete(keys::root_key(session));
    if !release.stores.is_empty() {
        batch.put(keys::release_key(session), release.encode());
    }
}

pub(crate) fn taken(name: &FileName) -> Refusal {
    Refusal::new(ErrorCode::AlreadyExists, format!("there is already a file {:?}", name.as_str()))
}

//! The master's rules stand in the modules beside this one; this is what they share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use cstore_proto::v1;
use cstore_types::{ClusterUuid, DedupKey, Incarnation, Tenant, TicketKey};
use parking_lot::Mutex;

use crate::config::Config;
use crate::error::Refusal;
use crate::membership::Membership;
use crate::meta::keys::{self, ClusterRecord, FileRecord};
use crate::meta::{Batch, MetaError, MetaStore};
use crate::releases::Releases;

/// How often a decision is taken again because another change came first.
pub(crate) const MAX_TRIES: usize = 64;
const SCAN_PAGE: usize = 1_000;

/// Files and their bytes, a tenant at a time, kept up with every commit. Tenants without files are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    tenants: Mutex<HashMap<Tenant, (u64, u64)>>,
    commits: AtomicU64,
}

impl Usage {
    pub(crate) fn add(&self, tenant: &Tenant, file: &FileRecord) {
        let mut tenants = self.tenants.lock();
        let (files, bytes) = tenants.entry(tenant.clone()).or_default();
        *files = files.saturating_add(1);
        *bytes = bytes.saturating_add(file.size);
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, tenant: &Tenant, file: &FileRecord) {
        let mut tenants = self.tenants.lock();
        let Some((files, bytes)) = tenants.get_mut(tenant) else { return };
        *files = files.saturating_sub(1);
        *bytes = bytes.saturating_sub(file.size);
        if *files == 0 {
            tenants.remove(tenant);
        }
    }

    /// Files of one tenant and their logical bytes.
    pub(crate) fn of(&self, tenant: &Tenant) -> (u64, u64) {
        self.tenants.lock().get(tenant).copied().unwrap_or_default()
    }

    /// Files of all tenants and their logical bytes.
    pub(crate) fn total(&self) -> (u64, u64) {
        let add = |sum: (u64, u64), one: &(u64, u64)| (sum.0 + one.0, sum.1.saturating_add(one.1));
        self.tenants.lock().values().fold((0, 0), add)
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

/// Everything that the rules work on.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) config: Config,
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) cluster: ClusterUuid,
    pub(crate) incarnation: Incarnation,
    pub(crate) dedup_key: DedupKey,
    pub(crate) ticket_key: TicketKey,
    pub(crate) usage: Usage,
    pub(crate) members: Membership,
    pub(crate) releases: Releases,
}

impl Master {
    /// Reads the cluster's identity, which is made when there is none, and what is kept in memory.
    pub(crate) async fn open(
        config: Config,
        meta: Arc<dyn MetaStore>,
        ticket_key: TicketKey,
    ) -> Result<Self, Refusal> {
        let record = identity(&*meta).await?;
        let members = Membership::open(&*meta).await?;
        let releases = Releases::open(&*meta).await?;
        let usage = Usage::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = meta.scan(&[keys::NAMES], after.as_deref(), SCAN_PAGE).await?;
            for (key, found) in &page {
                usage.add(&keys::tenant_of(key)?, &FileRecord::decode(&found.value)?);
            }
            match page.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
        let ClusterRecord { cluster, dedup_key, incarnation } = record;
        Ok(Self { config, meta, cluster, incarnation, dedup_key, ticket_key, usage, members, releases })
    }

    /// What every answer carries.
    pub(crate) fn state(&self) -> Option<v1::MasterState> {
        Some(v1::MasterState {
            cluster_uuid: bytes::Bytes::copy_from_slice(self.cluster.as_bytes()),
            incarnation: self.incarnation.0,
            log_position: self.meta.position(),
        })
    }
}

async fn identity(meta: &dyn MetaStore) -> Result<ClusterRecord, Refusal> {
    if let Some(found) = meta.get(keys::CLUSTER).await? {
        return Ok(ClusterRecord::decode(&found.value)?);
    }
    let unavailable = |error: &dyn std::fmt::Display| MetaError::Unavailable(error.to_string());
    let record = ClusterRecord {
        cluster: ClusterUuid::random().map_err(|error| unavailable(&error))?,
        dedup_key: DedupKey::random().map_err(|error| unavailable(&error))?,
        incarnation: Incarnation(1),
    };
    let mut batch = Batch::default();
    batch.require_absent(keys::CLUSTER.to_vec());
    batch.put(keys::CLUSTER.to_vec(), record.encode());
    meta.commit(batch).await?;
    tracing::info!(cluster = %record.cluster, "cluster formatted");
    Ok(record)
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// A file as callers see it.
pub(crate) fn file_info(name: &str, file: &FileRecord) -> v1::FileInfo {
    v1::FileInfo {
        name: name.to_owned(),
        size: file.size,
        etag: file.etag.clone(),
        version: file.version,
        modified_ms: file.modified_ms,
        content_type: file.content_type.clone(),
        chunking: file.chunking.clone(),
        blocks: file.blocks,
        sha256: file.sha256.clone().into(),
        metadata: file.metadata.clone().into(),
    }
}

//! The node's life as a member: register, heartbeat, and the releases that the answers carry.
//!
//! Only the master decides what is dead. This node reports the sessions whose sets it holds and that nobody confirmed
//! to it; it never releases anything on its own.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use bytes::Bytes;
use cstore_mesh::MasterClient;
use cstore_node::admin::{PartState, Readiness};
use cstore_node::shutdown::Shutdown;
use cstore_proto::v1;
use cstore_types::{SessionId, error_chain};

use crate::config::Config;
use crate::engine::Engine;

/// Sessions that one heartbeat names at most, released and unconfirmed each.
const MAX_REPORTED: usize = 1_000;
/// Heartbeats after which a lost master is a reason not to be ready.
const MAX_MISSED: u32 = 5;
/// Heartbeats between two sweeps over old pins and dead segments.
const PIN_SWEEP_BEATS: u64 = 600;

/// What the master knows this node by.
pub(crate) fn registration(config: &Config, addr: &str, storage: v1::StorageReport) -> v1::RegisterRequest {
    v1::RegisterRequest {
        role: v1::Role::Storage.into(),
        node_id: config.node.to_string(),
        addr: addr.to_owned(),
        failure_domain: config.failure_domain.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        storage: Some(storage),
    }
}

/// Sends heartbeats until shutdown.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) config: Config,
    pub(crate) addr: String,
    pub(crate) engine: Engine,
    pub(crate) master: MasterClient,
    pub(crate) readiness: Readiness,
    /// Released and not yet told to the master.
    released: BTreeSet<SessionId>,
    /// The master said that these are committed.
    confirmed: HashSet<SessionId>,
    /// Last session that was reported as unconfirmed; the next report goes on behind it.
    cursor: Option<SessionId>,
    missed: u32,
    beats: u64,
}

impl Member {
    pub(crate) fn new(
        config: Config,
        addr: String,
        engine: Engine,
        master: MasterClient,
        readiness: Readiness,
    ) -> Self {
        let (released, confirmed) = (BTreeSet::new(), HashSet::new());
        Self {
            config,
            addr,
            engine,
            master,
            readiness,
            released,
            confirmed,
            cursor: None,
            missed: 0,
            beats: 0,
        }
    }

    pub(crate) async fn run(mut self, interval: Duration, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.triggered() => return,
            }
            match self.beat(&shutdown).await {
                Ok(()) => self.missed = 0,
                Err(error) => {
                    self.missed = self.missed.saturating_add(1);
                    if self.missed == MAX_MISSED {
                        tracing::warn!(%error, "master does not answer heartbeats");
                        self.readiness
                            .set("master", PartState::NotReady(format!("master does not answer: {error}")));
                    }
                }
            }
            self.sweep().await;
        }
    }

    async fn beat(&mut self, shutdown: &Shutdown) -> Result<(), tonic::Status> {
        let read_only = self.engine.read_only();
        let request = v1::HeartbeatRequest {
            role: v1::Role::Storage.into(),
            node_id: self.config.node.to_string(),
            ready: read_only.is_none(),
            not_ready_reason: read_only.unwrap_or_default(),
            storage: Some(self.report()),
            worker: None,
        };
        let told: Vec<SessionId> = self.released.iter().take(MAX_REPORTED).copied().collect();
        // A master that is away must not hold up the end.
        let answer = tokio::select! {
            answer = self.master.heartbeat(request) => answer?,
            () = shutdown.triggered() => return Err(tonic::Status::cancelled("stopping")),
        };
        for session in told {
            self.released.remove(&session);
        }
        if answer.register_again {
            let storage = self.report();
            self.master.register(registration(&self.config, &self.addr, storage)).await?;
        }
        let suspect = if answer.suspect {
            PartState::NotReady("disk is older than what the master has seen of it".to_owned())
        } else {
            PartState::Ready
        };
        self.readiness.set("disk age", suspect);
        self.readiness.set("master", PartState::Ready);
        for verdict in answer.verdicts {
            let committed = verdict.state() == v1::SessionState::Committed;
            if let (true, Ok(session)) = (committed, SessionId::try_from(&verdict.session[..])) {
                self.confirmed.insert(session);
            }
        }
        if !answer.suspect {
            self.release(&answer.releases).await;
        }
        Ok(())
    }

    async fn release(&mut self, releases: &[Bytes]) {
        let sessions: Vec<SessionId> =
            releases.iter().filter_map(|raw| SessionId::try_from(&raw[..]).ok()).collect();
        for (session, result) in self.engine.release_all(&sessions).await {
            match result {
                Ok(()) => {
                    self.confirmed.remove(&session);
                    self.released.insert(session);
                }
                Err(error) => {
                    tracing::error!(%session, error = %error_chain(&error), "session could not be released");
                }
            }
        }
    }

    /// Confirmed sessions that hold nothing here any more are forgotten, dead segments are recycled, old pins dropped.
    async fn sweep(&mut self) {
        self.beats += 1;
        self.engine.reclaim_aside().await;
        if self.beats.is_multiple_of(PIN_SWEEP_BEATS) {
            self.engine.sweep_pins();
            let held: HashSet<SessionId> = self.engine.sessions().into_iter().collect();
            self.confirmed.retain(|session| held.contains(session));
        }
    }

    fn report(&mut self) -> v1::StorageReport {
        let unconfirmed = self.unconfirmed();
        let released = self.released.iter().take(MAX_REPORTED).map(raw).collect();
        v1::StorageReport { released, unconfirmed, ..report(&self.engine) }
    }

    /// The next unconfirmed sessions in rotation.
    fn unconfirmed(&mut self) -> Vec<Bytes> {
        let mut open: Vec<SessionId> =
            self.engine.sessions().into_iter().filter(|session| !self.confirmed.contains(session)).collect();
        open.sort_unstable();
        let start = self.cursor.map_or(0, |cursor| open.partition_point(|session| *session <= cursor));
        let rotated = open.iter().skip(start).chain(open.iter().take(start)).take(MAX_REPORTED);
        let chosen: Vec<SessionId> = rotated.copied().collect();
        self.cursor = chosen.last().copied();
        chosen.iter().map(raw).collect()
    }
}

fn raw(session: &SessionId) -> Bytes {
    Bytes::copy_from_slice(session.as_bytes())
}

/// The node's disk as the master sees it, without sessions.
pub(crate) fn report(engine: &Engine) -> v1::StorageReport {
    let (totals, space) = (engine.totals(), engine.space());
    let used = space.capacity.saturating_sub(space.free);
    let pressure = used.saturating_mul(100).checked_div(space.capacity).unwrap_or(100);
    v1::StorageReport {
        store_uuid: Bytes::copy_from_slice(engine.store().as_bytes()),
        seal_seq: engine.seal_seq().0,
        capacity_bytes: space.capacity,
        // Requests without room compact for themselves.
        free_bytes: space.free + engine.compaction().winnable_bytes,
        unique_bytes: totals.unique_bytes,
        physical_bytes: totals.physical_bytes,
        blocks: totals.blocks,
        released: Vec::new(),
        unconfirmed: Vec::new(),
        fill_pressure: u32::try_from(pressure).unwrap_or(100),
    }
}

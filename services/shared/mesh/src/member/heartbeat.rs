//! Heartbeats: a node renews its lease, reports, and hears what the master wants of it.
//!
//! | a heartbeat is sent | why |
//! |---|---|
//! | at each tick | the lease |
//! | at the next look at the readiness | it has changed, or the master did not know the node: uploads wait for it |
//! | when the role asks for it | it has finished what the last answer asked for, and more of that waits |
//!
//! A heartbeat that failed is repeated at the next tick, so that five that failed in a row took
//! about a lease.

use std::sync::Arc;
use std::time::Duration;

use cstore_node::Shutdown;
use cstore_node::admin::{PartState, Readiness};
use cstore_proto::v1;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;

use crate::limits::{
    FAREWELL_TIMEOUT, MAX_MISSED_HEARTBEATS, MIN_HEARTBEAT_GAP, READINESS_INTERVAL,
};
use crate::member::registration::{MASTER_PART, MasterLink};
use crate::member::report::{Occasion, Report};

/// Role that heartbeats report on, and that handles the answers.
///
/// Every method runs on the heartbeat task and MUST return within microseconds to milliseconds:
/// otherwise the lease ends while the node is well. Work belongs to another task.
pub trait Member: Send + 'static {
    /// Returns whether this node takes work. Called at each tick and every 100 ms between ticks.
    fn health(&mut self) -> PartState;

    /// Returns the report of the next heartbeat.
    fn report(&mut self, occasion: Occasion) -> Report;

    /// Takes in the answer to the heartbeat with the last report. Not called if that heartbeat
    /// failed, or if the master did not know the node and therefore did not read the report.
    fn handle_answer(&mut self, answer: v1::HeartbeatResponse);

    /// Returns what a storage node says of its disk when it registers again.
    fn disk(&self) -> Option<v1::StorageReport> {
        None
    }

    /// Returns the last report of a node that leaves, for roles that say so.
    fn farewell(&mut self) -> Option<Report> {
        None
    }
}

/// Asks for a heartbeat before the next tick. Clones share it.
///
/// Requests that come while one is waiting are one request. A role MUST ask only after it made
/// progress: each request is a call of the master.
#[derive(Debug, Clone, Default)]
pub struct HeartbeatTrigger(Arc<Notify>);

impl HeartbeatTrigger {
    /// Asks for a heartbeat.
    pub fn request(&self) {
        self.0.notify_one();
    }

    async fn requested(&self) {
        self.0.notified().await;
    }

    /// Takes back a request that the heartbeat that is about to be built serves too.
    fn clear(&self) {
        let _ = self.0.notified().now_or_never();
    }
}

/// Outcome of a heartbeat that the master answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BeatOutcome {
    Accepted,
    /// The master did not know the node, which has registered again since.
    RegisteredAgain,
}

/// The heartbeats of one node. Owned by the task that runs them.
#[derive(Debug)]
pub struct Heartbeats<M> {
    link: MasterLink,
    member: M,
    readiness: Readiness,
    interval: Duration,
    trigger: HeartbeatTrigger,
    next_tick: Instant,
    last_sent: Instant,
    /// Readiness that the master has heard of. `None` if it must hear of it at the next look.
    reported_ready: Option<bool>,
    /// Heartbeats that failed since the last one that was answered.
    missed: u32,
}

impl<M: Member> Heartbeats<M> {
    /// Heartbeats of `member` every `interval`, or sooner when `trigger` asks for one. The first
    /// one is sent at once.
    pub fn new(
        link: MasterLink,
        interval: Duration,
        readiness: Readiness,
        trigger: HeartbeatTrigger,
        member: M,
    ) -> Self {
        let now = Instant::now();
        Self {
            link,
            member,
            readiness,
            interval,
            trigger,
            next_tick: now,
            last_sent: now,
            reported_ready: None,
            missed: 0,
        }
    }

    /// Sends heartbeats until the shutdown, then the farewell of roles that have one. A master that
    /// does not answer does not hold up the end.
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            biased;
            () = shutdown.triggered() => {}
            () = self.send_all() => {}
        }
        self.send_farewell().await;
    }

    /// Sends heartbeats for ever. May be dropped at any await: a heartbeat that is cut off counts
    /// as not sent.
    async fn send_all(&mut self) {
        loop {
            let requested = self.wait().await;
            let is_tick = Instant::now() >= self.next_tick;
            if is_tick {
                // A tick that comes late moves those after it: there is nothing to make up for.
                self.next_tick = Instant::now() + self.interval;
            }

            let health = self.member.health();
            let is_ready = !matches!(health, PartState::NotReady(_));
            // After a failure the changed readiness waits for the tick, otherwise a master that
            // refuses connections would be called ten times a second and count as gone after half a
            // second.
            let is_news = self.reported_ready != Some(is_ready) && self.missed == 0;
            let occasion = match (is_tick, requested || is_news) {
                (true, _) => Occasion::Tick,
                (false, true) => Occasion::Early,
                (false, false) => continue,
            };

            self.trigger.clear();
            self.last_sent = Instant::now();
            match self.send(&health, occasion).await {
                Ok(outcome) => {
                    self.missed = 0;
                    self.reported_ready = (outcome == BeatOutcome::Accepted).then_some(is_ready);
                    self.readiness.set(MASTER_PART, PartState::Ready);
                }
                Err(error) => self.count_missed(&error),
            }
        }
    }

    /// Waits for the next look at the readiness, the next tick or a request. Returns whether it was
    /// a request.
    async fn wait(&self) -> bool {
        let next_look = self.next_tick.min(Instant::now() + READINESS_INTERVAL);
        tokio::select! {
            biased;
            () = self.trigger.requested() => {}
            () = sleep_until(next_look) => return false,
        }
        sleep_until(self.last_sent + MIN_HEARTBEAT_GAP).await;
        true
    }

    async fn send(
        &mut self,
        health: &PartState,
        occasion: Occasion,
    ) -> Result<BeatOutcome, Status> {
        let request = self
            .link
            .profile
            .heartbeat(health, self.member.report(occasion));
        let answer = self.link.client.heartbeat(request).await?;
        if answer.register_again {
            self.link.register(self.member.disk()).await?;
            return Ok(BeatOutcome::RegisteredAgain);
        }
        self.member.handle_answer(answer);
        Ok(BeatOutcome::Accepted)
    }

    fn count_missed(&mut self, error: &Status) {
        self.missed = self.missed.saturating_add(1);
        if self.missed != MAX_MISSED_HEARTBEATS {
            tracing::debug!(%error, missed = self.missed, "heartbeat failed");
            return;
        }
        tracing::warn!(%error, missed = self.missed, "master does not answer heartbeats");
        let reason = format!("master does not answer: {error}");
        self.readiness.set(MASTER_PART, PartState::NotReady(reason));
    }

    async fn send_farewell(&mut self) {
        let Some(report) = self.member.farewell() else {
            return;
        };
        let stopping = PartState::NotReady("stopping".to_owned());
        let request = self.link.profile.heartbeat(&stopping, report);
        if !matches!(
            timeout(FAREWELL_TIMEOUT, self.link.client.heartbeat(request)).await,
            Ok(Ok(_))
        ) {
            tracing::info!("master did not hear that this node leaves");
        }
    }
}

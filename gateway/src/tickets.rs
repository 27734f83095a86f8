//! Tickets in stock for small files: one call to the master gets many, so that a small PUT costs two hops instead
//! of three. They name no file; the name is judged when the upload commits.
//!
//! A ticket is dropped when it is older than [`MAX_AGE`], far below the master's own limit, and when its worker is
//! no longer ready. The whole stock is dropped when one ticket is refused: the master that made them is gone.

use std::collections::VecDeque;
use std::time::Duration;

use cstore_mesh::MasterClient;
use cstore_proto::v1;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use crate::cluster::Cluster;

const BATCH: u32 = 32;
const MAX_AGE: Duration = Duration::from_secs(30);

/// The stock. It never holds more than one batch per caller that found it empty at the same moment did not wait for.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    stock: Mutex<VecDeque<(Instant, v1::Ticket)>>,
    /// Held while more are fetched, so that a crowd at an empty stock makes one call.
    fetching: tokio::sync::Mutex<()>,
}

impl Tickets {
    /// A ticket for a ready worker.
    pub(crate) async fn take(&self, master: &MasterClient, cluster: &Cluster) -> Result<v1::Ticket, Status> {
        if let Some(ticket) = self.pop(cluster) {
            return Ok(ticket);
        }
        let _one = self.fetching.lock().await;
        if let Some(ticket) = self.pop(cluster) {
            return Ok(ticket);
        }
        let request = v1::BeginUploadRequest { count: BATCH, ..v1::BeginUploadRequest::default() };
        let mut tickets = master.begin_upload(request).await?.tickets.into_iter().take(BATCH as usize);
        let first = tickets.next().ok_or_else(|| Status::internal("the master answered no ticket"))?;
        let now = Instant::now();
        let mut stock = self.stock.lock();
        stock.clear();
        stock.extend(tickets.map(|ticket| (now, ticket)));
        Ok(first)
    }

    /// Forgets all tickets in stock.
    pub(crate) fn clear(&self) {
        self.stock.lock().clear();
    }

    fn pop(&self, cluster: &Cluster) -> Option<v1::Ticket> {
        let mut stock = self.stock.lock();
        while let Some((made, ticket)) = stock.pop_front() {
            if made.elapsed() < MAX_AGE && cluster.is_ready_worker(&ticket.worker_addr) {
                return Some(ticket);
            }
        }
        None
    }
}

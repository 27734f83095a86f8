//! Tickets in stock for small files: one call to the master gets many, so that a small PUT costs
//! two hops instead of three. They name no file; the name is judged when the upload commits.
//!
//! A ticket is dropped when it is older than [`MAX_TICKET_AGE`], far below the master's own limit,
//! and when its worker is no longer ready or cannot be reached, or the master says that it writes
//! nothing. The whole stock is dropped when one ticket is refused: the master that made them is gone.

use std::collections::{HashMap, VecDeque};

use cstore_mesh::MasterClient;
use cstore_proto::v1;
use cstore_types::Tenant;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use crate::limits::{MAX_STOCKED_TENANTS, MAX_TICKET_AGE, TICKET_BATCH};

type Stock = VecDeque<(Instant, v1::Ticket)>;

/// The stock: one batch a tenant, because a ticket is good for its tenant only.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    stock: Mutex<HashMap<Tenant, Stock>>,
    /// Held while more are fetched, so that a crowd at an empty stock makes one call.
    fetching: tokio::sync::Mutex<()>,
}

impl Tickets {
    /// A ticket for a worker that is `usable`; when the master names no such worker, for any.
    pub(crate) async fn take(
        &self,
        master: &MasterClient,
        tenant: &Tenant,
        usable: impl Fn(&str) -> bool,
    ) -> Result<v1::Ticket, Status> {
        if let Some(ticket) = self.pop(tenant, &usable) {
            return Ok(ticket);
        }
        let _one = self.fetching.lock().await;
        if let Some(ticket) = self.pop(tenant, &usable) {
            return Ok(ticket);
        }
        let request = v1::BeginUploadRequest {
            count: TICKET_BATCH,
            tenant: tenant.as_str().to_owned(),
            ..v1::BeginUploadRequest::default()
        };
        let mut tickets = master.begin_upload(request).await?.tickets;
        tickets.truncate(TICKET_BATCH as usize);
        let first = tickets
            .iter()
            .position(|ticket| usable(&ticket.worker_addr))
            .unwrap_or(0);
        if tickets.is_empty() {
            return Err(Status::internal("the master answered no ticket"));
        }
        let first = tickets.swap_remove(first);
        let now = Instant::now();
        let mut stock = self.stock.lock();
        if stock.len() >= MAX_STOCKED_TENANTS && !stock.contains_key(tenant) {
            stock.clear();
        }
        stock.insert(
            tenant.clone(),
            tickets.into_iter().map(|ticket| (now, ticket)).collect(),
        );
        Ok(first)
    }

    /// Forgets all tickets in stock.
    pub(crate) fn clear(&self) {
        self.stock.lock().clear();
    }

    fn pop(&self, tenant: &Tenant, usable: impl Fn(&str) -> bool) -> Option<v1::Ticket> {
        let mut tenants = self.stock.lock();
        let stock = tenants.get_mut(tenant)?;
        while let Some((made, ticket)) = stock.pop_front() {
            if made.elapsed() < MAX_TICKET_AGE && usable(&ticket.worker_addr) {
                return Some(ticket);
            }
        }
        None
    }
}

//! Tickets in stock for small files: one call to the master gets many, so that a small PUT costs
//! two hops instead of three. They name no file; the name is judged when the upload commits.
//!
//! One task for each tenant fetches tickets, also if the request that began it is gone. It begins
//! when few tickets are left, so that requests seldom wait for it.
//!
//! A ticket is dropped when it is older than [`MAX_TICKET_AGE`], far below the master's own limit,
//! and when its worker is no longer ready or cannot be reached, or the master says that it writes
//! nothing. The whole stock is dropped when one ticket is refused: the master that made them is gone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use cstore_mesh::MasterClient;
use cstore_node::shutdown::spawn;
use cstore_proto::v1;
use cstore_types::Tenant;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use crate::limits::{
    MAX_STOCKED_TENANTS, MAX_TICKET_AGE, MAX_TICKET_FETCHES, MIN_STOCKED_TICKETS, TICKET_BATCH,
};

/// The stock of all tenants. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tickets(Arc<Mutex<Stock>>);

#[derive(Debug, Default)]
struct Stock {
    /// A ticket is good for its tenant only.
    tenants: HashMap<Tenant, Shelf>,
    /// Number of times that all tickets were dropped. Tickets that were fetched meanwhile are dropped
    /// as well.
    drops: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    tickets: VecDeque<(Instant, v1::Ticket)>,
    fetch: Option<Fetch>,
}

/// The result of a running fetch, `None` until it ends.
type Fetch = watch::Receiver<Option<Result<(), Status>>>;

impl Tickets {
    /// Returns a ticket for a worker that is `usable`; when the master names no such worker, for any.
    ///
    /// # Errors
    /// The master's; `unavailable` if others have used up every batch that came.
    pub(crate) async fn take(
        &self,
        master: &MasterClient,
        tenant: &Tenant,
        usable: impl Fn(&str) -> bool,
    ) -> Result<v1::Ticket, Status> {
        let mut has_waited = false;
        for _ in 0..MAX_TICKET_FETCHES {
            let mut fetch = {
                let mut stock = self.0.lock();
                let drops = stock.drops;
                let shelf = stock.shelf(tenant);
                let ticket = shelf.take(&usable, has_waited);
                let is_low = shelf.tickets.len() < MIN_STOCKED_TICKETS;
                if is_low && !shelf.is_fetching() {
                    shelf.fetch = Some(self.begin_to_fetch(master, tenant, drops));
                }
                if let Some(ticket) = ticket {
                    return Ok(ticket);
                }
                shelf.fetch.clone()
            };
            if let Some(fetch) = &mut fetch {
                // An error says that the task is gone: the next try begins another one.
                if let Ok(ended) = fetch.wait_for(Option::is_some).await
                    && let Some(Err(status)) = &*ended
                {
                    return Err(status.clone());
                }
            }
            has_waited = true;
        }
        Err(Status::unavailable(
            "upload tickets are used up faster than the master gives them",
        ))
    }

    /// Drops all tickets in stock.
    pub(crate) fn clear(&self) {
        let mut stock = self.0.lock();
        stock.drops += 1;
        for shelf in stock.tenants.values_mut() {
            shelf.tickets.clear();
        }
    }

    fn begin_to_fetch(&self, master: &MasterClient, tenant: &Tenant, drops: u64) -> Fetch {
        let (ended, fetch) = watch::channel(None);
        let (tickets, master, tenant) = (self.clone(), master.clone(), tenant.clone());
        let fetching = async move {
            let fetched = fetch_batch(&master, &tenant).await;
            let result = tickets.0.lock().put(&tenant, fetched, drops);
            ended.send_replace(Some(result));
        };
        // Its call has a deadline, and ends also if nobody waits for it.
        drop(spawn("fetch tickets", fetching));
        fetch
    }
}

async fn fetch_batch(master: &MasterClient, tenant: &Tenant) -> Result<Vec<v1::Ticket>, Status> {
    let request = v1::BeginUploadRequest {
        count: TICKET_BATCH,
        tenant: tenant.as_str().to_owned(),
        ..v1::BeginUploadRequest::default()
    };
    let mut tickets = master.begin_upload(request).await?.tickets;
    tickets.truncate(TICKET_BATCH as usize);
    if tickets.is_empty() {
        return Err(Status::internal("the master answered no ticket"));
    }
    Ok(tickets)
}

impl Stock {
    /// Returns the shelf of a tenant. Drops those of all others if there are too many.
    fn shelf(&mut self, tenant: &Tenant) -> &mut Shelf {
        if self.tenants.len() >= MAX_STOCKED_TENANTS && !self.tenants.contains_key(tenant) {
            self.tenants.clear();
        }
        self.tenants.entry(tenant.clone()).or_default()
    }

    /// Ends the fetch of a tenant. Tickets are dropped if `drops` is not current any more, or the
    /// tenant has no shelf.
    fn put(
        &mut self,
        tenant: &Tenant,
        fetched: Result<Vec<v1::Ticket>, Status>,
        drops: u64,
    ) -> Result<(), Status> {
        let is_current = drops == self.drops;
        let Some(shelf) = self.tenants.get_mut(tenant) else {
            return fetched.map(drop);
        };
        shelf.fetch = None;
        let now = Instant::now();
        let tickets = fetched?.into_iter().filter(|_| is_current);
        shelf.tickets.extend(tickets.map(|ticket| (now, ticket)));
        Ok(())
    }
}

impl Shelf {
    /// Takes a ticket for a worker that is `usable`, and drops those in front of it. If there is none
    /// takes one of any worker if `or_any`, and otherwise drops all.
    fn take(&mut self, usable: impl Fn(&str) -> bool, or_any: bool) -> Option<v1::Ticket> {
        let is_old = |(made, _): &(Instant, v1::Ticket)| made.elapsed() >= MAX_TICKET_AGE;
        while self.tickets.front().is_some_and(is_old) {
            self.tickets.pop_front();
        }
        let is_usable = |(_, ticket): &(Instant, v1::Ticket)| usable(&ticket.worker_addr);
        let found = self.tickets.iter().position(is_usable);
        let dropped = match found {
            Some(place) => place,
            None if or_any => 0,
            None => self.tickets.len(),
        };
        self.tickets.drain(..dropped);
        self.tickets.pop_front().map(|(_, ticket)| ticket)
    }

    /// Returns true if a task will put tickets here.
    fn is_fetching(&self) -> bool {
        // The sender of a task that is gone is gone as well.
        self.fetch
            .as_ref()
            .is_some_and(|fetch| fetch.has_changed().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(worker: &str) -> v1::Ticket {
        v1::Ticket {
            worker_addr: worker.to_owned(),
            ..v1::Ticket::default()
        }
    }

    fn stock(workers: &[&str]) -> (Stock, Tenant) {
        let (mut stock, tenant) = (Stock::default(), Tenant::default());
        stock.shelf(&tenant);
        let tickets = workers.iter().map(|worker| ticket(worker)).collect();
        stock.put(&tenant, Ok(tickets), 0).unwrap();
        (stock, tenant)
    }

    fn take(stock: &mut Stock, tenant: &Tenant, usable: &str, or_any: bool) -> Option<String> {
        let shelf = stock.shelf(tenant);
        let ticket = shelf.take(|worker| worker == usable, or_any);
        ticket.map(|ticket| ticket.worker_addr)
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_of_usable_workers_are_taken_in_order() {
        let (mut stock, tenant) = stock(&["a", "b", "a", "b"]);
        assert_eq!(take(&mut stock, &tenant, "b", false).unwrap(), "b");
        assert_eq!(take(&mut stock, &tenant, "b", false).unwrap(), "b");
        assert_eq!(take(&mut stock, &tenant, "a", false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn any_worker_will_do_after_a_fetch_and_only_then() {
        let (mut stock, tenant) = stock(&["a", "b"]);
        assert_eq!(take(&mut stock, &tenant, "c", true).unwrap(), "a");
        assert_eq!(take(&mut stock, &tenant, "c", false), None);
        assert_eq!(take(&mut stock, &tenant, "b", true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn old_tickets_are_dropped() {
        let (mut stock, tenant) = stock(&["a", "a"]);
        tokio::time::advance(MAX_TICKET_AGE).await;
        assert_eq!(take(&mut stock, &tenant, "a", true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_that_were_fetched_before_a_drop_are_dropped() {
        let tickets = Tickets::default();
        let tenant = Tenant::default();
        let drops = {
            let mut stock = tickets.0.lock();
            stock.shelf(&tenant);
            stock.drops
        };
        tickets.clear();
        let mut stock = tickets.0.lock();
        stock.put(&tenant, Ok(vec![ticket("a")]), drops).unwrap();
        assert_eq!(take(&mut stock, &tenant, "a", true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_too_many_drops_the_stock_of_the_others() {
        let (mut stock, tenant) = stock(&["a"]);
        for number in 1..=MAX_STOCKED_TENANTS {
            stock.shelf(&Tenant::new(&format!("t{number}")).unwrap());
        }
        assert!(stock.tenants.len() <= MAX_STOCKED_TENANTS);
        assert_eq!(take(&mut stock, &tenant, "a", true), None);
    }

    #[test]
    fn a_fetch_whose_task_is_gone_is_begun_again() {
        let mut shelf = Shelf::default();
        assert!(!shelf.is_fetching());
        let (ended, fetch) = watch::channel(None);
        shelf.fetch = Some(fetch);
        assert!(shelf.is_fetching());
        drop(ended);
        assert!(!shelf.is_fetching());
    }
}

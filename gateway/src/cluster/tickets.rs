//! Tickets in stock for small files: one call to the master gets many, so that a small PUT costs
//! two hops instead of three. They name no file; the name is judged when the upload commits.
//!
//! A task of the tenant fetches the next batch as soon as few tickets are left, so that requests seldom
//! wait for the master. The task goes on if the request that started it is dropped.
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
    /// Tickets by tenant: a ticket is valid for one tenant only.
    tenants: HashMap<Tenant, Shelf>,
    /// Counts the calls of [`Tickets::clear`]. A fetch that was running during one drops its tickets.
    clears: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    tickets: VecDeque<(Instant, v1::Ticket)>,
    fetch: Option<Fetch>,
}

/// Result of a fetch; `None` while the fetch is running.
type Fetch = watch::Receiver<Option<Result<(), Status>>>;

impl Tickets {
    /// Takes a ticket of a worker that is `usable`, or of any worker if a new batch has no such ticket.
    ///
    /// # Errors
    /// The status of the master; `unavailable` if other requests took all tickets of
    /// [`MAX_TICKET_FETCHES`] batches.
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
                let clears = stock.clears;
                let shelf = stock.shelf(tenant);
                let ticket = shelf.take(&usable, has_waited);
                let is_low = shelf.tickets.len() < MIN_STOCKED_TICKETS;
                if is_low && !shelf.is_fetching() {
                    shelf.fetch = Some(self.begin_to_fetch(master, tenant, clears));
                }
                if let Some(ticket) = ticket {
                    return Ok(ticket);
                }
                shelf.fetch.clone()
            };
            if let Some(fetch) = &mut fetch {
                // `wait_for` fails if the task is gone. The next round starts another task.
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
        stock.clears += 1;
        for shelf in stock.tenants.values_mut() {
            shelf.tickets.clear();
        }
    }

    fn begin_to_fetch(&self, master: &MasterClient, tenant: &Tenant, clears: u64) -> Fetch {
        let (ended, fetch) = watch::channel(None);
        let (tickets, master, tenant) = (self.clone(), master.clone(), tenant.clone());
        let fetching = async move {
            let fetched = fetch_batch(&master, &tenant).await;
            let result = tickets.0.lock().put(&tenant, fetched, clears);
            ended.send_replace(Some(result));
        };
        // Detached, because other requests wait for the result. The deadline of the call bounds the task.
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
    /// Returns the shelf of a tenant, adding it if it is missing. Drops all other shelves if there
    /// would be more than [`MAX_STOCKED_TENANTS`].
    fn shelf(&mut self, tenant: &Tenant) -> &mut Shelf {
        if self.tenants.len() >= MAX_STOCKED_TENANTS && !self.tenants.contains_key(tenant) {
            self.tenants.clear();
        }
        self.tenants.entry(tenant.clone()).or_default()
    }

    /// Puts fetched tickets on the shelf of a tenant and ends the fetch. Drops the tickets if `clears` is
    /// not current, or if the shelf is gone.
    fn put(
        &mut self,
        tenant: &Tenant,
        fetched: Result<Vec<v1::Ticket>, Status>,
        clears: u64,
    ) -> Result<(), Status> {
        let is_current = clears == self.clears;
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
    /// Removes the first ticket of a `usable` worker and returns it. Drops the tickets before it.
    ///
    /// If no ticket is of a usable worker, takes the first one if `or_any`, otherwise drops all.
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

    /// Returns true while a task fetches tickets for this shelf.
    fn is_fetching(&self) -> bool {
        // The channel is closed when the task has ended, also by a panic.
        self.fetch
            .as_ref()
            .is_some_and(|fetch| fetch.has_changed().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use cstore_testkit::fake::{FakeMaster, Reply};
    use cstore_types::{Caller, ErrorCode};
    use futures_util::future::{join, try_join_all};
    use tonic::Code;

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
    async fn tickets_of_any_worker_are_taken_if_allowed() {
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
    async fn tickets_of_a_fetch_that_began_before_a_clear_are_dropped() {
        let tickets = Tickets::default();
        let tenant = Tenant::default();
        let clears = {
            let mut stock = tickets.0.lock();
            stock.shelf(&tenant);
            stock.clears
        };
        tickets.clear();
        let mut stock = tickets.0.lock();
        stock.put(&tenant, Ok(vec![ticket("a")]), clears).unwrap();
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

    async fn take_one(tickets: &Tickets, master: &MasterClient) -> Result<v1::Ticket, Status> {
        tickets.take(master, &Tenant::default(), |_| true).await
    }

    fn fetches(master: &FakeMaster) -> usize {
        master.count::<v1::BeginUploadRequest>()
    }

    #[tokio::test]
    async fn requests_at_an_empty_stock_share_one_fetch_also_if_the_first_is_dropped() {
        let (fake, tickets) = (FakeMaster::default(), Tickets::default());
        let master = fake.client_of(Caller::Gateway).await;
        let mut first = Box::pin(take_one(&tickets, &master));
        assert!(futures_util::poll!(&mut first).is_pending());
        drop(first);
        let crowd = (0..20).map(|_| take_one(&tickets, &master));
        let taken = try_join_all(crowd).await.unwrap();
        let sessions: HashSet<_> = taken.into_iter().map(|ticket| ticket.body).collect();
        assert_eq!((sessions.len(), fetches(&fake)), (20, 1));
    }

    #[tokio::test]
    async fn the_next_batch_is_fetched_before_the_stock_is_empty() {
        let (fake, tickets) = (FakeMaster::default(), Tickets::default());
        let master = fake.client_of(Caller::Gateway).await;
        let low = TICKET_BATCH as usize - MIN_STOCKED_TICKETS + 1;
        for _ in 0..low {
            take_one(&tickets, &master).await.unwrap();
        }
        let fetch = tickets.0.lock().shelf(&Tenant::default()).fetch.clone();
        let mut fetch = fetch.expect("a fetch is running");
        fetch.wait_for(Option::is_some).await.unwrap();
        assert_eq!(fetches(&fake), 2);
        let left = tickets.0.lock().shelf(&Tenant::default()).tickets.len();
        assert_eq!(left, 2 * TICKET_BATCH as usize - low);
    }

    #[tokio::test]
    async fn a_failed_fetch_fails_those_who_wait_and_the_next_one_tries_again() {
        let (fake, tickets) = (FakeMaster::default(), Tickets::default());
        let master = fake.client_of(Caller::Gateway).await;
        let refusal = Reply::refuse(ErrorCode::InvalidArgument, "no");
        fake.reply_next::<v1::BeginUploadRequest>([refusal]);
        let both = join(take_one(&tickets, &master), take_one(&tickets, &master)).await;
        for failed in [both.0, both.1] {
            assert_eq!(failed.unwrap_err().code(), Code::InvalidArgument);
        }
        take_one(&tickets, &master).await.unwrap();
        assert_eq!(fetches(&fake), 2);
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

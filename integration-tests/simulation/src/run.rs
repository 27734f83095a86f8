//! One run: the cluster comes up, faults strike, everything heals, and everything is checked.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cstore_node::clock::Clock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use turmoil::Builder;

use crate::book::Book;
use crate::client::{Client, Progress, Shared};
use crate::cluster::{self, Setup};
use crate::faults::{CutOff, Plan};
use crate::io::Resets;

const CLIENTS: usize = 2;
const TICK: Duration = Duration::from_millis(5);
/// Simulated time within which the cluster must be up. `LONGEST` bounds the whole run.
const START: Duration = Duration::from_secs(20);
const LONGEST: Duration = Duration::from_secs(240);

/// Result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// First violation of an invariant, if there was one.
    pub violation: Option<String>,
    /// All events in their order.
    pub trace: Vec<String>,
    /// Uploads that were committed.
    pub acknowledged: u64,
    /// Changes whose outcome is unknown.
    pub uncertain: u64,
    /// Simulated time.
    pub simulated: Duration,
}

/// Runs one seed.
///
/// # Panics
/// When the machine gives no temporary folder.
pub fn run(seed: u64, setup: Setup) -> Outcome {
    let dir = folder();
    let mut rng = StdRng::seed_from_u64(seed);
    cstore_types::seed_identities(rng.random());
    cstore_node::backoff::seed_jitter(rng.random());
    cstore_mesh::seed_chance(rng.random());
    cstore_proto::set_bearer_clock(|| cluster::SimulatedClock.now_ms() / 1_000);
    let mut sim = Builder::new()
        .tick_duration(TICK)
        .simulation_duration(LONGEST)
        .tcp_capacity(4_096)
        .rng_seed(rng.random())
        .enable_random_order()
        .build();
    let shared = Shared {
        book: Rc::default(),
        progress: Rc::default(),
        cut_off: CutOff::default(),
        resets: Resets::default(),
        clients: CLIENTS,
    };
    let (resets, book) = (&shared.resets, &shared.book);
    let dir_of_master = dir.path().into();
    let master = cluster::add(&mut sim, setup, dir_of_master, &mut rng, resets, book);
    let clients: Vec<String> = (1..=CLIENTS).map(|n| format!("client-{n}")).collect();
    for id in &clients {
        let (own, rng, shared) = (
            id.clone(),
            StdRng::seed_from_u64(rng.random()),
            shared.clone(),
        );
        sim.client(id.as_str(), async move {
            Client::new(own, rng, master, shared)?.run().await
        });
    }
    // One latency for each link, so that what is sent in one moment does not draw for the order of
    // its arrival.
    let everyone: Vec<String> = cluster::nodes(setup)
        .into_iter()
        .chain(clients.iter().cloned())
        .collect();
    for (n, a) in everyone.iter().enumerate() {
        for b in everyone.iter().skip(n + 1) {
            sim.set_link_latency(
                a.as_str(),
                b.as_str(),
                Duration::from_millis(rng.random_range(1..20)),
            );
        }
    }
    drive(&mut sim, setup, &mut rng, &clients, &shared);
    let simulated = sim.elapsed();
    drop(sim);
    let book = shared.book.borrow();
    Outcome {
        violation: book.violation(),
        trace: book.trace().to_vec(),
        acknowledged: book.acknowledged,
        uncertain: book.uncertain_changes,
        simulated,
    }
}

/// In memory where the machine has a folder for that: the index is written for real.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory)
        .or_else(|_| tempfile::tempdir())
        .expect("there is a temporary folder")
}

/// Steps until the clients are done or something must not be.
fn drive(
    sim: &mut turmoil::Sim<'_>,
    setup: Setup,
    rng: &mut StdRng,
    clients: &[String],
    shared: &Shared,
) {
    let Shared {
        book,
        progress,
        cut_off,
        resets,
        ..
    } = shared;
    let mut plan = None;
    loop {
        let ended = match sim.step() {
            Ok(ended) => ended,
            Err(error) => {
                note(book, &format!("the simulation ended: {error}"));
                return book.borrow_mut().violated(error.to_string());
            }
        };
        if ended || book.borrow().violation().is_some() {
            return;
        }
        match &mut plan {
            None if progress.borrow().began == CLIENTS => {
                let start = sim.elapsed();
                plan = Some(Plan::random(
                    rng,
                    &cluster::nodes(setup),
                    clients,
                    start,
                    cut_off.clone(),
                    resets.clone(),
                ));
            }
            None if sim.elapsed() > START => {
                return book
                    .borrow_mut()
                    .violated(format!("the cluster did not come up within {START:?}"));
            }
            None => {}
            Some(plan) => {
                for said in plan.advance(sim) {
                    note(book, &format!("{:>6} {said}", sim.elapsed().as_millis()));
                }
                heal(plan, progress, sim.elapsed());
            }
        }
    }
}

fn heal(plan: &Plan, progress: &Rc<RefCell<Progress>>, now: Duration) {
    let mut progress = progress.borrow_mut();
    if plan.is_over() && progress.healed.is_none() {
        progress.healed = Some(now);
    }
}

fn note(book: &Rc<RefCell<Book>>, line: &str) {
    book.borrow_mut().say(line.to_owned());
}

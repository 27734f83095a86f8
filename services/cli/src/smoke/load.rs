//! A load that remembers what was acknowledged.
//!
//! Each client has files of its own. A failed upload or delete may have happened: such a name must
//! be absent or whole afterwards. Everything that was acknowledged, and not deleted, must be there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cstore_node::Shutdown;
use cstore_node::shutdown::spawn;
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::check::{self, Found};
use super::round::refused;
use super::tally::{Line, Tally, Verb};
use super::{content, say};
use crate::args::Smoke;
use crate::client::Gateway;
use crate::exit::Failure;
use crate::limits::{LOAD_FAILURE_PAUSE, LOAD_FILES, LOAD_KEPT_FILES};

const SIZES: [usize; 4] = [100, 4_096, 100_000, 1 << 20];

/// Record of one client: the state of its files, and the results of its requests.
#[derive(Debug, Default)]
struct Book {
    tally: Tally,
    acknowledged: BTreeSet<String>,
    uncertain: BTreeSet<String>,
    /// Files that were read back wrong, or were gone, while the load was running.
    wrong: Vec<String>,
}

/// The result, for people and as JSON.
#[derive(Debug, Serialize)]
struct Report {
    prefix: String,
    seconds: f64,
    requests: BTreeMap<Verb, Line>,
    failed: usize,
    acknowledged: usize,
    equal: usize,
    uncertain: usize,
    lost: Vec<String>,
    wrong: Vec<String>,
    unanswered: Vec<String>,
    first_failures: Vec<(f64, String)>,
}

pub(super) async fn run(
    gateway: &Gateway,
    prefix: &str,
    options: &Smoke,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    // Without a token every request would fail. A gateway that is away may come while the load runs.
    if let Ok(answer) = gateway.list(prefix, "").await
        && answer.status.as_u16() == 401
    {
        return Err(refused("list", &answer));
    }
    let begun = Instant::now();
    let book = Arc::new(Mutex::new(Book::default()));
    let end = begun + *options.duration;
    let pause = options
        .rate
        .map(|rate| Duration::from_secs_f64(options.clients as f64 / f64::from(rate)));
    let clients = (0..options.clients).map(|number| {
        let client = Client {
            gateway: gateway.clone(),
            book: book.clone(),
            prefix: prefix.to_owned(),
            number,
            begun,
            largest: options.size_max.bytes(),
            held: if options.keep {
                LOAD_KEPT_FILES
            } else {
                LOAD_FILES
            },
        };
        spawn("smoke client", client.work(end, pause, shutdown.clone()))
    });
    for ended in join_all(clients).await {
        ended.map_err(Failure::failed)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    say(&format!("load: {seconds:.1} s over, reading back"));
    let mut book = std::mem::take(&mut *book.lock());
    let deadline = Instant::now() + *options.settle;
    let names = book
        .acknowledged
        .iter()
        .chain(&book.uncertain)
        .cloned()
        .collect();
    let found = check::read_all(gateway, names, options.clients, deadline).await;
    let mut report = Report {
        prefix: prefix.to_owned(),
        seconds,
        requests: book.tally.lines(),
        failed: book.tally.n_failed(),
        acknowledged: book.acknowledged.len(),
        equal: 0,
        uncertain: book.uncertain.len(),
        lost: Vec::new(),
        wrong: book.wrong,
        unanswered: Vec::new(),
        first_failures: book.tally.told().to_vec(),
    };
    for (name, found) in found {
        match found {
            Found::Equal if book.acknowledged.contains(&name) => report.equal += 1,
            Found::Equal => {}
            Found::Missing if book.uncertain.contains(&name) => {}
            Found::Missing => report.lost.push(name),
            Found::Wrong => report.wrong.push(name),
            Found::Unknown(why) => report.unanswered.push(format!("{name}: {why}")),
        }
    }
    if options.keep {
        keep(options, &book.acknowledged)?;
    } else {
        sweep(gateway, prefix, deadline).await?;
    }
    tell(&report, options)
}

struct Client {
    gateway: Gateway,
    book: Arc<Mutex<Book>>,
    prefix: String,
    number: usize,
    begun: Instant,
    largest: u64,
    held: usize,
}

impl Client {
    async fn work(self, end: Instant, pause: Option<Duration>, shutdown: Shutdown) {
        let mut own: Vec<String> = Vec::new();
        let mut turn = 0_usize;
        while Instant::now() < end && !shutdown.is_triggered() {
            let begun = Instant::now();
            turn += 1;
            let good = match turn % 4 {
                1 => self.put(turn, &mut own).await,
                0 if own.len() > self.held => self.delete(turn, &mut own).await,
                _ => self.get(turn, &own).await,
            };
            let rest = pause.map_or(Duration::ZERO, |pause| {
                pause.saturating_sub(begun.elapsed())
            });
            let rest = if good {
                rest
            } else {
                rest.max(LOAD_FAILURE_PAUSE)
            };
            if !rest.is_zero() {
                sleep(rest).await;
            }
        }
    }

    async fn put(&self, turn: usize, own: &mut Vec<String>) -> bool {
        let size = SIZES.get(turn / 4 % SIZES.len()).copied().unwrap_or(0);
        let size = size.min(usize::try_from(self.largest).unwrap_or(usize::MAX));
        let name = content::name(&self.prefix, &format!("{}-{turn}", self.number), size);
        let outcome = self
            .gateway
            .put(&name, content::bytes(&name).unwrap_or_default())
            .await;
        let mut book = self.book.lock();
        match &outcome {
            Ok(answer) if answer.status.is_success() => {
                book.tally.good(Verb::Put, answer.took);
                book.acknowledged.insert(name.clone());
                own.push(name);
                true
            }
            _ => {
                book.tally
                    .bad(Verb::Put, &name, self.begun.elapsed(), &outcome);
                book.uncertain.insert(name);
                false
            }
        }
    }

    async fn get(&self, turn: usize, own: &[String]) -> bool {
        let Some(name) = turn
            .checked_mul(7)
            .and_then(|n| own.get(n % own.len().max(1)))
            .cloned()
        else {
            return true;
        };
        let outcome = self.gateway.get(&name).await;
        let mut book = self.book.lock();
        match &outcome {
            Ok(answer) if answer.status.as_u16() == 200 => {
                book.tally.good(Verb::Get, answer.took);
                if content::bytes(&name).as_ref() != Some(&answer.body) {
                    book.wrong
                        .push(format!("{name} (trace {})", answer.trace_id));
                }
                true
            }
            _ => {
                if outcome
                    .as_ref()
                    .is_ok_and(|answer| answer.status.as_u16() == 404)
                {
                    book.wrong.push(format!("{name} was gone"));
                }
                book.tally
                    .bad(Verb::Get, &name, self.begun.elapsed(), &outcome);
                false
            }
        }
    }

    async fn delete(&self, turn: usize, own: &mut Vec<String>) -> bool {
        if own.is_empty() {
            return true;
        }
        let name = own.swap_remove(turn.wrapping_mul(13) % own.len());
        let outcome = self.gateway.delete(&name).await;
        let mut book = self.book.lock();
        book.acknowledged.remove(&name);
        match &outcome {
            Ok(answer) if answer.status.is_success() => {
                book.tally.good(Verb::Delete, answer.took);
                true
            }
            _ => {
                book.tally
                    .bad(Verb::Delete, &name, self.begun.elapsed(), &outcome);
                book.uncertain.insert(name);
                false
            }
        }
    }
}

fn keep(options: &Smoke, names: &BTreeSet<String>) -> Result<(), Failure> {
    let Some(path) = &options.names else {
        return Ok(());
    };
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    std::fs::write(path, text)
        .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))
}

async fn sweep(gateway: &Gateway, prefix: &str, deadline: Instant) -> Result<(), Failure> {
    for name in check::list(gateway, prefix, deadline).await? {
        // Remaining files do no harm.
        let _ = gateway.delete(&name).await;
    }
    Ok(())
}

fn tell(report: &Report, options: &Smoke) -> Result<(), Failure> {
    if options.json {
        say(&serde_json::to_string(report).map_err(Failure::failed)?);
    } else {
        for (verb, line) in &report.requests {
            say(&format!("{:<7}{line}", format!("{verb:?}")));
        }
        for (at, failure) in &report.first_failures {
            say(&format!("  at {at:>6.1} s {failure}"));
        }
        say(&format!(
            "load: prefix {}, {} failed, {} acknowledged, {} equal, {} uncertain, {} lost, {} wrong, {} unanswered",
            report.prefix,
            report.failed,
            report.acknowledged,
            report.equal,
            report.uncertain,
            report.lost.len(),
            report.wrong.len(),
            report.unanswered.len()
        ));
    }
    let bad: Vec<&String> = report
        .lost
        .iter()
        .chain(&report.wrong)
        .chain(&report.unanswered)
        .collect();
    if !bad.is_empty() {
        let some: Vec<String> = bad.iter().take(5).map(|name| name.to_string()).collect();
        return Err(Failure::Failed(format!(
            "load: lost or wrong: {}",
            some.join(", ")
        )));
    }
    if report.acknowledged == 0 {
        return Err(Failure::Failed(
            "load: nothing was acknowledged, so nothing is proven".to_owned(),
        ));
    }
    if options.strict && report.failed > 0 {
        return Err(Failure::Failed(format!(
            "load: {} requests failed",
            report.failed
        )));
    }
    Ok(())
}

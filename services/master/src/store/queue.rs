//! Queue of proposed batches between their callers and the writer.

use std::collections::VecDeque;
use std::time::Duration;

use cstore_log::Gather;
use parking_lot::{Condvar, Mutex};

use super::MetaError;
use super::writer::Job;

/// Bounded queue of jobs in the order of their proposal.
#[derive(Debug)]
pub(super) struct JobQueue {
    bound: usize,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Number of jobs for which the writer is woken.
    wanted: usize,
    is_closed: bool,
}

/// Result of a look into the queue.
#[derive(Debug)]
pub(super) enum Found {
    Jobs(Vec<Job>),
    /// No job came in the time that was given.
    Idle,
    /// The queue is closed and empty.
    Closed,
}

impl JobQueue {
    /// Makes a queue of at most `bound` jobs.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            bound,
            waiting: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Adds a job.
    ///
    /// # Errors
    /// [`MetaError::Busy`] if the queue is full, [`MetaError::Closed`].
    pub(super) fn push(&self, job: Job) -> Result<(), MetaError> {
        let is_enough = {
            let mut waiting = self.waiting.lock();
            if waiting.is_closed {
                return Err(MetaError::Closed);
            }
            if waiting.jobs.len() >= self.bound {
                return Err(MetaError::Busy);
            }
            waiting.jobs.push_back(job);
            waiting.jobs.len() >= waiting.wanted
        };
        if is_enough {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Refuses jobs from now on. Those that wait can still be taken.
    pub(super) fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Refuses jobs from now on, and drops those that wait: their callers see that the writer is gone.
    pub(super) fn abandon(&self) {
        self.close();
        let jobs = std::mem::take(&mut self.waiting.lock().jobs);
        drop(jobs);
    }

    /// Takes up to `most` jobs. Waits for the first one, for `patience` if it is given, and then for
    /// others as long as `gather` plans.
    pub(super) fn take(&self, most: usize, gather: &Gather, patience: Option<Duration>) -> Found {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.is_empty() {
            if waiting.is_closed {
                return Found::Closed;
            }
            match patience {
                None => self.changed.wait(&mut waiting),
                Some(patience) => {
                    if self.changed.wait_for(&mut waiting, patience).timed_out()
                        && waiting.jobs.is_empty()
                        && !waiting.is_closed
                    {
                        return Found::Idle;
                    }
                }
            }
        }
        if let Some((wanted, longest)) = gather.plan() {
            let wanted = wanted.min(most);
            if waiting.jobs.len() < wanted && !waiting.is_closed {
                waiting.wanted = wanted;
                self.changed.wait_for(&mut waiting, longest);
                waiting.wanted = 0;
            }
        }
        let count = waiting.jobs.len().min(most);
        Found::Jobs(waiting.jobs.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::super::batch::Batch;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn job() -> Job {
        Job {
            batch: Batch::default(),
            answer: oneshot::channel().0,
        }
    }

    fn taken(queue: &JobQueue, most: usize, gather: &Gather) -> usize {
        match queue.take(most, gather, Some(Duration::ZERO)) {
            Found::Jobs(jobs) => jobs.len(),
            Found::Idle | Found::Closed => 0,
        }
    }

    #[test]
    fn a_full_queue_is_busy_and_a_closed_one_gives_what_it_has() {
        let queue = JobQueue::new(2);
        queue.push(job()).unwrap();
        queue.push(job()).unwrap();
        assert!(matches!(queue.push(job()), Err(MetaError::Busy)));
        assert_eq!(taken(&queue, 1, &Gather::default()), 1);
        queue.close();
        assert!(matches!(queue.push(job()), Err(MetaError::Closed)));
        assert_eq!(taken(&queue, 5, &Gather::default()), 1);
        let found = queue.take(5, &Gather::default(), None);
        assert!(matches!(found, Found::Closed));
    }

    #[test]
    fn callers_of_an_abandoned_queue_see_that_the_writer_is_gone() {
        let queue = JobQueue::new(2);
        let (answer, mut outcome) = oneshot::channel();
        let batch = Batch::default();
        queue.push(Job { batch, answer }).unwrap();
        queue.abandon();
        assert!(matches!(
            outcome.try_recv(),
            Err(oneshot::error::TryRecvError::Closed)
        ));
        assert!(matches!(queue.push(job()), Err(MetaError::Closed)));
    }

    #[test]
    fn an_empty_queue_is_idle_after_the_time_that_is_given() {
        let found = JobQueue::new(1).take(1, &Gather::default(), Some(Duration::ZERO));
        assert!(matches!(found, Found::Idle));
    }

    #[test]
    fn a_take_waits_for_as_many_as_are_expected_and_for_no_more() {
        let queue = Arc::new(JobQueue::new(100));
        let mut gather = Gather::default();
        // The longest wait would be seen as a hanging test.
        gather.note(4, LONG);
        queue.push(job()).unwrap();
        let others = queue.clone();
        let pushing = std::thread::spawn(move || {
            for _ in 0..3 {
                others.push(job()).unwrap();
            }
        });
        let found = taken(&queue, 100, &gather);
        pushing.join().unwrap();
        assert!((1..=4).contains(&found), "{found}");
        assert_eq!(found + taken(&queue, 100, &Gather::default()), 4);
    }

    #[test]
    fn a_take_that_expects_more_ends_when_the_queue_is_closed() {
        let queue = Arc::new(JobQueue::new(100));
        let mut gather = Gather::default();
        gather.note(50, LONG);
        queue.push(job()).unwrap();
        let closing = queue.clone();
        let closer = std::thread::spawn(move || closing.close());
        assert_eq!(taken(&queue, 100, &gather), 1);
        closer.join().unwrap();
    }
}

//! Queue of proposed batches between their callers and the writer.

use std::collections::VecDeque;
use std::time::Duration;

use cstore_log::Wait;
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
    /// Number of jobs for which the writer is woken; 0 wakes it for each.
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

    /// Takes up to `most` jobs. Waits for the first job, not longer than `patience` if that is given;
    /// then waits for more jobs as `more` says.
    pub(super) fn take(
        &self,
        most: usize,
        more: Option<Wait>,
        patience: Option<Duration>,
    ) -> Found {
        let mut waiting = self.waiting.lock();
        let is_idle = |waiting: &mut Waiting| waiting.jobs.is_empty() && !waiting.is_closed;
        match patience {
            None => self.changed.wait_while(&mut waiting, is_idle),
            Some(patience) => {
                let _ = self.changed.wait_while_for(&mut waiting, is_idle, patience);
            }
        }
        if waiting.jobs.is_empty() {
            return match waiting.is_closed {
                true => Found::Closed,
                false => Found::Idle,
            };
        }
        if let Some(Wait { groups, longest }) = more {
            let wanted = groups.min(most);
            waiting.wanted = wanted;
            let lacks = |waiting: &mut Waiting| waiting.jobs.len() < wanted && !waiting.is_closed;
            let _ = self.changed.wait_while_for(&mut waiting, lacks, longest);
            waiting.wanted = 0;
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

    /// Nothing lasts so long: a test that waits for it hangs.
    const LONG: Duration = Duration::from_secs(3_600);
    const MORE: Option<Wait> = Some(Wait {
        groups: 4,
        longest: LONG,
    });

    fn job() -> Job {
        Job {
            batch: Batch::default(),
            answer: oneshot::channel().0,
        }
    }

    fn queue_with(jobs: usize) -> Arc<JobQueue> {
        let queue = JobQueue::new(4);
        (0..jobs).for_each(|_| queue.push(job()).unwrap());
        Arc::new(queue)
    }

    fn taken(queue: &JobQueue, most: usize, more: Option<Wait>) -> usize {
        match queue.take(most, more, Some(Duration::ZERO)) {
            Found::Jobs(jobs) => jobs.len(),
            Found::Idle | Found::Closed => 0,
        }
    }

    /// Takes jobs of a queue with one job while another thread does `act`.
    fn taken_during(act: impl FnOnce(&JobQueue) + Send + 'static) -> usize {
        let queue = queue_with(1);
        let shared = queue.clone();
        let other = std::thread::spawn(move || act(&shared));
        let count = taken(&queue, 10, MORE);
        other.join().unwrap();
        count
    }

    #[test]
    fn a_full_queue_is_busy_and_a_closed_one_gives_what_it_has() {
        let queue = queue_with(4);
        assert!(matches!(queue.push(job()), Err(MetaError::Busy)));
        assert_eq!(taken(&queue, 1, None), 1);
        queue.close();
        assert!(matches!(queue.push(job()), Err(MetaError::Closed)));
        assert_eq!(taken(&queue, 5, MORE), 3);
        assert!(matches!(queue.take(5, None, None), Found::Closed));
    }

    #[test]
    fn callers_of_an_abandoned_queue_see_that_the_writer_is_gone() {
        let queue = queue_with(0);
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
        let found = queue_with(0).take(1, MORE, Some(Duration::ZERO));
        assert!(matches!(found, Found::Idle));
    }

    #[test]
    fn a_take_waits_for_as_many_as_are_expected() {
        let push_three = |queue: &JobQueue| (0..3).for_each(|_| queue.push(job()).unwrap());
        assert_eq!(taken_during(push_three), 4);
    }

    #[test]
    fn a_take_that_expects_more_ends_when_the_queue_is_closed() {
        assert_eq!(taken_during(JobQueue::close), 1);
    }

    #[test]
    fn a_take_that_expects_more_ends_with_its_longest_wait_or_when_it_has_the_most_it_may_take() {
        let short = Wait {
            groups: 4,
            longest: Duration::ZERO,
        };
        assert_eq!(taken(&queue_with(1), 10, Some(short)), 1);
        assert_eq!(taken(&queue_with(2), 2, MORE), 2);
    }
}

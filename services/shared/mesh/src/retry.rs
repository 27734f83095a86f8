//! Deadline and retry of a typed unary call.
//!
//! Only calls that may be repeated are, only for codes that may pass, a few times, with jitter, and out of a budget:
//! when much fails, retries stop first.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Status};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Tokens that a retry costs and a success gives back.
const RETRY_COST: f64 = 1.0;
const SUCCESS_GAIN: f64 = 0.2;
const MAX_TOKENS: f64 = 50.0;

/// How often and how long a call is tried.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Bound of all attempts together.
    pub deadline: Duration,
    /// Bound of one attempt.
    pub attempt: Duration,
    /// Attempts after the first.
    pub max_retries: u32,
    budget: Arc<Mutex<f64>>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            attempt: Duration::from_secs(2),
            max_retries: 3,
            budget: Arc::new(Mutex::new(MAX_TOKENS)),
        }
    }
}

impl RetryPolicy {
    /// Calls `attempt` with fresh requests until one succeeds, the error is final, or time, tries or budget are used
    /// up.
    pub(crate) async fn run<Req, Res, Fut>(
        &self,
        message: Req,
        idempotent: bool,
        attempt: impl Fn(Request<Req>) -> Fut,
    ) -> Result<Res, Status>
    where
        Req: Clone,
        Fut: Future<Output = Result<Res, Status>>,
    {
        let end = Instant::now() + self.deadline;
        let mut retries = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let bound = if idempotent { left.min(self.attempt) } else { left };
            let mut request = Request::new(message.clone());
            request.set_timeout(bound);
            let late = || Status::deadline_exceeded(format!("no answer within {} ms", bound.as_millis()));
            let error = match timeout(bound, attempt(request)).await.unwrap_or_else(|_| Err(late())) {
                Ok(response) => {
                    self.gain();
                    return Ok(response);
                }
                Err(error) => error,
            };
            let pause = self.pause(&error, retries);
            let in_time = Instant::now() + pause < end;
            let may =
                idempotent && retries < self.max_retries && cstore_proto::code_of(&error).is_retryable();
            if !(may && in_time && self.spend()) {
                return Err(error);
            }
            tracing::debug!(%error, retries, "call is tried again");
            retries += 1;
            sleep(pause).await;
        }
    }

    fn pause(&self, error: &Status, retries: u32) -> Duration {
        let grown = FIRST_PAUSE.saturating_mul(1 << retries.min(6)).min(LONGEST_PAUSE);
        let jittered = grown.mul_f64(rand::random_range(0.5..1.5));
        cstore_proto::retry_after(error).map_or(jittered, |asked| asked.min(LONGEST_PAUSE).max(jittered))
    }

    fn gain(&self) {
        let mut tokens = self.budget.lock();
        *tokens = (*tokens + SUCCESS_GAIN).min(MAX_TOKENS);
    }

    fn spend(&self) -> bool {
        let mut tokens = self.budget.lock();
        let enough = *tokens >= RETRY_COST;
        if enough {
            *tokens -= RETRY_COST;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn quick() -> RetryPolicy {
        RetryPolicy {
            deadline: Duration::from_millis(800),
            attempt: Duration::from_millis(50),
            ..Default::default()
        }
    }

    async fn calls(policy: &RetryPolicy, idempotent: bool, error: Status) -> (u32, Status) {
        let count = AtomicU32::new(0);
        let result: Result<(), Status> = policy
            .run((), idempotent, |_| {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Err(error.clone()))
            })
            .await;
        (count.into_inner(), result.unwrap_err())
    }

    #[tokio::test]
    async fn i11_only_idempotent_calls_and_passing_errors_are_repeated() {
        assert_eq!(calls(&quick(), true, Status::unavailable("x")).await.0, 4);
        assert_eq!(calls(&quick(), false, Status::unavailable("x")).await.0, 1);
        assert_eq!(calls(&quick(), true, Status::already_exists("x")).await.0, 1);
    }

    #[tokio::test]
    async fn a_call_that_never_answers_ends_as_deadline_exceeded() {
        let result: Result<(), Status> = quick().run((), false, |_| std::future::pending()).await;
        assert_eq!(result.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn an_empty_budget_stops_retries() {
        let policy = quick();
        *policy.budget.lock() = 1.5;
        assert_eq!(calls(&policy, true, Status::unavailable("x")).await.0, 2);
    }
}

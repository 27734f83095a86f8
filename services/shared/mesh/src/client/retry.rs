//! Which calls are tried again: only those that may be repeated, for codes that may pass, a few
//! times, with jitter, and out of a budget: when much fails, retries stop first.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tower::retry::Policy;
use tower::retry::budget::{Budget as _, TpsBudget};

use crate::client::call::{Call, CallBounds, Method};
use crate::jitter;
use crate::limits::{
    MAX_RETRY_PAUSE, MIN_RETRY_PAUSE, RETRY_BUDGET_FLOOR, RETRY_BUDGET_SHARE, RETRY_BUDGET_WINDOW,
};
use crate::telemetry::metrics::ServiceMetrics;

/// Budget from which retries are paid, shared by all calls to one service.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<TpsBudget>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(TpsBudget::new(
            RETRY_BUDGET_WINDOW,
            RETRY_BUDGET_FLOOR,
            RETRY_BUDGET_SHARE,
        )))
    }
}

/// The rule of one method.
#[derive(Debug, Clone)]
pub(crate) struct RetryPolicy {
    method: Method,
    bounds: CallBounds,
    budget: Budget,
    metrics: ServiceMetrics,
}

impl RetryPolicy {
    pub(crate) fn new(
        method: Method,
        bounds: CallBounds,
        budget: Budget,
        metrics: ServiceMetrics,
    ) -> Self {
        if method.idempotent {
            metrics.no_retry_yet(method.path);
        }
        Self {
            method,
            bounds,
            budget,
            metrics,
        }
    }

    /// Returns the pause before the next attempt: grows, jittered, and never below what the server
    /// asked for.
    fn pause(error: &Status, retries: u32) -> Duration {
        let grown = MIN_RETRY_PAUSE
            .saturating_mul(1 << retries.min(6))
            .min(MAX_RETRY_PAUSE);
        let jittered = jitter::jittered(grown);
        cstore_proto::retry_after(error)
            .map_or(jittered, |asked| asked.min(MAX_RETRY_PAUSE).max(jittered))
    }
}

impl<Req: Clone, Res> Policy<Call<Req>, Res, Status> for RetryPolicy {
    type Future = BoxFuture<'static, ()>;

    fn retry(
        &mut self,
        call: &mut Call<Req>,
        result: &mut Result<Res, Status>,
    ) -> Option<Self::Future> {
        let error = match result {
            Ok(_) => {
                self.budget.0.deposit();
                return None;
            }
            Err(error) => error,
        };
        let pause = Self::pause(error, call.retries);
        let may = call.retries < self.bounds.max_retries
            && cstore_proto::code_of(error).is_retryable()
            && Instant::now() + pause < call.deadline;
        if !may {
            return None;
        }
        if !self.budget.0.withdraw() {
            self.metrics.retry_refused();
            return None;
        }
        tracing::debug!(%error, method = self.method.path, retries = call.retries, "call is tried again");
        self.metrics.retry(self.method.path);
        call.retries += 1;
        Some(Box::pin(sleep(pause)))
    }

    fn clone_request(&mut self, call: &Call<Req>) -> Option<Call<Req>> {
        // Without a copy there is no second attempt.
        self.method.idempotent.then(|| call.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::MeshMetrics;
    use tower::{Layer, ServiceExt};
    use tower_test::mock;

    const ASK: Method = Method {
        path: "test/Ask",
        idempotent: true,
    };
    const DO: Method = Method {
        path: "test/Do",
        idempotent: false,
    };

    /// Calls of `method` that a server gets which always answers `error`, and how long that took.
    async fn calls(method: Method, error: Status) -> (u32, Duration) {
        let metrics = MeshMetrics::default().service("test", "test");
        let policy = RetryPolicy::new(method, CallBounds::default(), Budget::default(), metrics);
        let (service, mut handle) = mock::pair::<Call<&'static str>, &'static str>();
        let service = service.map_err(|error| match error.downcast::<Status>() {
            Ok(status) => *status,
            Err(error) => Status::internal(error.to_string()),
        });
        let begun = Instant::now();
        let call = Call::new("ask", begun + Duration::from_secs(60));
        let asking = tower::retry::RetryLayer::new(policy)
            .layer(service)
            .oneshot(call);
        let answering = async {
            let mut n = 0;
            while let Some((_, answer)) = handle.next_request().await {
                answer.send_error(error.clone());
                n += 1;
            }
            n
        };
        let (answer, n) = tokio::join!(asking, answering);
        assert_eq!(answer.unwrap_err().code(), error.code());
        (n, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn i11_only_idempotent_calls_and_passing_errors_are_repeated() {
        assert_eq!(calls(ASK, Status::unavailable("x")).await.0, 4);
        assert_eq!(calls(DO, Status::unavailable("x")).await.0, 1);
        assert_eq!(calls(ASK, Status::already_exists("x")).await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_never_undercut_what_the_server_asked_for() {
        let (_, took) = calls(ASK, Status::unavailable("x")).await;
        assert!(
            (Duration::from_millis(70)..Duration::from_millis(215)).contains(&took),
            "{took:?}"
        );
        let asked = Duration::from_millis(500);
        let busy =
            cstore_proto::status_with_retry(cstore_proto::ErrorCode::Overloaded, "busy", asked);
        let (_, took) = calls(ASK, busy).await;
        assert!(took >= asked * 3, "{took:?}");
    }
}

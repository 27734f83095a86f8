//! HTTP/2 answers whose client takes nothing. The socket does not show it: the client answers
//! pings and gives the stream no window. hyper asks an answer's body for more only when there is
//! window for it, so [`Watch`] notes since when the client has bytes to take, and the task of the
//! stream ends if it takes none in time; the stream is reset then.
//!
//! HTTP/1.1 needs none of this: there the answer stands still together with the socket
//! ([`crate::listener::timed_io`]).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep};

tokio::task_local! {
    /// Watch of the stream whose task runs.
    static WATCH: Arc<Watch>;
}

/// Time since which a client has bytes to take.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Option<Instant>>);

impl Watch {
    /// Returns the watch of this stream; `None` over HTTP/1.1.
    pub(crate) fn current() -> Option<Arc<Self>> {
        WATCH.try_with(Arc::clone).ok()
    }

    /// Notes that bytes were handed out: from now on it is the client's turn.
    pub(crate) fn handed_out(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Notes that the client has taken all bytes and waits for more.
    pub(crate) fn taken(&self) {
        *self.0.lock() = None;
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

/// Runs streams of HTTP/2, each with a watch of its own.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) idle: Duration,
}

impl<F> Executor<F> for Watched
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let watch = Arc::new(Watch::default());
        let bounded = Bounded {
            watch: watch.clone(),
            idle: self.idle,
            armed: None,
            timer: Box::pin(sleep(self.idle)),
        };
        let stream = Box::pin(WATCH.scope(watch, stream));
        drop(cstore_node::shutdown::spawn("stream", async move {
            tokio::select! {
                biased;
                _ = stream => {}
                () = bounded => tracing::debug!("a client did not take its answer: the stream is reset"),
            }
        }));
    }
}

/// Ends when the client had its turn for too long. It shares the task of the stream, so it is asked
/// again whenever something has happened there.
struct Bounded {
    watch: Arc<Watch>,
    idle: Duration,
    armed: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Future for Bounded {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(since) = self.watch.since() else {
                return Poll::Pending;
            };
            if self.armed != Some(since) {
                self.armed = Some(since);
                let deadline = since + self.idle;
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(context));
            if self.watch.since() == self.armed {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_client_takes_nothing_and_not_while_it_waits_for_us() {
        let idle = Duration::from_secs(60);
        let begun = Instant::now();
        let (alive, ended) = oneshot::channel::<()>();
        Watched { idle }.execute(async move {
            let watch = Watch::current().expect("a stream has a watch");
            for _ in 0..5 {
                watch.handed_out();
                sleep(idle / 2).await;
                watch.taken();
                sleep(idle * 2).await;
            }
            watch.handed_out();
            std::future::pending::<()>().await;
            drop(alive);
        });
        assert!(ended.await.is_err());
        assert_eq!(begun.elapsed(), (idle / 2 + idle * 2) * 5 + idle);
        assert!(Watch::current().is_none());
    }
}

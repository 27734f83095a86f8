//! The one place of this crate that starts tasks: each keeps the span in which it was started.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

#[allow(
    clippy::disallowed_methods,
    reason = "this crate stands below cstore-node; owners abort or await the handle"
)]
pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(future.in_current_span())
}

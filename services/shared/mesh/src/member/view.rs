//! The view of the cluster that the master streams: followed for the life of a role.

use std::time::Duration;

use cstore_node::{Backoff, Shutdown};
use cstore_proto::v1;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::clients::master::MasterClient;
use crate::limits::VIEW_TIMEOUT;

/// Receiver of the views of the cluster that the master streams to a role.
pub trait ViewObserver: Send {
    /// Takes in the cluster as it is now.
    fn view(&mut self, view: v1::ClusterView);

    /// Notes that the view is not followed at the moment. The last view stays the best that is
    /// known.
    fn interrupted(&mut self) {}
}

/// Follows the view of the cluster until the shutdown. A stream that ends is opened again, with a
/// back-off that grows by `retry_step` and begins anew with each view.
pub async fn follow_view(
    master: MasterClient,
    request: v1::WatchMapRequest,
    retry_step: Duration,
    mut observer: impl ViewObserver,
    shutdown: Shutdown,
) {
    let mut backoff = Backoff::new(retry_step, None);
    let follow = async {
        loop {
            let error = follow_once(&master, request.clone(), &mut backoff, &mut observer).await;
            observer.interrupted();
            let delay = backoff.next_delay();
            tracing::info!(%error, ?delay, tries = backoff.tries(), "view of the cluster is interrupted");
            sleep(delay).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.triggered() => {}
        () = follow => {}
    }
}

/// Takes in views until the stream ends. Returns why it ended.
async fn follow_once(
    master: &MasterClient,
    request: v1::WatchMapRequest,
    backoff: &mut Backoff,
    observer: &mut impl ViewObserver,
) -> Status {
    let mut views = match timeout(VIEW_TIMEOUT, master.watch_map(request)).await {
        Ok(Ok(views)) => views,
        Ok(Err(status)) => return status,
        Err(_) => return Status::deadline_exceeded("the master did not answer in time"),
    };
    loop {
        match views.message().await {
            Ok(Some(view)) => {
                backoff.reset();
                observer.view(view);
            }
            Ok(None) => return Status::unavailable("the master ended the stream"),
            Err(status) => return status,
        }
    }
}

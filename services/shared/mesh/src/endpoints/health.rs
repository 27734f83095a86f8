//! The health of one endpoint, by the stream of its health service; opened again with back-off when
//! it ends.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::endpoints::endpoint::{Endpoint, HealthState};
use crate::error::MeshError;
use crate::jitter::jittered;
use crate::limits::{HEALTH_TIMEOUT, MAX_HEALTH_PAUSE, MIN_HEALTH_PAUSE};
use crate::transport::channel::GrpcChannel;
use crate::transport::io::Target;

/// Makes the channel to an endpoint.
pub(crate) type Connect = Arc<dyn Fn(&Target) -> Result<GrpcChannel, MeshError> + Send + Sync>;

/// Follows the health of one endpoint, for ever. Replaces its connection if the other side is not
/// one of ours.
pub(super) async fn watch_health(
    endpoint: Arc<Endpoint>,
    connect: Connect,
    changes: watch::Sender<u64>,
    news: Arc<Notify>,
) {
    let set = |health: HealthState| {
        let before = endpoint.health();
        if before != health {
            tracing::debug!(addr = endpoint.target.addr, ?health, "endpoint");
            endpoint.set_health(health);
            changes.send_modify(|changes| *changes = changes.wrapping_add(1));
            news.notify_one();
        }
    };
    let mut pause = MIN_HEALTH_PAUSE;
    loop {
        let ended = follow(&endpoint.channel(), |serving| {
            pause = MIN_HEALTH_PAUSE;
            set(if serving {
                HealthState::Serving
            } else {
                HealthState::Down("it takes no work now".to_owned())
            });
        })
        .await;
        set(HealthState::Down(ended.message().to_owned()));
        // A peer that answers like that is not one of ours, or hangs. A name or a virtual address
        // may lead elsewhere the next time, but a connection that is kept never does.
        if matches!(ended.code(), Code::Unimplemented | Code::DeadlineExceeded)
            && let Ok(channel) = connect(&endpoint.target)
        {
            endpoint.renew(channel);
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(MAX_HEALTH_PAUSE);
    }
}

/// One stream of health; returns how it ended.
async fn follow(channel: &GrpcChannel, mut say: impl FnMut(bool)) -> Status {
    let mut client = HealthClient::new(channel.clone());
    let opening = async {
        let mut stream = client
            .watch(HealthCheckRequest::default())
            .await?
            .into_inner();
        let first = stream.message().await?;
        Ok::<_, Status>((stream, first))
    };
    let (mut stream, mut next) = match timeout(HEALTH_TIMEOUT, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(status)) => return status,
        Err(_) => return Status::deadline_exceeded("it does not say how it is"),
    };
    loop {
        match next {
            Some(health) => say(health.status() == ServingStatus::Serving),
            None => return Status::unavailable("it ended its health stream"),
        }
        next = match stream.message().await {
            Ok(next) => next,
            Err(status) => return status,
        };
    }
}

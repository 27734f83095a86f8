//! Replies that a test chooses beforehand, and the requests that came.

use std::any::{Any, TypeId};
use std::collections::{HashMap, VecDeque};

use cstore_types::ErrorCode;
use tokio::time::Instant;
use tonic::{Response, Status};

/// Reply to a request of a gRPC service.
#[derive(Debug, Clone, Default)]
pub enum Reply {
    /// Does the request and replies as a sound server does.
    #[default]
    Do,
    /// Replies with an empty message. Nothing is done.
    Empty,
    /// Fails. Nothing is done.
    Refuse(Status),
    /// Never replies. Nothing is done.
    Hang,
    /// Does the request and fails, as if the reply had been lost.
    Lose(Status),
}

impl Reply {
    /// Returns a refusal.
    pub fn refuse(code: ErrorCode, message: &str) -> Self {
        Self::Refuse(cstore_proto::status(code, message))
    }

    /// Replies. `act` does the request.
    pub(super) async fn send<T: Default>(
        self,
        act: impl FnOnce() -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        match self {
            Self::Do => act().map(Response::new),
            Self::Empty => Ok(Response::new(T::default())),
            Self::Refuse(status) => Err(status),
            Self::Hang => std::future::pending().await,
            Self::Lose(status) => act().and(Err(status)),
        }
    }
}

/// Requests of one type, and the replies to them.
#[derive(Debug, Default)]
struct Lane {
    requests: Vec<(Instant, Box<dyn Any + Send>)>,
    next: VecDeque<Reply>,
    pattern: Vec<Reply>,
}

/// Replies by the type of the request.
#[derive(Debug, Default)]
pub(super) struct Script {
    lanes: HashMap<TypeId, Lane>,
    all: Reply,
}

impl Script {
    fn lane<R: Any>(&mut self) -> &mut Lane {
        self.lanes.entry(TypeId::of::<R>()).or_default()
    }

    /// Gives these replies to the next requests of a type, one each.
    pub(super) fn next<R: Any>(&mut self, replies: impl IntoIterator<Item = Reply>) {
        self.lane::<R>().next.extend(replies);
    }

    /// Gives these replies again and again to the requests of a type that have no other reply.
    /// Counting begins with the first request of the type.
    pub(super) fn repeat<R: Any>(&mut self, pattern: impl IntoIterator<Item = Reply>) {
        self.lane::<R>().pattern = pattern.into_iter().collect();
    }

    /// Gives this reply to all requests that have no other one.
    pub(super) fn all(&mut self, reply: Reply) {
        self.all = reply;
    }

    /// Keeps a request and returns the reply to it.
    pub(super) fn receive<R: Any + Clone + Send>(&mut self, request: &R) -> Reply {
        let all = self.all.clone();
        let lane = self.lane::<R>();
        let nth = lane.requests.len();
        lane.requests
            .push((Instant::now(), Box::new(request.clone())));
        if let Some(reply) = lane.next.pop_front() {
            return reply;
        }
        match lane.pattern.len() {
            0 => all,
            len => lane.pattern[nth % len].clone(),
        }
    }

    /// Returns the requests of a type in their order, with the times at which they came.
    pub(super) fn requests<R: Any + Clone>(&mut self) -> Vec<(Instant, R)> {
        let kept = self.lane::<R>().requests.iter();
        kept.filter_map(|(at, request)| Some((*at, request.downcast_ref::<R>()?.clone())))
            .collect()
    }

    /// Returns the number of requests of a type.
    pub(super) fn count<R: Any>(&mut self) -> usize {
        self.lane::<R>().requests.len()
    }

    /// Returns the number of requests of all types.
    pub(super) fn count_all(&self) -> usize {
        self.lanes.values().map(|lane| lane.requests.len()).sum()
    }
}

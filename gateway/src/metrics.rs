//! Requests, errors and durations by route, and the bytes that went through.

use std::time::Duration;

use cstore_mesh::exemplar::{TracedSeconds, observe, traced_seconds};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels of one answer. Routes are templates and statuses are codes of our own, so both are closed
/// sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: String,
}

/// Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    answers: Family<Answer, Counter>,
    seconds: Family<Route, TracedSeconds, fn() -> TracedSeconds>,
    in_flight: Gauge,
    connections: Gauge,
    sent_away: Counter,
    refused: Counter,
    over_share: Counter,
    received: Counter,
    sent: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            answers: Family::default(),
            seconds: Family::new_with_constructor(traced_seconds as fn() -> TracedSeconds),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            sent_away: Counter::default(),
            refused: Counter::default(),
            over_share: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register(
            "requests",
            "Answers by method, route and status",
            metrics.answers.clone(),
        );
        registry.register(
            "request_seconds",
            "Time to the head of the answer, by method and route",
            metrics.seconds.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests whose answer has no head yet",
            metrics.in_flight.clone(),
        );
        registry.register(
            "connections",
            "Open connections of clients",
            metrics.connections.clone(),
        );
        registry.register(
            "connections_sent_away",
            "Connections without a request that made room for others",
            metrics.sent_away.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections refused because all of their address or of the gateway were busy",
            metrics.refused.clone(),
        );
        registry.register(
            "requests_over_share",
            "Requests refused because their address had its share of running requests",
            metrics.over_share.clone(),
        );
        registry.register(
            "received_bytes",
            "File bytes of uploads that were stored",
            metrics.received.clone(),
        );
        registry.register(
            "sent_bytes",
            "File bytes that downloads were answered with",
            metrics.sent.clone(),
        );
        metrics
    }

    /// Counts one as long as it lives.
    pub(crate) fn request(&self) -> Counted {
        Counted::new(&self.in_flight)
    }

    /// Counts one as long as it lives.
    pub(crate) fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    pub(crate) fn sent_away(&self, connections: usize) {
        self.sent_away.inc_by(connections as u64);
    }

    /// Counts a request whose address had its share of running requests.
    pub(crate) fn over_share(&self) {
        self.over_share.inc();
    }

    pub(crate) fn refused_address(&self) {
        self.refused.inc();
    }

    pub(crate) fn answered(&self, method: &http::Method, route: &str, status: u16, took: Duration) {
        let (method, route) = (closed(method), route.to_owned());
        self.answers
            .get_or_create(&Answer {
                method,
                route: route.clone(),
                status,
            })
            .inc();
        observe(
            &self.seconds.get_or_create(&Route { method, route }),
            took.as_secs_f64(),
        );
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }
}

/// A client may send any word as method; labels must not grow with it.
fn closed(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// One more in a gauge, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

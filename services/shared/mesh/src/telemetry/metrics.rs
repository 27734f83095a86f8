//! Metrics of the mesh, on both sides. One set for a process; the role is a label, because one
//! process may run several.

use std::sync::Arc;
use std::time::Duration;

use cstore_node::metrics::empty_registry;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::telemetry::exemplar::{TracedSeconds, observe, traced_seconds};

/// Registry and mesh metrics of one role.
#[derive(Debug, Clone, Default)]
pub struct RoleMetrics {
    /// Registry that the role's admin port shows.
    pub registry: Arc<Mutex<Registry>>,
    /// Metrics of the mesh, in that registry.
    pub mesh: MeshMetrics,
}

impl RoleMetrics {
    /// Registers the mesh's part.
    pub fn new(mut registry: Registry) -> Self {
        let mesh = MeshMetrics::register(&mut registry);
        Self {
            registry: Arc::new(Mutex::new(registry)),
            mesh,
        }
    }

    /// For a node of a process with several: it has a registry of its own, and only what the mesh
    /// counts is shared.
    #[must_use]
    pub fn of_node(&self) -> Self {
        Self {
            registry: Arc::new(Mutex::new(empty_registry())),
            mesh: self.mesh.clone(),
        }
    }
}

/// A gRPC code as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CodeLabel(Code);

impl EncodeLabelValue for CodeLabel {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        format!("{:?}", self.0).as_str().encode(encoder)
    }
}

/// Labels of a call: the role that calls, the service and its method.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    role: &'static str,
    service: &'static str,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CalledCode {
    role: &'static str,
    service: &'static str,
    method: &'static str,
    code: CodeLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    role: &'static str,
    service: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceState {
    role: &'static str,
    service: &'static str,
    state: EndpointState,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Served {
    role: &'static str,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServedCode {
    role: &'static str,
    method: &'static str,
    code: CodeLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

/// States that endpoints are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum EndpointState {
    Connecting,
    Serving,
    Ejected,
    Down,
}

impl EndpointState {
    pub(crate) const ALL: [Self; 4] = [Self::Connecting, Self::Serving, Self::Ejected, Self::Down];
}

/// All that the mesh counts. Cheap to clone, as each call clones it several times; clones count
/// together.
#[derive(Debug, Clone, Default)]
pub struct MeshMetrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    calls: Family<CalledCode, Counter>,
    call_seconds: Family<Called, TracedSeconds, fn() -> TracedSeconds>,
    attempts: Family<CalledCode, Counter>,
    retries: Family<Called, Counter>,
    retries_refused: Family<Service, Counter>,
    ejections: Family<Service, Counter>,
    endpoints: Family<ServiceState, Gauge>,
    served: Family<ServedCode, Counter>,
    served_seconds: Family<Served, TracedSeconds, fn() -> TracedSeconds>,
    in_flight: Family<RoleLabel, Gauge>,
    evicted: Family<RoleLabel, Counter>,
    refused: Family<RoleLabel, Counter>,
}

impl Default for Families {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(traced_seconds as fn() -> TracedSeconds),
            attempts: Family::default(),
            retries: Family::default(),
            retries_refused: Family::default(),
            ejections: Family::default(),
            endpoints: Family::default(),
            served: Family::default(),
            served_seconds: Family::new_with_constructor(traced_seconds as fn() -> TracedSeconds),
            in_flight: Family::default(),
            evicted: Family::default(),
            refused: Family::default(),
        }
    }
}

impl MeshMetrics {
    /// All metrics, in this registry.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        let r = registry;
        r.register(
            "mesh_calls",
            "Calls as their callers saw them end",
            this.0.calls.clone(),
        );
        r.register(
            "mesh_call_seconds",
            "Time of calls with all attempts",
            this.0.call_seconds.clone(),
        );
        r.register(
            "mesh_attempts",
            "Attempts of calls as they ended",
            this.0.attempts.clone(),
        );
        r.register(
            "mesh_retries",
            "Attempts after the first",
            this.0.retries.clone(),
        );
        r.register(
            "mesh_retries_refused",
            "Retries that the budget refused",
            this.0.retries_refused.clone(),
        );
        r.register(
            "mesh_ejections",
            "Endpoints left alone because they failed",
            this.0.ejections.clone(),
        );
        r.register(
            "mesh_endpoints",
            "Endpoints by state",
            this.0.endpoints.clone(),
        );
        r.register("mesh_served", "Calls answered", this.0.served.clone());
        r.register(
            "mesh_served_seconds",
            "Time to the head of the answer",
            this.0.served_seconds.clone(),
        );
        r.register(
            "mesh_in_flight",
            "Calls whose answer has no head yet",
            this.0.in_flight.clone(),
        );
        r.register(
            "mesh_connections_evicted",
            "Connections without a call that made room for others",
            this.0.evicted.clone(),
        );
        r.register(
            "mesh_connections_refused",
            "Connections refused because all of their address or of the port were busy",
            this.0.refused.clone(),
        );
        this
    }

    pub(crate) fn service(&self, role: &'static str, service: &'static str) -> ServiceMetrics {
        // Shown from the start: an alert sees the first one only when it saw 0 before.
        let label = Service { role, service };
        drop(self.0.retries_refused.get_or_create(&label));
        drop(self.0.ejections.get_or_create(&label));
        ServiceMetrics {
            all: self.clone(),
            role,
            service,
        }
    }

    pub(crate) fn served(
        &self,
        role: &'static str,
        method: &'static str,
        code: Code,
        took: Duration,
    ) {
        self.0
            .served
            .get_or_create(&ServedCode {
                role,
                method,
                code: CodeLabel(code),
            })
            .inc();
        observe(
            &self
                .0
                .served_seconds
                .get_or_create(&Served { role, method }),
            took.as_secs_f64(),
        );
    }

    pub(crate) fn evicted(&self, role: &'static str, connections: usize) {
        let label = RoleLabel { role };
        let evicted = self.0.evicted.get_or_create(&label);
        evicted.inc_by(connections as u64);
    }

    /// Shows the count of refused connections before the first one.
    pub(crate) fn no_refusal_yet(&self, role: &'static str) {
        drop(self.0.refused.get_or_create(&RoleLabel { role }));
    }

    pub(crate) fn refused(&self, role: &'static str) {
        self.0.refused.get_or_create(&RoleLabel { role }).inc();
    }

    pub(crate) fn in_flight(&self, role: &'static str) -> Gauge {
        self.0.in_flight.get_or_create_owned(&RoleLabel { role })
    }
}

/// The metrics of one role's calls to one service.
#[derive(Debug, Clone)]
pub(crate) struct ServiceMetrics {
    all: MeshMetrics,
    role: &'static str,
    service: &'static str,
}

impl ServiceMetrics {
    fn called(&self, method: &'static str) -> Called {
        Called {
            role: self.role,
            service: self.service,
            method,
        }
    }

    fn coded(&self, method: &'static str, code: Code) -> CalledCode {
        CalledCode {
            role: self.role,
            service: self.service,
            method,
            code: CodeLabel(code),
        }
    }

    fn service(&self) -> Service {
        Service {
            role: self.role,
            service: self.service,
        }
    }

    pub(crate) fn call(&self, method: &'static str, code: Code, took: Duration) {
        self.all
            .0
            .calls
            .get_or_create(&self.coded(method, code))
            .inc();
        observe(
            &self.all.0.call_seconds.get_or_create(&self.called(method)),
            took.as_secs_f64(),
        );
    }

    pub(crate) fn attempt(&self, method: &'static str, code: Code) {
        self.all
            .0
            .attempts
            .get_or_create(&self.coded(method, code))
            .inc();
    }

    /// Shows a method that may be retried before its first retry.
    pub(crate) fn no_retry_yet(&self, method: &'static str) {
        drop(self.all.0.retries.get_or_create(&self.called(method)));
    }

    pub(crate) fn retry(&self, method: &'static str) {
        self.all.0.retries.get_or_create(&self.called(method)).inc();
    }

    pub(crate) fn retry_refused(&self) {
        self.all
            .0
            .retries_refused
            .get_or_create(&self.service())
            .inc();
    }

    pub(crate) fn ejected(&self) {
        self.all.0.ejections.get_or_create(&self.service()).inc();
    }

    pub(crate) fn endpoints(&self, states: &[i64]) {
        for (state, count) in EndpointState::ALL.into_iter().zip(states) {
            let label = ServiceState {
                role: self.role,
                service: self.service,
                state,
            };
            self.all.0.endpoints.get_or_create(&label).set(*count);
        }
    }
}

//! Telemetry of the mesh: metrics and their exemplars, spans, names of methods.

pub mod exemplar;
pub(crate) mod methods;
pub(crate) mod metrics;
pub(crate) mod trace;

//! Telemetry of the mesh: metrics and their exemplars, spans, names of methods, codes of
//! answers.

pub mod exemplar;
pub(crate) mod methods;
pub(crate) mod metrics;
pub(crate) mod status;
pub(crate) mod trace;

//! Configuration of logs and traces from the environment.

use opentelemetry_sdk::trace::Sampler;
use tracing_subscriber::EnvFilter;

use crate::env::Env;

/// Logs and traces of one process; see [`TelemetryConfig::from_env`] for the variables.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetryConfig {
    pub(super) filter: String,
    pub(super) format: LogFormat,
    pub(super) endpoint: Option<String>,
    pub(super) sampler: SamplerChoice,
    pub(super) service_name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// OpenTelemetry's samplers, with the share of the ratio ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SamplerChoice {
    AlwaysOn,
    AlwaysOff,
    Ratio(f64),
    ParentAlwaysOn,
    ParentAlwaysOff,
    ParentRatio(f64),
}

const LEVELS: [&str; 6] = ["OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
/// Parts below us that a level alone does not open: their debug lines would bury ours.
const QUIET_TARGETS: [&str; 8] = [
    "h2",
    "hyper",
    "hyper_util",
    "tower",
    "tonic",
    "sled",
    "rustls",
    "opentelemetry",
];
const LOG_LEVEL: &str = "LOG_LEVEL";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

impl TelemetryConfig {
    /// Reads LOG_LEVEL, LOG_FORMAT, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME,
    /// OTEL_TRACES_SAMPLER and its _ARG.
    pub fn from_env(env: &mut Env<'_>) -> Self {
        let level = env.string(LOG_LEVEL, "INFO");
        let filter = filter(&level).unwrap_or_else(|| {
            env.refuse(
                LOG_LEVEL,
                "ERROR, WARN, INFO, DEBUG, TRACE, OFF, or directives such as info,cstore_wire=debug",
            );
            "info".to_owned()
        });
        let format = env.choice(
            "LOG_FORMAT",
            LogFormat::Text,
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
        );
        Self {
            filter,
            format,
            endpoint: endpoint(env),
            sampler: sampler(env),
            service_name: env.optional_string("OTEL_SERVICE_NAME"),
        }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self::from_env(&mut Env::new(&[]))
    }
}

impl SamplerChoice {
    pub(super) fn sampler(self) -> Sampler {
        match self {
            Self::AlwaysOn => Sampler::AlwaysOn,
            Self::AlwaysOff => Sampler::AlwaysOff,
            Self::Ratio(ratio) => Sampler::TraceIdRatioBased(ratio),
            Self::ParentAlwaysOn => Sampler::ParentBased(Box::new(Sampler::AlwaysOn)),
            Self::ParentAlwaysOff => Sampler::ParentBased(Box::new(Sampler::AlwaysOff)),
            Self::ParentRatio(ratio) => {
                Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)))
            }
        }
    }
}

/// A level is for our own lines. A lone word that is no level would be a legal directive for a
/// target of that name, and hide a misspelt level: directives are only what has `=` or a comma.
fn filter(text: &str) -> Option<String> {
    if let Some(level) = LEVELS.iter().find(|level| level.eq_ignore_ascii_case(text)) {
        let below = if ["OFF", "ERROR"].contains(level) {
            *level
        } else {
            "WARN"
        };
        let quiet = QUIET_TARGETS
            .map(|target| format!("{target}={below}"))
            .join(",");
        return Some(format!("{level},{quiet}"));
    }
    let is_directives = text.contains(['=', ',']) && EnvFilter::builder().parse(text).is_ok();
    is_directives.then(|| text.to_owned())
}

fn endpoint(env: &mut Env<'_>) -> Option<String> {
    const KEY: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let endpoint = env.optional_string(KEY)?;
    let is_http = endpoint.parse::<http::Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
    });
    if !is_http {
        env.refuse(
            KEY,
            "http://host:port of a collector that takes OTLP over gRPC",
        );
    }
    Some(endpoint)
}

fn sampler(env: &mut Env<'_>) -> SamplerChoice {
    let ratio: f64 = env.value(SAMPLER_ARG, 1.0, "a share from 0 to 1");
    if !(0.0..=1.0).contains(&ratio) {
        env.refuse(SAMPLER_ARG, "a share from 0 to 1");
    }
    let choices = [
        ("always_on", SamplerChoice::AlwaysOn),
        ("always_off", SamplerChoice::AlwaysOff),
        ("traceidratio", SamplerChoice::Ratio(ratio)),
        ("parentbased_always_on", SamplerChoice::ParentAlwaysOn),
        ("parentbased_always_off", SamplerChoice::ParentAlwaysOff),
        (
            "parentbased_traceidratio",
            SamplerChoice::ParentRatio(ratio),
        ),
    ];
    env.choice(
        "OTEL_TRACES_SAMPLER",
        SamplerChoice::ParentAlwaysOn,
        &choices,
    )
}

#[cfg(test)]
mod tests {
    use opentelemetry::Context;
    use opentelemetry::trace::{
        Span as _, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
        TracerProvider,
    };
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[test]
    fn wrong_telemetry_variables_are_mistakes_like_all_others() {
        let source = [
            ("LOG_LEVEL", "VERBOSE"),
            ("LOG_FORMAT", "xml"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
            ("OTEL_TRACES_SAMPLER_ARG", "7"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
        ];
        let mut env = Env::new(&source);
        TelemetryConfig::from_env(&mut env);
        let text = env.finish().unwrap_err().to_string();
        let names: Vec<_> = text
            .lines()
            .filter_map(|line| line.split(':').next())
            .collect();
        assert_eq!(names, source.map(|(name, _)| name), "{text}");
        assert!(
            text.starts_with("LOG_LEVEL: found \"VERBOSE\", allowed is ERROR, WARN"),
            "{text}"
        );
    }

    #[test]
    fn levels_in_any_case_and_directives_are_understood() {
        for good in [
            "error",
            "Warn",
            "INFO",
            "debug",
            "TRACE",
            "off",
            "info,cstore_wire=trace",
            "h2=debug",
        ] {
            let filter = filter(good).unwrap();
            assert!(
                EnvFilter::builder().parse(&filter).is_ok(),
                "{good} became {filter}"
            );
        }
        for bad in ["VERBOSE", "5x", "cstore=loud", "a=b=c"] {
            assert_eq!(filter(bad), None, "{bad}");
        }
    }

    /// Returns whether a sampler records a root, a child of a recorded parent, and a child of one
    /// that is not.
    fn decisions(name: &str, share: &str) -> [bool; 3] {
        let source = [
            ("OTEL_TRACES_SAMPLER", name),
            ("OTEL_TRACES_SAMPLER_ARG", share),
        ];
        let mut env = Env::new(&source);
        let sampler = TelemetryConfig::from_env(&mut env).sampler.sampler();
        env.finish().unwrap();
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let tracer = provider.tracer("test");
        let parent = |flags| {
            let (trace, span) = (TraceId::from_bytes([7; 16]), SpanId::from_bytes([7; 8]));
            let remote = SpanContext::new(trace, span, flags, true, TraceState::default());
            Context::new().with_remote_span_context(remote)
        };
        let parents = [
            Context::new(),
            parent(TraceFlags::SAMPLED),
            parent(TraceFlags::NOT_SAMPLED),
        ];
        parents.map(|parent| {
            tracer
                .start_with_context("request", &parent)
                .span_context()
                .is_sampled()
        })
    }

    #[test]
    fn every_sampler_decides_as_opentelemetry_says() {
        for (name, share, wanted) in [
            ("always_on", "", [true, true, true]),
            ("always_off", "", [false, false, false]),
            ("traceidratio", "1", [true, true, true]),
            ("traceidratio", "0", [false, false, false]),
            ("parentbased_always_on", "", [true, true, false]),
            ("parentbased_always_off", "", [false, true, false]),
            ("parentbased_traceidratio", "1", [true, true, false]),
            ("parentbased_traceidratio", "0", [false, true, false]),
            ("", "", [true, true, false]),
        ] {
            assert_eq!(decisions(name, share), wanted, "{name} {share}");
        }
    }

    #[test]
    fn the_ratio_reaches_the_sampler() {
        let source = [
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ];
        let mut env = Env::new(&source);
        assert_eq!(
            TelemetryConfig::from_env(&mut env).sampler,
            SamplerChoice::ParentRatio(0.25)
        );
        assert_eq!(env.finish(), Ok(()));
    }
}

//! How metrics are written: OpenMetrics with exemplars for a scraper that asks for it, Prometheus
//! text for all others.
//!
//! The registry writes OpenMetrics. The older text differs in four things: counters and infos are
//! declared under the names of their samples, infos are gauges, there are no units, no exemplars
//! and no end mark.

use std::fmt;

use prometheus_client::encoding::text::{encode_eof, encode_registry};

use crate::metrics::SharedRegistry;

/// A format that a scraper can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposition {
    OpenMetrics,
    Text,
}

impl Exposition {
    /// Returns the format that an Accept header asks for: Prometheus text if it does not say.
    pub(crate) fn accepted(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default();
        let open = quality(accept, "application/openmetrics-text");
        if open > 0.0 && open >= quality(accept, "text/plain") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Writes all metrics of some registries.
    ///
    /// # Errors
    /// When a metric cannot write itself.
    pub(crate) fn write(self, registries: &[SharedRegistry]) -> Result<String, fmt::Error> {
        let mut open = String::new();
        for registry in registries {
            encode_registry(&mut open, &registry.lock())?;
        }
        encode_eof(&mut open)?;
        Ok(match self {
            Self::OpenMetrics => open,
            Self::Text => as_text(&open),
        })
    }
}

/// Returns the highest quality that an Accept header gives a media type; 0 if it is missing.
fn quality(accept: &str, media_type: &str) -> f64 {
    let of = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        if !parts
            .next()
            .is_some_and(|found| found.eq_ignore_ascii_case(media_type))
        {
            return None;
        }
        let given = parts.find_map(|part| part.strip_prefix("q="));
        Some(given.map_or(1.0, |q| q.parse::<f64>().unwrap_or(0.0)))
    };
    accept.split(',').filter_map(of).fold(0.0, f64::max)
}

fn as_text(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Its name depends on the kind, which is on the next line.
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(without_exemplar(line));
            text.push('\n');
        }
    }
    text
}

/// Returns a sample without its exemplar, which begins at ` # ` outside of the values of labels.
fn without_exemplar(sample: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in sample.bytes().enumerate() {
        match byte {
            b'"' if !escaped => quoted = !quoted,
            b'#' if !quoted => return sample.get(..at).unwrap_or(sample).trim_end(),
            _ => {}
        }
        escaped = quoted && byte == b'\\' && !escaped;
    }
    sample
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{
        counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge,
    };
    use std::sync::Arc;

    use parking_lot::Mutex;
    use prometheus_client::registry::Unit;

    use super::*;

    type Labels = Vec<(&'static str, &'static str)>;

    fn registries() -> [SharedRegistry; 1] {
        let mut registry = crate::metrics::registry("gateway");
        let calls = Family::<Labels, Counter>::default();
        calls.get_or_create(&vec![("path", "a \\\" # {b} 1")]).inc();
        registry.register("calls", "Calls", calls);
        let seconds = HistogramWithExemplars::<Labels>::new([0.1, 1.0].into_iter());
        seconds.observe(0.05, Some(vec![("trace_id", "ab")]), None);
        registry.register("call_seconds", "Time of calls", seconds);
        registry.register_with_unit("free", "Space", Unit::Bytes, Gauge::<i64>::default());
        [Arc::new(Mutex::new(registry))]
    }

    #[test]
    fn scrapers_get_what_they_ask_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                          q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, wanted) in [
            (None, Exposition::Text),
            (Some("*/*"), Exposition::Text),
            (Some(""), Exposition::Text),
            (Some(prometheus), Exposition::OpenMetrics),
            (
                Some("application/openmetrics-text"),
                Exposition::OpenMetrics,
            ),
            (
                Some("text/plain, application/openmetrics-text;q=0.2"),
                Exposition::Text,
            ),
            (Some("application/openmetrics-text; q=0"), Exposition::Text),
            (Some("application/openmetrics-text; q=no"), Exposition::Text),
        ] {
            assert_eq!(Exposition::accepted(accept), wanted, "{accept:?}");
        }
    }

    #[test]
    fn the_text_declares_what_its_samples_are_called_and_has_no_exemplars() {
        let open = Exposition::OpenMetrics.write(&registries()).unwrap();
        assert!(
            open.contains("# {trace_id=\"ab\"} 0.05") && open.ends_with("# EOF\n"),
            "{open}"
        );
        assert!(open.contains("# TYPE cstore_calls counter"), "{open}");

        let text = Exposition::Text.write(&registries()).unwrap();
        for line in [
            "# TYPE cstore_build_info gauge",
            "# HELP cstore_calls_total Calls.",
            "# TYPE cstore_calls_total counter",
            "# TYPE cstore_call_seconds histogram",
            "cstore_call_seconds_bucket{le=\"0.1\"} 1",
            "# HELP cstore_free_bytes Space.",
            "# TYPE cstore_free_bytes gauge",
            "cstore_free_bytes 0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
        for absent in ["# {trace", "# EOF", "# UNIT"] {
            assert!(!text.contains(absent), "{absent} is in\n{text}");
        }
    }

    #[test]
    fn a_sign_inside_of_a_label_is_no_exemplar() {
        for (sample, wanted) in [
            (r#"a{b="1 # {2} 3"} 4"#, r#"a{b="1 # {2} 3"} 4"#),
            (r#"a{b="\" # "} 4 # {c="d"} 5"#, r#"a{b="\" # "} 4"#),
            (r#"a{b="\\"} 4 # {c="d"} 5"#, r#"a{b="\\"} 4"#),
            ("a 4 # {} 5", "a 4"),
        ] {
            assert_eq!(without_exemplar(sample), wanted);
        }
    }
}

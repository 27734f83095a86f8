//! Log lines as tracing-subscriber writes them, with the ids of the current trace at the end.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Json, Writer},
    },
    registry::LookupSpan,
};

use super::current_ids;

/// `… message field=1 trace_id=… span_id=…`
pub(super) struct TextWithTrace(Format<Full>);

/// `{…,"trace_id":"…","span_id":"…"}`
pub(super) struct JsonWithTrace(Format<Json>);

impl Default for TextWithTrace {
    fn default() -> Self {
        Self(Format::default().with_ansi(false))
    }
}

impl Default for JsonWithTrace {
    fn default() -> Self {
        Self(
            Format::default()
                .json()
                .flatten_event(true)
                .with_ansi(false),
        )
    }
}

impl<S, N> FormatEvent<S, N> for TextWithTrace
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        match current_ids() {
            Some((trace, span)) => {
                writeln!(out, "{} trace_id={trace} span_id={span}", line.trim_end())
            }
            None => out.write_str(&line),
        }
    }
}

impl<S, N> FormatEvent<S, N> for JsonWithTrace
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        match (current_ids(), line.trim_end().strip_suffix('}')) {
            (Some((trace, span)), Some(open)) => {
                writeln!(out, r#"{open},"trace_id":"{trace}","span_id":"{span}"}}"#)
            }
            _ => out.write_str(&line),
        }
    }
}

//! Trace ids and span ids of a process without a collector.
//!
//! Without a collector, nothing reads the names, attributes and times of spans. Their ids are still
//! needed: in answers, in log lines and in calls to other roles. [`IdLayer`] gives each span the ids
//! and flags that the OpenTelemetry layer would give it, and keeps nothing else.
//!
//! A span gets its ids when they are first needed, not when the span is made: the parent that a
//! request names is known only after that. From then on the parent cannot be replaced.

use std::cell::RefCell;

use opentelemetry::{
    Context, ContextGuard,
    trace::{SpanContext, SpanKind, TraceContextExt, TraceFlags},
};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample,
};
use tracing::{
    Span,
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::Context as LayerContext,
    registry::{LookupSpan, SpanRef},
};

thread_local! {
    /// Guards of the spans that this thread is in, the innermost last.
    static GUARDS: RefCell<Vec<(Id, ContextGuard)>> = const { RefCell::new(Vec::new()) };
}

/// A layer that makes the ids of a span current while the span is entered.
#[derive(Debug)]
pub(super) struct IdLayer {
    sampler: Sampler,
    generator: RandomIdGenerator,
}

/// Ids of one span, in the span's extensions.
enum SpanIds {
    /// The span has no ids yet. The context is that of its parent, without a span for a root.
    Pending(Context),
    /// The context that is current while the span is entered.
    Assigned(Context),
}

impl IdLayer {
    pub(super) fn new(sampler: Sampler) -> Self {
        Self {
            sampler,
            generator: RandomIdGenerator::default(),
        }
    }

    /// Returns the context of `span`, assigning its ids if it has none yet. Returns `None` for a
    /// span that the filter of the layer excluded.
    fn context_of<'a, R: LookupSpan<'a>>(&self, span: &SpanRef<'a, R>) -> Option<Context> {
        let mut extensions = span.extensions_mut();
        let ids = extensions.get_mut::<SpanIds>()?;
        let context = match ids {
            SpanIds::Assigned(context) => return Some(context.clone()),
            SpanIds::Pending(parent) => self.child_of(parent),
        };
        *ids = SpanIds::Assigned(context.clone());
        Some(context)
    }

    /// Returns the context of a new span under `parent`, sampled as the SDK would sample it.
    fn child_of(&self, parent: &Context) -> Context {
        let parent_span = parent.span();
        let parent_ids = Some(parent_span.span_context()).filter(|ids| ids.is_valid());
        let trace_id =
            parent_ids.map_or_else(|| self.generator.new_trace_id(), SpanContext::trace_id);

        // The samplers that can be configured decide by the parent and the trace id only.
        let kind = SpanKind::Internal;
        let sampling = self
            .sampler
            .should_sample(Some(parent), trace_id, "", &kind, &[], &[]);
        let flags = match sampling.decision {
            SamplingDecision::RecordAndSample => parent_ids
                .map(SpanContext::trace_flags)
                .unwrap_or_default()
                .with_sampled(true),
            SamplingDecision::RecordOnly | SamplingDecision::Drop => TraceFlags::default(),
        };

        let span_id = self.generator.new_span_id();
        let ids = SpanContext::new(trace_id, span_id, flags, false, sampling.trace_state);
        parent.with_remote_span_context(ids)
    }
}

impl Layer<Registry> for IdLayer {
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: LayerContext<'_, Registry>) {
        let parent = if attrs.is_contextual() {
            Context::current()
        } else {
            let explicit = attrs.parent().and_then(|parent| ctx.span(parent));
            explicit
                .and_then(|parent| self.context_of(&parent))
                .unwrap_or_default()
        };
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(SpanIds::Pending(parent));
        }
    }

    fn on_enter(&self, id: &Id, ctx: LayerContext<'_, Registry>) {
        if let Some(context) = ctx.span(id).and_then(|span| self.context_of(&span)) {
            let guard = context.attach();
            GUARDS.with_borrow_mut(|guards| guards.push((id.clone(), guard)));
        }
    }

    fn on_exit(&self, id: &Id, _: LayerContext<'_, Registry>) {
        // Spans may be exited in any order, so the guard of this span need not be the last one.
        // OpenTelemetry allows guards to be dropped in any order.
        let guard = GUARDS.with_borrow_mut(|guards| {
            let i = guards.iter().rposition(|(entered, _)| entered == id)?;
            Some(guards.remove(i))
        });
        drop(guard);
    }
}

/// Replaces the parent of `span`, unless the span has its ids already.
///
/// Returns false if the span has no ids of an [`IdLayer`].
pub(super) fn set_parent(span: &Span, parent: &Context) -> bool {
    let replaced = with_registered(span, |_, span| {
        let mut extensions = span.extensions_mut();
        let ids = extensions.get_mut::<SpanIds>()?;
        if let SpanIds::Pending(pending) = ids {
            *pending = parent.clone();
        }
        Some(())
    });
    replaced.is_some()
}

/// Returns the context of `span`, or `None` if the span has no ids of an [`IdLayer`].
pub(super) fn context_of(span: &Span) -> Option<Context> {
    with_registered(span, |layer, span| layer.context_of(span))
}

/// Calls `act` with the [`IdLayer`] of the span's subscriber and the span's entry in the registry.
fn with_registered<T>(
    span: &Span,
    act: impl FnOnce(&IdLayer, &SpanRef<'_, Registry>) -> Option<T>,
) -> Option<T> {
    let result = span.with_subscriber(|(id, dispatch)| {
        let layer = dispatch.downcast_ref::<IdLayer>()?;
        let registry = dispatch.downcast_ref::<Registry>()?;
        act(layer, &registry.span(id)?)
    });
    result.flatten()
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        task::{Context as TaskContext, Poll, Waker},
    };

    use opentelemetry::trace::{SpanId, TraceId, TraceState};
    use tracing::{
        Instrument, Level, Metadata,
        callsite::{Callsite, Identifier},
        dispatcher,
        field::FieldSet,
        metadata::Kind,
        subscriber::Interest,
    };

    use super::{
        super::{
            context_of, continue_trace, current_trace_id, role_span,
            tests::{BOTH_KINDS, LayerKind, logged},
        },
        *,
    };

    /// Calls `act` under the stack of layers without a collector, then under that with one.
    fn on_both_stacks(act: impl Fn(LayerKind)) {
        for kind in BOTH_KINDS {
            logged(kind, [], || act(kind));
        }
    }

    fn remote(flags: TraceFlags) -> Context {
        let (trace, span) = (TraceId::from_bytes([7; 16]), SpanId::from_bytes([9; 8]));
        let state = TraceState::from_key_value([("vendor", "1")]).unwrap();
        let ids = SpanContext::new(trace, span, flags, true, state);
        Context::new().with_remote_span_context(ids)
    }

    fn ids_in(context: &Context) -> SpanContext {
        context.span().span_context().clone()
    }

    fn ids_of(span: &Span) -> SpanContext {
        ids_in(&context_of(span))
    }

    fn current() -> SpanContext {
        ids_in(&Context::current())
    }

    fn request() -> Span {
        tracing::info_span!("request")
    }

    #[test]
    fn a_span_is_current_with_its_own_ids_while_it_is_entered() {
        on_both_stacks(|kind| {
            let span = request();
            let ids = ids_of(&span);
            assert!(ids.is_valid() && ids.is_sampled() && !ids.is_remote());
            for _ in 0..2 {
                assert_eq!(span.in_scope(current), ids, "{kind:?}");
                assert!(!current().is_valid(), "{kind:?}");
            }
        });
    }

    #[test]
    fn a_child_has_the_trace_of_its_parent_and_a_span_id_of_its_own() {
        on_both_stacks(|kind| {
            let parent = request();
            let explicit = tracing::debug_span!(parent: &parent, "grpc");
            let entered = parent.enter();
            let contextual = tracing::debug_span!("grpc");
            let root = tracing::debug_span!(parent: None, "grpc");
            drop(entered);

            let parent = ids_of(&parent);
            for child in [ids_of(&explicit), ids_of(&contextual)] {
                assert_eq!(child.trace_id(), parent.trace_id(), "{kind:?}");
                assert_ne!(child.span_id(), parent.span_id(), "{kind:?}");
                assert_eq!(child.trace_flags(), parent.trace_flags(), "{kind:?}");
            }
            assert_ne!(ids_of(&explicit).span_id(), ids_of(&contextual).span_id());
            assert_ne!(ids_of(&root).trace_id(), parent.trace_id(), "{kind:?}");
        });
    }

    #[test]
    fn a_remote_parent_is_continued_with_its_flags_and_state() {
        for kind in BOTH_KINDS {
            for flags in [TraceFlags::SAMPLED, TraceFlags::NOT_SAMPLED] {
                logged(kind, [], || {
                    let span = request();
                    let parent = remote(flags);
                    continue_trace(&span, parent.clone());
                    let (ids, parent) = (span.in_scope(current), ids_in(&parent));
                    assert_eq!(ids.trace_id(), parent.trace_id(), "{kind:?}");
                    assert_ne!(ids.span_id(), parent.span_id(), "{kind:?}");
                    assert_eq!(ids.trace_flags(), flags, "{kind:?}");
                    assert_eq!(ids.trace_state(), parent.trace_state(), "{kind:?}");
                    assert!(!ids.is_remote(), "{kind:?}");
                });
            }
        }
    }

    #[test]
    fn a_span_that_has_its_ids_keeps_them() {
        on_both_stacks(|kind| {
            let span = request();
            let ids = ids_of(&span);
            continue_trace(&span, remote(TraceFlags::SAMPLED));
            assert_eq!(ids_of(&span), ids, "{kind:?}");
        });
    }

    #[test]
    fn every_sampler_decides_as_with_a_collector() {
        let samplers = [
            ("always_on", ""),
            ("always_off", ""),
            ("traceidratio", "0"),
            ("traceidratio", "1"),
            ("parentbased_always_on", ""),
            ("parentbased_always_off", ""),
            ("parentbased_traceidratio", "0"),
            ("parentbased_traceidratio", "1"),
            ("", ""),
        ];
        let parents = [
            Context::new(),
            Context::new().with_remote_span_context(SpanContext::NONE),
            remote(TraceFlags::SAMPLED),
            remote(TraceFlags::NOT_SAMPLED),
        ];
        for (name, share) in samplers {
            let variables = [
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", share),
            ];
            for parent in &parents {
                let flags = BOTH_KINDS.map(|kind| {
                    let mut flags = None;
                    logged(kind, variables, || {
                        let span = request();
                        continue_trace(&span, parent.clone());
                        assert!(ids_of(&span).is_valid());
                        flags = Some(ids_of(&span).trace_flags());
                    });
                    flags.unwrap()
                });
                assert_eq!(flags[0], flags[1], "{name} {share} {parent:?}");
            }
        }
    }

    #[test]
    fn spans_are_exited_in_any_order() {
        on_both_stacks(|kind| {
            let spans = [request(), request(), request()];
            let ids = spans.each_ref().map(ids_of);
            let [first, second, third] = spans.each_ref().map(Span::enter);
            assert_eq!(current(), ids[2], "{kind:?}");
            drop(second);
            assert_eq!(current(), ids[2], "{kind:?}");
            drop(third);
            assert_eq!(current(), ids[0], "{kind:?}");
            let again = spans[0].enter();
            drop(first);
            assert_eq!(current(), ids[0], "{kind:?}");
            drop(again);
            assert!(!current().is_valid(), "{kind:?}");
        });
    }

    #[test]
    fn a_panic_leaves_no_ids_behind() {
        on_both_stacks(|kind| {
            let outer = request();
            let _entered = outer.enter();
            let caught = catch_unwind(AssertUnwindSafe(|| {
                let _inner = request().entered();
                let _innermost = request().entered();
                std::panic::resume_unwind(Box::new("on purpose"));
            }));
            assert!(caught.is_err());
            assert_eq!(current(), ids_of(&outer), "{kind:?}");
        });
    }

    #[test]
    fn a_future_that_moves_between_threads_keeps_its_ids() {
        on_both_stacks(|kind| {
            let span = request();
            let ids = ids_of(&span);
            let work = async {
                let mut seen = Vec::new();
                for _ in 0..3 {
                    seen.push(current());
                    let mut is_second = false;
                    std::future::poll_fn(|_| {
                        let poll = if is_second {
                            Poll::Ready(())
                        } else {
                            Poll::Pending
                        };
                        is_second = true;
                        poll
                    })
                    .await;
                }
                seen
            };
            let mut work = Box::pin(work.instrument(span));
            let seen = loop {
                let poll_once = || {
                    let poll = work
                        .as_mut()
                        .poll(&mut TaskContext::from_waker(Waker::noop()));
                    assert!(!current().is_valid(), "{kind:?}");
                    poll
                };
                let poll = std::thread::scope(|scope| scope.spawn(poll_once).join());
                if let Poll::Ready(seen) = poll.unwrap() {
                    break seen;
                }
            };
            assert_eq!(seen, [ids.clone(), ids.clone(), ids], "{kind:?}");
        });
    }

    #[test]
    fn a_span_that_the_filter_excludes_has_no_ids() {
        for kind in BOTH_KINDS {
            logged(kind, [("LOG_LEVEL", "DEBUG")], || {
                let role = role_span("master");
                continue_trace(&role, remote(TraceFlags::SAMPLED));
                assert!(!role.is_disabled() && !ids_of(&role).is_valid());
                assert_eq!(role.in_scope(current_trace_id), None);
                assert!(!ids_of(&Span::none()).is_valid());
            });
        }
    }

    #[test]
    fn a_call_carries_the_ids_of_its_request() {
        logged(BOTH_KINDS[0], [("LOG_LEVEL", "DEBUG")], || {
            let request = request();
            let _entered = request.enter();
            let call = tracing::debug_span!("call");
            assert!(!call.is_disabled() && !ids_of(&call).is_valid());
            assert_eq!(call.in_scope(current), ids_of(&request));
        });
    }

    /// Returns true if the current subscriber never takes a span or an event of this kind.
    ///
    /// Queries the subscriber itself: `event_enabled!` is true as well if a subscriber of another
    /// thread takes the event.
    fn is_never_taken(kind: Kind, target: &'static str, level: Level) -> bool {
        struct Site;
        impl Callsite for Site {
            fn set_interest(&self, _: Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                unreachable!("a callsite that is not registered is only compared")
            }
        }
        let fields = FieldSet::new(&[], Identifier(&Site));
        let metadata = Metadata::new("test", target, level, None, None, None, fields, kind);
        let metadata: &'static _ = Box::leak(Box::new(metadata));
        dispatcher::get_default(|current| current.register_callsite(metadata).is_never())
    }

    #[test]
    fn events_are_for_the_log_only() {
        let cases = [
            (Kind::EVENT, "cstore", Level::ERROR, false),
            (Kind::EVENT, "cstore", Level::INFO, true),
            (Kind::EVENT, "sled", Level::DEBUG, true),
            (Kind::SPAN, "h2", Level::INFO, true),
            (Kind::SPAN, "cstore", Level::DEBUG, false),
        ];
        logged(BOTH_KINDS[0], [("LOG_LEVEL", "ERROR")], || {
            for (kind, target, level, is_never) in cases {
                let name = format!("{kind:?} {target} {level}");
                assert_eq!(is_never_taken(kind, target, level), is_never, "{name}");
            }
        });
    }
}

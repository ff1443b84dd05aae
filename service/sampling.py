"""The sampler asked first: ids and a decision, and a span only where it is yes."""

from __future__ import annotations

import re
from copy import copy
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    Decision,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

if TYPE_CHECKING:
    from typing import Any

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Tracer
    from opentelemetry.trace import Span, SpanKind
    from opentelemetry.util.types import Attributes

# How the SDK's samplers by ratio describe themselves.
_BY_RATIO: Final = re.compile(r"(?:ParentBased\{root:)?TraceIdRatioBased\{([^}]+)\}")


class Sampling(Sampler, IdGenerator):
    """An SDK tracer that makes nothing for what its sampler drops.

    The SDK's own makes a span of no effect there, with its context and flags: more than half of
    what tracing cost a request that is not sampled (NOTES.md, Performance). Ids and decision are
    drawn here instead, once each; a span that is kept is the SDK's, whose tracer takes these for
    its generator's and its sampler's. For one thread.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._sampler = tracer.sampler
        self._ids = tracer.id_generator
        self._tracer = copy(tracer)
        self._tracer.sampler = self._tracer.id_generator = self
        self._drawn = (0, 0)
        self._result = SamplingResult(Decision.DROP)
        by_ratio = _BY_RATIO.match(self._sampler.get_description())
        ratio = float(by_ratio[1]) if by_ratio else 1.0
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)

    def draw(self, parent: Context) -> tuple[int, int]:
        """Trace id and span id of a span that begins."""
        trace_id = parent and trace.get_current_span(parent).get_span_context().trace_id
        return trace_id or self._ids.generate_trace_id(), self._ids.generate_span_id()

    def drops(self, trace_id: int) -> bool:
        """Whether a sampler by ratio has only to see the id to drop a trace that begins here."""
        return trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound

    def start(
        self,
        drawn: tuple[int, int],
        name: str,
        parent: Context,
        kind: SpanKind,
        attributes: Attributes,
    ) -> Span | None:
        """The span with the ids that were drawn for it, if the sampler wants it recorded."""
        result = self._sampler.should_sample(parent, drawn[0], name, kind, attributes, ())
        if result.decision is Decision.DROP:
            return None
        self._drawn, self._result = drawn, result
        span = self._tracer.start_span(name, parent, kind, attributes)
        return span if span.is_recording() else None

    # -- what the SDK's tracer asks of its sampler and of its generator of ids ------------------

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        """What was decided."""
        return self._result

    def get_description(self) -> str:
        """The sampler's own."""
        return self._sampler.get_description()

    def generate_trace_id(self) -> int:
        """The id that was drawn."""
        return self._drawn[0]

    def generate_span_id(self) -> int:
        """The id that was drawn."""
        return self._drawn[1]

    def is_trace_id_random(self) -> bool:
        """Whether the ids are random by W3C's second level, as their generator says."""
        return self._ids.is_trace_id_random()

"""A receiver of OpenTelemetry traces: OTLP over gRPC, as vLLM sends them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Span(NamedTuple):
    """What was told of one piece of work."""

    name: str
    trace_id: str  # hex
    parent_id: str  # hex; empty: it began here
    attributes: dict[str, Any]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []

    def Export(self, request: Any, context: Any) -> Any:  # as gRPC has it
        for sent in request.resource_spans:
            for scope in sent.scope_spans:
                self.spans += [_read(span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def _read(span: Any) -> Span:
    values = {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}
    return Span(span.name, span.trace_id.hex(), span.parent_span_id.hex(), values)


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free loopback port."""
    made = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    made.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield made
    finally:
        server.stop(None)

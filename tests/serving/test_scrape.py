"""Metrics of several replicas on one page that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.fleet.scrape import merged


def page(number: float) -> str:
    registry = CollectorRegistry()
    Counter("asked", "how often", ["model"], registry=registry).labels('a "quoted" name').inc(number)
    Gauge("heat", "now", registry=registry).set(number)
    Histogram("wait_seconds", "how long", ["model"], buckets=(1, 5), registry=registry).labels("m").observe(number)
    return generate_latest(registry).decode()


def test_prometheus_reads_each_sample_with_its_origin():
    text = merged({("m", "r1"): page(2), ("m", "r2"): page(7), ("n", "r3"): page(1)})
    families = {one.name: one for one in text_string_to_metric_families(text)}
    assert set(families) >= {"asked", "heat", "wait_seconds"}
    assert text.count("# TYPE heat gauge") == 1
    heat = {sample.labels["manta_replica"]: sample.value for sample in families["heat"].samples}
    assert heat == {"r1": 2, "r2": 7, "r3": 1}
    asked = [sample for sample in families["asked"].samples if sample.name == "asked_total"]
    assert {sample.labels["model"] for sample in asked} == {'a "quoted" name'}
    assert [sample.labels["manta_model"] for sample in asked] == ["m", "m", "n"]
    assert sum(sample.value for sample in families["wait_seconds"].samples if sample.name.endswith("_count")) == 3


def test_nothing_is_nothing():
    assert merged({}) == "" == merged({("m", "r"): ""})

"""What Prometheus reads: the queue now, and what the database has counted since it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from acestep.jobs.counters import Numbers
from acestep.rest.deps import HttpServices

TEXT = CONTENT_TYPE_LATEST
# Counters of the database: the metric, its label, and what it says.
COUNTERS = {
    "jobs": ("acestep_jobs", "state", "Jobs that have ended."),
    "music": ("acestep_music_seconds", "model", "Seconds of music in finished songs."),
    "songs": ("acestep_songs", "model", "Finished songs."),
    "codes": ("acestep_audio_codes", "planner", "Audio codes in finished songs, five a second."),
    "stage": ("acestep_stage_seconds", "stage", "Seconds that the stages of finished songs took."),
    "stage_runs": ("acestep_stage_runs", "stage", "Runs of the stages of finished songs."),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Numbers(Collector):
    numbers: Numbers
    errors: Mapping[str, int]
    models: Mapping[str, str]

    def collect(self) -> Iterator[Metric]:
        for name, (metric, label, about) in COUNTERS.items():
            yield _family(
                CounterMetricFamily(metric, about, labels=[label]), self.numbers.counted.get(name, {})
            )
        queue = GaugeMetricFamily("acestep_queue_jobs", "Jobs that wait or run.", labels=["state"])
        yield _family(queue, {state: self.numbers.states.get(state, 0) for state in ("queued", "running")})
        about = "Jobs that failed since the start, by the class of the error."
        yield _family(CounterMetricFamily("acestep_job_errors", about, labels=["error"]), self.errors)
        yield GaugeMetricFamily(
            "acestep_webhook_outbox", "Webhooks that wait to be sent.", value=self.numbers.deliveries
        )
        models = GaugeMetricFamily(
            "acestep_model", "1 for each model and its state.", labels=["model", "state"]
        )
        for model, state in self.models.items():
            models.add_metric([model, state], 1)
        yield models


async def metrics(services: HttpServices) -> bytes:
    """In the text format of Prometheus."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    models = {info.name: info.state for info in services.worker.models()}
    registry.register(_Numbers(await services.queue.numbers(), services.queue.errors, models))
    return generate_latest(registry)


def _family(family: Metric, values: Mapping[str, float]) -> Metric:
    for label, value in sorted(values.items()):
        family.add_metric([label], value)  # type: ignore[attr-defined]
    return family

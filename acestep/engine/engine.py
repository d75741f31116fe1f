"""The `Worker` of this process: its models, its planners, and the pipeline that makes songs with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from acestep.audio.encode import SongWriter
from acestep.domain.draft import Draft, DraftRequest
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import Song, SongRequest
from acestep.engine.idle import IdlePolicy
from acestep.engine.model_manager import ModelManager
from acestep.engine.pipeline import SongPipeline
from acestep.engine.planner_host import PlannerHost
from acestep.jobs.worker import Cancelled, OnProgress
from acestep.limits import fit
from acestep.planner.planner import PlannerCallbacks


class Engine:
    """Lives on one event loop."""

    def __init__(
        self,
        model_manager: ModelManager,
        writer: SongWriter,
        planner_host: PlannerHost,
        idle_policy: IdlePolicy | None = None,
    ) -> None:
        idle_policy = idle_policy or IdlePolicy()
        self._model_manager = model_manager
        self._planner_host = planner_host
        self._watchdog = idle_policy.watchdog
        self._pipeline = SongPipeline(planner_host, writer, self._watchdog, idle_policy.free)

    def models(self) -> tuple[ModelInfo, ...]:
        return self._model_manager.infos()

    def planner(self, name: str = "") -> PlannerInfo:
        return self._planner_host.known.info(name)

    def planners(self) -> tuple[PlannerInfo, ...]:
        return self._planner_host.known.infos()

    def trouble(self) -> str:
        return self._watchdog.trouble()

    async def start(self) -> None:
        """Begin to load the models; returns at once."""
        await self._model_manager.start()
        await self._planner_host.start()

    async def wait_ready(self) -> None:
        """Return once a model can serve and no thread is stuck; never, while no model can be loaded."""
        await self._model_manager.wait_ready()
        await self._watchdog.wait_healthy()

    async def run(
        self, request: SongRequest, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        # The server may have been restarted with another model since the request was accepted.
        async with self._model_manager.borrow(request.model) as (model, notes):
            request = fit(replace(request, warnings=(*request.warnings, *notes)), model.info)
            return await self._pipeline.run(request, model, on_progress, cancelled)

    async def draft(self, request: DraftRequest, cancelled: Cancelled) -> Draft:
        if request.audio_path:
            await self._watchdog.wait_healthy()
            async with self._model_manager.borrow(None) as (model, _):
                codes = await self._pipeline.tokenize(Path(request.audio_path), model)
            request = replace(request, audio_codes=codes)
        longest = self._model_manager.primary.max_duration
        return await self._planner_host.draft(request, longest, PlannerCallbacks(cancelled=cancelled))

    async def close(self) -> None:
        """Let running work end and free the threads."""
        await self._model_manager.close()
        await self._planner_host.close()
        self._pipeline.close()

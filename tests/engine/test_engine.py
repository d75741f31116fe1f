from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from acestep.domain.models import ModelInfo
from acestep.engine.engine import Engine
from acestep.engine.renderer import Load, Loaded, OnLoading
from acestep.errors import AceStepError
from tests.engine.fakes import (
    INFO,
    loads,
    running,
    until,
    wanted,
)


class TestLoading:
    async def test_what_is_known_before_and_after(self, files, renderer):
        expected = replace(INFO, steps=1)

        def load(on_loading: OnLoading) -> Loaded:
            on_loading("downloading", "40 %")
            renderer.render([], lambda done, of: None, wanted)  # waits until it is released
            return loads(renderer)(on_loading)

        renderer.hold()
        async with running(files, load, expected) as engine:
            await renderer.wait_begun()
            assert engine.models() == (replace(expected, state="downloading", detail="40 %"),)
            renderer.release()
            await engine.wait_ready()
            assert engine.models() == (replace(INFO, state="ready"),)

    @pytest.mark.parametrize(
        ("error", "detail"),
        [
            (AceStepError("The file vae is cut short."), "The file vae is cut short."),
            (RuntimeError("CUDA said no"), "RuntimeError while loading; see the server's log"),
        ],
    )
    async def test_a_model_that_cannot_be_loaded_is_never_ready(self, files, caplog, error, detail):
        async with running(files, raising(error)) as engine:
            await until(lambda: state(engine) == "failed")
            (info,) = engine.models()
            assert info.detail == detail
            assert str(error) in caplog.text
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.wait_ready(), 0.05)


def raising(error: Exception) -> Load:
    def load(on_loading: OnLoading) -> Loaded:
        raise error

    return load


def state(engine: Engine) -> str:
    info: ModelInfo = engine.models()[0]
    return info.state

import pytest

from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.synthesizer import Synthesizer
from tests.synthesizer import toy


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> SynthesizerModules:
    return toy.write_published(tmp_path_factory.mktemp("base")).load()


@pytest.fixture(scope="session")
def turbo(tmp_path_factory) -> SynthesizerModules:
    return toy.write_published(tmp_path_factory.mktemp("turbo"), turbo=True).load()


@pytest.fixture
def synthesizer(base) -> Synthesizer:
    return Synthesizer(base, toy.FRAME_RATE)


@pytest.fixture
def turbo_synthesizer(turbo) -> Synthesizer:
    return Synthesizer(turbo, toy.FRAME_RATE)

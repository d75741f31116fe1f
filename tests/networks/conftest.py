import pytest

from acestep.synthesizer.loading import SynthesizerModules
from tests.synthesizer import toy


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> SynthesizerModules:
    return toy.write_published(tmp_path_factory.mktemp("base")).load()

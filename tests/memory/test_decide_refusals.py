from pathlib import Path

import pytest

from acestep.catalog.checkpoints import Choice
from acestep.device.probes import PROBES as MACHINE
from acestep.errors import ModelUnavailableError, SettingError
from acestep.memory import decide as deciding
from acestep.memory.decide import (
    decide,
    decide_for_server,
    find_budget,
)
from acestep.memory.plan import GB, Abilities
from acestep.settings.settings import Settings
from tests.memory.test_decide import MIDDLE, NONE, PROBES, decided, on_gpu


class TestRefusals:
    def test_a_budget_is_refused_with_one_that_would_do(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, vram_budget=2)
        with pytest.raises(SettingError, match=r"^ACESTEP_VRAM_BUDGET='2' .* GB or more") as caught:
            decide([turbo], NONE, settings, find_budget(settings, True, PROBES))
        enough = float(caught.value.allowed.split(" ")[0])
        settings = Settings.load(tmp_path, vram_budget=enough)
        assert decide([turbo], NONE, settings, find_budget(settings, True, PROBES)) is not None

    def test_a_small_gpu_is_refused_with_a_way_out(self, tmp_path: Path, turbo: Choice) -> None:
        with pytest.raises(ModelUnavailableError, match=r"acestep-v15-turbo.*GPU memory.*ACESTEP_DEVICE=cpu"):
            decide([turbo], NONE, Settings.load(tmp_path), on_gpu(1.5))

    @pytest.mark.usefixtures("moving")
    def test_the_setting_that_is_to_blame_is_named(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, offload_to_cpu=False)
        with pytest.raises(SettingError, match=r"^ACESTEP_OFFLOAD_TO_CPU='false' .*auto.* GB"):
            decide([turbo], NONE, settings, on_gpu(4))

    def test_a_planner_that_was_asked_for_does_not_give_way(
        self, tmp_path: Path, turbo: Choice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deciding, "ABILITIES", Abilities())
        settings = Settings.load(tmp_path, init_llm=True)
        with pytest.raises(SettingError, match=r"^ACESTEP_INIT_LLM='true' .*false, which takes"):
            decide([turbo], MIDDLE, settings, on_gpu(8))

    def test_a_smaller_planner_is_named_if_it_would_fit(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, init_llm=True)
        with pytest.raises(
            SettingError, match=r"^ACESTEP_LM_MODEL_PATH='acestep-5Hz-lm-1.7B' .*lm-0.6B, which"
        ):
            decide([turbo], MIDDLE, settings, on_gpu(5))

    def test_a_tile_that_is_too_long_is_named(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, vae_decode_chunk_size=9000)
        with pytest.raises(SettingError, match=r"^ACESTEP_VAE_DECODE_CHUNK_SIZE='9000'"):
            decide([turbo], NONE, settings, on_gpu(8))

    def test_quantization_is_named_if_nothing_else_would_do(
        self, tmp_path: Path, turbo: Choice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deciding, "ABILITIES", Abilities())
        with pytest.raises(
            SettingError, match=r"^ACESTEP_QUANTIZATION='none' .*int8, which takes"
        ) as diagnosis:
            decide([turbo], NONE, Settings.load(tmp_path), on_gpu(6.5))
        enough = float(str(diagnosis.value).split("takes ")[1].split()[0])
        packed = Settings.load(tmp_path, quantization="int8")
        assert decided(turbo, NONE, packed, on_gpu(enough + 0.01)).plan.peak / GB == pytest.approx(
            enough, abs=0.01
        )

    def test_what_a_device_cannot_have_is_refused(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, quantization="fp8", lm_device="mps")
        with pytest.raises(SettingError, match=r"^ACESTEP_QUANTIZATION='fp8' .*int8 or none on mps$"):
            decide_for_server(settings, [turbo], NONE, MACHINE)

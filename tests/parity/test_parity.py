"""The same weights and inputs give the same music as the original model code, to rounding."""

import pytest
import torch

from acestep.codec.oobleck import OobleckCodec
from acestep.synthesizer.audio_codes import AudioCodes
from acestep.synthesizer.loading import load_synthesizer
from acestep.synthesizer.synthesizer import Synthesizer
from acestep.weights.safetensors import LoadTarget
from tests.parity.cases import FOLDER, MISSING, TEXT_ENCODER, VAE, read_case, read_expected, relative_error

pytestmark = pytest.mark.skipif(not (FOLDER / "cases.json").is_file(), reason=MISSING)

CPU = torch.device("cpu")
TOLERANCE = 1e-4  # one more letter in a caption is 1e-2; rounding alone is 1e-6 and less

BOTH = ("single_t2m", "batch_t2m", "codes", "cover", "cover_strength", "repaint_ref")
CASES = [
    *(("turbo", name) for name in (*BOTH, "shift1", "timesteps")),
    *(("base", name) for name in (*BOTH, "shift3", "cfg7", "cfg_interval", "adg")),
]


@pytest.fixture(scope="module")
def codec() -> OobleckCodec:
    return OobleckCodec.load(VAE, CPU, torch.float32)


@pytest.mark.parametrize(("variant", "name"), CASES, ids=[".".join(case) for case in CASES])
def test_render(variant: str, name: str, codec: OobleckCodec):
    case = read_case(variant, name)
    modules = load_synthesizer(case.dit, TEXT_ENCODER, TEXT_ENCODER, LoadTarget(CPU, torch.float32))
    synthesizer = Synthesizer(modules, case.frame_rate)

    rendered = synthesizer.render(case.plans, lambda done, of: None, lambda: False, case.sources)

    errors = {"latents": relative_error(rendered.latents, case.expected["latents"])}
    if "audio" in case.expected:
        errors["audio"] = relative_error(codec.decode(rendered.latents), case.expected["audio"])
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("variant", ["turbo", "base"])
def test_codes(variant: str):
    modules = load_synthesizer(
        FOLDER / f"acestep-v15-{variant}", TEXT_ENCODER, TEXT_ENCODER, LoadTarget(CPU, torch.float32)
    )
    codes = AudioCodes(modules)
    tokenized, detokenized = read_expected(f"{variant}.tokenize"), read_expected(f"{variant}.detokenize")

    assert codes.tokenize(tokenized["latents"][0]) == tuple(tokenized["indices"].flatten().tolist())
    hints = codes.hints(detokenized["indices"].flatten().tolist())
    assert relative_error(hints[None], detokenized["hints"]) < TOLERANCE


def test_vae_encode(codec: OobleckCodec):
    expected = read_expected("vae_encode")

    latents = codec.encode(expected["audio"])

    assert relative_error(latents.transpose(1, 2), expected["mean"]) < TOLERANCE


def test_vae_tiles_leave_no_seams(codec: OobleckCodec):
    """Tiles shorter than what a sample depends on give the same as one piece."""
    in_tiles = OobleckCodec(codec.vae, tile_frames=7)
    latents = torch.randn(1, 50, codec.latent_channels, generator=torch.Generator().manual_seed(0))
    audio = codec.decode(latents)

    assert torch.allclose(in_tiles.decode(latents), audio, atol=1e-5)
    assert torch.allclose(in_tiles.encode(audio), codec.encode(audio), atol=1e-5)

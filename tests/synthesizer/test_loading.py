import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.errors import CheckpointError
from tests.synthesizer import toy

PARTS = ("transformer", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer")

LAYOUTS: dict[str, Callable[[Path], toy.Toy]] = {
    "published": toy.write_published,
    "sharded": lambda folder: toy.write_published(folder, shards=3),
    "xl": lambda folder: toy.write_published(folder, xl=True),
    "diffusers": toy.write_diffusers,
    "diffusers-xl": lambda folder: toy.write_diffusers(folder, xl=True),
}


@pytest.fixture
def checkpoint(tmp_path) -> toy.Toy:
    return toy.write_published(tmp_path)


def edit_weights(checkpoint: toy.Toy, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = checkpoint.dit / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_what_was_written(layout, tmp_path):
    written = LAYOUTS[layout](tmp_path)

    loaded = written.load()

    for part in PARTS:
        stored = written.parts[part].state_dict()
        expected = {toy.our_name(name): tensor for name, tensor in stored.items()}
        torch.testing.assert_close(dict(getattr(loaded, part).state_dict()), expected, rtol=0, atol=0)
    torch.testing.assert_close(loaded.text_encoder.state_dict(), written.text_encoder_module.state_dict())
    assert loaded.silence_latent.shape == (1, 30, toy.CHANNELS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loaded_codes_and_hints_are_those_of_the_written_modules(layout, tmp_path):
    written = LAYOUTS[layout](tmp_path)
    loaded = written.load()
    latents = torch.randn(1, 8, toy.CHANNELS)

    _, codes = loaded.audio_tokenizer(latents)
    hints = loaded.audio_token_detokenizer(loaded.audio_tokenizer.quantizer.look_up(codes))

    quantized, expected_codes = written.parts["audio_tokenizer"].tokenize(latents)
    assert codes.tolist() == expected_codes[..., 0].tolist()
    torch.testing.assert_close(hints, written.parts["audio_token_detokenizer"](quantized))


def test_the_config_is_that_of_the_files(turbo):
    config = turbo.config
    assert (config.is_turbo, config.model_version) == (True, "turbo")
    assert (config.latent_channels, config.mask_channels) == (toy.CHANNELS, toy.MASK_CHANNELS)
    assert (config.reference_frames, config.frames_per_code) == (toy.REFERENCE_FRAMES, 4)
    assert config.code_count == 12


def test_weights_are_cast_and_frozen(checkpoint):
    modules = checkpoint.load(torch.bfloat16)

    assert modules.silence_latent.dtype == torch.bfloat16
    for part in (*PARTS, "text_encoder"):
        for parameter in getattr(modules, part).parameters():
            assert parameter.dtype == torch.bfloat16
            assert not parameter.requires_grad
        assert not getattr(modules, part).training


def test_missing_tensor_is_named(checkpoint):
    edit_weights(checkpoint, lambda tensors: tensors.pop("decoder.proj_in.1.weight"))

    with pytest.raises(CheckpointError, match=r"model\.safetensors.*'decoder\.proj_in\.1\.weight'.*missing"):
        checkpoint.load()


def test_unknown_tensor_is_named(checkpoint):
    edit_weights(checkpoint, lambda tensors: tensors.update({"decoder.extra": torch.zeros(1)}))

    with pytest.raises(CheckpointError, match=r"model\.safetensors.*'decoder\.extra'"):
        checkpoint.load()


def test_tensor_of_another_shape_is_named(checkpoint):
    edit_weights(checkpoint, lambda tensors: tensors.update(null_condition_emb=torch.zeros(1, 1, 5)))

    with pytest.raises(CheckpointError, match=r"model\.safetensors.*'null_condition_emb'.*\[1, 1, 5\].*32"):
        checkpoint.load()


def test_missing_shard_is_named(tmp_path):
    checkpoint = toy.write_published(tmp_path, shards=2)
    (checkpoint.dit / "model-00002.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"model-00002\.safetensors"):
        checkpoint.load()


def test_truncated_file_is_named(checkpoint):
    path = checkpoint.dit / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint.load()


def test_missing_setting_is_named(checkpoint):
    path = checkpoint.dit / "config.json"
    config = json.loads(path.read_text())
    del config["head_dim"]
    path.write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match=r"config\.json.*'head_dim'"):
        checkpoint.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("hidden_size", "wide"), ("num_hidden_layers", 0), ("sliding_window", "far"), ("rope_theta", None)),
        *(("layer_types", ["full_attention"]), ("layer_types", ["causal_attention"] * 3)),
        *(("fsq_input_levels", [4, "3"]), ("fsq_input_num_quantizers", 2), ("timbre_fix_frame", -1)),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_value(checkpoint, name, value):
    path = checkpoint.dit / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    with pytest.raises(
        CheckpointError, match=rf"config\.json: {name} is {re.escape(repr(value))}; .* expected"
    ):
        checkpoint.load()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "silence_latent.pt"])
def test_missing_file_of_the_dit_is_named(checkpoint, name):
    (checkpoint.dit / name).unlink()

    with pytest.raises(CheckpointError, match=name):
        checkpoint.load()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_of_the_text_encoder_is_named(checkpoint, name):
    (checkpoint.text_encoder / name).unlink()

    with pytest.raises(CheckpointError, match=name):
        checkpoint.load()


def test_missing_part_of_a_pipeline_folder_is_named(tmp_path):
    checkpoint = toy.write_diffusers(tmp_path)
    (tmp_path / "audio_tokenizer" / "diffusion_pytorch_model.safetensors").unlink()

    with pytest.raises(CheckpointError, match="audio_tokenizer"):
        checkpoint.load()


def test_pipeline_folder_without_silence_is_refused(tmp_path):
    checkpoint = toy.write_diffusers(tmp_path)
    path = tmp_path / "condition_encoder" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["silence_latent"]
    save_file(tensors, path)

    with pytest.raises(CheckpointError, match="silence_latent"):
        checkpoint.load()


def test_silence_of_another_width_is_refused(checkpoint):
    torch.save(torch.zeros(1, 5, 30), checkpoint.dit / "silence_latent.pt")

    with pytest.raises(CheckpointError, match=r"silence_latent\.pt.*\[1, 24, frames\]"):
        checkpoint.load()


class Malicious:
    """Unpickling this would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.mark), "w"))


def test_a_pickle_that_runs_code_is_refused(checkpoint, tmp_path):
    torch.save(Malicious(tmp_path / "mark"), checkpoint.dit / "silence_latent.pt")

    with pytest.raises(CheckpointError, match=r"silence_latent\.pt"):
        checkpoint.load()
    assert not (tmp_path / "mark").exists()


def test_code_beside_the_weights_is_not_run(checkpoint, tmp_path):
    for folder in (checkpoint.dit, checkpoint.text_encoder):
        (folder / "malicious.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Config: pass\n")
        for name in ("config.json", "tokenizer_config.json"):
            if (path := folder / name).exists():
                auto_map = {
                    "AutoConfig": "malicious.Config",
                    "AutoModel": "malicious.Config",
                    "AutoTokenizer": ["malicious.Config", "malicious.Config"],
                }
                path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))

    checkpoint.load()

    assert not (tmp_path / "mark").exists()


def test_text_encoder_that_does_not_fit_is_refused(checkpoint, tmp_path):
    path = checkpoint.dit / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_hidden_dim": 20}))

    def widen(tensors):
        for name in ("encoder.text_projector.weight", "encoder.lyric_encoder.embed_tokens.weight"):
            tensors[name] = torch.zeros(32, 20)

    edit_weights(checkpoint, widen)
    with pytest.raises(CheckpointError, match=r"hidden_size is 16.*20"):
        checkpoint.load()


def test_text_encoder_with_prefixed_names_is_loaded(checkpoint):
    path = checkpoint.text_encoder / "model.safetensors"
    save_file({f"model.{name}": tensor for name, tensor in load_file(path).items()}, path)

    checkpoint.load()

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from acestep.catalog.adapters import AdapterFolder
from acestep.errors import CheckpointError
from tests.adapter_headers import DEEP, LAYER, LAYERS, RANK, WIDE, write_header

OLD = "base_model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lora"


@pytest.fixture
def folder(root: Path) -> AdapterFolder:
    return AdapterFolder(root)


def complaint(folder: AdapterFolder, name: str = "pop") -> str:
    with pytest.raises(CheckpointError) as caught:
        folder.find(name)
    return str(caught.value)


class TestNames:
    def test_a_folder_that_is_not_there_holds_none(self, folder):
        assert folder.names() == ()
        assert AdapterFolder(None).names() == ()
        assert "ACESTEP_LORA_DIR" in complaint(folder)

    def test_every_folder_of_an_adapter_is_named_by_its_path(self, root, folder):
        write_header(root / "rock")
        write_header(root / "pop" / "final" / "adapter")
        (root / "empty").mkdir()
        (root / "notes.txt").write_text("none of them")
        assert folder.names() == ("pop/final/adapter", "rock")
        assert folder.find("pop/final/adapter").name == "pop/final/adapter"
        assert "There are: pop/final/adapter, rock" in complaint(folder, "jazz")

    @pytest.mark.parametrize(
        "path", ["pop", "pop/", " pop ", "./pop", "rock/../pop", "{root}/pop", "{root}/pop/", "{root}/./pop"]
    )
    def test_an_adapter_is_found_by_its_path(self, root, folder, path):
        write_header(root / "pop")
        assert folder.name_of(path.format(root=root)) == "pop"

    @pytest.mark.parametrize(
        "path",
        [
            *("", " ", ".", "..", "/", "../lora", "../outside", "pop/../../outside", "{root}"),
            *("{root}/../outside", "pop\0", "pop/adapter_config.json", "a" * 5000, "~/pop", "POP"),
        ],
    )
    def test_nothing_else_is(self, root, folder, path):
        write_header(root / "pop")
        write_header(root.parent / "outside")
        assert folder.name_of(path.format(root=root)) is None
        with pytest.raises(CheckpointError):
            folder.find(path.format(root=root))

    def test_links_out_of_the_folder_are_not_followed(self, root, folder):
        outside = write_header(root.parent / "outside")
        write_header(root / "pop")
        (root / "linked").symlink_to(outside)
        (root / "pop" / "adapter_model.safetensors").unlink()
        (root / "pop" / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
        assert folder.names() == ("pop",)
        assert "leads out" in complaint(folder)

    def test_a_link_within_the_folder_and_to_the_folder_will_do(self, root, tmp_path):
        write_header(root / "pop")
        (root / "pop" / "adapter_model.safetensors").rename(root / "blob")
        (root / "pop" / "adapter_model.safetensors").symlink_to(root / "blob")
        (tmp_path / "link").symlink_to(root)
        assert AdapterFolder(tmp_path / "link").find("pop").ranks == {LAYER: RANK}


class TestOtherFolders:
    """Adapters outside of ACESTEP_LORA_DIR, in folders that are allowed."""

    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        write_header(tmp_path / "shared" / "rock")
        write_header(tmp_path / "shared2" / "folk")
        write_header(tmp_path / "secret" / "pop")
        return tmp_path / "shared"

    @pytest.fixture
    def folder(self, root: Path, outside: Path) -> AdapterFolder:
        write_header(root / "pop")
        return AdapterFolder(root, [outside])

    @pytest.mark.parametrize("ending", ["", "/", "/adapter_model.safetensors", "/../rock", "/./"])
    def test_an_adapter_is_named_by_its_absolute_path(self, folder, outside, ending):
        assert folder.name_of(f"{outside}/rock{ending}") == f"{outside}/rock"
        assert folder.find(f"{outside}/rock").ranks == {LAYER: RANK}

    def test_those_of_the_first_folder_keep_their_names(self, folder, root):
        assert (folder.name_of("pop"), folder.name_of(f"{root}/pop")) == ("pop", "pop")
        assert folder.names() == ("pop",)

    def test_the_folder_itself_may_be_one(self, root, outside):
        alone = AdapterFolder(root, [outside / "rock"])
        assert alone.find(f"{outside}/rock").ranks == {LAYER: RANK}
        assert AdapterFolder(None, [outside]).name_of(f"{outside}/rock") == f"{outside}/rock"

    @pytest.mark.parametrize(
        "path",
        [
            *("rock", "shared/rock", "../shared/rock", "{outside}", "{outside}2/folk", "{outside}/folk"),
            *("{outside}/../secret/pop", "{outside}/rock/../../secret/pop", "{outside}/../shared2/folk"),
            *("{outside}/rock\0", "{outside}/" + "x" * 5000, "{outside}/rock/adapter_config.json"),
        ],
    )
    def test_nothing_else_is(self, folder, outside, path):
        assert folder.name_of(path.format(outside=outside)) is None
        with pytest.raises(CheckpointError, match="There is no adapter"):
            folder.find(path.format(outside=outside))

    def test_a_path_is_a_name_in_one_spelling(self, folder, outside):
        with pytest.raises(CheckpointError, match="There is no adapter"):
            folder.find(f"{outside}/./rock")

    def test_links_do_not_lead_out(self, folder, outside, tmp_path):
        (outside / "linked").symlink_to(tmp_path / "secret" / "pop")
        (outside / "up").symlink_to(tmp_path)
        for name in (f"{outside}/linked", f"{outside}/up/secret/pop"):
            assert folder.name_of(name) is None
            assert "There is no adapter" in complaint(folder, name)
        weights = outside / "rock" / "adapter_model.safetensors"
        weights.unlink()
        weights.symlink_to(tmp_path / "secret" / "pop" / "adapter_model.safetensors")
        assert "leads out" in complaint(folder, f"{outside}/rock")

    def test_links_within_and_to_the_folder_will_do(self, root, outside, tmp_path):
        (outside / "alias").symlink_to(outside / "rock")
        (tmp_path / "way").symlink_to(outside)
        folder = AdapterFolder(root, [tmp_path / "way"])
        for name in (f"{outside}/alias", f"{tmp_path}/way/rock"):
            assert folder.find(name).ranks == {LAYER: RANK}


class TestWhatTheFilesSay:
    @pytest.mark.parametrize(
        "prefix",
        [
            *("base_model.model.", "base_model.model.decoder.", "base_model.model._orig_mod.", "decoder."),
            *("transformer.", "diffusion_model.", ""),
        ],
    )
    @pytest.mark.parametrize("layer", [LAYER, "layers.0.self_attn.to_q"])
    def test_layers_get_our_names(self, root, folder, prefix, layer):
        names = {
            f"{prefix}{layer}.lora_A.weight": (RANK, DEEP),
            f"{prefix}{layer}.lora_B.weight": (WIDE, RANK),
        }
        write_header(root / "pop", names)
        adapter = folder.find("pop")
        assert (adapter.ranks, adapter.alphas) == ({LAYER: RANK}, {LAYER: 4.0})
        adapter.check_fit("toy", LAYERS)

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            *(("self_attn.to_k", "self_attn.k_proj"), ("cross_attn.to_v", "cross_attn.v_proj")),
            *(("cross_attn.to_out.0", "cross_attn.o_proj"), ("mlp.gate_proj", "mlp.gate_proj")),
        ],
    )
    def test_the_layers_of_diffusers(self, root, folder, theirs, ours):
        stem = f"base_model.model.layers.3.{theirs}"
        write_header(root / "pop", {f"{stem}.lora_A.weight": (2, 4), f"{stem}.lora_B.weight": (4, 2)})
        assert list(folder.find("pop").ranks) == [f"layers.3.{ours}"]

    def test_the_first_convolution(self, root, folder):
        name = "transformer.proj_in_conv"
        names = {f"{name}.lora_A.weight": (2, 5, 3), f"{name}.lora_B.weight": (8, 2, 1)}
        write_header(root / "pop", names)
        folder.find("pop").check_fit("toy", {"proj_in.1": (8, 5, 3)})

    def test_ranks_and_alphas_by_pattern(self, root, folder):
        other = "base_model.model.layers.1.self_attn.q_proj"
        names = {
            **{f"{OLD}.lora_A.weight": (RANK, DEEP), f"{OLD}.lora_B.weight": (WIDE, RANK)},
            **{f"{other}.lora_A.weight": (3, DEEP), f"{other}.lora_B.weight": (WIDE, 3)},
        }
        patterns = {
            "rank_pattern": {r"layers\.1\..*q_proj": 3},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 9},
        }
        write_header(root / "pop", names, **patterns)
        adapter = folder.find("pop")
        assert adapter.ranks == {LAYER: RANK, "layers.1.self_attn.q_proj": 3}
        assert adapter.alphas == {LAYER: 4.0, "layers.1.self_attn.q_proj": 9.0}

    @pytest.mark.parametrize(
        ("noted", "alpha"), [(None, float(RANK)), ({"transformer.r": RANK, "transformer.lora_alpha": 7}, 7.0)]
    )
    def test_the_format_of_diffusers(self, root, folder, noted, alpha):
        (root / "pop").mkdir(parents=True)
        stem = f"transformer.{LAYER}"
        tensors = {
            f"{stem}.lora_A.weight": np.zeros((RANK, DEEP), np.float32),
            f"{stem}.lora_B.weight": np.zeros((WIDE, RANK), np.float32),
        }
        metadata = {} if noted is None else {"lora_adapter_metadata": json.dumps(noted)}
        save_file(tensors, root / "pop" / "pytorch_lora_weights.safetensors", metadata)
        adapter = folder.find("pop")
        assert adapter.alphas == {LAYER: alpha}
        adapter.check_fit("toy", LAYERS)

    def test_what_changes_on_disk_is_read_again(self, root, folder):
        path = write_header(root / "pop")
        before = folder.find("pop")
        assert folder.find("pop") is before
        write_header(path, lora_alpha=16)
        os.utime(path / "adapter_config.json", ns=(1, 1))
        after = folder.find("pop")
        assert (after.alphas, after.version == before.version) == ({LAYER: 16.0}, False)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("base_model.model.layers.0.norm.weight", (4,)),
            (f"{OLD}.lora_embedding_A", (2, 4)),
            (f"{OLD}.lora_magnitude_vector", (6,)),
            (f"{OLD}.lora_B.bias", (6,)),
            (f"{OLD}.alpha", ()),
        ],
    )
    def test_a_tensor_that_is_no_part_of_a_lora(self, root, folder, name, shape):
        names = {f"{OLD}.lora_A.weight": (RANK, DEEP), f"{OLD}.lora_B.weight": (WIDE, RANK), name: shape}
        write_header(root / "pop", names)
        assert complaint(folder).startswith(f"pop/adapter_model.safetensors: tensor {name!r} fits nowhere")

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            ({f"{OLD}.lora_A.weight": (RANK, DEEP)}, f"tensor lora_B of layer {LAYER!r} is missing"),
            ({f"{OLD}.lora_B.weight": (WIDE, RANK)}, f"tensor lora_A of layer {LAYER!r} is missing"),
            ({f"{OLD}.lora_A.weight": (3, DEEP), f"{OLD}.lora_B.weight": (WIDE, 3)}, "has rank 3"),
            (
                {f"{OLD}.lora_A.weight": (RANK, DEEP), f"{LAYER}.lora_A.weight": (RANK, DEEP)},
                "is for the same place as",
            ),
        ],
    )
    def test_tensors_that_do_not_belong_together(self, root, folder, names, words):
        write_header(root / "pop", names)
        assert words in complaint(folder)

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"peft_type": "LOHA"}, "peft_type LOHA cannot be used; allowed: LORA, LOKR"),
            ({"peft_type": "LOKR"}, "r, alpha and decompose_factor must be numbers"),
            ({"peft_type": "LOKR", "alpha": 4}, "it is no part of a LoKr"),
            ({"peft_type": "LOKR", "alpha": 4, "use_effective_conv2d": True}, "use_effective_conv2d"),
            ({"peft_type": None}, "peft_type NONE"),
            ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16' changes the model's own weights"),
            ({"use_qalora": True}, "use_qalora"),
            ({"lora_alpha": "much"}, "rank or alpha cannot be read"),
            ({"rank_pattern": [1]}, "rank or alpha cannot be read"),
            ({"alpha_pattern": {"(": 1}}, "pattern '(' cannot be used"),
            ({"use_dora": True}, f"tensor lora_magnitude_vector of layer {LAYER!r} is missing"),
        ],
    )
    def test_settings_that_this_server_cannot_follow(self, root, folder, config, words):
        write_header(root / "pop", **config)
        assert words in complaint(folder)

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ({"lokr_weights.safetensors": b"no"}, "cannot be read"),
            ({"adapter_config.json": b"{}", "adapter_model.bin": b""}, "adapter_model.bin may run code"),
            ({"adapter_config.json": b"{}"}, "adapter_model.safetensors is missing"),
            ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"no"}, "cannot be read"),
            ({"pytorch_lora_weights.safetensors": b"no"}, "cannot be read"),
        ],
    )
    def test_folders_without_what_is_needed(self, root, folder, files, words):
        (root / "pop").mkdir(parents=True)
        for name, content in files.items():
            (root / "pop" / name).write_bytes(content)
        assert words in complaint(folder)
        assert str(root) not in complaint(folder)

    def test_a_broken_config_is_named_without_the_servers_path(self, root, folder):
        (write_header(root / "pop") / "adapter_config.json").write_text("{")
        assert complaint(folder).startswith("pop/adapter_config.json: cannot be read")
        assert str(root) not in complaint(folder)

    @pytest.mark.parametrize(
        ("layers", "words"),
        [
            ({}, f"tensor 'base_model.model.{LAYER}.lora_A.weight' fits nowhere: toy has no layer {LAYER!r}"),
            ({LAYER: (WIDE, 5)}, "has shape [2, 4]; toy asks for [2, 5]"),
            ({LAYER: (7, DEEP)}, "has shape [6, 2]; toy asks for [7, 2]"),
        ],
    )
    def test_a_model_that_it_does_not_fit(self, root, folder, layers, words):
        write_header(root / "pop")
        with pytest.raises(CheckpointError) as caught:
            folder.find("pop").check_fit("toy", layers)
        assert words in str(caught.value)

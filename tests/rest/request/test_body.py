from __future__ import annotations

from pathlib import Path

import pytest

from acestep.errors import InvalidFieldError
from acestep.rest.request.body import permitted


class TestPaths:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "music"
        (root / "albums").mkdir(parents=True)
        (root / "albums" / "song.wav").write_bytes(b"RIFF")
        (tmp_path / "secret.wav").write_bytes(b"RIFF")
        return root

    @pytest.mark.parametrize(
        "named", ["albums/song.wav", "{root}/albums/song.wav", "./albums/../albums/song.wav"]
    )
    def test_a_file_in_a_root(self, root: Path, named: str):
        found = permitted("src_audio_path", named.format(root=root), [root.parent / "empty", root])
        assert found == root / "albums" / "song.wav"

    @pytest.mark.parametrize(
        "named",
        [
            "../secret.wav",
            "{root}/../secret.wav",
            "/etc/passwd",
            "albums",
            "nothing.wav",
            "a\0b",
            "x" * 999,
            "link",
        ],
    )
    def test_whatever_else(self, root: Path, named: str):
        (root / "link").symlink_to(root.parent / "secret.wav")
        with pytest.raises(InvalidFieldError, match="ACESTEP_AUDIO_ROOTS") as refused:
            permitted("src_audio_path", named.format(root=root), [root])
        assert refused.value.field == "src_audio_path"

    def test_a_root_that_is_a_link_itself(self, root: Path):
        (root.parent / "alias").symlink_to(root)
        permitted("src_audio_path", "albums/song.wav", [root.parent / "alias"])

    def test_no_root_no_path(self):
        with pytest.raises(InvalidFieldError, match="set ACESTEP_AUDIO_ROOTS"):
            permitted("reference_audio_path", "song.wav", ())

"""The last step of a song: sound becomes a tagged file in the audio store."""

from __future__ import annotations

from acestep.audio.encode import FileSpec, extension, write
from acestep.audio.tags import Tags
from acestep.domain.song import AudioClip, AudioFormat, SongPlan
from acestep.errors import DataFolderError
from acestep.files import AudioStore

_TITLE_LENGTH = 60


class SongWriter:
    """Writes songs into `store`; `mp3_bitrate` in kbit/s."""

    def __init__(self, store: AudioStore, mp3_bitrate: int) -> None:
        self._store = store
        self._mp3_bitrate = mp3_bitrate

    def write(self, clip: AudioClip, plan: SongPlan, audio_format: AudioFormat, model: str) -> str:
        """Encode `clip` and return the file's name in the store.

        Raises DataFolderError where the file cannot be written.
        """
        tags = Tags(
            title=title(plan.caption),
            caption=plan.caption,
            seed=plan.seed,
            bpm=plan.bpm,
            key_scale=plan.key_scale,
            model=model,
        )
        spec = FileSpec(audio_format, self._mp3_bitrate, tags)
        try:
            with self._store.new_file(extension(audio_format)) as file:
                write(clip, file.path, spec)
        except OSError as error:
            raise DataFolderError(
                f"The song cannot be written: {error.strerror or error}. Make room in the data folder "
                "(ACESTEP_DATA_DIR), and see that the server may write there."
            ) from error
        return file.name


def title(caption: str) -> str:
    """The caption's first line, cut at a word where it is long."""
    line = next(iter(caption.strip().splitlines()), "")
    if len(line) <= _TITLE_LENGTH:
        return line
    head = line[:_TITLE_LENGTH]
    return (head.rpartition(" ")[0] or head) + "…"

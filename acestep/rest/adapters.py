"""The adapters of a request: those that it names, or the one that was loaded by POST /v1/lora/load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from acestep.catalog.adapters import AdapterFolder
from acestep.domain.models import ModelInfo
from acestep.domain.song import AdapterUse
from acestep.errors import CheckpointError, InvalidFieldError
from acestep.memory.adapters import AdapterRoom
from acestep.rest.response.schemas import LoraStatus

FIRST = "Load an adapter with POST /v1/lora/load first"


class ServerAdapters:
    """Adapters by the names that clients gave them; at most one is active. No weights are loaded here."""

    def __init__(self, folder: AdapterFolder, room: AdapterRoom | None = None) -> None:
        """`room`: the memory that the adapters of a song may take up; None: any."""
        self._folder = folder
        self._room = room
        self._loaded: dict[str, AdapterUse] = {}
        self._active: str | None = None
        self.in_use = False  # whether the active adapter acts; never without one

    def load(self, path: str, alias: str | None, model: ModelInfo) -> str:
        """Make the adapter at `path` the active one and return its alias.

        Raises `InvalidFieldError` if it is missing, unreadable or does not fit `model`, and if `alias` is the
        name of another adapter.
        """
        name = self._folder.name_of(path)
        if name is None:
            raise InvalidFieldError(
                "lora_path",
                path,
                "the folder of an adapter in ACESTEP_LORA_DIR, or an absolute path in ACESTEP_LORA_ROOTS",
                self._folder.remedy(),
            )
        if reason := self._flaw(name, model):
            raise InvalidFieldError("lora_path", path, "a LoRA that fits the model", reason)
        alias = (alias or "").strip() or name
        known = self._loaded.get(alias, AdapterUse(name))
        if known.name != name or (alias != name and alias in self._folder.names()):
            raise InvalidFieldError("adapter_name", alias, "a name that no other adapter has")
        self._loaded[alias] = known
        self._active, self.in_use = alias, True
        return alias

    def unload(self) -> bool:
        """Returns whether there were any."""
        had_any = bool(self._loaded)
        self._loaded.clear()
        self._active, self.in_use = None, False
        return had_any

    def toggle(self, use: bool) -> None:
        """Raises `InvalidFieldError` if there is no active adapter."""
        if use and self._active is None:
            raise InvalidFieldError("use_lora", use, "false", FIRST)
        self.in_use = use

    def scale(self, scale: float, alias: str | None) -> str:
        """Scale an adapter, by default the active one, and return its alias."""
        alias = (alias or "").strip() or self._active
        if alias is None or alias not in self._loaded:
            raise InvalidFieldError("adapter_name", alias, ", ".join(self._loaded) or "none as yet", FIRST)
        self._loaded[alias] = AdapterUse(self._loaded[alias].name, scale)
        return alias

    def status(self) -> LoraStatus:
        active = self._loaded.get(self._active or "")
        return LoraStatus(
            lora_loaded=bool(self._loaded),
            use_lora=self.in_use,
            lora_scale=active.scale if active else 1.0,
            adapter_type=self._folder.find(active.name).kind if active else None,
            scales={alias: use.scale for alias, use in self._loaded.items()},
            active_adapter=self._active,
            adapters=list(self._loaded),
            available=list(self._folder.names()),
        )

    def choose(
        self, asked: Sequence[AdapterUse] | None, model: ModelInfo
    ) -> tuple[tuple[AdapterUse, ...], tuple[str, ...]]:
        """The adapters of a request for `model` (None: it names none), and warnings.

        Raises `InvalidFieldError` for a named adapter that cannot be used.
        """
        if asked is None:
            return self._default(model)
        uses = tuple(AdapterUse(self._real_name(use.name), use.scale) for use in asked)
        for sent, use in zip(asked, uses, strict=True):
            if reason := self._flaw(use.name, model):
                allowed = ", ".join(self._folder.names()) or "none; there is no adapter on this server"
                raise InvalidFieldError("lora", sent.name, allowed, reason, f"with model {model.name}")
        if len({use.name for use in uses}) < len(uses):
            sent_names = ", ".join(use.name for use in asked)
            raise InvalidFieldError("lora", sent_names, "each adapter once")
        acting = [self._folder.find(use.name) for use in uses if use.scale]
        if len({adapter.kind for adapter in acting}) > 1:
            sent_names = ", ".join(use.name for use in asked)
            remedy = "LoRA and LoKr adapters cannot act on the same song"
            raise InvalidFieldError("lora", sent_names, "adapters of one kind", remedy)
        if self._room and (reason := self._room.flaw(acting)):
            sent_names = ", ".join(use.name for use in asked)
            raise InvalidFieldError("lora", sent_names, "fewer or smaller adapters", reason)
        return uses, ()

    def _default(self, model: ModelInfo) -> tuple[tuple[AdapterUse, ...], tuple[str, ...]]:
        if self._active is None or not self.in_use:
            return (), ()
        use = self._loaded[self._active]
        if reason := self._flaw(use.name, model):
            return (), (f"lora: the server's adapter {self._active!r} is not used. {reason}",)
        return (use,), ()

    def _real_name(self, name: str) -> str:
        if name in self._loaded:
            return self._loaded[name].name
        path = PurePath(name)
        is_path = path.is_absolute() or path.suffix == ".safetensors"
        return (self._folder.name_of(name) if is_path and ".." not in path.parts else None) or name

    def _flaw(self, name: str, model: ModelInfo) -> str:
        # Why an adapter cannot be used with `model`; "" if it can.
        try:
            adapter = self._folder.find(name)
            if model.layers:
                adapter.check_fit(model.name, model.layers)
        except CheckpointError as error:
            return str(error)
        return self._room.flaw([adapter]) if self._room else ""

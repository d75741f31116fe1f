from __future__ import annotations

from fastapi import APIRouter, Depends

from acestep.domain.models import choose_model
from acestep.errors import InvalidFieldError
from acestep.rest.deps import RequestBody, Services, require_key
from acestep.rest.envelope import Envelope
from acestep.rest.openapi import body_of
from acestep.rest.request.fields_models import LoadLora, ScaleLora, ToggleLora
from acestep.rest.request.schemas import ALLOWED, read_plain
from acestep.rest.response.schemas import LoraLoaded, LoraScaled, LoraStatus, LoraToggled, LoraUnloaded

router = APIRouter(prefix="/v1/lora", tags=["adapters"])


@router.post("/load", openapi_extra=body_of(LoadLora))
async def load(body: RequestBody, services: Services) -> Envelope[LoraLoaded]:
    """Load an adapter from ACESTEP_LORA_DIR or ACESTEP_LORA_ROOTS for requests that name none."""
    asked = read_plain(LoadLora, body.fields)
    model, _ = choose_model(services.worker.models(), None, strict=False)
    name = services.lora.load(asked.lora_path, asked.adapter_name, model)
    message = f"{name} applies to requests that name no adapter"
    return Envelope(data=LoraLoaded(message=message, lora_path=asked.lora_path, adapter_name=name))


@router.post("/unload", dependencies=[Depends(require_key)])
async def unload(services: Services) -> Envelope[LoraUnloaded]:
    """Unload all adapters. The body is not read."""
    had_any = services.lora.unload()
    return Envelope(
        data=LoraUnloaded(message="No adapter is loaded any more" if had_any else "No adapter was loaded")
    )


@router.post("/toggle", openapi_extra=body_of(ToggleLora))
async def toggle(body: RequestBody, services: Services) -> Envelope[LoraToggled]:
    """Turn the active adapter on or off."""
    use = read_plain(ToggleLora, body.fields).use_lora
    if use is None:
        raise InvalidFieldError("use_lora", None, ALLOWED[ToggleLora]["use_lora"])
    services.lora.toggle(use)
    return Envelope(data=LoraToggled(message=f"The adapter is {'on' if use else 'off'}", use_lora=use))


@router.post("/scale", openapi_extra=body_of(ScaleLora))
async def scale(body: RequestBody, services: Services) -> Envelope[LoraScaled]:
    """Set the scale of an adapter."""
    asked = read_plain(ScaleLora, body.fields)
    if asked.scale is None:
        raise InvalidFieldError("scale", None, ALLOWED[ScaleLora]["scale"])
    name = services.lora.scale(asked.scale, asked.adapter_name)
    message = f"{name} has the scale {asked.scale:g}"
    return Envelope(data=LoraScaled(message=message, scale=asked.scale, adapter_name=name))


@router.get("/status", dependencies=[Depends(require_key)])
async def status(services: Services) -> Envelope[LoraStatus]:
    """List the adapters, and the one that requests use that name none."""
    return Envelope(data=services.lora.status())

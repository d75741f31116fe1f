"""OpenAI's own Python library, as its documentation shows its use."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI, UnprocessableEntityError
from openai.types.chat import ChatCompletionMessageParam

from tests.live_server import LiveServer
from tests.replays.conftest import QUICK, assert_is_music

SONG: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "<prompt>Calm piano</prompt><lyrics>[Instrumental]</lyrics>"}
]


@pytest.fixture
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/api/v1", api_key="none is set", max_retries=0) as library:
        yield library


def sound(audio: Any) -> bytes:
    head, data = audio.audio_url["url"].split(",")
    assert head == "data:audio/wav;base64"
    return base64.b64decode(data)


def test_a_chat(client: OpenAI):
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    completion: Any = client.chat.completions.create(
        model=model,
        messages=SONG,
        modalities=["text", "audio"],
        seed=5,
        extra_body={"audio_config": {"format": "wav", "bpm": 100}, **QUICK, "batch_size": 2},
    )
    (choice,) = completion.choices
    assert (completion.model, choice.finish_reason) == ("acestep/acestep-nano", "stop")
    assert choice.message.content.startswith("## Metadata\n**Caption:** Calm piano\n**BPM:** 100")
    first, second = choice.message.audio
    assert (first.seed, second.seed) == (5, 6)
    assert_is_music(sound(first), "wav")
    assert_is_music(sound(second), "wav")


def test_a_stream(client: OpenAI):
    words = ""
    audio: list[Any] = []
    reasons: list[str | None] = []
    with client.chat.completions.create(
        model="acestep/acestep-nano",
        messages=SONG,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"audio_config": {"format": "wav"}, **QUICK},
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                words += choice.delta.content or ""
                audio += getattr(choice.delta, "audio", None) or []
                reasons.append(choice.finish_reason)
            usage = chunk.usage
    assert words.startswith("Generating music")
    assert "## Metadata\n**Caption:** Calm piano" in words
    assert (reasons[-1], set(reasons[:-1])) == ("stop", {None})
    assert usage is not None
    assert usage.total_tokens == 0
    (song,) = audio
    assert_is_music(sound(song), "wav")


def test_an_error_is_a_sentence(client: OpenAI):
    with pytest.raises(UnprocessableEntityError) as refused:
        client.chat.completions.create(
            model="acestep/acestep-nano",
            messages=SONG,
            extra_body={"audio_config": {"bpm": 5}},
        )
    assert refused.value.body == "bpm: 5 cannot be used; allowed: a whole number from 30 to 300"


def test_an_unknown_model(client: OpenAI):
    with pytest.raises(NotFoundError) as missing:
        client.models.retrieve("gpt")
    assert missing.value.body == "model: 'gpt' is not loaded here; loaded: acestep-nano"


def test_audio_from_the_endpoint_for_it(client: OpenAI):
    song = client.post(
        "/audio/generations",
        body={"prompt": "Calm piano", "response_format": "flac", "seed": 5, **QUICK},
        cast_to=httpx.Response,
    )
    assert song.headers["x-ace-step-seed"] == "5"
    assert_is_music(song.content, "flac")

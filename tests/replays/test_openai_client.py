"""OpenAI's own Python library, as its documentation shows its use."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, NotFoundError, OpenAI, UnprocessableEntityError
from openai.types.chat import ChatCompletionMessageParam

from tests.live_server import LiveServer
from tests.replays.conftest import KEY, QUICK, assert_is_music

SONG: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "<prompt>Calm piano</prompt><lyrics>[Instrumental]</lyrics>"}
]


@pytest.fixture
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/api/v1", api_key="none is set", max_retries=0) as library:
        yield library


@pytest.fixture(params=["server", "locked"])
def either(request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    """With and without a key, at the plain root."""
    live: LiveServer = request.getfixturevalue(request.param)
    with OpenAI(base_url=f"{live.url}/v1", api_key=KEY, max_retries=0) as library:
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
    told = "bpm: 5 cannot be used; allowed: a whole number from 30 to 300"
    assert str(refused.value) == f"Error code: 422 - {told}"
    assert (refused.value.message, refused.value.param) == (str(refused.value), "bpm")
    assert (refused.value.type, refused.value.code) == ("invalid_request_error", None)


def test_an_unknown_model(client: OpenAI):
    with pytest.raises(NotFoundError) as missing:
        client.models.retrieve("gpt")
    assert str(missing.value) == "Error code: 404 - model: 'gpt' is not loaded here; loaded: acestep-nano"
    assert missing.value.code == "model_not_found"


def test_audio_from_the_endpoint_for_it(client: OpenAI):
    song = client.post(
        "/audio/generations",
        body={"prompt": "Calm piano", "response_format": "flac", "seed": 5, **QUICK},
        cast_to=httpx.Response,
    )
    assert song.headers["x-ace-step-seed"] == "5"
    assert_is_music(song.content, "flac")


def test_speech_is_a_song(either: OpenAI):
    speech = either.audio.speech.create(
        model="tts-1",
        voice="alloy",
        input="[Verse]\nCity lights are calling\nI am on my way",
        instructions="Calm piano",
        response_format="flac",
        extra_body={**QUICK, "seed": 5},
    )
    assert speech.response.headers["content-type"] == "audio/flac"
    warnings = json.loads(speech.response.headers["x-ace-step-warnings"])
    assert warnings[0] == "voice: describe the voice in the caption; it is not used"
    assert_is_music(speech.content, "flac")


def test_the_list_at_the_plain_root(either: OpenAI):
    assert [model.id for model in either.models.list()] == ["acestep/acestep-nano"]


def test_a_wrong_key_says_so(locked: LiveServer):
    with OpenAI(base_url=f"{locked.url}/v1", api_key="sk-theirs", max_retries=0) as library:
        for ask in (library.models.list, lambda: library.chat.completions.create(model="x", messages=SONG)):
            with pytest.raises(AuthenticationError) as refused:
                ask()
            assert str(refused.value) == "Error code: 401 - Invalid API key"
            assert refused.value.code == "invalid_api_key"


def test_the_preflight_of_a_page(locked: LiveServer):
    """What a browser asks before the JavaScript library's request; it has no key."""
    names = ("arch", "lang", "os", "package-version", "retry-count", "runtime")
    asked = [f"x-stainless-{name}" for name in names]
    answer = httpx.options(
        f"{locked.url}/v1/chat/completions",
        headers={
            "Origin": "http://localhost:5173",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": ",".join(["authorization", "content-type", *asked]),
        },
    )
    assert answer.status_code == 200
    assert set(asked) <= set(answer.headers["access-control-allow-headers"].split(","))
    assert answer.headers["access-control-allow-origin"] == "http://localhost:5173"

"""Adapters over HTTP: chosen by a request, or by the server for requests that choose none."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.catalog.adapters import AdapterFolder
from acestep.domain.song import AdapterUse, SongRequest
from acestep.memory.adapters import AdapterRoom
from acestep.rest.adapters import ServerAdapters
from acestep.rest.deps import provide
from tests.adapter_headers import LAYER, LAYERS, write_header
from tests.rest.conftest import BASE, CONFIG, TURBO, Serve, Server, assert_error

FITTING = replace(TURBO, layers=LAYERS)
OTHER = replace(BASE, state="ready", layers={LAYER: (7, 7)})
POP, JAZZ = AdapterUse("pop"), AdapterUse("jazz/final")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "lora"
    write_header(root / "pop")
    write_header(root / "jazz" / "final")
    write_header(root / "loha", peft_type="LOHA")
    write_header(tmp_path / "outside")
    return root


@pytest.fixture
async def server(serve: Serve, folder: Path) -> AsyncIterator[Server]:
    async with serve(models=(FITTING, OTHER)) as started:
        adopt(started, folder)
        yield started


def adopt(server: Server, folder: Path, room: AdapterRoom | None = None) -> None:
    services = server.app.state.services
    provide(server.app, replace(services, lora=ServerAdapters(AdapterFolder(folder), room)))


async def post(server: Server, route: str, **fields: Any) -> dict[str, Any]:
    answer = await server.client.post(f"/v1/lora/{route}", json=fields)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def status(server: Server) -> dict[str, Any]:
    answer = await server.client.get("/v1/lora/status")
    data: dict[str, Any] = answer.json()["data"]
    return data


class TestChosenByTheRequest:
    @pytest.mark.parametrize(
        ("sent", "uses"),
        [
            ("pop", (POP,)),
            (" pop ", (POP,)),
            ({"name": "pop", "scale": 0.5}, (AdapterUse("pop", 0.5),)),
            ({"name": "pop", "scale": "2"}, (AdapterUse("pop", 2.0),)),
            (["pop", "jazz/final"], (POP, JAZZ)),
            (["jazz/final", {"name": "pop", "scale": 0}], (JAZZ, AdapterUse("pop", 0.0))),
            ('["pop", {"name": "jazz/final", "scale": 0.25}]', (POP, AdapterUse("jazz/final", 0.25))),
            ('{"name": "pop"}', (POP,)),
            ([], ()),
            ("[]", ()),
            (None, ()),
            ("", ()),
        ],
    )
    async def test_is_part_of_the_request(self, server, sent, uses):
        request = await server.submitted(prompt="a song", lora=sent)
        assert (request.adapters, request.warnings) == (uses, ())
        nested = await server.submitted(prompt="a song", param_obj={"loras": sent})
        assert nested.adapters == uses

    @pytest.mark.parametrize("multipart", [False, True])
    async def test_may_come_in_a_form(self, server, multipart):
        fields = {"prompt": "a song", "lora": '[{"name": "pop", "scale": 0.5}, "jazz/final"]'}
        parts = {name: (None, value) for name, value in fields.items()}
        sent = {"files": parts} if multipart else {"data": fields}
        answer = await server.client.post("/release_task", **sent)
        (view,) = await server.queue.find([answer.json()["data"]["task_id"]])
        assert view.job.request.adapters == (AdapterUse("pop", 0.5), JAZZ)

    @pytest.mark.parametrize(
        "sent",
        [
            *(3, True, 1.5, "{", "[1]", {}, {"name": ""}, {"name": 3}, {"scale": 1}, [["pop"]], [None]),
            *(
                {"name": "pop", "scale": -0.1},
                {"name": "pop", "scale": 2.1},
                {"name": "pop", "scale": "loud"},
            ),
            *({"name": "pop", "weight": 1}, ["pop", "pop"], ["a", "b", "c", "d", "e"], "x" * 201),
        ],
    )
    async def test_is_refused_where_it_cannot_be_read(self, server, sent):
        answer = await server.client.post("/release_task", json={"prompt": "a song", "lora": sent})
        extra = assert_error(answer, 422, "lora: ", "at most 4 different names or objects")["extra"]
        assert extra["field"] == "lora"

    @pytest.mark.parametrize(
        "name", ["folk", "../outside", "/etc", "jazz", "pop/adapter_config.json", "POP", "pop/../pop", "\0"]
    )
    async def test_is_refused_where_there_is_no_such_adapter(self, server, name):
        answer = await server.client.post("/release_task", json={"prompt": "a song", "lora": [name]})
        body = assert_error(answer, 422, "lora: ", "There is no adapter")
        assert body["extra"] == {"field": "lora", "value": name, "allowed": "jazz/final, loha, pop"}

    @pytest.mark.parametrize("ending", ["", "/", "/adapter_model.safetensors"])
    async def test_may_be_named_by_its_path(self, server, folder, ending):
        request = await server.submitted(prompt="a song", lora=f"{folder}/jazz/final{ending}")
        assert (request.adapters, request.warnings) == ((JAZZ,), ())

    @pytest.mark.parametrize("path", ["../outside", "pop/../../outside", "pop/..", ""])
    async def test_is_refused_outside_of_the_folder(self, server, folder, path):
        sent = {"prompt": "a song", "lora": f"{folder}/{path}"}
        answer = await server.client.post("/release_task", json=sent)
        assert_error(answer, 422, "lora: ", "There is no adapter")

    @pytest.mark.parametrize("ending", ["", "/", "/adapter_model.safetensors"])
    async def test_may_lie_in_another_folder_that_is_allowed(self, serve, folder, ending):
        outside = folder.parent / "outside"
        async with serve(models=(FITTING, OTHER)) as server:
            services = server.app.state.services
            lora = ServerAdapters(AdapterFolder(folder, [outside]))
            provide(server.app, replace(services, lora=lora))
            request = await server.submitted(prompt="a song", lora=[f"{outside}{ending}", "pop"])
            assert (request.adapters, request.warnings) == ((AdapterUse(str(outside)), POP), ())
            twice = {"prompt": "a song", "lora": [f"{outside}", f"{outside}/"]}
            assert_error(await server.client.post("/release_task", json=twice), 422, "each adapter once")
            await post(server, "load", lora_path=f"{outside}{ending}")
            assert (await status(server))["active_adapter"] == str(outside)
            assert (await server.submitted(prompt="a song")).adapters == (AdapterUse(str(outside)),)

    async def test_lora_and_lokr_do_not_go_together(self, server, folder):
        names = {
            f"base_model.model.{LAYER}.lokr_w1": (2, 2),
            f"base_model.model.{LAYER}.lokr_w2": (3, 2),
        }
        write_header(folder / "kron", names, peft_type="LOKR", alpha=4)
        assert (await server.submitted(prompt="a song", lora="kron")).adapters == (AdapterUse("kron"),)
        both = {"prompt": "a song", "lora": ["kron", "pop"]}
        answer = await server.client.post("/release_task", json=both)
        assert_error(answer, 422, "allowed: adapters of one kind", "cannot act on the same song")
        one = await server.submitted(prompt="a song", lora=["kron", {"name": "pop", "scale": 0}])
        assert len(one.adapters) == 2
        await post(server, "load", lora_path=str(folder / "kron"))
        assert (await status(server))["adapter_type"] == "lokr"

    async def test_is_refused_where_it_is_of_another_kind(self, server):
        answer = await server.client.post("/release_task", json={"prompt": "a song", "lora": "loha"})
        assert_error(answer, 422, "lora: 'loha' cannot be used", "peft_type LOHA")

    async def test_is_refused_on_a_model_that_it_does_not_fit(self, server):
        fields = {"prompt": "a song", "lora": "pop", "model": OTHER.name}
        body = assert_error(
            await server.client.post("/release_task", json=fields),
            *(422, f"with model {OTHER.name}", "lora_A.weight' has shape [2, 4]", "asks for [2, 7]"),
        )
        assert body["extra"]["field"] == "lora"

    async def test_waits_for_a_model_that_is_not_known_yet(self, serve, folder):
        async with serve(models=(replace(TURBO, state="loading"),)) as server:
            adopt(server, folder)
            assert (await server.submitted(prompt="a song", lora="pop")).adapters == (POP,)

    async def test_is_refused_where_there_are_no_adapters_at_all(self, serve):
        async with serve() as server:
            answer = await server.client.post("/release_task", json={"prompt": "a song", "lora": "pop"})
            assert_error(answer, 422, "there is no adapter on this server", "ACESTEP_LORA_DIR")

    async def test_is_told_in_every_state_of_the_job(self, server):
        task = await server.release(prompt="a song", lora=["pop", {"name": "jazz/final", "scale": 0.5}])
        told = [{"name": "pop", "scale": 1.0}, {"name": "jazz/final", "scale": 0.5}]
        (entry,) = await server.query(task)
        assert [item["lora"] for item in json.loads(entry["result"])] == [told]
        await server.finish_next(decided={"adapters": (POP, AdapterUse("jazz/final", 0.5))})
        (entry,) = await server.query(task)
        for item in json.loads(entry["result"]):
            assert item["lora"] == told
            assert "- lora: pop at 1\n- lora: jazz/final at 0.5\n" in item["generation_info"]


class TestChosenByTheServer:
    async def test_acts_on_requests_that_choose_none(self, server):
        assert await post(server, "load", lora_path="pop") == {
            "message": "pop applies to requests that name no adapter",
            "lora_path": "pop",
            "adapter_name": "pop",
        }
        assert (await server.submitted(prompt="a song")).adapters == (POP,)
        assert (await server.submitted(prompt="a song", lora="jazz/final")).adapters == (JAZZ,)
        assert (await server.submitted(prompt="a song", lora=[])).adapters == ()

    async def test_is_recorded_when_the_request_is_accepted(self, server):
        await post(server, "load", lora_path="pop")
        await post(server, "scale", scale=0.5)
        task = await server.release(prompt="a song")
        await post(server, "unload")
        (view,) = await server.queue.find([task])
        assert view.job.request.adapters == (AdapterUse("pop", 0.5),)

    async def test_status_tells_all_of_it(self, server, folder):
        available = ["jazz/final", "loha", "pop"]
        nothing: dict[str, Any] = {
            "lora_loaded": False,
            "use_lora": False,
            "lora_scale": 1.0,
            "adapter_type": None,
            "scales": {},
            "active_adapter": None,
            "adapters": [],
            "synthetic_default_mode": False,
            "available": available,
        }
        assert await status(server) == nothing
        await post(server, "load", lora_path=str(folder / "jazz" / "final"), adapter_name="smooth")
        await post(server, "load", lora_path="pop")
        await post(server, "scale", scale=0.25, adapter_name="smooth")
        await post(server, "scale", scale=0.75)
        await post(server, "toggle", use_lora=False)
        assert await status(server) == {
            "lora_loaded": True,
            "use_lora": False,
            "lora_scale": 0.75,
            "adapter_type": "lora",
            "scales": {"smooth": 0.25, "pop": 0.75},
            "active_adapter": "pop",
            "adapters": ["smooth", "pop"],
            "synthetic_default_mode": False,
            "available": available,
        }
        assert await post(server, "unload") == {"message": "No adapter is loaded any more"}
        assert await post(server, "unload") == {"message": "No adapter was loaded"}
        assert await status(server) == nothing

    async def test_the_latest_is_active_and_keeps_its_scale(self, server):
        async def acting() -> tuple[AdapterUse, ...]:
            request: SongRequest = await server.submitted(prompt="a song")
            return request.adapters

        await post(server, "load", lora_path="jazz/final", adapter_name="smooth")
        assert (await post(server, "scale", scale=0.25)) == {
            "message": "smooth has the scale 0.25",
            "scale": 0.25,
            "adapter_name": "smooth",
        }
        await post(server, "load", lora_path="pop")
        assert await acting() == (POP,)
        await post(server, "load", lora_path="jazz/final", adapter_name="smooth")
        assert await acting() == (AdapterUse("jazz/final", 0.25),)
        assert await post(server, "toggle", use_lora="false") == {
            "message": "The adapter is off",
            "use_lora": False,
        }
        assert await acting() == ()
        await post(server, "toggle", use_lora=True)
        assert await acting() == (AdapterUse("jazz/final", 0.25),)

    async def test_a_request_may_use_the_name_it_has_here(self, server):
        await post(server, "load", lora_path="jazz/final", adapter_name="smooth")
        request = await server.submitted(prompt="a song", lora={"name": "smooth", "scale": 0.5})
        assert request.adapters == (AdapterUse("jazz/final", 0.5),)
        both = {"prompt": "a song", "lora": ["smooth", "jazz/final"]}
        assert_error(await server.client.post("/release_task", json=both), 422, "each adapter once")

    async def test_is_left_out_with_a_warning_where_it_does_not_fit(self, server):
        await post(server, "load", lora_path="pop")
        request = await server.submitted(prompt="a song", model=OTHER.name)
        assert request.adapters == ()
        (warning,) = request.warnings
        assert warning.startswith(
            "lora: the server's adapter 'pop' is not used. pop/adapter_model.safetensors"
        )

    async def test_is_not_left_out_on_a_strict_server(self, serve, folder):
        async with serve(models=(FITTING, OTHER), config=replace(CONFIG, strict=True)) as server:
            adopt(server, folder)
            await post(server, "load", lora_path="pop")
            fields = {"prompt": "a song", "model": OTHER.name}
            assert_error(await server.client.post("/release_task", json=fields), 422, "lora: the server's")

    @pytest.mark.parametrize(
        "path",
        ["", "folk", "../outside", "/etc", "jazz", "{root}", "{root}/../outside", "pop/..", "\0", "x" * 900],
    )
    async def test_comes_out_of_the_folder_alone(self, server, folder, path):
        answer = await server.client.post("/v1/lora/load", json={"lora_path": path.format(root=folder)})
        extra = assert_error(answer, 422, "lora_path: ", "There are: jazz/final, loha, pop")["extra"]
        assert extra["field"] == "lora_path"
        assert (await status(server))["lora_loaded"] is False

    async def test_must_fit_the_default_model(self, serve, folder):
        async with serve(models=(replace(OTHER, is_default=True),)) as server:
            adopt(server, folder)
            answer = await server.client.post("/v1/lora/load", json={"lora_path": "pop"})
            assert_error(answer, 422, "lora_path: 'pop'", "asks for [2, 7]")

    @pytest.mark.parametrize(
        ("route", "fields", "named"),
        [
            ("load", {"lora_path": "loha"}, "lora_path"),
            ("load", {"lora_path": {"a": 1}}, "lora_path"),
            ("load", {"lora_path": "jazz/final", "adapter_name": "pop"}, "adapter_name"),
            ("load", {"lora_path": "pop", "adapter_name": "x" * 201}, "adapter_name"),
            ("toggle", {"use_lora": True}, "use_lora"),
            ("toggle", {}, "use_lora"),
            ("toggle", {"use_lora": "perhaps"}, "use_lora"),
            ("scale", {"scale": 0.5}, "adapter_name"),
            ("scale", {"scale": 0.5, "adapter_name": "pop"}, "adapter_name"),
            ("scale", {}, "scale"),
            ("scale", {"scale": 1.01}, "scale"),
            ("scale", {"scale": -0.01}, "scale"),
        ],
    )
    async def test_refusals_name_the_field(self, server, route, fields, named):
        answer = await server.client.post(f"/v1/lora/{route}", json=fields)
        assert assert_error(answer, 422, f"{named}: ")["extra"]["field"] == named

    async def test_one_name_is_for_one_adapter(self, server):
        await post(server, "load", lora_path="pop", adapter_name="mine")
        await post(server, "load", lora_path="pop", adapter_name="mine")
        fields = {"lora_path": "jazz/final", "adapter_name": "mine"}
        assert_error(await server.client.post("/v1/lora/load", json=fields), 422, "adapter_name: 'mine'")

    async def test_everything_needs_the_key(self, serve, folder):
        async with serve(models=(FITTING,), config=replace(CONFIG, api_key="secret")) as server:
            adopt(server, folder)
            for route in ("load", "unload", "toggle", "scale"):
                assert_error(await server.client.post(f"/v1/lora/{route}", json={"lora_path": "pop"}), 401)
            assert_error(await server.client.get("/v1/lora/status"), 401)
            await post(server, "load", lora_path="pop", ai_token="secret")
            headers = {"Authorization": "Bearer secret"}
            answer = await server.client.post("/v1/lora/unload", headers=headers)
            assert answer.json()["data"] == {"message": "No adapter is loaded any more"}


class TestRoom:
    """The memory plan keeps room for so many adapters; what is larger is refused before it is tried."""

    async def test_what_does_not_fit_is_refused_with_the_numbers(self, server: Server, folder: Path):
        size = 4 * AdapterFolder(folder).find("pop").weights
        adopt(server, folder, AdapterRoom(size - 1, 4))
        answer = await server.client.post("/release_task", json={"prompt": "a", "lora": "pop"})
        error = assert_error(answer, 422, "lora", "memory plan keeps", "GB")
        assert error["extra"]["field"] == "lora"
        loaded = await server.client.post("/v1/lora/load", json={"lora_path": "pop"})
        assert_error(loaded, 422, "lora_path", "memory plan keeps")

    async def test_together_they_may_be_too_large(self, server: Server, folder: Path):
        size = 4 * AdapterFolder(folder).find("pop").weights
        adopt(server, folder, AdapterRoom(2 * size - 1, 4))
        request = await server.submitted(lora="pop")
        assert request.adapters == (POP,)
        both = {"prompt": "a", "lora": ["pop", "jazz/final"]}
        assert_error(await server.client.post("/release_task", json=both), 422, "fewer or smaller adapters")
        silent = [{"name": "pop"}, {"name": "jazz/final", "scale": 0}]
        assert len((await server.submitted(lora=silent)).adapters or ()) == 2

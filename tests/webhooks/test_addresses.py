from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest

from acestep.webhooks.addresses import PrivateAddressError, PublicBackend, is_private, is_private_host

PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
]
PUBLIC = ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private(address: str) -> None:
    assert is_private(ip_address(address))
    assert is_private_host(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert not is_private(ip_address(address))
    assert not is_private_host(address)


@pytest.mark.parametrize(
    ("host", "private"),
    [
        *[(each, True) for each in ("localhost", "LOCALHOST.", "a.localhost", "db.internal", "nas.local")],
        *[(each, True) for each in ("127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1")],
        *[(each, False) for each in ("example.org", "local.example.org", "notlocalhost")],
    ],
)
def test_names(host: str, private: bool) -> None:
    assert is_private_host(host) is private


class Network(httpcore.AsyncNetworkBackend):
    def __init__(self) -> None:
        self.reached: list[str] = []

    async def connect_tcp(self, host: str, *others: Any, **more: Any) -> httpcore.AsyncNetworkStream:
        self.reached.append(host)
        raise httpcore.ConnectError("no network in a test")


@pytest.mark.parametrize(
    ("addresses", "reached"),
    [
        (["1.1.1.1", "1.0.0.1"], ["1.1.1.1"]),
        (["127.0.0.1"], []),
        (["1.1.1.1", "10.0.0.1"], []),
        (["fe80::1%2"], []),
    ],
)
async def test_a_name_is_resolved_once_and_its_address_connected_to(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], reached: list[str]
) -> None:
    asked: list[str] = []

    async def getaddrinfo(host: str, port: int, **more: Any) -> list[Any]:
        asked.append(host)
        return [(0, socket.SOCK_STREAM, 0, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    network = Network()
    error = httpcore.ConnectError if reached else PrivateAddressError
    async with httpcore.AsyncConnectionPool(network_backend=PublicBackend(network, False)) as pool:
        with pytest.raises(error):
            await pool.request("POST", "http://rebinding.example/hook")
    assert (network.reached, asked) == (reached, ["rebinding.example"])

"""Which addresses a webhook may reach: none of this machine, its network, or its cloud's metadata."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpcore

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")  # holds an IPv4 address in its last 32 bits
_LOCAL_NAMES = (".localhost", ".local", ".internal")


class PrivateAddressError(Exception):
    """A name leads to an address that a webhook may not reach."""


def is_private(address: Address) -> bool:
    """Also where an IPv6 address stands for a private IPv4 address."""
    if isinstance(address, IPv6Address):
        within = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            within.append(IPv4Address(int(address) & 0xFFFFFFFF))
        if any(each is not None and is_private(each) for each in within):
            return True
        if address.ipv4_mapped is not None:
            return False
        if address.is_site_local:
            return True
    return not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified


def is_private_host(host: str) -> bool:
    """Of a name, as far as it says so itself."""
    name = host.rstrip(".").lower()
    if f".{name}".endswith(_LOCAL_NAMES):
        return True
    try:
        # As the system reads it: also 127.1, 0x7f.1 and 2130706433.
        return is_private(ip_address(socket.inet_ntoa(socket.inet_aton(name))))
    except OSError:
        pass
    try:
        return is_private(ip_address(name))
    except ValueError:
        return False


class PublicBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once, and connects to the address that was looked at."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend, allows_private: bool) -> None:
        self._backend = backend
        self._allows_private = allows_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        if not self._allows_private and any(map(is_private, addresses)):
            raise PrivateAddressError(host)
        return await self._backend.connect_tcp(
            str(addresses[0]), port, timeout, local_address, socket_options
        )

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

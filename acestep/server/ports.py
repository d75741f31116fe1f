"""Whether the server can listen where it should, and which process does already."""

from __future__ import annotations

import argparse
import errno
import multiprocessing
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from acestep.errors import AceStepError, SettingError

_PRIVILEGED = 1024  # the first port that every user may open


class PortTakenError(AceStepError):
    """Another process listens there."""


def check_port(host: str, port: int) -> None:
    """Raises PortTakenError, or SettingError for a host or port that cannot be used here."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise _wrong_host(host) from None
    refused = [error for entry in found if (error := _refusal(entry[0], entry[4]))]
    codes = {error.errno for error in refused}
    if errno.EADDRINUSE in codes:
        raise PortTakenError(
            f"Port {port} is taken by {_holder(port)}. Stop that one, or choose another port: --port "
            f"{port + 1 if port < 65535 else port - 1} (ACESTEP_API_PORT)."
        )
    if errno.EACCES in codes:
        allowed = (
            f"{_PRIVILEGED} to 65535; lower ones only for root" if port < _PRIVILEGED else "another port"
        )
        raise SettingError("ACESTEP_API_PORT", port, allowed)
    if len(refused) == len(found):
        raise _wrong_host(host)


def check_port_of_uvicorn(command: Sequence[str]) -> None:
    """As `check_port`, if the command is uvicorn's, which opens its port after building the application."""
    is_worker = multiprocessing.parent_process() is not None  # whose port is open already
    if is_worker or "uvicorn" not in Path(command[0]).parts:
        return
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    for elsewhere in ("--uds", "--fd"):
        parser.add_argument(elsewhere)
    with suppress(argparse.ArgumentError):  # uvicorn says what is wrong
        found, _ = parser.parse_known_args(list(command[1:]))
        if found.uds is None and found.fd is None:
            check_port(found.host, found.port)


def _refusal(family: int, address: tuple[object, ...]) -> OSError | None:
    # Why a socket cannot be bound there. It never listens, so nothing can connect meanwhile.
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def _wrong_host(host: str) -> SettingError:
    allowed = "an address or name of this machine: 127.0.0.1 for itself alone, 0.0.0.0 for its networks too"
    return SettingError("ACESTEP_API_HOST", host, allowed)


def _holder(port: int) -> str:
    try:
        found = (each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN)
        pid = next((each.pid for each in found if each.laddr and each.laddr.port == port), None)
        if pid is None:
            return "another process"
        process = psutil.Process(pid)
        # The arguments may hold a key.
        is_ours = any("acestep" in part for part in process.cmdline())
        return f"process {pid} ({'another acestep server' if is_ours else process.name()})"
    except psutil.Error:  # of another user, or it has ended
        return "another process"

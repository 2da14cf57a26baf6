"""Where an endpoint listens: only where it is safe, on a port that is free."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import secrets
import socket
from pathlib import Path

from manta.errors import InputError

FIRST_PORT = 20_000  # above those of Ray's workers
IANA_EPHEMERAL = 49_152  # RFC 6335
ATTEMPTS = 20


def require_safe_host(host: str, has_keys: bool) -> None:
    """Without keys only this machine may reach the endpoint. Raises InputError."""
    if has_keys or is_loopback(host):
        return
    raise InputError(
        f"serve.host = {host!r} can be reached from other machines, but serve.keys_file is not set: "
        "make keys with `manta keys create --file FILE --name WHO` and name that file, or use serve.host=127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def take_port(host: str, port: int) -> int:
    """`port`, known to be free just now, or a free one for 0. Raises InputError naming the remedy."""
    if port == 0:
        return _free_port(host)
    return _bound_port(host, port)


def _free_port(host: str) -> int:
    """A free port that stays free until an engine is up, some ten seconds from now: not one of those that the system hands
    out to every client and to Ray's processes, of which there are many just then."""
    for _ in range(ATTEMPTS):
        chosen = FIRST_PORT + secrets.randbelow(_first_ephemeral() - FIRST_PORT)
        with contextlib.suppress(InputError):
            return _bound_port(host, chosen)
    return _bound_port(host, 0)


def _first_ephemeral() -> int:
    """The lowest port that this system gives to whoever asks for any."""
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except FileNotFoundError:  # not Linux
        lowest = IANA_EPHEMERAL
    return max(lowest, FIRST_PORT + 1)


def _bound_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise InputError(
                f"serve.host = {host!r} is not an address of this machine: use 127.0.0.1 or 0.0.0.0"
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"serve.port = {port} is taken on {host}: stop what listens there (`manta serve stop` if it is "
                    "Manta's), or set serve.port to another one (0 picks a free one)"
                ) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise InputError(
                    f"serve.host = {host!r} is not an address of this machine: use 127.0.0.1 or 0.0.0.0"
                ) from None
            if error.errno == errno.EACCES:
                raise InputError(
                    f"serve.port = {port} needs root ({os.strerror(error.errno)}): use one above 1023"
                ) from None
            raise
        return int(probe.getsockname()[1])

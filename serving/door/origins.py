"""Which web pages may ask: CORS for the origins of `serve.cors_origins`, and nothing for strangers' where no key guards."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from manta.errors import InputError
from serving.door.answers import Header

ANY = "*"
EXPOSED = b"x-request-id, x-manta-fingerprint, retry-after"
PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
    (b"access-control-max-age", b"600"),
)


def require_sane(origins: Sequence[str], has_keys: bool) -> None:
    """Raise InputError for what is no origin, and for `*` where no key keeps every web page out."""
    for origin in origins:
        if origin == ANY:
            if not has_keys:
                raise InputError(
                    "serve.cors_origins = '*' lets every web page use an endpoint without keys: name the pages' origins, or set serve.keys_file"
                )
            continue
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}" or not parts.hostname:
            raise InputError(
                f"serve.cors_origins: {origin!r} is no origin: write it like https://app.example.org, without a path"
            )


def headers(origin: bytes | None, allowed: Sequence[str]) -> list[Header]:
    """What an answer to a page of `origin` carries, so that the browser hands it over; nothing where it may not."""
    if not allowed:
        return []
    if ANY in allowed:
        return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED)]
    vary = [(b"vary", b"Origin")]
    if origin is None or origin.decode("latin-1") not in allowed:
        return vary
    return [*vary, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED)]


def is_foreign(origin: bytes | None, allowed: Sequence[str]) -> bool:
    """Whether a browser sends this for a page that is neither of this machine nor named.

    An endpoint without keys listens on loopback, where any page that is open in a browser could reach it, also by a
    name of its own that it has resolve to 127.0.0.1. A browser always says whose page it is.
    """
    if origin is None:
        return False
    text = origin.decode("latin-1")
    if text in allowed:
        return False
    try:
        host = urlsplit(text).hostname
        return host != "localhost" and not ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return True

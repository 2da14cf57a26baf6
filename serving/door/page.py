"""The playground's files: read once, served to browsers without a key; everything the page then asks needs one."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent.parent / "playground"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# Only what this endpoint itself serves is loaded or asked, and no text ever becomes markup or code.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
SHARED = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)


class File(NamedTuple):
    """One file of the page, ready to send. `tag` changes with its content."""

    body: bytes
    tag: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    def answer(self, asked: Mapping[bytes, bytes]) -> tuple[int, tuple[tuple[bytes, bytes], ...], bytes]:
        """Status, headers and body for a request's headers: 304 where the browser has this very content."""
        if asked.get(b"if-none-match") == self.tag:
            return 304, self.headers, b""
        return 200, self.headers, self.body


@functools.cache
def files() -> Mapping[str, File]:
    """Path of a request -> file: `/` is the page, its parts are below /playground/."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix not in TYPES:
            continue
        body = path.read_bytes()
        tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'.encode()
        kind = f"{TYPES[path.suffix]}; charset=utf-8".encode()
        name = "/" if path.name == "index.html" else f"/playground/{path.name}"
        found[name] = File(body, tag, (*SHARED, (b"content-type", kind), (b"etag", tag)))
    return found

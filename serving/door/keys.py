"""API keys: a file of hashes that `manta keys` writes, and the view of it that a running endpoint keeps."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from manta.errors import InputError
from manta.storage import Folder

log = logging.getLogger("serving")

PREFIX = "sk-manta-"
SECRET_BYTES = 32  # 256 bits: nobody guesses one, so that a plain SHA-256 of it is enough at rest
CHECK_SECONDS = 1.0  # how long the view of the file may be old before a request has it looked at again
PATIENCE_SECONDS = 0.5  # a request waits so long for that look, then goes by the view there is
STALE_SECONDS = 60.0  # a view that could not be renewed for so long lets nobody in any more

Count = Annotated[int, Field(gt=0)]


class Key(BaseModel):
    """One line of the file. The key itself is not in it: only its SHA-256 (hex)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9]{8,64}$")]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    models: tuple[str, ...] = ()  # names it may ask; none: every model of the endpoint
    requests_per_minute: Count | None = None  # none: what the recipe says
    tokens_per_minute: Count | None = None
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def may_ask(self, model: str) -> bool:
        return not self.models or model in self.models


ANONYMOUS = Key(id="anonymous", name="anonymous", hash="0" * 64, created=datetime.fromtimestamp(0, UTC))


def fresh() -> str:
    """A new random key."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest(key: str) -> str:
    """What is kept of a key: its SHA-256 (hex)."""
    return hashlib.sha256(key.encode("latin-1", "replace")).hexdigest()


# --- the file --------------------------------------------------------------------------------------------------------


def create(
    file: str,
    name: str,
    models: Iterable[str] = (),
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    days: int | None = None,
) -> tuple[Key, str]:
    """Add a key to the file, which is made if there is none. Returns its entry and the key, which is kept nowhere.

    Raises InputError for limits that are not positive and for a file that holds something else.
    """
    if days is not None and not 0 < days <= 36_500:
        raise InputError(f"--days {days}: give how long the key is good, from 1 to 36500 days")
    secret = fresh()
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        made = Key(
            id=secrets.token_hex(6),
            name=name,
            hash=digest(secret),
            models=tuple(dict.fromkeys(models)),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            created=now,
            expires=None if days is None else now + timedelta(days=days),
        )
    except ValidationError as error:
        [first, *_] = error.errors()
        raise InputError(f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg']}") from None
    folder, leaf = _place(file)
    with folder.locked():
        kept = read(file) if folder.exists(leaf) else ()
        _write(folder, leaf, (*kept, made))
    return made, secret


def revoke(file: str, key_id: str) -> Key:
    """Take a key out of the file. Raises InputError when it is not in it."""
    folder, leaf = _place(file)
    if not folder.exists(leaf):
        raise InputError(f"--file {file!r} does not exist: name the file that `manta keys create` wrote")
    with folder.locked():
        known = read(file)
        found = next((key for key in known if key.id == key_id), None)
        if found is None:
            ids = ", ".join(f"{key.id} ({key.name})" for key in known) or "none"
            raise InputError(f"{file!r} holds no key {key_id!r}: it holds {ids}")
        _write(folder, leaf, [key for key in known if key != found])
    return found


def read(file: str) -> tuple[Key, ...]:
    """The keys of a file. Raises InputError, which shows nothing of a line that is wrong: it may be a secret."""
    folder, leaf = _place(file)
    try:
        text = folder.read_text(leaf)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"serve.keys_file = {file!r} cannot be read ({type(error).__name__}): make it with "
            f"`manta keys create --file {file} --name WHO`"
        ) from None
    return parse(text, file)


def parse(text: str, file: str) -> tuple[Key, ...]:
    """The keys of a file's text, one JSON object a line. Raises InputError with the number of the line."""
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        remedy = (
            f"a plain key is not taken: make keys with `manta keys create --file {file} --name WHO`, into a new file"
        )
        if not line.lstrip().startswith("{"):
            raise InputError(f"serve.keys_file = {file!r}: line {number} is not a JSON object: {remedy}")
        try:
            key = Key.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise InputError(f"serve.keys_file = {file!r}: line {number}: {where}: {first['msg']}: {remedy}") from None
        if key.id in keys or any(key.hash == other.hash for other in keys.values()):
            raise InputError(
                f"serve.keys_file = {file!r}: line {number} repeats the key {key.id}: take one of them out"
            )
        keys[key.id] = key
    return tuple(keys.values())


def table(keys: Sequence[Key], now: datetime | None = None) -> str:
    """The keys for people: who, what they may ask and how much, until when."""
    moment = now or datetime.now(UTC)
    rows = [("ID", "NAME", "MODELS", "REQUESTS/MIN", "TOKENS/MIN", "CREATED", "EXPIRES")]
    for key in keys:
        until = "never" if key.expires is None else f"{key.expires:%Y-%m-%d}"
        ended = key.expires is not None and key.expires <= moment
        rows.append(
            (
                key.id,
                key.name,
                ", ".join(key.models) or "all",
                str(key.requests_per_minute or "-"),
                str(key.tokens_per_minute or "-"),
                f"{key.created:%Y-%m-%d}",
                f"{until} (expired)" if ended else until,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def absolute(file: str) -> str:
    """The file for a process with another working directory."""
    return Folder(file).url


def _place(file: str) -> tuple[Folder, str]:
    """The folder that holds the file and the file's name in it; a link is followed, so that it stays one."""
    whole = Folder(file)
    if whole.local_path is not None:
        real = whole.local_path.resolve()
        return Folder(real.parent), real.name
    head, _, leaf = whole.url.rpartition("/")
    return Folder(head), leaf


def _write(folder: Folder, leaf: str, keys: Iterable[Key]) -> None:
    """Replace the file in one go; on this machine only its owner may read it."""
    text = "".join(key.model_dump_json() + "\n" for key in keys)
    if folder.local_path is None:
        folder.write_text(leaf, text)
        return
    scratch = folder.local_path / f".{leaf}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        scratch.replace(folder.local_path / leaf)
    finally:
        scratch.unlink(missing_ok=True)


# --- the view of a running endpoint ----------------------------------------------------------------------------------


class Unreadable(Exception):
    """The file could not be read for so long that it is not known any more who may ask."""


class Ring:
    """Who may ask now. A key that was created, revoked or has expired counts within two seconds, without a restart.

    The file is looked at by the first request after CHECK_SECONDS, in a thread, so that a slow disk or store never
    holds up tokens. `own` are hashes of keys that live only as long as the endpoint. Without either anybody may ask.
    Raises InputError when the file cannot be read at the start.
    """

    def __init__(
        self,
        file: str | None,
        own: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ):
        self._file = file
        self._clock = clock
        self._now = now
        self._own = {known: Key(id=known[:12], name="own", hash=known, created=now()) for known in own}
        self._version: object = None
        self._keys: dict[str, Key] = self._own
        self._looking: asyncio.Task[None] | None = None
        if file is not None:
            self._take(self._read())
        self._looked = self._good = clock()

    async def identify(self, authorization: str | None) -> Key | None:
        """The key that an `Authorization` header names, None when there is no such key. Looks at the file where that is due.

        Raises Unreadable when the file has not been readable for STALE_SECONDS.
        """
        if not self.is_fresh:
            if self._looking is None:
                self._looking = asyncio.create_task(self._renew())
            await asyncio.wait({self._looking}, timeout=PATIENCE_SECONDS)
        return self.find(authorization)

    @property
    def is_fresh(self) -> bool:
        """Whether the file need not be looked at again yet."""
        return self._file is None or self._clock() - self._looked < CHECK_SECONDS

    def find(self, authorization: str | None) -> Key | None:
        """As `identify`, by what was read last. How long it takes tells only about hashes, which nobody can turn into keys."""
        if self._file is None and not self._own:
            return ANONYMOUS
        if self._file is not None and self._clock() - self._good > STALE_SECONDS:
            raise Unreadable
        scheme, _, token = (authorization or "").partition(" ")
        found = self._keys.get(digest(token.strip()))
        if found is None or scheme.lower() != "bearer":
            return None
        return None if found.expires is not None and found.expires <= self._now() else found

    async def _renew(self) -> None:
        try:
            self._take(await asyncio.to_thread(self._read))
            self._good = self._clock()
        except Exception as error:  # noqa: BLE001 - stores fail in many ways; what was read last counts meanwhile
            log.error("the keys cannot be read again: %s", error)
        finally:
            self._looked = self._clock()
            self._looking = None

    def _take(self, found: tuple[object, tuple[Key, ...]] | None) -> None:
        if found is not None:
            self._version, keys = found
            self._keys = {**{key.hash: key for key in keys}, **self._own}

    def _read(self) -> tuple[object, tuple[Key, ...]] | None:
        """The file's version and its keys, None when it is the one that is known."""
        assert self._file is not None
        folder, leaf = _place(self._file)
        if folder.local_path is None:
            text = folder.read_text(leaf)  # a store's listing may be cached, its objects are not
            return None if text == self._version else (text, parse(text, self._file))
        try:
            told = os.stat(Path(folder.local_path, leaf))
        except OSError:
            return self._version, read(self._file)  # which says what is wrong
        version = (told.st_mtime_ns, told.st_ino, told.st_size)
        return None if version == self._version else (version, read(self._file))

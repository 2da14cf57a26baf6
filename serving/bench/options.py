"""What a load is: where it goes, how requests arrive, what they say, which delays would please."""

from __future__ import annotations

from dataclasses import dataclass

from manta.errors import InputError

APIS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


@dataclass(frozen=True)
class Options:
    """One load. Exactly one of `rate` and `concurrency` is given; times are in seconds unless a name says otherwise."""

    url: str
    model: str | None = None  # None: the first that the endpoint lists
    key: str | None = None
    rate: float | None = None  # requests a second, arriving as they would from many independent clients
    concurrency: int | None = None  # so many clients, each asking again as soon as it is answered
    requests: int = 100
    seed: int = 0
    prompt_tokens: int = 128  # of each generated prompt, unless `prompts` names a file
    prompts: str | None = None
    new_tokens: int = 64  # at most so many an answer
    ignore_eos: bool = False  # exactly `new_tokens` (a setting of vLLM and its like)
    api: str = "chat"
    timeout: float = 300.0  # of one request
    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def __post_init__(self) -> None:
        """Raises InputError for what makes no load."""
        if (self.rate is None) == (self.concurrency is None):
            raise InputError(
                "name --rate (requests arrive whatever the answers do) or --concurrency (so many wait for each answer), one of the two"
            )
        for name in ("rate", "concurrency", "requests", "prompt_tokens", "new_tokens", "timeout", "ttft_ms", "tpot_ms"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"--{name.replace('_', '-')} = {value!r}: give a number above 0")
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"{self.url!r} is not a URL: write for example http://127.0.0.1:8000")

    @property
    def base(self) -> str:
        """The endpoint's address without `/v1`."""
        return self.url.rstrip("/").removesuffix("/v1")

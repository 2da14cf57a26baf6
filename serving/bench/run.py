"""One load from start to end: the endpoint is looked at, the requests are made, sent, and summed up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from manta.progress import Progress
from serving.bench import prompts
from serving.bench.client import Client
from serving.bench.figures import figures
from serving.bench.load import arrivals, closed_loop, open_loop
from serving.bench.options import Options


def bench(options: Options, progress: Progress) -> dict[str, Any]:
    """Put the load on the endpoint and return its figures. Raises InputError when there is nothing to put it on."""
    return asyncio.run(_bench(options, progress))


async def _bench(options: Options, progress: Progress) -> dict[str, Any]:
    progress.begin("bench-serve", url=options.base)
    async with Client.connected(options) as client:
        if options.prompts is not None:
            texts = prompts.from_file(options.prompts, options.requests, options.api)
        else:
            texts = await prompts.generated(options.prompt_tokens, options.requests, options.seed, client.count)

        def told(done: int) -> None:
            progress.update(done, options.requests, "requests")

        cpu = time.process_time()
        if options.rate is not None:
            moments = arrivals(options.rate, options.requests, options.seed)
            course = await open_loop(client.ask, texts, moments, told)
        else:
            assert options.concurrency is not None
            course = await closed_loop(client.ask, texts, options.concurrency, told)
        found = figures(course, options, client.model, time.process_time() - cpu)
    progress.end()
    return found

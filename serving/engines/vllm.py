"""The engine of one replica: vLLM's AsyncLLM with vLLM's own OpenAI routes. The home of vLLM."""

from __future__ import annotations

import contextlib
import gc
import glob
import importlib.util
import json
import multiprocessing
import os
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver
from typing import Any
from unittest import mock

from manta.storage import Folder
from serving.door.openapi import add_route
from serving.door.signature import signed
from serving.engines.adapters import room
from serving.launch import Served, system_fingerprint

GPU_SLOTS = 8  # adapters in one batch on GPUs, where each slot takes memory; the others wait their turn
READING = "request_body_to_args"  # FastAPI's function that makes a body what a route takes


def environment(cpus: int, gpus: int) -> dict[str, str]:
    """Environment variables of a process that holds an engine; they must be set before it starts."""
    shared = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if gpus:
        return shared
    return shared | {
        # Replicas of one machine would all bind to core 0 otherwise.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(cpus),
        # The engine works in its own process as ever, but needs no third one for its only worker.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def arguments(served: Served, model: str, adapters: Mapping[str, str] | None = None) -> list[str]:
    """vLLM's command line for a model directory, as `vllm serve` would take it. `adapters`: name -> PEFT directory."""
    flags = ["--model", model, "--served-model-name", served.name, "--dtype", served.dtype, "--seed", str(served.seed)]
    flags += ["--load-format", "safetensors", "--max-num-seqs", str(served.max_ongoing_requests)]
    flags += ["--fingerprint-mode", "custom", "--fingerprint-value", system_fingerprint(served.fingerprint)]
    flags += ["--disable-fastapi-docs", "--enable-auto-tool-choice", "--tool-call-parser", served.tool_parser]
    if served.otlp_endpoint is not None:
        flags += ["--otlp-traces-endpoint", served.otlp_endpoint]
    if served.max_model_len is not None:
        flags += ["--max-model-len", str(served.max_model_len)]
    if not served.gpus:
        # Compiling takes longer than a small model gains on CPUs.
        flags += ["--enforce-eager", "--kv-cache-memory-bytes", str(int(served.kv_cache_gib * 2**30))]
    elif served.gpus > 1:
        flags += ["--tensor-parallel-size", str(served.gpus)]
    return flags + (_of_adapters(served, adapters) if adapters else [])


def _of_adapters(served: Served, folders: Mapping[str, str]) -> list[str]:
    """The part of the command line that is about LoRA.

    On CPUs vLLM 0.32 adds the adapter in the last slot to rows that ask for none, when others of their batch ask for one
    (it takes "none", -1, for an index). One slot more than there are adapters stays empty, and what is added is zero.
    """
    slots = min(len(folders), GPU_SLOTS) if served.gpus else len(folders) + 1
    rank = room([adapter.rank for adapter in served.adapters])
    flags = ["--enable-lora", "--max-loras", str(slots), "--max-cpu-loras", str(max(slots, len(folders)))]
    flags += ["--max-lora-rank", str(rank), "--lora-modules"]
    return flags + [json.dumps({"name": name, "path": path}) for name, path in folders.items()]


def usage(state: Mapping[str, Any]) -> tuple[int, int] | None:
    """Tokens of prompt and answer of a finished request, from what vLLM leaves in its ASGI state; None: it did not finish.

    It says so for streams too, where clients see a usage only if they ask for one.
    """
    told = getattr(state.get("request_metadata"), "final_usage_info", None)
    return None if told is None else (told.prompt_tokens, told.completion_tokens or 0)


def limit_prompts(client: Any, most: int) -> None:
    """Have `client.generate` refuse longer prompts (tokens) at once: vLLM answers the error with 400, and nothing is computed."""
    from vllm.exceptions import VLLMValidationError

    generate = client.generate

    def limited(prompt: Any, *args: Any, **kwargs: Any) -> Any:
        ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None
        if ids is not None and len(ids) > most:
            raise VLLMValidationError(
                f"The prompt has {len(ids)} tokens, over the limit of {most}.", parameter="prompt"
            )
        return generate(prompt, *args, **kwargs)

    client.generate = limited


class VLLM:
    """A running engine. `app` is the ASGI application of vLLM's OpenAI server around it."""

    def __init__(self, client: Any, app: Any, held: contextlib.ExitStack):
        self.client = client
        self.app = app
        self._held = held

    @classmethod
    async def start(cls, served: Served) -> VLLM:
        """Load the model and start its engine process. Takes seconds, blocks the event loop meanwhile."""
        with contextlib.ExitStack() as held:
            if not served.gpus:
                held.enter_context(_engine_from_fork_server())
            model = Folder(served.model)
            # What is remote is copied; what is local is used where it lies.
            folder = str(held.enter_context(model.local()))
            adapters = {one.name: str(held.enter_context(Folder(one.folder).local())) for one in served.adapters}
            client, app = await _start(arguments(served, folder, adapters))
            if adapters:
                app = signed(app, [app.state.openai_serving_chat, app.state.openai_serving_completion], served)
            if served.max_prompt_tokens is not None:
                limit_prompts(client, served.max_prompt_tokens)
            gc.collect()
            gc.freeze()  # what is alive now stays: the collector need not walk it while tokens stream
            return cls(client, app, held.pop_all())

    async def alive(self) -> bool:
        return not self.client.errored

    async def generate_once(self) -> None:
        """Generate one token, greedily. Raises when the engine cannot."""
        from vllm import SamplingParams

        one = SamplingParams(max_tokens=1, temperature=0.0)
        prompt = {"prompt_token_ids": [1]}
        async for _ in self.client.generate(prompt, one, request_id=f"probe-{os.urandom(8).hex()}"):
            pass

    def process_ids(self) -> list[int]:
        """The engine's own processes, besides the one this is called in."""
        return [child.pid for child in multiprocessing.active_children() if child.pid]

    def stop(self) -> None:
        self.client.shutdown()
        self._held.close()


async def _start(flags: list[str]) -> tuple[Any, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.fingerprint import set_default_fingerprint_mode
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(flags)
    validate_parsed_serve_args(args)
    set_default_fingerprint_mode(args.fingerprint_mode, args.fingerprint_value)
    client = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args))
    try:
        tasks = await client.get_supported_tasks()
        app = build_app(args, tasks, client.model_config)
        await init_app_state(client, app.state, args, tasks)
        for path in app.state.openai_serving_models.base_model_paths:
            path.model_path = path.name  # /v1/models would tell clients where on this machine the model lies
        add_route(app)
        refuse_wrong_types(app)
    except BaseException:
        client.shutdown()
        raise
    return client, app


def refuse_wrong_types(app: Any) -> None:
    """Have vLLM's server (a FastAPI application) answer 400 where its reading of a body trips over a value's type.

    Its own checks ask some fields for parts before it is known that they have any (AttributeError), and that would be
    a 500. The same error from anywhere else stays one.
    """
    from fastapi.responses import JSONResponse

    async def answer(_: Any, error: Exception) -> JSONResponse:
        if not any(frame.f_code.co_name == READING for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise error
        told = {"message": "A field of the request has a value of a wrong type.", "type": "BadRequestError", "param": None, "code": 400}  # fmt: skip
        return JSONResponse({"error": told}, 400)

    app.add_exception_handler(AttributeError, answer)
    app.middleware_stack = app.build_middleware_stack()  # vLLM has built it already, with the handlers of then


@contextlib.contextmanager
def _engine_from_fork_server() -> Iterator[None]:
    """Fork the engine's process from a server that imports vLLM at the same time as this process does.

    vLLM would spawn it after its own import is done, and that process would then import everything once more (about
    eleven CPU seconds), one after the other. (A plain fork is no choice: this process holds Ray's threads.)
    """
    allocator = _allocator()
    if allocator:  # vLLM preloads it into what it spawns, for the same reason: fewer page faults
        os.environ["LD_PRELOAD"] = ":".join(filter(None, (allocator, os.environ.get("LD_PRELOAD"))))
    forkserver.set_forkserver_preload(["serving.engines.preload"])
    forkserver.ensure_running()
    import vllm.v1.engine.utils

    context = multiprocessing.get_context("forkserver")
    with mock.patch.object(vllm.v1.engine.utils, "get_mp_context", return_value=context):
        yield


def _allocator() -> str | None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = sorted(glob.glob(f"{spec.submodule_search_locations[0]}/libs/libtcmalloc*.so*"))
    return found[0] if found else None

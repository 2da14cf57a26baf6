"""The runner of models that answer tasks: Transformers in the replica's own process, in a thread beside its event loop."""

from __future__ import annotations

import asyncio
import contextlib

from manta.storage import Folder
from serving.door.answers import App
from serving.launch import Served
from serving.tasks.app import TaskApp
from serving.tasks.model import Model


class Transformers:
    """A loaded model. `app` is the ASGI application of its tasks."""

    def __init__(self, tasks: TaskApp, held: contextlib.ExitStack):
        self.app: App = tasks
        self._tasks = tasks
        self._held = held

    @classmethod
    async def start(cls, served: Served) -> Transformers:
        """Load the model and have it answer once. Raises where it cannot."""
        with contextlib.ExitStack() as held:
            folder = held.enter_context(Folder(served.model).local())
            device = "cuda" if served.gpus else "cpu"
            lengths = (served.max_model_len, served.max_prompt_tokens)
            model = await asyncio.to_thread(Model, folder, served.dtype, served.taught, *lengths, device)
            app = TaskApp(served.name, served.tasks, model)
            await app.probe()
            return cls(app, held.pop_all())

    async def alive(self) -> bool:
        """The model is this process: what can be asked lives."""
        return True

    async def generate_once(self) -> None:
        """Answer a small request of each task. Raises when that does not work."""
        await self._tasks.probe()

    def process_ids(self) -> list[int]:
        """None besides the one this is called in."""
        return []

    def stop(self) -> None:
        self._tasks.stop()
        self._held.close()

"""Start an endpoint, keep it until told to stop, and end it without leaving a process: blocking or detached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manta import artifact as artifacts
from manta import cluster
from manta import recipe as recipes
from manta.errors import EXIT_DONE, EXIT_INTERRUPTED, GateRefused, InputError, MantaError, StageFailed
from manta.progress import Progress
from manta.schema import ServeRecipe
from manta.storage import Folder
from serving import launch as launches
from serving import update as updates
from serving.deploy import STOP_SECONDS, Running, born, end_processes, endpoint, is_alive, is_healthy
from serving.launch import Launch

STATE, LOG, RECIPE = "server.json", "server.log", "server.yaml"
NEXT, UPDATED = "next.yaml", "updated.json"  # what it shall become, and how that went
FIGURES, CALLED_OFF = (
    "canary.json",
    "called-off",
)  # how a canary does and what became of it; that nobody wants it any more
HOME = "MANTA_SERVER_FOLDER"  # where a detached server finds these
_KINDS: dict[int, type[MantaError]] = {InputError.exit_code: InputError, GateRefused.exit_code: GateRefused}


def serve(recipe: ServeRecipe, progress: Progress) -> None:
    """Run the endpoint until Ctrl-C, then shut it down."""
    progress.begin(f"serve {recipe.name}", kind="serve", name=recipe.name)
    with endpoint(recipe, progress) as running:
        models = running.launch.models
        described = {"url": running.url, "models": list(models), "fingerprint": running.launch.fingerprint}
        progress.note(
            f"ready after {running.ready_seconds:.0f} s: {running.url}/v1 (model {', '.join(models)}); Ctrl-C stops it",
            **described,
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has put its own there
        update_asked = threading.Event()
        if HOME in os.environ:  # a detached one, which SIGHUP has become what NEXT says
            signal.signal(signal.SIGHUP, lambda *_: update_asked.set())
        _announce(running)
        try:
            _watch(running, update_asked, progress)
        except KeyboardInterrupt:
            progress.note("stopping")
    progress.note("stopped")
    progress.end()


def _watch(running: Running, update_asked: threading.Event, progress: Progress) -> None:
    """Say when the endpoint breaks and when it is back; Serve replaces dead replicas by itself. Ends by Ctrl-C."""
    good = True
    while True:
        if update_asked.wait(2):
            update_asked.clear()
            running = _become_next(running, Path(os.environ[HOME]), progress)
        if is_healthy(running.url) != good:
            good = not good
            name = running.launch.name
            progress.note("answering again" if good else f"{name} does not answer: Serve is restarting it")


def _become_next(running: Running, folder: Path, progress: Progress) -> Running:
    """Update the endpoint, and tell `update` how that went. Returns what runs from now on."""
    try:
        recipe = recipes.load(folder / NEXT, kind="serve")
        assert isinstance(recipe, ServeRecipe)
        running = updates.update(
            running,
            recipe,
            progress,
            lambda figures: Folder(folder).write_text(FIGURES, json.dumps(figures, indent=2) + "\n"),
            lambda: not (folder / CALLED_OFF).exists(),
        )
    except MantaError as error:
        (folder / NEXT).unlink(missing_ok=True)
        told: dict[str, Any] = {"code": error.exit_code, "said": str(error)}
    else:
        _announce(running)
        (folder / NEXT).replace(folder / RECIPE)
        told = {"code": EXIT_DONE, "said": f"replaced after {running.ready_seconds:.0f} s"}
    progress.note(told["said"])
    Folder(folder).write_text(UPDATED, json.dumps(told) + "\n")
    return running


# --- detached --------------------------------------------------------------------------------------------------------


def detach(recipe: ServeRecipe, progress: Progress) -> str:
    """Start the endpoint as a process of its own, wait until it is ready, and return what to tell the user.

    Raises what the endpoint's own start raised.
    """
    launch = launches.prepare(recipe)
    folder = _state_folder(recipe)
    if (state := _read_state(folder)) is not None and _is_server(state):
        raise InputError(
            f"{recipe.name} runs already: {state['url']} (process {state['pid']}); `manta serve stop {folder}` ends it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).unlink(missing_ok=True)
    (folder / NEXT).unlink(missing_ok=True)
    Folder(folder).write_text(RECIPE, recipes.to_yaml(recipe))
    progress.note(f"starting {recipe.name} in the background; its log is {folder / LOG}")
    with (folder / LOG).open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "serving.run", str(folder / RECIPE)]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        while (state := _read_state(folder)) is None:
            if child.poll() is not None:
                raise _as_it_was(child.returncode, (folder / LOG).read_text(encoding="utf-8"), folder / LOG)
            time.sleep(0.1)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait(STOP_SECONDS)
        raise
    return (
        f"{recipe.name} is ready: {state['url']}/v1 (process {state['pid']})\n"
        f"  {_first_step(launch, state['url'])}\n  manta serve stop {folder}"
    )


def update(recipe: ServeRecipe, progress: Progress) -> str:
    """Have a detached endpoint become what the recipe says now, with no request failed. Returns what to tell the user.

    Raises what the update raised: the endpoint then goes on as it was.
    """
    folder = _state_folder(recipe)
    if (state := _read_state(folder)) is None or not _is_server(state):
        raise InputError(f"{recipe.name} does not run in the background: start it with `manta serve RECIPE --detach`")
    if (folder / NEXT).exists():
        raise InputError(f"{recipe.name} is being updated already: wait, or delete {folder / NEXT} if nobody asked")
    for old in (UPDATED, FIGURES, CALLED_OFF):
        (folder / old).unlink(missing_ok=True)
    Folder(folder).write_text(NEXT, recipes.to_yaml(recipe))
    os.kill(state["pid"], signal.SIGHUP)
    progress.note(f"new replicas of {recipe.name} start beside the old ones; its log is {folder / LOG}")
    try:
        told = _wait_updated(recipe.name, folder, state, progress)
    except KeyboardInterrupt:
        if recipe.serve.canary is None:  # nothing waits for a decision
            raise
        (folder / CALLED_OFF).touch()
        progress.note("calling it off: the old version goes on; Ctrl-C again does not wait for that")
        progress.note(_wait_updated(recipe.name, folder, state, progress)["said"])
        raise
    if told["code"] != EXIT_DONE:
        raise _KINDS.get(told["code"], StageFailed)(told["said"])
    return f"{recipe.name} is {told['said']}: {state['url']}/v1"


def _wait_updated(name: str, folder: Path, state: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """How an update went, when it has; its canary is shown meanwhile. Raises StageFailed if the server ends."""
    shown, looks = "", 0
    while not (folder / UPDATED).exists():
        if not _is_server(state):
            raise StageFailed(f"{name} ended while it was updated: see {folder / LOG}")
        if (folder / FIGURES).exists() and (text := (folder / FIGURES).read_text(encoding="utf-8")) != shown:
            shown, looks = text, _show(json.loads(text), looks, progress)
        time.sleep(0.1)
    return dict(json.loads((folder / UPDATED).read_text(encoding="utf-8")))


def _show(figures: Mapping[str, Any], shown: int, progress: Progress) -> int:
    """Show how a canary does, the findings of a look once. `shown`: looks until now. Returns those with this."""
    models, wanted = figures["models"], figures["settings"]["requests"]
    if figures["state"] != "comparing":
        return shown
    looks = sum(one["looks"] for one in models.values())
    for name, one in models.items() if looks > shown else ():
        progress.note(f"{name}: " + "; ".join(figure["text"] for figure in one["figures"]), **one)
    fewest = min(one["canary"]["requests"] for one in models.values())
    stable, canary = (sum(one[of]["errors"] for one in models.values()) for of in ("stable", "canary"))
    progress.update(min(fewest, wanted), wanted, "requests", canary_errors=canary, stable_errors=stable)
    return looks


def _first_step(launch: Launch, url: str) -> str:
    """What to do with an endpoint: talk to it, where a model writes text, else see what it answers."""
    return f"curl {url}/v1/tasks" if all(one.tasks for one in launch.served) else f"manta chat {url}"


def stop(target: str) -> str:
    """End a detached endpoint, named by its recipe file, its folder or its name. Returns what to tell the user."""
    folder = _find_state(target)
    state = _read_state(folder)
    if state is None:
        raise InputError(f"no endpoint was started in {folder} (no {STATE}): `manta serve RECIPE --detach` starts one")
    if not _is_server(state):
        (folder / STATE).unlink(missing_ok=True)
        return f"{state['name']} was not running any more (process {state['pid']} is gone)"
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _is_server(state):
        if time.monotonic() > deadline:
            os.killpg(state["pid"], signal.SIGKILL)  # it leads a session of its own: nothing else is in its group
            deadline += STOP_SECONDS
        time.sleep(0.1)
    end_processes({int(pid): birth for pid, birth in state["processes"].items()}, patience=5)
    (folder / STATE).unlink(missing_ok=True)
    return f"{state['name']} is stopped ({state['url']} is free)"


def _announce(running: Running) -> None:
    """Tell `detach`, if it started this process, that the endpoint is ready."""
    folder = os.environ.get(HOME)
    if folder is not None:
        state = {
            "name": running.launch.name,
            "url": running.url,
            "pid": os.getpid(),
            "born": born(os.getpid()),
            "processes": running.processes,
            "fingerprint": running.launch.fingerprint,
            "ready_seconds": round(running.ready_seconds, 1),
        }
        Folder(folder).write_text(STATE, json.dumps(state, indent=2) + "\n")


def _state_folder(recipe: ServeRecipe) -> Path:
    """Beside the artifact of the same name, not in it: making that again must not forget a running server."""
    folder = Folder(f"{artifacts.locate(recipe.name, recipe.output)}.server").local_path
    if folder is None:
        raise InputError(
            f"output = {recipe.output!r}: --detach keeps its log and state there, so it must be a local folder"
        )
    return folder


def _find_state(target: str) -> Path:
    path = Path(target)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        recipe = recipes.load(path, kind="serve")
        assert isinstance(recipe, ServeRecipe)
        return _state_folder(recipe)
    if (path / STATE).exists():
        return path
    return Path(f"{artifacts.locate(target, 'runs')}.server")


def _read_state(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise InputError(f"{folder / STATE} is damaged ({error}): delete it") from error


def _is_server(state: Mapping[str, Any]) -> bool:
    """Whether the process of a state file still runs."""
    return is_alive(state["pid"], state["born"])


def _as_it_was(code: int, log: str, where: Path) -> MantaError:
    """The error that ended a detached start, from its exit code and the end of its log."""
    lines = [line for line in log.splitlines() if line.startswith("manta: ")]
    said = lines[-1].removeprefix("manta: ") if lines else f"it ended with exit code {code}"
    return _KINDS.get(code, StageFailed)(f"{said} (log: {where})")


def main(arguments: list[str]) -> int:
    """The process that `detach` starts. Messages go to its log, which `detach` reads when the start fails."""
    [file] = arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ[HOME] = str(Path(file).parent)
    progress = Progress()
    try:
        recipe = recipes.load(file, kind="serve")
        assert isinstance(recipe, ServeRecipe)
        serve(recipe, progress)
    except MantaError as error:
        print(f"manta: {error}".replace("\n", " "), file=sys.stderr, flush=True)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        cluster.disconnect()
    return EXIT_DONE


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as `manta` does: Ray is shut down, and must not have the last word

"""What all tests share: an environment of their own, Ray when they ask for it, and a check that nothing is left running."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
MARK = "MANTA_TEST_RUN"
# Ray's agents whose driver was killed while they started look for it for a minute before they end.
PATIENCE_S = 90.0

# Of pytest-xdist's workers each is a process of the one run: same mark, a scratch folder inside the run's.
SCRATCH = "MANTA_TEST_SCRATCH"
_worker = os.environ.get("PYTEST_XDIST_WORKER")
_mark = os.environ[MARK] if _worker else secrets.token_hex(8)
# Ray's sockets need a path under 108 characters, which pytest's temporary folders exceed.
_run_scratch = os.environ[SCRATCH] if _worker else tempfile.mkdtemp(prefix="mt-", dir="/tmp")
_scratch = Path(_run_scratch) / _worker if _worker else Path(_run_scratch)
_scratch.mkdir(exist_ok=True)
_popens: list[subprocess.Popen[str]] = []

# At import, before any test module can import Ray or Hugging Face libraries, which read these once.
for _name in [name for name in os.environ if name.startswith(("MANTA_", "RAY_"))]:
    del os.environ[_name]
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes: none compiles what another did
if _worker:
    os.environ["OMP_NUM_THREADS"] = "1"  # as many processes as cores already
os.environ |= {
    MARK: _mark,
    SCRATCH: _run_scratch,
    "RAY_TMPDIR": str(_scratch),
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}

# A shell that starts the tests in the background has them ignore Ctrl-C, and what ignores it hands that on to its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("manta", deadline=None)
settings.load_profile("manta")


# --- nothing is left running -----------------------------------------------------------------------------------------


def _is_ours(process: psutil.Process) -> bool:
    """Whether the tests started this process, however many parents have died since.

    The marker variable is inherited, but Ray and vLLM overwrite their environment when they rename themselves; those
    keep their logs or their working directory under the run's scratch folder.
    """
    scratch = str(_scratch)
    with contextlib.suppress(psutil.Error, OSError):
        if process.environ().get(MARK) == _mark:
            return True
    with contextlib.suppress(psutil.Error, OSError):
        if any(scratch in word for word in process.cmdline()) or process.cwd().startswith(scratch):
            return True
    with contextlib.suppress(psutil.Error, OSError):
        return any(file.path.startswith(scratch) for file in process.open_files())
    return False


def leftovers() -> list[psutil.Process]:
    """Living processes that the tests started: this process's descendants and orphans that carry the mark."""
    me = psutil.Process()
    mine = {me.pid, *(parent.pid for parent in me.parents())}
    found = {process.pid: process for process in me.children(recursive=True)}
    for process in psutil.process_iter():
        if process.pid not in mine and process.pid not in found and _is_ours(process):
            found[process.pid] = process
            with contextlib.suppress(psutil.Error):
                found.update({child.pid: child for child in process.children(recursive=True)})
    return [p for p in found.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE and not _is_tracker(p)]


def _is_tracker(process: psutil.Process) -> bool:
    """Python's own helper of multiprocessing, which lives exactly as long as its parent: this process."""
    with contextlib.suppress(psutil.Error):
        return process.ppid() == os.getpid() and "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    return False


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:160]}"
    return str(process.pid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a process of the tests outlives it, then end that process."""
    for popen in _popens:
        if popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
    if _worker:  # the process that started it looks at what all have left
        return
    deadline = time.monotonic() + PATIENCE_S
    while (left := leftovers()) and time.monotonic() < deadline:
        time.sleep(0.2)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.stash[_left_key] = [_describe(process) for process in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
    shutil.rmtree(_scratch, ignore_errors=True)


_left_key = pytest.StashKey[list[str]]()
_session_key = pytest.StashKey[pytest.Session]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_session_key] = session


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Out as `manta` itself goes out, see manta.cli.entry: a native thread of Ray that wakes up while the interpreter goes
    down ends the process with a segmentation fault, after every test has passed and been told."""
    if _worker or (session := config.stash.get(_session_key, None)) is None:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(int(session.exitstatus))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if left := config.stash.get(_left_key, None):
        terminalreporter.section("processes that outlived the tests", red=True)
        for line in left:
            terminalreporter.line(line)


@pytest.fixture(scope="module", autouse=True)
def torchs_own_kernels() -> Iterator[None]:
    """What a module's tests put into the place of torch's kernels ends with it: others would round and draw otherwise."""
    yield
    if "manta.kernels" in sys.modules:
        from manta import kernels

        kernels.keep.cache_clear()


# --- engines ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """A Ray on this machine for one module's tests."""
    from manta import cluster

    cluster.connect(minimum_cpus=2)
    yield
    cluster.disconnect()


class Head(NamedTuple):
    """A cluster to submit to: `address` for drivers, `dashboard` for jobs, `env` for subprocesses."""

    address: str
    dashboard: str
    env: dict[str, str]


@pytest.fixture(scope="module")
def ray_head(wait_until: Callable[..., None]) -> Iterator[Head]:
    """A cluster started with `ray start --head`, token authentication on; it ends with the module."""
    home = Path(tempfile.mkdtemp(prefix="h-", dir=_scratch))
    token = secrets.token_hex(16)
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    gcs, dashboard, agent_grpc, agent_http, metrics = (find_free_port() for _ in range(5))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [
        f"--port={gcs}",
        f"--dashboard-port={dashboard}",
        "--include-dashboard=true",
        "--num-cpus=4",
        "--node-ip-address=127.0.0.1",
    ]
    command += [
        f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--dashboard-agent-listen-port={agent_http}",
        f"--metrics-export-port={metrics}",
    ]
    log = home / "ray-start.log"
    with log.open("w") as out:
        # As in an activated environment: the entrypoint `python jobs/...` of a job is this Python.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        inherited = os.environ | env | {"RAY_TMPDIR": str(home), "PATH": path}
        process = subprocess.Popen(
            command, env=inherited, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True, text=True
        )
    _popens.append(process)
    head = Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", env | {"RAY_ADDRESS": f"127.0.0.1:{gcs}"})

    def answers() -> bool:
        assert process.poll() is None, f"ray start ended:\n{log.read_text()[-3000:]}"
        return _accepts(gcs) and _accepts(dashboard) and _accepts(agent_http)

    wait_until(answers, seconds=180, what="the head node does not answer")
    yield head
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()  # `--block` ends its own node, unlike `ray stop`, which ends every Ray of the machine
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- helpers ---------------------------------------------------------------------------------------------------------


class MantaCli:
    """Calls `manta` in a process of its own."""

    def _prepare(self, arguments: tuple[Any, ...], env: dict[str, str] | None) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-m", "manta.cli", *map(str, arguments)], os.environ | (env or {})

    def __call__(
        self, *arguments: Any, cwd: Path | str | None = None, env: dict[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; on a time-out the whole process group is ended."""
        process = self.start(*arguments, cwd=cwd, env=env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"manta {' '.join(map(str, arguments))} took over {timeout} s:\n{out[-2000:]}\n{err[-4000:]}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(
        self, *arguments: Any, cwd: Path | str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start in a new process group, for tests that interrupt or kill."""
        command, environment = self._prepare(arguments, env)
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command,
            cwd=cwd or ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )
        _popens.append(process)
        return process


@pytest.fixture(scope="session")
def manta_cli() -> MantaCli:
    return MantaCli()


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A fresh folder for artifacts."""
    return str(tmp_path / "runs")


@pytest.fixture
def silent() -> Any:
    """Progress that says nothing."""
    from manta.progress import Progress

    return Progress(quiet=True)


def find_free_port() -> int:
    """Below those that the system hands out to whoever asks for any: nobody takes it before it is used."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Poll a condition: wait_until(predicate, seconds=60, what="the server answers")."""

    def wait(predicate: Callable[[], Any], seconds: float = 60, what: str = "the condition does not come true") -> None:
        deadline = time.monotonic() + seconds
        while not predicate():
            if time.monotonic() > deadline:
                pytest.fail(f"{what} (waited {seconds:g} s)")
            time.sleep(0.1)

    return wait


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.jsonl and b.jsonl: 400 docstrings of the standard library, and how many are exact duplicates.

    Each line is {"id", "text"}, 200 to 1,500 characters. `planted.json` is {"documents": 400, "duplicates": 20}: the
    last 20 lines of b.jsonl repeat texts of a.jsonl.
    """
    folder = tmp_path_factory.mktemp("corpus")
    texts = _docstrings(380)
    texts += texts[:20]
    rows = [json.dumps({"id": f"doc-{number:03}", "text": text}) for number, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(rows[:200]) + "\n")
    (folder / "b.jsonl").write_text("\n".join(rows[200:]) + "\n")
    (folder / "planted.json").write_text(json.dumps({"documents": len(rows), "duplicates": 20}))
    return folder


def _docstrings(wanted: int) -> list[str]:
    import ast
    import inspect

    found: dict[str, None] = {}
    library = Path(ast.__file__).parent
    for source in sorted(library.glob("*.py")):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                text = inspect.cleandoc(ast.get_docstring(node) or "")
                if 200 <= len(text) <= 1500:
                    found[text] = None
        if len(found) >= wanted:
            break
    assert len(found) >= wanted, "the standard library has fewer docstrings than expected"
    return list(found)[:wanted]

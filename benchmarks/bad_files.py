"""How soon `manta finetune` tells what is wrong with a file of examples: from the start of the process to exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import harness
import yaml

GOOD = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(2000)]


class Bad(NamedTuple):
    """A file that cannot be learnt from, and what the answer must say."""

    name: str
    content: bytes
    said: str
    task: str = "classification"
    validation: bytes = b""


def _lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


KINDS = {
    "wrong column": Bad("x.jsonl", _lines([{"sentence": "s", "label": "x"}] * 2000), "data.columns.text=sentence"),
    "wrong type of label": Bad("x.jsonl", _lines([*GOOD, {"text": "t", "label": 0.5}]), "line 2001 has a 'label'"),
    "empty text": Bad("x.csv", b"text,label\n" + b"a,x\n" * 2000 + b"  ,y\n", "line 2002 has an empty 'text'"),
    "mixed encodings": Bad("x.csv", "text,label\ncafé,x\n".encode() + b"caf\xe9,y\n", "mixes encodings"),
    "leak between the files": Bad("x.jsonl", _lines(GOOD), "are also trained on", validation=_lines(GOOD[:50])),
    "one class only": Bad("x.jsonl", _lines([{**each, "label": "a"} for each in GOOD]), "nothing to tell apart"),
    "broken JSON": Bad("x.jsonl", _lines(GOOD) + b"{broken\n", "line 2001 is not JSON"),
    "broken CSV": Bad("x.csv", b'text,label\na,x\n"b" c,x\n', "line 3 is broken CSV"),
    "words without tags": Bad("x.conll", b"Jo B-PER\nran\n", "has 1 bad of 1", task="tagging"),
    "no examples": Bad("x.jsonl", b"\n\n", "holds no examples"),
}


def measure(bench: harness.Bench, model: Path, folder: Path) -> None:
    """Put the longest wait for an answer into the row; a kind that is not refused, or not so, breaks the benchmark off."""
    taken = {kind: seconds(bad, model, folder / kind.replace(" ", "-")) for kind, bad in KINDS.items()}
    for kind, waited in taken.items():
        bench.say(f"{bench.name}: {kind}: {waited:.2f} s to the answer")
    slowest = max(taken, key=taken.__getitem__)
    note = f"process start to exit code 2, the slowest of {len(taken)} kinds: {slowest}"
    bench.figure("bad_file_seconds_max", taken[slowest], "s", note)


def seconds(bad: Bad, model: Path, folder: Path) -> float:
    """From the start of the process to its end. Raises RuntimeError unless it refuses the file for the right reason."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / bad.name).write_bytes(bad.content)
    data: dict[str, Any] = {"examples": str(folder / bad.name)}
    if bad.validation:
        (folder / f"validation-{bad.name}").write_bytes(bad.validation)
        data["validation"] = str(folder / f"validation-{bad.name}")
    raw = {
        "kind": "finetune", "name": "bad", "output": str(folder / "runs"), "data": data, "model": {"source": str(model)},
        "task": {"name": bad.task}, "batch": {"samples": 8}, "stop": {"steps": 1},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    began = time.monotonic()
    words = [sys.executable, "-m", "manta.cli", "finetune", str(folder / "recipe.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    waited = time.monotonic() - began
    if done.returncode != 2 or bad.said not in done.stderr:
        raise RuntimeError(
            f"{bad.said!r} was to be said, with exit code 2; got {done.returncode}: {done.stderr[-500:]}"
        )
    return waited

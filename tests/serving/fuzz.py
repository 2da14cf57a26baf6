"""Schemathesis against an endpoint, as its users run it: requests made from the OpenAPI page, right and wrong ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

# No server error; status, type, headers and body as the page says; keys are asked for; no method beyond those told.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)
PATIENCE = 240.0  # seconds; more than any bounds that a test sets
RUN = "from schemathesis.cli import schemathesis; schemathesis()"


class Found(NamedTuple):
    """What a run did: requests made, of each operation those that were answered well and those refused, and what is wrong."""

    requests: int
    rates: dict[str, tuple[int, int]]
    wrong: list[str]  # kind of failure and the operations it was seen at
    told: str  # the run's own words


def fuzz(url: str, key: str, folder: Path, *bounds: str) -> Found:
    """Ask within `bounds` (of time or number: options of schemathesis). Raises RuntimeError where the run itself fails."""
    report = folder / "fuzz.json"
    command = [sys.executable, "-c", RUN, "run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {key}"]
    command += ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", *bounds]
    # Several workers trip over each other in Python 3.11: hypothesis reads source code in each of their threads.
    command += ["--workers", "1", "--request-timeout", "30", "--continue-on-failure", "--no-shrink", "--seed", "1"]
    command += ["--generation-database", "none", "--suppress-health-check", "all", "--no-color", "--warnings", "off"]
    command += ["--report-json-path", str(report)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode not in (0, 1) or not report.exists():
        raise RuntimeError(f"schemathesis ended with {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    told = json.loads(report.read_text())
    wrong = [f"{one['title']}: {', '.join(one['operations'])}" for one in told["failures"]]
    wrong += [one["title"] for one in told["errors"]]
    rates = {name: _rate(by_phase) for name, by_phase in told["valid_rates"].items()}
    return Found(told["test_cases"]["generated"], rates, wrong, done.stdout)


def _rate(by_phase: dict[str, dict[str, int]]) -> tuple[int, int]:
    return sum(one["accepted"] for one in by_phase.values()), sum(one["rejected"] for one in by_phase.values())

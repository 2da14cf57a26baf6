"""Runs the generate stage as a Ray job: `ray job submit --working-dir . -- python jobs/generate.py RECIPE [key=value ...]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "platform"), str(ROOT)]  # the submitted copy, not one that the cluster has installed

from manta import cli  # noqa: E402

sys.argv.insert(1, "generate")
cli.entry()

"""Runs the endpoint as a Ray job: `ray job submit --working-dir . -- python jobs/serve.py RECIPE [key=value ...]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "platform"), str(ROOT)]  # the submitted copy, not one that the cluster has installed

from manta.cli import main  # noqa: E402

sys.exit(main(["serve", *sys.argv[1:]]))

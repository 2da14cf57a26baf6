"""`python -m manta.train.warm`: build at set-up what DeepSpeed would otherwise compile at the first training step."""

from __future__ import annotations

import sys

from manta.train.shm_op import warm

if __name__ == "__main__":
    sys.stderr.write(warm() + "\n")

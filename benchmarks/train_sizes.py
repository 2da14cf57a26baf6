"""Does what `train.py` finds hold for a larger model, and when both sides are compiled?

The layers of SmolLM2-135M (vocabulary of 8,192: 111 million weights) against the bare loop and the Hugging Face Trainer with
DeepSpeed, two rows of 256 tokens a step; and the small Llama of `train.py` compiled by torch.compile on both sides. Same rows,
fp32, AdamW, threads; tokens per second of warm steps, and the peak that the training process held.
"""

from __future__ import annotations

import harness
import train

from manta import cluster

LARGE = {True: train.Shape("llama-135m", 2, 9, 1), False: train.Shape("llama-135m", 2, 24, 3)}
SMALL = {True: train.Shape("llama-7m", 8, 20, 2), False: train.Shape("llama-7m", 8, 60, 3)}


def main() -> None:
    with harness.bench("train_sizes", __doc__) as bench:
        shards = train.prepared(bench)
        try:
            train.speed(bench, shards, LARGE[bench.quick], ("manta", "bare", "hf_trainer"), suffix="_135m")
            train.speed(bench, shards, SMALL[bench.quick], ("manta_compiled", "bare_compiled"))
        finally:
            cluster.disconnect()


if __name__ == "__main__":
    main()

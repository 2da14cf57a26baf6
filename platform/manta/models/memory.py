"""What one worker holds while it trains, by part, under each ZeRO stage: from a model's config.json and the settings alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from manta.models import formulas
from manta.models.families import Config

BYTES = formulas.BYTES
FP32 = BYTES["fp32"]
# DeepSpeed's defaults, in numbers: gradients that are summed at a time, weights that stage 3 keeps gathered.
BUCKET, LIVE = 500_000_000, 1_000_000_000
# Bytes of a logit when most of them are there at once: the loss's fp32 logarithms, their gradient, and the logits' own.
LOGIT = 3 * FP32
# On a CPU, copies of what is sent (with gloo's own, and holes in the heap), of one worker and of several, by stage; and
# the pools of the threads that send. Fitted to models of 7M, 26M and 58M weights.
COPIED = ((0.2, 1.4), (0.7, 2.3), (0.5, 2.5), (2.3, 4.4))
POOLS = 40 * 2**20
STACKED = 2**25  # elements of matrices that Muon makes orthogonal in one go


@dataclass(frozen=True)
class Setting:
    """What decides about memory beside the model. Lengths in tokens, `micro_batch` in rows."""

    seq_len: int
    micro_batch: int
    workers: int = 1
    zero_stage: int = 1
    precision: str = "bf16"
    optimizer: str = "adamw"
    momentum: bool = True  # whether SGD has it
    trainable: int | None = None  # weights that move; none: all
    accumulation: int = 1  # passes a step
    target_len: int | None = None  # of an encoder-decoder's decoder; none: T5's share of seq_len
    scored: float = 1.0  # share of the predicted positions whose logits are computed
    isolated: bool = False  # documents of a row do not see each other
    sides: int = 1  # texts of a row, each of seq_len
    checkpointing: bool = False
    gpu: bool = False
    offload: str = "none"
    overlap: bool | None = None
    bucket_bytes: int | None = None
    teacher: int = 0  # bytes of a second model that each worker asks, and of its answers to a row
    told: int = 0


def moments(optimizer: str, momentum: bool) -> int:
    """fp32 values that an optimizer keeps for each weight; for Muon those of a matrix, of which most weights are part."""
    return {"adamw": 2, "adam": 2, "lion": 1, "muon": 1, "sgd": int(momentum)}[optimizer]


def training(config: Config, setting: Setting) -> dict[str, int]:
    """Bytes of one worker by part, at the moment of a step when it holds most: their sum is the peak, without the process.

    weights, gradients, optimizer (its moments, and the fp32 weights that it steps where those of the model are others),
    activations (with the logits), buffers (what DeepSpeed sums gradients in, weights that stage 3 gathers), and on a CPU
    snapshot (the copy that checkpoints are written from, see `snapshot`); teacher, where a second model is at hand. ZeRO (arXiv:1910.02054): stage 1 spreads the
    optimizer's part over the workers, 2 also the gradients, 3 also the weights. How DeepSpeed goes about it was read in
    and measured with deepspeed 0.19.8.
    """
    total = formulas.num_parameters(config)
    moving = total if setting.trainable is None else setting.trainable
    held = _held(config, setting, total, moving)
    if setting.teacher:
        held["teacher"] = setting.teacher + setting.micro_batch * setting.told
    rows = setting.micro_batch * setting.sides * _row(config, setting)
    lasting, passing = _buffers(setting, total, moving)
    if setting.optimizer == "muon":
        passing = max(passing, _orthogonal(moving - _tables(config) if moving == total else moving))
    if setting.optimizer == "lion" and setting.offload == "none":
        passing += moving * FP32 // (setting.workers if setting.zero_stage else 1)  # the update, beside its momentum
    if setting.gpu:
        # What is freed is used again: either the backward pass begins, or its gradients are summed at its end.
        if rows >= passing:
            return held | {"activations": rows, "buffers": lasting}
        return held | {"activations": 0, "buffers": lasting + passing}
    # A CPU's heap keeps what is freed (train.memory), in pieces that are too small for what is summed in one.
    return held | {"activations": rows, "buffers": lasting + passing, "snapshot": snapshot(config, setting)}


def snapshot(config: Config, setting: Setting) -> int:
    """Bytes of host memory for the copy of weights and optimizer state that the first worker's checkpoint is written from."""
    total = formulas.num_parameters(config)
    moving = total if setting.trainable is None else setting.trainable
    weights = 0 if setting.zero_stage == 3 else total * BYTES[setting.precision]
    return weights + _held(config, replace(setting, offload="none"), total, moving)["optimizer"]


def _row(config: Config, setting: Setting) -> int:
    """Bytes of a row's activations and logits when the backward pass begins."""
    found = formulas.shape(config)
    kept = formulas.activations(
        config,
        setting.seq_len,
        setting.precision,
        target_len=setting.target_len,
        isolated=setting.isolated,
        checkpointing=setting.checkpointing,
        gpu=setting.gpu,
    )
    predicted = setting.seq_len if found.decoder is None else formulas.targets(setting.seq_len, setting.target_len)
    return kept + round(setting.scored * predicted) * found.vocab * LOGIT


def _held(config: Config, setting: Setting, total: int, moving: int) -> dict[str, int]:
    """What is there at every moment of a step."""
    size, stage, workers = BYTES[setting.precision], setting.zero_stage, setting.workers
    master = FP32 if stage or setting.precision == "bf16" else 0
    optimizer = moving * (FP32 * moments(setting.optimizer, setting.momentum) + master)
    if setting.optimizer == "muon" and moving == total:
        optimizer += FP32 * _tables(config)  # which it leaves to AdamW
    if setting.offload != "none":
        optimizer = 0
    return {
        "weights": total * size // (workers if stage == 3 else 1),
        "gradients": moving * size // (workers if stage >= 2 else 1),
        "optimizer": optimizer // (workers if stage >= 1 else 1),
    }


def _orthogonal(matrices: int) -> int:
    """Bytes of a step of Muon beside its momentum: what it looks ahead to, and its products of stacked matrices."""
    return FP32 * (matrices + 3 * min(STACKED, matrices))


def _tables(config: Config) -> int:
    """Weights outside the layers."""
    found = formulas.shape(config)
    return found.head + found.aside


def _buffers(setting: Setting, total: int, moving: int) -> tuple[int, int]:
    """Bytes that DeepSpeed holds beside: through the backward pass, and for a moment when it ends.

    Stages 1 and 2 copy gradients into a bucket, stage 3 also keeps the weights that it gathered. The bucket is there in
    whole on a GPU, and as far as it is used on a CPU. What is sent is copied once more.
    """
    size, stage, workers = BYTES[setting.precision], setting.zero_stage, setting.workers
    most = BUCKET if setting.bucket_bytes is None else setting.bucket_bytes // size
    sent = min(moving, most) * size
    bucket = most * size if setting.gpu else sent
    lasting = [0, bucket, bucket, bucket + min(total, LIVE) * size][stage]
    if setting.overlap and stage in (1, 2):
        lasting += bucket
    own = moving // (workers if stage else 1)
    # bf16 gradients of the weights that a worker steps become fp32.
    widened = own * FP32 if setting.precision == "bf16" else 0
    summed = own * size if stage == 2 and setting.accumulation > 1 else 0  # beside those of the pass at hand
    if setting.gpu:
        return lasting + summed, max(sent // workers + (own * size if stage == 1 else 0), widened)
    pools = POOLS if stage and workers > 1 else 0
    copied = round(sent * COPIED[stage][min(workers, 2) - 1])
    return lasting + 3 * summed + pools, copied + widened  # one does not fit into what the other left in the heap

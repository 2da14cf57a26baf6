"""Says what to do when a step does not fit into the memory there is."""

from __future__ import annotations

from manta.sections.resources import TrainResources

CPU = "DefaultCPUAllocator: can't allocate memory"  # torch has no class of its own for it


def explained(error: RuntimeError, resources: TrainResources) -> str | None:
    """The remedy, if `error` is torch's of memory that is spent, on a GPU or on a CPU; else None.

    All rows of a run have one length, so what does not fit is not one long batch but each.
    """
    import torch

    if not isinstance(error, torch.OutOfMemoryError) and CPU not in str(error):
        return None
    micro, stage = resources.micro_batch, resources.zero_stage
    ways = [f"resources.micro_batch={micro // 2}"] if micro > 1 else []
    ways += [] if resources.activation_checkpointing else ["resources.activation_checkpointing=true"]
    ways += [f"resources.zero_stage={stage + 1}"] if 0 < stage < 3 else []  # stage 0 converts to no other
    remedy = f"set {' or '.join(ways)}" if ways else "use more workers or larger GPUs"
    first = str(error).splitlines()[0]
    return f"a step with resources.micro_batch = {micro} does not fit into memory: {remedy} ({first})"

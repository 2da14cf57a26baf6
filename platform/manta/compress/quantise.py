"""Post-training quantisation by llmcompressor: the one file that imports it. Writes compressed-tensors checkpoints.

What is quantised are the linear layers of the blocks. Embeddings, norms and the output head keep their precision: the
head decides between near-equal words, and where it is tied to the embeddings they are one table.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.compress import copied

if TYPE_CHECKING:
    import numpy as np

    from manta.sections.compress import Quantise

KEPT = ["lm_head"]

Report = Callable[[int, int], None]  # called with (blocks done, blocks)


def w8a8() -> dict[str, Any]:
    """int8 weights, symmetric, one scale per output channel; int8 activations, scaled per token as they come."""
    return {
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
        "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
    }


SCHEMES: dict[str, Callable[[], dict[str, Any]]] = {"w8a8": w8a8}


def rtn(scheme: dict[str, Any]) -> Any:
    """Each weight to the nearest multiple of its channel's scale; needs no data."""
    from llmcompressor.modifiers.quantization import QuantizationModifier

    return QuantizationModifier(config_groups={"linear": {"targets": ["Linear"], **scheme}}, ignore=KEPT)


def gptq(scheme: dict[str, Any]) -> Any:
    """GPTQ (Frantar et al., arXiv:2210.17323): what rounding one column loses is made up for in those that follow."""
    from llmcompressor.modifiers.gptq import GPTQModifier

    return GPTQModifier(config_groups={"linear": {"targets": ["Linear"], **scheme}}, ignore=KEPT)


ALGORITHMS: dict[str, Callable[[dict[str, Any]], Any]] = {"rtn": rtn, "gptq": gptq}


def smoothquant(strength: float) -> Any:
    """SmoothQuant (Xiao et al., arXiv:2211.10438): moves outliers from activations into the weights behind them."""
    from llmcompressor.modifiers.transform import SmoothQuantModifier

    return SmoothQuantModifier(smoothing_strength=strength)


def describe(settings: Quantise) -> str:
    """What is about to be done, in a few words."""
    first = f" after smoothquant {settings.smoothquant:g}" if settings.smoothquant is not None else ""
    return f"{settings.scheme} by {settings.algorithm}{first}; embeddings and output head keep their precision"


def apply(source: Path, target: Path, settings: Quantise, rows: np.ndarray | None, report: Report) -> dict[str, Any]:
    """Quantise the model in the Hugging Face directory `source` into the existing, empty folder `target`.

    `rows` is (samples, seq_len) int32, or None where `settings.reads_rows` is false. The arithmetic is float32; scales
    stay float32, what is not quantised keeps the dtype it has in `source`. Returns the scheme and the algorithm.
    """
    # It would log two lines a layer, and a warning that there is no GPU; what matters comes as an exception.
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    from llmcompressor import oneshot
    from transformers import AutoConfig, AutoTokenizer

    from manta.compress import calibration
    from manta.models.load import load

    dtype = AutoConfig.from_pretrained(source, local_files_only=True).dtype
    model = load(source, "fp32")
    modifiers = [ALGORITHMS[settings.algorithm](SCHEMES[settings.scheme]())]
    if settings.smoothquant is not None:
        modifiers.insert(0, smoothquant(settings.smoothquant))
    if rows is not None:  # without rows all blocks are done at once
        modifiers.append(_reporter(report, model.config.num_hidden_layers))
    oneshot(
        model=model,
        # Given as an object, because left out it is searched for through every kind of processor there is.
        processor=AutoTokenizer.from_pretrained(source, local_files_only=True),
        recipe=modifiers,
        dataset=None if rows is None else calibration.loader(rows),
        pipeline="datafree" if rows is None else "sequential",
    )
    if dtype is not None:
        _restore_dtype(model, dtype)
    model.save_pretrained(target, save_compressed=True)
    (target / "recipe.yaml").unlink()  # llmcompressor's own; the manifest says more
    copied.copy(source, target)
    return {"scheme": settings.scheme, "algorithm": settings.algorithm}


def _restore_dtype(model: Any, dtype: Any) -> None:
    """Give everything that is not quantised its own dtype back. Scales keep float32: rounding them would move weights."""
    for module in model.modules():
        if hasattr(module, "quantization_scheme"):
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def _reporter(report: Report, num_layers: int) -> Any:
    """A modifier that changes nothing and reports each block that the others are done with."""
    from llmcompressor.modifiers import Modifier

    class Reporter(Modifier):
        done: int = 0

        def on_initialize(self, state: Any, **_: Any) -> bool:
            del state
            return True

        def on_sequential_epoch_end(self, state: Any, event: Any, **_: Any) -> None:
            del state, event
            self.done += 1
            if self.done <= num_layers:  # the head, which is kept, comes as one more
                report(self.done, num_layers)

        def on_finalize(self, state: Any, **_: Any) -> bool:
            del state
            return True

    return Reporter()

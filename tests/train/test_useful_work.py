"""What utilisation counts as work when a model is tuned: what texts need, not what fills rows up or asks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manta.models import formulas
from manta.sections.objective import Clm, Denoising, SequenceLabels
from manta.train.run import _flops_per_token

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 1000, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
    "architectures": ["LlamaForCausalLM"],
}  # fmt: skip


def index_of(layout: str = "examples", **more: Any) -> Any:
    given = {"seq_len": 128, "noise": None, "target_len": None, "columns": ("input_ids", "labels"), "layout": layout}
    return SimpleNamespace(**given | more)


def told(folder: Path, rows: int, tokens: int, learnt: int) -> str:
    """The report beside rows of that many tokens."""
    figures = {"rows": rows, "tokens": tokens, "trained_tokens": learnt, "trained_share": round(learnt / tokens, 4)}
    (folder / "report.json").write_text(json.dumps({"train": figures}))
    return str(folder)


def test_of_conversations_only_answers_reach_the_output_layer(tmp_path: Path) -> None:
    """Ten conversations of 40 tokens, a quarter of them answers, in rows as long as the longest, 128.

    By hand, a token of a row of 40: 6 x (2 blocks of 4 x 32^2 + 3 x 32 x 64 weights + norms), 12 x 2 x 32 x 40 for
    attention, and the output layer's 6 x 32 x 1000 for one in four.
    """
    found = _flops_per_token(Clm(name="clm"), LLAMA, index_of(), told(tmp_path, 10, 400, 100))
    blocks = 6 * 2 * (4 * 32**2 + 3 * 32 * 64) + 12 * 2 * 32 * 40
    assert found == pytest.approx(blocks + 6 * 32 * 1000 / 4, rel=0.01)


def test_prepared_rows_are_work_from_end_to_end(tmp_path: Path) -> None:
    found = _flops_per_token(Clm(name="clm"), LLAMA, index_of("concat"), str(tmp_path))
    assert found == formulas.flops_per_token(LLAMA, 128)


def test_answers_of_encoder_decoders_have_their_mean_length(tmp_path: Path) -> None:
    """Inputs of 40 tokens and answers of 10, in rows filled up to 128 and 64."""
    config = {
        "model_type": "t5", "vocab_size": 500, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2,
        "num_decoder_layers": 2, "tie_word_embeddings": True, "architectures": ["T5ForConditionalGeneration"],
    }  # fmt: skip
    where = told(tmp_path, 10, 400, 100)
    found = _flops_per_token(Denoising(name="denoising"), config, index_of(target_len=64), where)
    assert found == formulas.flops_per_token(config, 40, 10)


def test_a_head_reads_every_token(tmp_path: Path) -> None:
    config = LLAMA | {"architectures": ["LlamaForSequenceClassification"], "num_labels": 2}
    where = told(tmp_path, 10, 400, 10)
    found = _flops_per_token(SequenceLabels(name="sequence_labels"), config, index_of(), where)
    from manta.models import classes

    assert found == formulas.flops_per_token(classes.suited(config, "sequence_labels"), 40)

"""Adapters and combined adapters in vLLM, several beside one base in one batch: as likely as peft finds them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from manta import adapt, adapters
from manta.evaluate.vllm_engine import ENVIRONMENT
from manta.sections.adapt import Lora
from tests.adapt.adaptable import state, train, write

pytestmark = pytest.mark.integration

ROW = [7, 19, 301, 4, 88, 250, 33, 9]
# As `vllm serve BASE --enable-lora --lora-modules one=FOLDER ...` loads them. With as many places as adapters a row without
# one would be given the last adapter on CPUs, so there is one place more.
PROGRAM = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

base, row, folders = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
llm = LLM(model=base, dtype="float32", max_model_len=64, max_num_seqs=8, kv_cache_memory_bytes=1 << 27, enforce_eager=True,
    enable_prefix_caching=False, enable_lora=True, max_loras=len(folders) + 1, max_lora_rank=8, skip_tokenizer_init=True, seed=0)
wanted = SamplingParams(max_tokens=1, temperature=0.0, logprobs=20, detokenize=False)
asked = [LoRARequest(f"a{number}", number, folder) for number, folder in enumerate(folders, 1)] + [None]
answers = llm.generate([{"prompt_token_ids": row}] * len(asked), [wanted] * len(asked), use_tqdm=False, lora_request=asked)
print(json.dumps([{token: found.logprob for token, found in answer.outputs[0].logprobs[0].items()} for answer in answers]))
"""


def llama(seed: int = 0) -> Any:
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def believed(model: Any) -> torch.Tensor:
    """ln p of each token behind ROW."""
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ROW])).logits[0, -1].log_softmax(-1)


def test_vllm_finds_rows_as_likely_as_peft_does(tmp_path: Path) -> None:
    from peft import PeftModel

    llama().save_pretrained(tmp_path / "base")
    for number, settings in enumerate((Lora(method="lora", rank=4), Lora(method="lora", rank=2, targets="all-linear"))):
        torch.manual_seed(number)
        model = adapt.apply(llama(), settings)
        train(model, "llama")
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter) if parameter.requires_grad else 0.0
        write(adapt.export(model, state(model), settings), tmp_path / f"run{number}")
    given = [f"{tmp_path}/run0=0.6", f"{tmp_path}/run1=0.9"]
    adapters.merge(str(tmp_path / "base"), given, str(tmp_path / "both"), keep_adapter=True)
    folders = [str(tmp_path / name) for name in ("run0/adapter", "run1/adapter", "both")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "base"), json.dumps(ROW), json.dumps(folders)],
        env=os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    models = [*(PeftModel.from_pretrained(llama(), folder) for folder in folders), llama()]
    expected = torch.stack([believed(model) for model in models])
    for likely, wanted in zip(found, expected, strict=True):
        tokens = [int(token) for token in likely]
        assert len(tokens) >= 20
        assert torch.allclose(torch.tensor([*likely.values()]), wanted[tokens], atol=1e-3)
    differences = [(one - other).abs().max() for place, one in enumerate(expected) for other in expected[:place]]
    assert min(differences) > 0.05, "each adapter says something else than the others and the base"

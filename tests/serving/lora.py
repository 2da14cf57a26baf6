"""Random LoRA adapters of a tiny model, as artifacts and as plain PEFT directories, and what they answer in Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manta import recipe as recipes

RANKS = {"one": 4, "two": 8, "three": 12}
TARGETS = ["q_proj", "v_proj", "gate_proj", "down_proj"]


def make_base(like: Path, folder: Path) -> Path:
    """A copy of a tiny model, with weights so large that what it answers depends on what it is asked."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(like)
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.08)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int, rank: int = 4, **settings: Any) -> Path:
    """A PEFT directory, far from zero."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    options = {"target_modules": TARGETS, "init_lora_weights": False, **settings}
    wrapped = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=rank, lora_alpha=32, **options)
    )
    wrapped.save_pretrained(folder)
    return folder


def as_run(folder: Path, name: str, source: dict[str, str], kind: str = "finetune") -> Path:
    """The manifest of a finished run beside what it left; `source` is what it was tuned from."""
    manifest = {
        "kind": kind, "name": name, "fingerprint": recipes.digest(name), "content": recipes.digest([name, 1]),
        "inputs": {"model.source": source}, "metrics": {}, "recipe": {},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "COMPLETE").write_text("")
    return folder


def answers(base: Path, adapter: Path | None, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """What Transformers and peft answer, greedily, in fp32: token ids."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter)
    model.eval()
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": num_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        found.append(made[0, len(prompt) :].tolist())
    return found

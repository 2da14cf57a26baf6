"""What the model makes of fixed prompts while it trains: continuations, filled masks, filled spans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manta.errors import InputError
from manta.sections.optimisation import Samples


@dataclass(frozen=True)
class _Job:
    model: Any
    tokenizer: Any
    settings: Samples
    generator: Any  # torch's, for this prompt and step alone

    def encode(self, prompt: str) -> Any:
        """int64 (1, tokens), as the tokenizer presents a text to this model."""
        import torch

        return torch.tensor([self.tokenizer(prompt)["input_ids"]], device=self.device)

    @property
    def device(self) -> Any:
        return next(self.model.parameters()).device

    def choose(self, logits: Any) -> int:
        """A token id by its logits (vocab,): the likeliest one, or drawn at the temperature."""
        import torch

        if self.settings.temperature == 0.0:
            return int(logits.argmax())
        chances = torch.softmax(logits.float().cpu() / self.settings.temperature, dim=-1)
        return int(torch.multinomial(chances, 1, generator=self.generator))


def _continue(job: _Job, prompt: str) -> str:
    """The text that follows the prompt, up to the end token, the longest continuation or the model's last position."""
    import torch

    ids = job.encode(prompt)
    end = job.tokenizer.eos_token_id
    if ids.shape[1] > 1 and ids[0, -1] == end:
        ids = ids[:, :-1]  # a tokenizer that closes texts by itself
    start = ids.shape[1]
    room = getattr(job.model.config, "max_position_embeddings", None) or start + job.settings.max_tokens
    while ids.shape[1] < min(room, start + job.settings.max_tokens):
        token = job.choose(job.model(input_ids=ids, use_cache=False).logits[0, -1])
        if token == end:
            break
        ids = torch.cat([ids, torch.tensor([[token]], device=ids.device)], dim=1)
    return str(job.tokenizer.decode(ids[0, start:], skip_special_tokens=True))


def _fill(job: _Job, prompt: str) -> str:
    """The prompt with each mask replaced, all of them at once, as the objective asks for them."""
    ids = job.encode(prompt)
    logits = job.model(input_ids=ids).logits[0]
    for place in (ids[0] == job.tokenizer.mask_token_id).nonzero()[:, 0]:
        ids[0, place] = job.choose(logits[place])
    return str(job.tokenizer.decode(ids[0], skip_special_tokens=True))


def _spans(job: _Job, prompt: str) -> str:
    """What the decoder makes of the prompt: sentinels and spans in turn, or the whole text again without its masks."""
    import torch

    ids, config = job.encode(prompt), job.model.config
    decoded = torch.tensor([[config.decoder_start_token_id]], device=ids.device)
    for _ in range(job.settings.max_tokens):
        token = job.choose(job.model(input_ids=ids, decoder_input_ids=decoded, use_cache=False).logits[0, -1])
        if token == job.tokenizer.eos_token_id:
            break
        decoded = torch.cat([decoded, torch.tensor([[token]], device=ids.device)], dim=1)
    return str(job.tokenizer.decode(decoded[0, 1:], skip_special_tokens=False))


# objective -> what a model trained on it can show
SHOWS: dict[str, Callable[[_Job, str], str]] = {
    "clm": _continue,
    "distillation": _continue,
    "mlm": _fill,
    "denoising": _spans,
}


def check(objective: str, zero_stage: int) -> None:
    """Raise InputError where no samples can be taken."""
    if objective not in SHOWS:
        raise InputError(
            f"samples: a model trained with objective.name = {objective!r} has nothing to show, only those of "
            f"{', '.join(SHOWS)} have: set samples=null"
        )
    if zero_stage == 3:
        raise InputError(
            "samples: with resources.zero_stage = 3 no worker has the whole model, and the others would have to stop "
            "training to lend their parts of it for every token: set resources.zero_stage=2, or samples=null"
        )


def check_prompts(settings: Samples, objective: str, tokenizer: Any) -> None:
    """Raise InputError if a prompt has nothing that the model could fill."""
    gaps = {"mlm": [tokenizer.mask_token], "denoising": ["<extra_id_0>", tokenizer.mask_token]}.get(objective, [])
    known = [gap for gap in gaps if gap is not None and gap in tokenizer.get_vocab()]
    for number, prompt in enumerate(settings.prompts):
        if gaps and not any(gap in prompt for gap in known):
            raise InputError(
                f"samples.prompts.{number} = {prompt!r} leaves nothing to fill: put {' or '.join(known)} into it"
            )
        if not tokenizer(prompt)["input_ids"]:
            raise InputError(f"samples.prompts.{number} = {prompt!r} has no tokens: write a prompt of at least one")


def take(model: Any, tokenizer: Any, objective: str, settings: Samples, step: int) -> list[dict[str, str]]:
    """One {"prompt", "text"} for each prompt, for lines of kind `sample` in metrics.jsonl.

    `model` is the plain module with whole weights, which one rank may call alone; it is left as it was, and so are all
    random numbers but those of a generator that follows from (settings.seed, step, number of the prompt).
    """
    import numpy as np
    import torch

    training, lines = model.training, []
    model.eval()
    try:
        with torch.no_grad():
            for number, prompt in enumerate(settings.prompts):
                (bits,) = np.random.SeedSequence([settings.seed, step, number]).generate_state(1, np.uint64)
                generator = torch.Generator().manual_seed(int(bits >> np.uint64(1)))
                text = SHOWS[objective](_Job(model, tokenizer, settings, generator), prompt)
                lines.append({"prompt": prompt, "text": text})
    finally:
        model.train(training)
    return lines

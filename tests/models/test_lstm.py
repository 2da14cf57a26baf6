"""The LSTM language model against torch's own LSTM, and documents in one row that do not see each other."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.samples import VOCAB, tiny

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def reference(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Logits (batch, seq, vocab) by torch.nn.LSTM with the same weights."""
    width = model.config.hidden_size
    lstm = torch.nn.LSTM(width, width, model.config.num_hidden_layers, batch_first=True)
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            for part in PARTS:
                getattr(lstm, f"{part}_l{number}").copy_(getattr(layer, part))
        return model.lm_head(lstm(model.model.embed_tokens(input_ids))[0])


def text(rows: int, seq: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCAB, (rows, seq), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tied", [True, False])
def test_equals_torch(tied: bool) -> None:
    model = tiny("lstm", tie_embeddings=tied).eval()
    ids = text(3, 17)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, reference(model, ids), rtol=1e-5, atol=1e-6)


def rows_of(lengths: list[list[int]]) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in lengths])


@pytest.mark.parametrize("lengths", [[[9, 14, 5], [28]], [[1, 1, 1, 25], [27, 1]], [[28], [28]]])
def test_documents_in_a_row_are_as_if_alone(lengths: list[list[int]]) -> None:
    model, ids = tiny("lstm").eval(), text(2, 28)
    with torch.no_grad():
        together = model(ids, position_ids=rows_of(lengths)).logits
        for row, parts in enumerate(lengths):
            at = 0
            for length in parts:
                alone = reference(model, ids[row : row + 1, at : at + length])[0]
                torch.testing.assert_close(together[row, at : at + length], alone, rtol=1e-5, atol=1e-6)
                at += length
        if lengths != [[28], [28]]:
            assert not torch.allclose(model(ids).logits, together, atol=1e-3), (
                "without positions they do see each other"
            )


def test_gradients_stay_within_a_document() -> None:
    model, ids = tiny("lstm", dropout=0.0), text(1, 20)
    embedded: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_hook(lambda *found: found[2].retain_grad() or embedded.append(found[2]))
    model(ids, position_ids=rows_of([[8, 12]])).logits[0, 15].sum().backward()
    touched = embedded[0].grad[0].abs().sum(dim=1) > 0
    assert touched.tolist() == [False] * 8 + [True] * 8 + [False] * 4


def test_gradients_equal_those_of_documents_alone() -> None:
    model, ids = tiny("lstm", dropout=0.0), text(1, 20)
    model(ids, position_ids=rows_of([[8, 12]])).logits.square().sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for part in (ids[:, :8], ids[:, 8:]):
        model(part).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, together[name], rtol=1e-4, atol=1e-5)


def test_bfloat16_forgets_as_well() -> None:
    model, ids = tiny("lstm").eval().to(torch.bfloat16), text(1, 20)
    with torch.no_grad():
        together = model(ids, position_ids=rows_of([[8, 12]])).logits
        alone = model(ids[:, 8:]).logits
        other = model(torch.cat([text(1, 8, seed=9), ids[:, 8:]], dim=1), position_ids=rows_of([[8, 12]])).logits
    torch.testing.assert_close(together[:, 8:], alone, rtol=0.02, atol=0.02)
    assert torch.equal(together[:, 8:], other[:, 8:]), "nothing of the document before is left"


def test_the_loss_is_the_mean_cross_entropy_of_the_next_token() -> None:
    model, ids = tiny("lstm").eval(), text(2, 9)
    with torch.no_grad():
        found = model(ids, labels=ids)
    by_hand = -torch.log_softmax(found.logits, -1)[:, :-1].gather(-1, ids[:, 1:, None]).mean()
    assert float(found.loss) == pytest.approx(float(by_hand), rel=1e-6)


def test_padding_at_the_left_changes_nothing_that_is_written() -> None:
    model = tiny("lstm").eval()
    ids = text(1, 5)
    padded = torch.cat([torch.full((1, 3), 2), ids], dim=1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    alone = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    beside = model.generate(input_ids=padded, attention_mask=mask, **settings)
    assert beside[0, 8:].tolist() == alone[0, 5:].tolist()
    with torch.no_grad():  # each token is the likeliest after those before it
        assert reference(model, alone[:, :-1])[0, 4:].argmax(-1).tolist() == alone[0, 5:].tolist()


def test_checkpointed_layers_give_the_same_gradients() -> None:
    model, ids = tiny("lstm", dropout=0.0).train(), text(2, 12)
    model(ids, position_ids=rows_of([[5, 7], [12]]), labels=ids).loss.backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model(ids, position_ids=rows_of([[5, 7], [12]]), labels=ids).loss.backward()
    for before, parameter in zip(plain, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, before)


def test_the_reference_engine_scores_it_from_its_directory(tmp_path: Path) -> None:
    """In a fresh process, where nothing has taught Transformers this type yet."""
    from manta.models.build import build
    from manta.models.presets import config
    from manta.sections.model import NewModel

    build(config(NewModel(preset="lstm-tiny"), 50, {}), seed=0).save_pretrained(tmp_path)
    ask = (
        "import sys; from pathlib import Path; from manta.evaluate import hf_engine; "
        "print(-sum(hf_engine.load(Path(sys.argv[1]), 'float32', 8).logs([[1, 2, 3, 4]])[0]))"
    )
    found = subprocess.run([sys.executable, "-c", ask, tmp_path], capture_output=True, text=True, check=True)
    assert float(found.stdout) == pytest.approx(3 * math.log(50), rel=0.1)

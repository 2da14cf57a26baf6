"""Tiny models of Transformers and batches for them, made from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

VOCAB = 61
PAD, EOS, CLS, SEP, MASK = 0, 1, 2, 3, 4
FIRST = 5  # ids of text from here on

torch.set_num_threads(1)


def bert(head: str = "BertForMaskedLM", attention: str = "sdpa", vocab: int = VOCAB, dropout: float = 0.0) -> Any:
    import transformers

    config = transformers.BertConfig(
        vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, pad_token_id=PAD,
    )  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, head)._from_config(config, attn_implementation=attention).eval()


def llama(seed: int = 0, **sizes: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    known = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2} | sizes
    config = LlamaConfig(
        vocab_size=VOCAB, num_key_value_heads=1, max_position_embeddings=64, pad_token_id=PAD, tie_word_embeddings=True,
        **known,
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).eval()


def t5(vocab: int = VOCAB) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocab, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0,
        pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD,
    )  # fmt: skip
    torch.manual_seed(0)
    return T5ForConditionalGeneration(config).eval()


def bart(vocab: int = VOCAB) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=vocab, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, dropout=0.0,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        pad_token_id=PAD, bos_token_id=CLS, eos_token_id=EOS, decoder_start_token_id=EOS, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return BartForConditionalGeneration(config).eval()


class Told(torch.nn.Module):
    """What stand-ins for models inherit: an output layer that passes on what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.output = torch.nn.Identity()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.output


def ids(rows: int, seq: int, seed: int = 1) -> torch.Tensor:
    """Text at random, int32 (rows, seq)."""
    return torch.tensor(np.random.default_rng(seed).integers(FIRST, VOCAB, (rows, seq)).astype(np.int32))


def masked(rows: int = 5, seq: int = 20, seed: int = 1) -> dict[str, torch.Tensor]:
    """A batch as the view of masked language modelling leaves it: about a fifth of the tokens to predict."""
    text = ids(rows, seq, seed)
    hidden = torch.rand(rows, seq, generator=torch.Generator().manual_seed(seed)) < 0.2
    hidden[:, 3] = True
    nothing = torch.tensor(-100, dtype=torch.int32)
    return {"input_ids": text.masked_fill(hidden, MASK), "labels": torch.where(hidden, text, nothing)}


def numpy(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in batch.items()}


def split_alike(loss: Callable[..., Any], model: Any, batch: dict[str, torch.Tensor]) -> None:
    """The sums and counts of a batch, and the gradients, are those of its parts together."""
    model.zero_grad()
    sums, counts = loss(model, batch)
    sums.sum().backward()
    whole = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    total, number = torch.zeros_like(sums), torch.zeros_like(counts)
    for part in ([0], [1, 2], [3], [4]):
        these, those = loss(model, {name: values[part] for name, values in batch.items()})
        these.sum().backward()
        total, number = total + these.detach(), number + those
    assert torch.equal(number, counts)
    torch.testing.assert_close(total, sums.detach(), rtol=1e-5, atol=1e-5)
    for one, parameter in zip(whole, model.parameters(), strict=True):
        if one is not None:
            torch.testing.assert_close(parameter.grad, one, rtol=1e-4, atol=1e-5)

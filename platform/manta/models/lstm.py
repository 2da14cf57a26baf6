"""An LSTM language model that saves to and loads from a Hugging Face directory like any other causal model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

SHUT = -1.0e4  # what a gate reads to be exactly 0, in bfloat16 as well
FLAGS = 8  # columns that say "forget": one would do, but kernels like even widths
GRAIN = 32  # steps are made a multiple of it, so that kernels are not compiled anew for each batch


class LSTMConfig(PreTrainedConfig):
    """Sizes of an LSTM language model; embeddings and layers have the same width."""

    model_type = "lstm"

    vocab_size: int = 8192
    hidden_size: int = 576
    num_hidden_layers: int = 2
    dropout: float = 0.0
    tie_word_embeddings: bool = True
    use_cache: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None


class LSTMLayer(GradientCheckpointingLayer):
    """One LSTM layer (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight_ih = torch.nn.Parameter(torch.empty(4 * width, width))  # input, forget, cell, output gate
        self.weight_hh = torch.nn.Parameter(torch.empty(4 * width, width))
        self.bias_ih = torch.nn.Parameter(torch.empty(4 * width))
        self.bias_hh = torch.nn.Parameter(torch.empty(4 * width))

    def forward(self, hidden: torch.Tensor, forget: torch.Tensor | None) -> torch.Tensor:
        """(batch, steps, width) to the same. `forget` (batch, steps, FLAGS) is 1 in its first column where both states
        become 0, whatever the step's input is; what the layer gives at such a step is 0.
        """
        width = hidden.shape[-1]
        weight = self.weight_ih
        if forget is not None:
            shut = weight.new_zeros(4 * width, FLAGS)
            shut[: 2 * width, 0] = SHUT
            shut[3 * width :, 0] = SHUT
            hidden, weight = torch.cat([hidden, forget], dim=-1), torch.cat([weight, shut], dim=-1)
        state = hidden.new_zeros(1, hidden.shape[0], width)
        weights = (weight, self.weight_hh, self.bias_ih, self.bias_hh)
        # layers 1, dropout 0, one direction, batch first
        out: torch.Tensor = torch.lstm(
            hidden,
            (state, state),
            weights,
            True,
            1,
            0.0,
            self.training,
            False,
            True,  # type: ignore[arg-type]
        )[0]
        return out


class LSTMPreTrainedModel(PreTrainedModel):
    """How the weights begin: uniform in +-1/sqrt(width), the embeddings in +-0.1 (Merity et al., arXiv:1708.02182)."""

    config_class = LSTMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LSTMLayer"]

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        bound = self.config.hidden_size**-0.5
        if isinstance(module, torch.nn.Embedding):
            init.uniform_(module.weight, -0.1, 0.1)
        elif isinstance(module, LSTMLayer | torch.nn.Linear):
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -bound, bound)


class LSTMModel(LSTMPreTrainedModel):
    """Embeddings and layers, with dropout between them and behind the last (Zaremba et al., arXiv:1409.2329)."""

    def __init__(self, config: LSTMConfig):
        super().__init__(config)
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = torch.nn.ModuleList([LSTMLayer(config.hidden_size) for _ in range(config.num_hidden_layers)])
        self.dropout = torch.nn.Dropout(config.dropout)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None) -> BaseModelOutput:
        """Last layer's output (batch, seq, width) of `input_ids` (batch, seq).

        Where `position_ids` (batch, seq) are 0 the state begins anew, so that documents in one row do not see each
        other. One more step before each such place makes it forget: the layers stay single dense calls, several times
        faster than packed sequences on a CPU.
        """
        hidden = self.dropout(self.embed_tokens(input_ids))  # (batch, seq, width)
        place = None if position_ids is None else _places(position_ids)
        if place is None:
            for layer in self.layers:
                hidden = self.dropout(layer(hidden, None))
            return BaseModelOutput(last_hidden_state=hidden)
        batch, seq, width = hidden.shape
        steps = -(-(int(place.max()) + 1) // GRAIN) * GRAIN
        forget = hidden.new_ones(batch, steps).scatter(1, place, 0.0)
        forget = torch.nn.functional.pad(forget[:, :, None], (0, FLAGS - 1))
        place = place[:, :, None].expand(batch, seq, width)
        hidden = hidden.new_zeros(batch, steps, width).scatter(1, place, hidden)
        for layer in self.layers:
            hidden = self.dropout(layer(hidden, forget))
        return BaseModelOutput(last_hidden_state=hidden.gather(1, place))


class LSTMForCausalLM(LSTMPreTrainedModel, GenerationMixin):
    """The language model: called like every other causal model of Transformers."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LSTMConfig):
        super().__init__(config)
        self.model = LSTMModel(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput:
        """Logits (batch, seq, vocab) of the token after each, and with `labels` the mean loss (nats).

        `position_ids` begin a document where they are 0. Without them `attention_mask` (batch, seq), 0 for padding,
        tells where a row begins. `use_cache` and `return_dict` are taken for the callers' sake: nothing is cached.
        """
        del use_cache, return_dict
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        hidden = self.model(input_ids, position_ids).last_hidden_state
        logits = self.lm_head(hidden)
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The whole text at each step: no state is kept, so every way of generating is right."""
        del kwargs
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def _places(position_ids: torch.Tensor) -> torch.Tensor | None:
    """The step of each token, with one free step before each document but a row's first; None if rows are whole."""
    begins = torch.nn.functional.pad((position_ids[:, 1:] == 0).long(), (1, 0))  # (batch, seq)
    if not bool(begins.any()):
        return None
    return torch.arange(position_ids.shape[1], device=position_ids.device) + begins.cumsum(dim=1)


def register() -> None:
    """Make Transformers' automatic classes know the model. May be called any number of times."""
    AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
    AutoModel.register(LSTMConfig, LSTMModel, exist_ok=True)
    AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM, exist_ok=True)

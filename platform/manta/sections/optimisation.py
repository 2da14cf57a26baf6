"""The vocabulary of how weights move: optimizers, learning rates, what is done when training goes wrong, when it ends."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from manta.sections.base import Fraction, NonNegative, Positive, PositiveFloat, Section

# --- optimizers ------------------------------------------------------------------------------------------------------

# Settings that only some read. Each optimizer names its own, with their defaults; what it does not name it does not read.
OWN: dict[str, dict[str, Any]] = {
    "adamw": {"betas": [0.9, 0.95], "eps": 1.0e-8},
    "adam": {"betas": [0.9, 0.95], "eps": 1.0e-8},
    "sgd": {"momentum": 0.9, "nesterov": False},
    "lion": {"betas": [0.9, 0.99]},
    "muon": {"betas": [0.9, 0.95], "eps": 1.0e-8, "momentum": 0.95, "nesterov": True},
}
# Settings that all read, where the default is another. Lion's steps are signs, so its rate is lower (arXiv:2302.06675,
# section 5); adam and sgd add the decay to the gradient, where 0.1 would outweigh it.
OTHER: dict[str, dict[str, Any]] = {
    "adam": {"weight_decay": 0.0},
    "sgd": {"lr": 0.1, "weight_decay": 0.0},
    "lion": {"lr": 1.0e-4},
}
PARTIAL = ("betas", "eps", "momentum", "nesterov")


class Optimizer(Section):
    """AdamW (arXiv:1711.05101), Adam (1412.6980), SGD with momentum, Lion (2302.06675) or Muon (2502.16982).

    Muon moves the matrices of the layers; embeddings, the output layer and vectors are left to AdamW.
    """

    name: Literal["adamw", "adam", "sgd", "lion", "muon"] = "adamw"
    lr: PositiveFloat = Field(1.0e-3, description="peak; 0.1 for sgd, 1e-4 for lion")
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None = Field(
        [0.9, 0.95], description="adamw, adam, muon; lion [0.9, 0.99]"
    )
    eps: PositiveFloat | None = Field(1.0e-8, description="adamw, adam, muon")
    momentum: Fraction | None = Field(None, description="sgd 0.9, muon 0.95")
    nesterov: bool | None = Field(None, description="sgd false, muon true")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.1, description="adam and sgd add it to the gradient: theirs is 0"
    )
    decay_embeddings: bool = Field(True, description="whether the embeddings' tables decay like other matrices")
    layer_lr_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="each layer learns at this times the rate of the one above it; 1 treats all alike"
    )
    grad_clip: PositiveFloat = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"

    @model_validator(mode="before")
    @classmethod
    def defaults_of_the_name(cls, given: Any) -> Any:
        name = given.get("name", "adamw") if isinstance(given, dict) else None
        if not isinstance(name, str) or name not in OWN:
            return given
        return dict.fromkeys(PARTIAL) | OWN[name] | OTHER.get(name, {}) | given

    @model_validator(mode="after")
    def nothing_unread(self) -> Optimizer:
        for key in PARTIAL:
            value, read = getattr(self, key), key in OWN[self.name]
            if value is not None and not read:
                readers = " or ".join(name for name, keys in OWN.items() if key in keys)
                raise ValueError(
                    f"{self.name} does not read optimizer.{key} = {value!r}: leave it out, or set optimizer.name={readers}"
                )
            if value is None and read:
                raise ValueError(f"optimizer.{key} = None: {self.name} needs it; leave the key out for its default")
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("optimizer.nesterov = True looks ahead along the momentum: set optimizer.momentum=0.9")
        return self


# --- learning rates --------------------------------------------------------------------------------------------------


class Schedule(Section):
    """How the rate goes after a linear warm-up. wsd: stable, then down at the end (arXiv:2405.18392)."""

    name: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup_fraction: Fraction = 0.05
    min_lr_fraction: Fraction = Field(0.1, description="of optimizer.lr, at the end")
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None, description="wsd: of the steps, those at the end in which the rate falls; 0.2"
    )

    @model_validator(mode="before")
    @classmethod
    def default_of_wsd(cls, given: Any) -> Any:
        return {"decay_fraction": 0.2} | given if isinstance(given, dict) and given.get("name") == "wsd" else given

    @model_validator(mode="after")
    def decay_where_it_is_read(self) -> Schedule:
        if self.name != "wsd" and self.decay_fraction is not None:
            raise ValueError(
                f"{self.name} does not read schedule.decay_fraction = {self.decay_fraction}: leave it out, or set "
                "schedule.name=wsd"
            )
        if self.name == "wsd" and self.decay_fraction is None:
            raise ValueError("schedule.decay_fraction = None: wsd needs it; leave the key out for 0.2")
        if self.decay_fraction is not None and self.warmup_fraction + self.decay_fraction > 1.0:
            raise ValueError(
                f"schedule.warmup_fraction = {self.warmup_fraction} and schedule.decay_fraction = {self.decay_fraction} "
                "are more than the whole run: lower one of them"
            )
        return self


class Unfreezing(Section):
    """Gradual unfreezing (ULMFiT, arXiv:1801.06146): the top layers move first, the others join from above."""

    every_steps: Positive = Field(description="steps until the next layers join")
    layers: Positive = Field(1, description="how many layers join at a time; the embeddings come last")


# --- when training goes wrong, and when it is enough -----------------------------------------------------------------


class Stability(Section):
    """What to do about a step whose loss or gradient is not finite, or whose loss leaps above those before it.

    skip: its update is left out. roll_back: training carries on from the newest checkpoint and passes over the batches
    up to the bad one (as PaLM did, arXiv:2204.02311, section 5.1), twice as many each time in a row.
    """

    policy: Literal["stop", "skip", "roll_back"] = "stop"
    spike_deviations: PositiveFloat | None = Field(
        None, description="deviations above the median loss of the window that are a spike; none looks for NaN alone"
    )
    # Of 8 losses the deviation is itself mostly chance: with normal noise, one step in 210 is above 6 of them. Of 32
    # it is one in 40,000, of 50 less than one in 200,000.
    window: Annotated[int, Field(ge=32)] = Field(100, description="steps whose losses are compared with")
    tolerated: Positive = Field(3, description="bad steps in a row that are skipped or rolled back; one more stops")


class EarlyStop(Section):
    """End before the planned step once a figure of the validation no longer gets better."""

    figure: str = Field("loss", description="of the validation lines of metrics.jsonl")
    mode: Literal["min", "max"] = "min"
    patience: Positive = Field(5, description="validations in a row without a better figure")
    min_delta: Annotated[float, Field(ge=0.0)] = Field(0.0, description="a smaller change is not better")
    keep_best: bool = Field(True, description="export the weights of the best validation, not the last ones")


class Watchdog(Section):
    """How long a worker may be silent, in seconds, before it writes down where it hangs and ends itself."""

    step: PositiveFloat = 600.0
    first_step: PositiveFloat = Field(1800.0, description="models are built and kernels compiled")
    checkpoint: PositiveFloat = 1800.0
    validation: PositiveFloat = 1800.0


class Samples(Section):
    """What the model makes of fixed prompts, at each validation: continuations, filled masks or filled spans."""

    prompts: list[str] = Field(min_length=1, description="mlm: with the mask token; denoising: with <extra_id_0> ...")
    max_tokens: Positive = Field(32, description="longest continuation; mlm has no use for it")
    temperature: Annotated[float, Field(ge=0.0)] = Field(0.0, description="0 takes the likeliest token")
    seed: NonNegative = Field(0, description="of the draws, where the temperature is above 0")

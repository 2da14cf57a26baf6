"""A run that several streams train: each is made as a run of its own would be, then they share its steps, model and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from manta import mix
from manta.artifact import Draft, Resolved
from manta.errors import InputError
from manta.mix import Order
from manta.progress import Progress
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.storage import Folder

if TYPE_CHECKING:
    from manta.train.job import Job
    from manta.train.marks import Marks

SIDES = "work/mix"  # below it, what the streams beside the recipe's own leave

Check = Callable[[Any, Mapping[str, Resolved]], None]
Make = Callable[[Any, Draft, Any, Progress, "Marks | None"], "Job"]


def check(recipe: FinetuneRecipe, inputs: Mapping[str, Resolved], check_one: Check) -> None:
    """Everything that can be known to be wrong with a stream before Ray starts. Raises InputError that names it.

    `check_one` checks a recipe that stands alone. What text has to fit is not known of a package's model before it is
    unpacked: `make_job` checks it.
    """
    for stream in mix.streams(recipe):
        mine = stream.inputs(inputs)
        if isinstance(stream.recipe, PretrainRecipe) and mine["model.source"].kind == "package":
            continue
        with stream.named():
            check_one(stream.recipe, mine)
            _check_text(stream.recipe, mine)


def parts(recipe: FinetuneRecipe, draft: Draft) -> Iterator[tuple[mix.Stream, Draft]]:
    """Each stream of a recipe, and where a run of its own would be made."""
    for number, stream in enumerate(mix.streams(recipe)):
        folder = draft.folder / f"{SIDES}/{number}" if number else draft.folder
        yield stream, replace(draft, folder=folder, inputs=stream.inputs(draft.inputs))


def make_job(
    recipe: FinetuneRecipe,
    draft: Draft,
    mailbox: Any,
    progress: Progress,
    marks: Marks | None,
    make_one: Make,
    check_one: Check,
) -> Job:
    """What the workers are told of a run with several streams. Raises InputError for streams that do not go together."""
    from manta.data.shards import load_index

    order, jobs, made = Order(mix.shares_of(recipe)), list[Any](), list(parts(recipe, draft))
    for stream, place in made:
        progress.note(f"{stream.name}: {stream.share / sum(order.shares):.4g} of the steps")
        with stream.named():
            if isinstance(stream.recipe, PretrainRecipe) and place.inputs["model.source"].kind == "package":
                check_one(stream.recipe, place.inputs)
                _check_text(stream.recipe, place.inputs)
            jobs.append(make_one(stream.recipe, place, mailbox, progress, marks))
    indices = [load_index(job.feed.shards) for job in jobs]
    tokens = [share * index.seq_len for share, index in zip(order.shares, indices, strict=True)]
    total = num_steps(recipe, order, jobs[0].feed.steps, sum(tokens) / sum(order.shares) * jobs[0].feed.batch)
    counts = order.before(total)
    _refuse_unused(counts, total, [stream for stream, _ in made])
    flops = sum(count * job.flops_per_token for count, job in zip(tokens, jobs, strict=True)) / sum(tokens)
    own, *beside = [replace(job, feed=replace(job.feed, steps=n)) for job, n in zip(jobs, counts, strict=True)]
    found: Job = replace(
        own,
        recipe=recipe,
        shares=order.shares,
        names=tuple(stream.name for stream, _ in made),
        beside=tuple(beside),
        flops_per_token=flops,
    )
    return found


def num_steps(recipe: FinetuneRecipe, order: Order, own: int, tokens_per_step: float) -> int:
    """Steps of the run: stop.steps of all streams, stop.epochs of the recipe's own, stop.tokens of all.

    `own` is how many steps the recipe's own task would take alone, `tokens_per_step` the mean over all streams.
    """
    if recipe.stop.epochs is not None:
        return order.steps_for(0, own)
    if recipe.stop.tokens is not None:
        return max(1, math.ceil(round(recipe.stop.tokens / tokens_per_step, 9)))
    assert recipe.stop.steps is not None
    return recipe.stop.steps


# --- what does not go together ---------------------------------------------------------------------------------------


def _check_text(recipe: mix.Side, inputs: Mapping[str, Resolved]) -> None:
    """Raise InputError for text whose loss could not be measured, or that was not prepared in the tokens of the model."""
    if not isinstance(recipe, PretrainRecipe):
        return
    from manta.data.shards import load_index
    from manta.models import load

    shards, model = inputs["data.shards"], inputs["model.source"]
    if load_index(shards.path).rows("validation") == 0:
        raise InputError(
            f"data.shards = {shards.ref!r} holds no validation rows, so the mean loss of the mix would leave it out: prepare it with a "
            "higher data.validation_fraction"
        )
    read, own = vocabulary(Folder(f"{shards.path}/tokenizer")), vocabulary(Folder(load.model_url(model)))
    if read is not None and own is not None and read != own:
        raise InputError(
            f"data.shards = {shards.ref!r} was prepared with another tokenizer than that of model.source = {model.ref!r}: prepare "
            f"rows for it with tokenizer.source={model.ref}"
        )


def vocabulary(folder: Folder) -> Any:
    """Which token has which number, of the tokenizer in a folder; None where it does not say so in a file of its own."""
    if not folder.exists("tokenizer.json"):
        return None
    found = json.loads(folder.read_text("tokenizer.json"))
    added = {token["content"]: token["id"] for token in found.get("added_tokens", ())}
    return found["model"].get("vocab"), found["model"].get("merges"), added


def _refuse_unused(counts: list[int], total: int, streams: list[mix.Stream]) -> None:
    for stream, count in zip(streams, counts, strict=True):
        if count == 0:
            shares = sum(each.share for each in streams)
            raise InputError(
                f"of the run's {total} steps none would belong to {stream.path or 'the own task'} ({stream.name}), whose share is "
                f"{stream.share / shares:.4g}: train for longer, or give it a higher weight"
            )


# --- figures ---------------------------------------------------------------------------------------------------------


def together(each: Mapping[str, Mapping[str, Any]], shares: Iterable[int]) -> dict[str, Any]:
    """One line of validation figures of several: `loss`, the mean of the streams' losses weighted by their shares, and
    the figures of each, `loss_chat` and so on. `each` is {stream: its figures}, in the order of the shares."""
    weights = list(shares)
    total = sum(share * figures["loss"] for share, figures in zip(weights, each.values(), strict=True))
    named = {f"{figure}_{name}": value for name, figures in each.items() for figure, value in figures.items()}
    return {"loss": total / sum(weights), **named}


def final_losses(lines: Iterable[Mapping[str, Any]], names: tuple[str, ...], shares: tuple[int, ...]) -> dict[str, Any]:
    """The loss of each stream's last step, and their mean weighted by the shares, of the lines of metrics.jsonl."""
    known = [line for line in lines if line["kind"] == "train" and line["loss"] is not None]
    last = {line["stream"]: line["loss"] for line in known}
    found = together({name: {"loss": last.get(name, math.nan)} for name in names}, shares)
    return {f"final_{figure}": value for figure, value in found.items()}

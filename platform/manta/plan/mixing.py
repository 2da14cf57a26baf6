"""Plans of mixes: the rows of each stream, how many steps are whose, and the stream that needs the most memory."""

from __future__ import annotations

from typing import Any, NamedTuple

from manta import mix
from manta.plan import sources
from manta.plan.figures import Figures, Given
from manta.plan.sources import Rows
from manta.schema import FinetuneRecipe


class Mixed(NamedTuple):
    """The streams of a recipe and, in their order, what each trains on."""

    streams: list[mix.Stream]
    rows: list[Rows]

    @property
    def widest(self) -> Rows:
        """The rows of the stream whose steps hold the most."""
        return max(self.rows, key=lambda rows: (rows.sides * rows.seq_len, rows.target_len or 0))


def read(recipe: FinetuneRecipe, given: Given, notes: list[str]) -> Mixed | None:
    """The streams of a mix; None where the rows of one are not there yet, which the notes then say."""
    streams = mix.streams(recipe)
    found = [sources.rows(stream.recipe, given, notes) for stream in streams]
    notes[:] = dict.fromkeys(notes)
    known = [rows for rows in found if rows is not None]
    return Mixed(streams, known) if len(known) == len(streams) else None


def lengths(recipe: FinetuneRecipe, mixed: Mixed, figures: Figures) -> None:
    """How many steps there are, whose they are, and their tokens; as far as the numbers of rows are known."""
    from manta.train import mixed as training
    from manta.train import schedule

    batch, order, own = figures["batch_rows"], mix.Order(mix.shares_of(recipe)), mixed.rows[0]
    shares = {stream.name: stream.share / sum(order.shares) for stream in mixed.streams}
    told = {
        name: f"{shares[name]:.4g} of the steps, rows of {rows.seq_len} tokens"
        for name, rows in zip(shares, mixed.rows, strict=True)
    }
    figures["streams"] = told
    if recipe.stop.epochs is not None and own.num_rows is None:
        for wrong in ("steps", "tokens"):  # those of the widest stream alone
            figures.pop(wrong, None)
        return
    alone = schedule.planned_steps(recipe.stop, batch, own.num_rows or 0, own.seq_len)
    each = [batch * rows.seq_len for rows in mixed.rows]
    mean = sum(share * tokens for share, tokens in zip(shares.values(), each, strict=True))
    figures["steps"] = training.num_steps(recipe, order, alone, mean)
    counts = order.before(figures["steps"])
    figures["tokens"] = sum(count * tokens for count, tokens in zip(counts, each, strict=True))
    figures["streams"] = {
        name: f"{count:,} steps, {line}" for (name, line), count in zip(told.items(), counts, strict=True)
    }


def flops(mixed: Mixed, config: dict[str, Any], figures: Figures) -> float:
    """Useful operations of all steps."""
    from manta.models import formulas

    shares = [stream.share for stream in mixed.streams]
    tokens = [share * rows.seq_len for share, rows in zip(shares, mixed.rows, strict=True)]
    each = [
        rows.sides * formulas.flops_per_token(config, rows.seq_len, rows.target_len, rows.scored) for rows in mixed.rows
    ]
    of_step = sum(count * cost for count, cost in zip(tokens, each, strict=True)) / sum(tokens)
    return float(figures["tokens"] * of_step)

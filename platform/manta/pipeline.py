"""Walks a chain of recipes: complete artifacts are skipped, the first unfinished one is carried on, the rest follow."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from manta import artifact as artifacts
from manta import recipe as recipes
from manta import stage
from manta.errors import InputError, Problem, RecipeError
from manta.progress import Progress
from manta.schema import PipelineRecipe, Recipe
from manta.storage import Folder


def load(path: str | Path, overrides: Sequence[str] = ()) -> tuple[PipelineRecipe, list[Recipe]]:
    """Read a pipeline and all its recipes, so that every mistake shows before the first stage starts.

    Overrides are `name=` and `output=` for the pipeline, and `STAGE.key.path=value` for one stage, where STAGE is its
    file's name without `.yaml`. Raises RecipeError or InputError.
    """
    own = set(PipelineRecipe.model_fields)
    pipeline = recipes.load(path, [item for item in overrides if _first_word(item) in own], kind="pipeline")
    assert isinstance(pipeline, PipelineRecipe)
    files = {Path(name).stem: Path(path).parent / name for name in pipeline.stages}
    for item in overrides:
        if (word := _first_word(item)) not in own and word not in files:
            near = difflib.get_close_matches(word, files, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"override {item!r}: its first word must be one of {', '.join([*sorted(own), *files])}{hint}"
            )
    chain: list[Recipe] = []
    problems: list[Problem] = []
    for word, file in files.items():
        mine = [item.partition(".")[2] for item in overrides if _first_word(item) == word and word not in own]
        try:
            recipe = recipes.load(file, [*mine, f"output={pipeline.output}"])
        except RecipeError as error:
            problems.extend(Problem(f"{word}: {p.path}", p.value, p.remedy) for p in error.problems)
            continue
        if isinstance(recipe, PipelineRecipe):
            problems.append(Problem(word, None, "is a pipeline itself: list its stages here instead"))
            continue
        problems.extend(Problem(f"{word}: {p.path}", p.value, p.remedy) for p in stage.problems(recipe))
        problems.extend(_dangling(word, recipe, [earlier.name for earlier in chain]))
        chain.append(recipe)
    if problems:
        raise RecipeError(str(path), problems)
    return pipeline, chain


def _first_word(override: str) -> str:
    return override.partition("=")[0].partition(".")[0]


def _dangling(word: str, recipe: Recipe, earlier: list[str]) -> list[Problem]:
    """Bare-name inputs that no earlier stage makes and that are not there already."""
    problems = []
    for role, (ref, _) in recipes.input_refs(recipe).items():
        place = artifacts.locate(ref, recipe.output)
        if ref in earlier or ref.startswith("package:") or Folder(place).exists(""):
            continue
        near = difflib.get_close_matches(ref, earlier, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        problems.append(Problem(f"{word}: {role}", ref, f"no earlier stage makes it and {place} does not exist{hint}"))
    return problems


def run(chain: Sequence[Recipe], progress: Progress, replace: bool = False) -> list[stage.Outcome]:
    """Make every artifact of the chain, in order. Raises as `stage.run` does; what was finished stays finished."""
    outcomes = []
    for number, recipe in enumerate(chain, 1):
        progress.event("stage", number=number, of=len(chain), kind=recipe.kind, name=recipe.name)
        outcomes.append(stage.run(recipe, progress, replace))
    return outcomes


# The figures worth a line in the summary, by kind; a kind's other figures are in its manifest.
KEY_FIGURES = {
    "prepare": ("documents_kept", "duplicates", "tokens", "train_rows", "vocab_size", "train_examples"),
    "pretrain": ("parameters", "tokens", "final_loss", "validation_loss", "tokens_per_second"),
    "finetune": ("steps", "final_loss", "validation_loss", "validation_score"),
    "tune": ("trials", "best_trial", "validation_loss", "validation_score"),
    "compress": ("vocab_size", "layers", "scheme", "size_ratio", "sparsity_gain"),
    "generate": ("answers", "train_rows", "train_examples", "generated_tokens", "left_out_share"),
    "evaluate": ("perplexity", "perplexity_recovery", "score", "score_recovery", "passed"),
    "serve": ("answer", "ready_seconds"),
}


def summary(outcomes: Sequence[stage.Outcome]) -> str:
    """What was made: one block per artifact with its key figures, then what to try next."""
    lines = []
    for outcome in outcomes:
        made = outcome.artifact
        spent = "was complete" if outcome.skipped else f"{outcome.seconds:.0f} s"
        lines.append(f"{made.kind:<9} {made.folder.url}  [{made.fingerprint[:12]}]  {spent}")
        lines.append("          " + figures_line(made))
    return "\n".join([*lines, "", *next_commands(outcomes)])


def figures_line(made: artifacts.Artifact) -> str:
    """An artifact's key figures on one line; figures that the run did not produce are left out."""
    from manta.progress import format_figure

    shown = [
        f"{key.replace('_', ' ')} {_cut(format_figure(made.metrics[key]))}"
        for key in KEY_FIGURES.get(made.kind, ())
        if made.metrics.get(key) is not None
    ]
    return ", ".join(shown)


def _cut(text: str, longest: int = 80) -> str:
    """One line of bounded length: an answer of the model may be long, or hold line breaks."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 4] + " ..."


def next_commands(outcomes: Sequence[stage.Outcome]) -> list[str]:
    """Commands that make sense now, with the paths of this very run."""
    places = {outcome.artifact.kind: outcome.artifact.folder.url for outcome in outcomes}
    served = places.get("compress") or places.get("tune") or places.get("finetune") or places.get("pretrain")
    lines = ["Try next:"]
    if served:
        if not any("validation_score" in outcome.artifact.metrics for outcome in outcomes):  # a head does not talk
            lines.append(f"  manta chat {_short(served)}")
        lines.append(f"  manta lineage {_short(places.get('serve', served))}")
    lines.extend(f"  manta report {_short(places[kind])}" for kind in ("prepare", "pretrain", "tune") if kind in places)
    lines.append(f"  manta status {_short(outcomes[0].artifact.folder.url.rpartition('/')[0])}")
    return lines


def _short(url: str) -> str:
    """Relative to the working directory where that is shorter."""
    here = str(Path.cwd()) + "/"
    return url.removeprefix(here)

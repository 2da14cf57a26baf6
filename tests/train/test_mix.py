"""Streams that share a run: whose turn a step is, which rows it has, what is refused before anything starts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta import artifact, mix, plan
from manta import recipe as recipes
from manta.artifact import Draft, Resolved
from manta.data.shards import load_index, save_index
from manta.data.stream import read_steps
from manta.errors import InputError, RecipeError
from manta.mix import Order
from manta.progress import Progress
from manta.schema import FinetuneRecipe, PretrainRecipe, TuneRecipe
from manta.sections.optimisation import Stability
from manta.storage import Folder
from manta.tasks.examples import preview
from manta.train import mixed, run, stability, streams
from manta.train.job import Job
from manta.tune import space, sweep
from tests.tasks import labelled
from tests.train.counting import write_shards

TEXT = {"weight": 0.3, "data": {"shards": "shards"}, "task": {"name": "text"}}


def raw(**sections: Any) -> dict[str, Any]:
    return {
        "kind": "finetune", "name": "t", "data": {"examples": "./chats.jsonl", "validation_fraction": 0.25}, "model": {"source": "./llama"},
        "task": {"name": "chat", "max_tokens": 48}, "mix": [TEXT], "optimizer": {"lr": 5e-3, "precision": "fp32"}, "batch": {"samples": 4},
        "stop": {"steps": 20}, "resources": {"micro_batch": 2}, **sections,
    }  # fmt: skip


def recipe_of(**sections: Any) -> FinetuneRecipe:
    made = recipes.validate(raw(**sections))
    assert isinstance(made, FinetuneRecipe)
    return made


def stream(name: str, weight: float = 0.2, file: str = "./more.jsonl") -> dict[str, Any]:
    return {"weight": weight, "data": {"examples": file}, "task": {"name": name}}


# --- whose turn it is ------------------------------------------------------------------------------------------------


def test_turns_by_hand() -> None:
    """Shares 2, 1: of steps that are due at the same time the first stream's comes first; 5, 3, 2 are those of ten."""
    assert [Order((2, 1)).stream(step) for step in range(6)] == [0, 0, 1, 0, 0, 1]
    found = Order((5, 3, 2))
    assert [found.before(step) for step in (0, 10, 25)] == [[0, 0, 0], [5, 3, 2], [13, 7, 5]]
    assert Order((1,)).before(7) == [7] and Order((1,)).stream(7) == 0


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 500))
def test_each_stream_is_within_a_step_of_its_share(shares: list[int], steps: int) -> None:
    order, taken = Order(tuple(shares)), [0] * len(shares)
    for step in range(steps):
        assert order.before(step) == taken
        taken[order.stream(step)] += 1
        for count, share in zip(taken, shares, strict=True):
            exact = (step + 1) * share
            assert exact // sum(shares) <= count <= -(-exact // sum(shares))
    for number, count in enumerate(taken):
        if count:
            needed = order.steps_for(number, count)
            assert order.before(needed)[number] == count and order.before(needed - 1)[number] == count - 1


def test_weights_are_shares_of_all_steps() -> None:
    recipe = recipe_of(mix=[TEXT, stream("chat", 0.25), stream("chat", 0.0001)])
    assert mix.shares_of(recipe) == (4499, 3000, 2500, 1)
    assert mix.names(recipe) == ["chat", "text", "chat_2", "chat_3"]
    assert mix.shares_of(recipe_of()) == (7, 3) and mix.shares_of(recipe_of(mix=[])) == (1,)


def test_each_stream_is_a_recipe_of_its_own() -> None:
    recipe = recipe_of(mix=[TEXT, stream("preference")], early_stop={"figure": "loss_text"})
    own, text, better = mix.streams(recipe)
    assert isinstance(own.recipe, FinetuneRecipe) and own.recipe.mix == [] and own.recipe.task == recipe.task
    assert isinstance(text.recipe, PretrainRecipe) and text.recipe.data.shards == "shards"
    assert text.recipe.batch.samples == 4 and text.recipe.optimizer == recipe.optimizer
    assert isinstance(better.recipe, FinetuneRecipe) and better.recipe.task.name == "preference"
    roles = {"data.examples": 1, "model.source": 2, "mix.0.data.shards": 3, "mix.1.data.examples": 4}
    assert roles.keys() == recipes.input_refs(recipe).keys()
    assert own.inputs(roles) == {"data.examples": 1, "model.source": 2}
    assert text.inputs(roles) == {"data.shards": 3, "model.source": 2}
    assert better.inputs(roles) == {"data.examples": 4, "model.source": 2}


def test_how_long_a_mix_is() -> None:
    """Of epochs those of the recipe's own task count: 8 steps of it at 7 in 10 are 11; 1,000 tokens are of all streams."""
    order = Order((7, 3))
    for stop, steps in (({"epochs": 2.0}, 11), ({"steps": 9}, 9), ({"tokens": 1000}, 8)):
        recipe = recipe_of(stop=stop)
        assert mixed.num_steps(recipe, order, own=8, tokens_per_step=128.0) == steps
    assert order.before(11)[0] == 8 and order.before(10)[0] == 7


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "wrong"),
    [
        ([{**TEXT, "wieght": 0.2}], r"mix\.0\.wieght.*did you mean 'weight'"),
        ([{**TEXT, "weight": 0.33333}], r"mix\.0.*more than four decimals: write 0\.3333"),
        ([{**TEXT, "weight": 1.0}], r"mix\.0\.weight.*less than 1"),
        ([{**TEXT, "weight": 0.6}, stream("chat", 0.4)], r"mix.*add up to 1; .*the recipe's own task"),
        ([{**TEXT, "data": {"examples": "./a.jsonl"}}], r"mix\.0.*prepared rows, not from examples = './a\.jsonl'"),
        ([{**TEXT, "task": {"name": "chat"}}], r"mix\.0.*data\.shards = 'shards' holds text"),
        ([{**TEXT, "task": {"name": "txet"}}], r"mix\.0\.task\.name.*did you mean 'text'"),
        ([{"weight": 0.5, "data": {"exampels": "x"}, "task": {"name": "chat"}}], r"mix\.0\.data\.exampels"),
    ],
)  # fmt: skip
def test_a_mix_that_is_no_mix(streams: list[dict[str, Any]], wrong: str) -> None:
    with pytest.raises(RecipeError, match=wrong):
        recipe_of(mix=streams)


def test_heads_are_not_mixed() -> None:
    found = list(run.problems(recipe_of(task={"name": "classification"}, mix=[stream("tagging"), stream("chat")])))
    assert [problem.path for problem in found] == ["task.name", "mix.0.task.name"]
    assert "mix chat, summarisation, translation, preference and text" in found[0].remedy
    [tokens] = run.problems(recipe_of(batch={"tokens": 512}))
    assert tokens.path == "batch.tokens" and "set batch.samples" in tokens.remedy
    assert not list(run.problems(recipe_of(task={"name": "classification"}, mix=[])))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of letters, 24 conversations, 16 choices, and prepared rows in the Llama's tokens."""
    folder = tmp_path_factory.mktemp("mix")
    labelled.llama(folder / "llama")
    write_shards(folder)
    words = labelled.GOOD + labelled.BAD
    chats = [{"input": f"{word} {number}?", "target": f"so {word}"} for number in range(3) for word in words[:8]]
    pairs = [
        {"input": f"{word} {number}?", "chosen": f"yes {word}", "rejected": "no"}
        for number in range(2)
        for word in words[:8]
    ]
    for name, some in (("chats", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in some))
    return folder


def placed(place: Path, **sections: Any) -> FinetuneRecipe:
    """The recipe, with its inputs in the folder."""
    data = {"examples": f"{place}/chats.jsonl", "validation_fraction": 0.25}
    return recipe_of(**{"output": str(place), "data": data, "model": {"source": f"{place}/llama"}, **sections})


def inputs_of(recipe: FinetuneRecipe | TuneRecipe) -> dict[str, Resolved]:
    return artifact.resolve_inputs(recipe)


def job_of(recipe: FinetuneRecipe, folder: Path) -> Job:
    draft = Draft(Folder(folder / "run"), {}, inputs_of(recipe), resumed=False)
    job: Job = run.make_job(recipe, draft, None, Progress(quiet=True))
    return job


def test_figures_that_early_stopping_can_watch(place: Path) -> None:
    recipe = placed(place, mix=[TEXT, stream("preference", 0.2, f"{place}/pairs.jsonl")])
    inputs = inputs_of(recipe)
    run.check(recipe, inputs)
    for figure, mode in (("loss", "min"), ("loss_text", "min"), ("score_preference", "max")):
        run.check(recipe.model_copy(update={"early_stop": _early(figure, mode)}), inputs)
    with pytest.raises(
        InputError, match=r"'perplexity' is not measured for this mix: .*loss, loss_chat, perplexity_chat, loss_text"
    ):
        run.check(recipe.model_copy(update={"early_stop": _early("perplexity", "min")}), inputs)
    with pytest.raises(InputError, match="lowest score_preference, the worst ones"):
        run.check(recipe.model_copy(update={"early_stop": _early("score_preference", "min")}), inputs)


def _early(figure: str, mode: str) -> Any:
    from manta.sections.optimisation import EarlyStop

    return EarlyStop.model_validate({"figure": figure, "mode": mode})


def test_what_is_wrong_names_its_stream(place: Path, tmp_path: Path) -> None:
    from manta.data import tokenizer

    (tmp_path / "bad.jsonl").write_text('{"input": "a"}\n')
    bad = placed(place, mix=[TEXT, stream("chat", 0.2, f"{tmp_path}/bad.jsonl")])
    with pytest.raises(InputError, match=r"^mix\.1 \(chat_2\): .*bad\.jsonl"):
        run.check(bad, inputs_of(bad))
    other = tmp_path / "llama"
    labelled.llama(other)
    tokenizer.train(iter(["words and words again"] * 9), 300, other)
    text = placed(place, model={"source": str(other)})
    with pytest.raises(
        InputError,
        match=r"^mix\.0 \(text\): data\.shards = 'shards' was prepared with another tokenizer.*tokenizer\.source=",
    ):
        run.check(text, inputs_of(text))


def test_streams_that_leave_something_out(place: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"of the run's 3 steps none would belong to mix\.0 \(text\), whose share is 0\.1"
    ):
        job_of(placed(place, mix=[{**TEXT, "weight": 0.1}], stop={"steps": 3}), tmp_path / "few")
    shutil.copytree(place / "shards", tmp_path / "shards")
    index = load_index(str(tmp_path / "shards"))
    save_index(Folder(tmp_path / "shards"), replace(index, splits={**index.splits, "validation": ()}))
    unjudged = placed(place, mix=[{**TEXT, "data": {"shards": f"{tmp_path}/shards"}}])
    with pytest.raises(InputError, match=r"^mix\.0 \(text\): .*holds no validation rows"):
        run.check(unjudged, inputs_of(unjudged))


# --- rows ------------------------------------------------------------------------------------------------------------


def parts_of(job: Job, start: int, rank: int, workers: int) -> streams.Parts:
    seq_lens = [32 for _ in job.streams]
    config = streams.OrderedStreams([each.feed for each in job.streams], seq_lens, job.order, lambda: start)
    [found] = config.configure({"train": None}, workers)[rank].values()
    assert found is not None
    return found


def test_a_step_has_the_rows_that_its_stream_would_have_alone(place: Path, tmp_path: Path) -> None:
    job = job_of(placed(place), tmp_path)
    assert [each.feed.steps for each in job.streams] == [14, 6] and job.steps == 20
    assert [each.objective.name for each in job.streams] == ["clm", "clm"] and job.names == ("chat", "text")
    taken = [0, 0]
    for step, number, batch in streams.batches(parts_of(job, 0, 0, 1)):
        assert number == job.order.stream(step)
        feed = job.streams[number].feed
        alone = read_steps(feed, np.array([taken[number]]), 0, 1)
        assert batch.keys() == set(feed.columns)
        for name, values in batch.items():
            np.testing.assert_array_equal(values, alone[name][0][:, : values.shape[1]])
        taken[number] += 1
    assert taken == [14, 6]


def test_workers_and_restarts_change_no_row(place: Path, tmp_path: Path) -> None:
    job = job_of(placed(place), tmp_path)
    whole = list(streams.batches(parts_of(job, 0, 0, 1)))
    for start in (1, 9, 19):
        shared = [list(streams.batches(parts_of(job, start, rank, 2))) for rank in (0, 1)]
        for (step, number, batch), *ranks in zip(whole[start:], *shared, strict=True):
            assert [(at, which) for at, which, _ in ranks] == [(step, number)] * 2
            for name, values in batch.items():
                np.testing.assert_array_equal(values, np.concatenate([mine[name] for _, _, mine in ranks]))
    finished = streams.OrderedStreams([each.feed for each in job.streams], [32, 32], job.order, lambda: 20)
    assert finished.configure({"train": None}, 2) == [{"train": None}] * 2


# --- figures ---------------------------------------------------------------------------------------------------------


def test_the_mean_loss_is_weighted_by_the_shares() -> None:
    found = mixed.together({"chat": {"loss": 1.0, "perplexity": 2.7}, "text": {"loss": 3.0, "tokens": 5}}, (7, 3))
    assert found == {"loss": 1.6, "loss_chat": 1.0, "perplexity_chat": 2.7, "loss_text": 3.0, "tokens_text": 5}
    lines = [
        {"kind": "train", "stream": name, "loss": loss}
        for name, loss in (("chat", 4.0), ("text", 3.0), ("chat", 1.0), ("chat", None))
    ]
    found = mixed.final_losses([*lines, {"kind": "validation", "loss": 9.0}], ("chat", "text"), (7, 3))
    assert found == {"final_loss": 1.6, "final_loss_chat": 1.0, "final_loss_text": 3.0}


def test_a_step_is_a_spike_among_the_steps_of_its_own_stream() -> None:
    """Losses of 1 and 5 in turn: 5 is usual for the one stream and out of the question for the other."""
    settings, state = Stability(window=32, spike_deviations=6.0, policy="skip"), stability.State()
    for step in range(100):
        verdict, state = stability.feed(state, step, (1.0, 5.0)[step % 2] + 0.01 * (step % 3), None, settings, step % 2)
        assert verdict.action == "go_on"
    assert len(state.losses) == len(state.beside[0]) == 32
    assert stability.feed(state, 100, 5.0, None, settings, 1)[0].action == "go_on"
    verdict, after = stability.feed(state, 100, 5.0, None, settings, 0)
    assert verdict.action == "skip" and after.left_out == 1
    again = stability.after_restart(state, after)
    assert again.beside == state.beside and again.left_out == 1
    late = stability.feed(stability.State(), 0, 2.0, None, settings, 2)[1]
    assert (late.losses, late.beside) == ([], [[], [2.0]])


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_trials_of_a_sweep_keep_the_mix(place: Path) -> None:
    given = placed(place)
    trial = {key: value for key, value in recipes.resolved(given).items() if key not in ("name", "output", "seed")}

    def swept(**search: Any) -> TuneRecipe:
        space = {"optimizer.lr": {"loguniform": [1e-4, 1e-3]}}
        raw = {"kind": "tune", "name": "s", "output": str(place), "trial": trial, "search": {"space": space} | search}
        made = recipes.validate(raw)
        assert isinstance(made, TuneRecipe)
        return made

    recipe = swept()
    assert not list(sweep.problems(recipe))
    inputs = inputs_of(recipe)
    places = {role: found.path for role, found in inputs.items()}
    made = space.made(recipe, {"optimizer.lr": 2e-4}, output=f"{place}/sweep/trials", places=places).recipe
    assert isinstance(made, FinetuneRecipe) and made.mix[0].weight == 0.3
    refs = recipes.input_refs(made)
    assert refs["mix.0.data.shards"][0] == f"{place}/shards", "found from the trial's own folder"
    run.check(made, {role.removeprefix("trial."): found for role, found in inputs.items()})
    [problem] = sweep.problems(swept(objectives={"validation_score": "max"}))
    assert problem.path == "search.objectives.validation_score" and "validation_loss_text" in problem.remedy
    assert not list(sweep.problems(swept(objectives={"validation_loss_text": "min"})))
    [problem] = sweep.problems(swept(space={"mix": {"choice": [1]}}))
    assert problem.remedy.startswith("cannot be searched: validation_loss is")


# --- what is shown before a run --------------------------------------------------------------------------------------


def test_a_plan_counts_each_streams_steps(place: Path) -> None:
    """Of 20 steps of 4 rows 14 are of 48 tokens and 6 of 32; memory is that of the longer rows alone."""
    recipe = placed(place)
    found = plan.plan(recipe)
    assert found["steps"] == 20 and found["tokens"] == 14 * 4 * 48 + 6 * 4 * 32
    assert found["streams"] == {
        "chat": "14 steps, 0.7 of the steps, rows of 48 tokens",
        "text": "6 steps, 0.3 of the steps, rows of 32 tokens",
    }
    alone = plan.plan(recipe.model_copy(update={"mix": []}))
    assert found["memory_per_worker"] == alone["memory_per_worker"] and "streams" not in alone
    assert alone["flops"] * 0.7 < found["flops"] < alone["flops"]
    epochs = plan.plan(placed(place, stop={"epochs": 1.0}))
    assert "steps" not in epochs and epochs["streams"]["text"] == "0.3 of the steps, rows of 32 tokens"


def test_a_dry_run_shows_each_stream(place: Path) -> None:
    said = preview.show(placed(place, mix=[TEXT, stream("preference", 0.2, f"{place}/pairs.jsonl")]))
    heads = [place for place, line in enumerate(said) if line.endswith("of the steps")]
    assert [said[head] for head in heads] == [
        "chat (the own task), 0.5 of the steps",
        "text (mix.0), 0.3 of the steps",
        "preference (mix.1), 0.2 of the steps",
    ]
    assert any("training and" in line for line in said[: heads[1]]) and any("«" in line for line in said[: heads[1]]), (
        "the answer is marked"
    )
    assert said[heads[1] + 1] == "rows of 32 tokens of text, 450 to train on and 50 to validate with"
    assert any(line.strip().startswith("chosen:") for line in said[heads[2] :])
    missing = recipe_of(output=str(place), data={"examples": f"{place}/chats.jsonl"}, model={"source": f"{place}/llama"}, mix=[{**TEXT, "data": {"shards": "none"}}])  # fmt: skip
    assert preview.show(missing) == ["mix.0.data.shards = 'none' is not there yet, so no rows are shown"]

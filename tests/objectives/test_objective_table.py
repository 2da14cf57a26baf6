"""The table of objectives and its recipes' vocabulary: complete, light, and clear about what does not go together."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from manta.objectives import TABLE, layouts, loss_of, problems, scored_of
from manta.sections.layout import Layout
from manta.sections.objective import Objective

UNION: TypeAdapter[Any] = TypeAdapter(Objective)
KINDS = {get_args(layout.model_fields["kind"].annotation)[0] for layout in get_args(get_args(Layout)[0])}
NAMES = {get_args(section.model_fields["name"].annotation)[0] for section in get_args(get_args(Objective)[0])}


REQUIRED = {"distillation": {"teacher": "t"}}


def objective(name: str, **given: Any) -> Any:
    return UNION.validate_python({"name": name, **REQUIRED.get(name, {}), **given})


def test_every_objective_has_an_entry() -> None:
    assert set(TABLE) == NAMES
    for name, entry in TABLE.items():
        assert entry.parts and entry.families and set(entry.layouts) <= KINDS
        assert set(layouts(objective(name))) <= set(entry.layouts)
    assert set().union(*(entry.layouts for entry in TABLE.values())) == KINDS, "a layout that nothing trains on"


def test_heads_are_classes_of_transformers() -> None:
    import transformers

    assert all(hasattr(transformers, entry.head) for entry in TABLE.values())


def test_counts_are_as_many_as_parts() -> None:
    labels = np.full((2, 4), -100)
    batch = {"input_ids": labels, "labels": labels, "predecessor_labels": labels, "next_sentence_label": labels[:, 0], "start_positions": labels[:, 0]}  # fmt: skip
    for entry in TABLE.values():
        assert np.atleast_1d(entry.scored(batch)).tolist() == [0] * len(entry.parts)


def test_the_table_needs_no_torch() -> None:
    code = (
        "import json, sys, manta.objectives; print(json.dumps([m for m in ('torch', 'numpy', 'transformers') if m in "
        "sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == []


FITTING = [
    ("clm", {}, "llama", "best_fit"),
    ("clm", {}, "lstm", "concat"),
    ("mlm", {}, "bert", "concat"),
    ("nsp", {}, "bert", "sentence_pairs"),
    ("multi_mlm", {}, "bert", "sentence_pairs"),
    ("denoising", {}, "t5", "denoising"),
    ("denoising", {"method": {"kind": "infilling"}}, "bart", "concat"),
    ("distillation", {}, "gpt2", "concat"),
]


@pytest.mark.parametrize(("name", "given", "family", "layout"), FITTING)
def test_what_fits_is_no_problem(name: str, given: dict[str, Any], family: str, layout: str) -> None:
    assert list(problems(objective(name, **given), family, layout)) == []


@pytest.mark.parametrize(
    ("name", "given", "family", "layout", "says"),
    [
        ("nsp", {}, "llama", "sentence_pairs", "objective.name = 'nsp': a llama model cannot be trained to this: set model.family=bert, or for llama objective.name=clm or distillation"),
        ("clm", {}, "bert", "concat", "set model.family=llama or gpt2 or lstm, or for bert objective.name=mlm or nsp or multi_mlm"),
        ("clm", {}, "t5", "concat", "or for t5 objective.name=denoising"),
        ("clm", {}, "llama", "sentence_pairs", "rows of layout 'sentence_pairs': prepare the shards with data.layout.kind=concat or best_fit"),
        ("nsp", {}, "bert", "concat", "data.layout.kind=sentence_pairs"),
        ("denoising", {}, "t5", "concat", "data.layout.kind=denoising"),
        ("denoising", {"method": {"kind": "infilling"}}, "bart", "denoising", "data.layout.kind=concat or best_fit"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_a_remedy(
    name: str, given: dict[str, Any], family: str, layout: str, says: str
) -> None:
    (found,) = problems(objective(name, **given), family, layout)
    assert says in str(found)


def test_two_wrongs_are_told_at_once() -> None:
    assert len(list(problems(objective("nsp"), "gpt2", "concat"))) == 2


def test_settings_reach_the_loss() -> None:
    assert loss_of(objective("multi_mlm", predecessor_weight=0.25)).keywords == {"predecessor_weight": 0.25}
    deep = {"weight": 2.0, "measure": "mse"}
    taught = objective("distillation", temperature=3.0, hard_weight=0.2, teacher_mode="live", hidden=deep)
    found = loss_of(taught, teacher := object())
    assert found.keywords == {"teacher": teacher, "temperature": 3.0, "hard_weight": 0.2, "hidden": taught.hidden}
    assert loss_of(objective("distillation")).keywords["teacher"] is None
    assert objective("distillation").likeliest == 64 and objective("distillation", top_k=8).likeliest == 8
    assert loss_of(objective("mlm")) is TABLE["mlm"].loss
    weighted = objective("sequence_labels", weights=[0.5, 1.5])
    assert loss_of(weighted).keywords == {"several": False, "weights": [0.5, 1.5]}
    assert scored_of(weighted).keywords == {"weights": [0.5, 1.5]}
    assert scored_of(objective("mlm")) is TABLE["mlm"].scored


# --- vocabulary ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_recipe_with_all_defaults_written_out_is_the_same_recipe(name: str) -> None:
    found = objective(name)
    assert UNION.validate_python(found.model_dump(mode="json")) == found


def test_defaults_are_those_of_the_papers() -> None:
    bert = objective("nsp")
    assert (bert.mask_fraction, bert.unit, bert.replaced_by_mask, bert.replaced_by_random) == (0.15, "token", 0.8, 0.1)
    bart = objective("denoising", method={"kind": "infilling"}).method
    assert (bart.mask_fraction, bart.mean_span) == (0.3, 3.0)
    assert objective("mlm", unit="span").span == 3.0 and objective("mlm", unit="span", mean_span=5.0).span == 5.0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "mlm", "mean_span": 4.0}, "set unit=span"),
        ({"name": "mlm", "replaced_by_mask": 0.8, "replaced_by_random": 0.3}, "together more than 1"),
        ({"name": "mlm", "mask_fraction": 0.0}, "greater than 0"),
        ({"name": "mlm", "mask_fraction": 1.0}, "less than 1"),
        ({"name": "clm", "mask_fraction": 0.1}, "Extra inputs"),
        ({"name": "denoising", "method": {"kind": "spans", "mean_span": 3.0}}, "Extra inputs"),
        ({"name": "distillation", "teacher": "t", "temperature": 0.0}, "greater than 0"),
        ({"name": "distillation"}, "Field required"),
        ({"name": "distillation", "teacher": "t", "hidden": {}}, "set teacher_mode=live"),
        ({"name": "distillation", "teacher": "t", "teacher_mode": "live", "top_k": 8}, "set teacher_mode=stored"),
        ({"mask_fraction": 0.1}, "discriminator"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        UNION.validate_python(given)

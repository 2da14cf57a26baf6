"""Fine-tuning with a teacher: the answers of a task learnt from a larger model, whole or by LoRA, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from manta import mix
from manta.artifact import Resolved
from manta.errors import InputError
from manta.objectives import held_out, loss_of
from manta.sections.objective import Clm, Distillation
from manta.train import teacher
from manta.train.job import model_of
from manta.train.objective import objective_of
from tests.tasks import labelled
from tests.train import in_process

CHAT = {"name": "chat", "max_tokens": 48}
TALKS = [
    {"messages": [{"role": "user", "content": f"{word}?"}, {"role": "assistant", "content": f"a {word} film"}]}
    for word in labelled.GOOD + labelled.BAD
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student and a teacher that answers otherwise."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("taught")
    labelled.llama(folder / "student")
    model = LlamaForCausalLM.from_pretrained(labelled.llama(folder / "teacher"))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "teacher")
    return folder


def job_of(place: Path, folder: Path, **given: Any) -> Any:
    """A job whose recipe names the teacher."""
    inputs = in_process.inputs_of(TALKS, place / "student", folder)
    path = str(place / "teacher")
    inputs["distil.teacher"] = Resolved("distil.teacher", path, "directory", path, "", "")
    return in_process.job_of(CHAT, inputs, folder, **given)


@pytest.mark.parametrize(("adapt", "left"), [({"method": "full"}, 0.5), ({"method": "lora", "rank": 4}, 0.9)])
def test_a_student_comes_to_answer_as_its_teacher(
    place: Path, tmp_path: Path, adapt: dict[str, Any], left: float
) -> None:
    """Their embeddings differ too, which LoRA leaves as they are: 0.84 of the loss stays (measured)."""
    distil = {"teacher": str(place / "teacher"), "hard_weight": 0.0, "hidden": {"weight": 0.1}}
    job = job_of(place, tmp_path, distil=distil, adapt=adapt)
    assert isinstance(job.objective, Distillation) and isinstance(held_out(job.objective), Clm)
    model, loss = model_of(job, lambda _: None), loss_of(job.objective, teacher.at_hand(job))
    made = in_process.Plain(model, loss, job.recipe.optimizer, job.recipe.resources, job.accumulation)
    rows = in_process.read_steps(job.feed, in_process.np.array([0]), 0, 1)
    batch = {name: rows[name][0] for name in job.feed.columns}
    scored = [float((batch["labels"][:, 1:] != -100).sum())]
    losses = [made.step(batch, scored, 2e-2)[0] for _ in range(30)]
    assert losses[-1] < left * losses[0] and losses[0] > 0.05


def test_answers_alone_are_learnt_from_a_teacher(place: Path, tmp_path: Path) -> None:
    recipe = in_process.recipe_of(CHAT, tmp_path, distil={"teacher": "t"})
    found = objective_of(recipe, {"model_type": "llama"})
    assert found == Distillation(name="distillation", teacher="t", teacher_mode="live")
    labels = in_process.recipe_of({"name": "classification"}, tmp_path, distil={"teacher": "t"})
    with pytest.raises(InputError, match=r"distil: task.name = 'classification' .* set distil=null"):
        objective_of(labels, {"model_type": "llama"})


def test_a_mix_has_no_teacher(tmp_path: Path) -> None:
    beside = [{"weight": 0.3, "data": {"shards": "rows"}, "task": {"name": "text"}}]
    recipe = in_process.recipe_of(CHAT, tmp_path, distil={"teacher": "t"}, mix=beside)
    (found,) = mix.problems(recipe)
    assert found.path == "distil.teacher" and "leave distil out" in str(found)

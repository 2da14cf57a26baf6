"""Ten pairs of answers and ten pairs of texts are learnt by heart under DeepSpeed; what is left says what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta import isolate
from manta import plan as plans
from manta import recipe as recipes
from manta.data.shards import load_index
from manta.data.stream import read_steps, take
from manta.errors import InputError
from manta.evaluate import comparing as measuring
from manta.models.load import load
from manta.objectives import loss_of, mean, scored_of
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.sections.tasks import EmbeddingTask
from manta.storage import Folder
from manta.tasks import embedding
from manta.train import comparing, reference, run, validation
from manta.train.job import Job, model_of
from tests.tasks import labelled
from tests.train import in_process
from tests.train.in_process import Trained, compared, inputs_of
from tests.train.under_deepspeed import lone_process

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_processes")]
ANSWERS = [
    {"input": f"{word}?", "chosen": f"yes {word}", "rejected": f"no {word}"} for word in labelled.GOOD + labelled.BAD
]
TEXTS = [
    {"text": f"a {word} film", "positive": f"a {word} day , really"} for word in labelled.GOOD + labelled.BAD
]  # fmt: skip
PREFERENCE: dict[str, Any] = {"name": "preference", "max_tokens": 64}
EMBEDDING: dict[str, Any] = {"name": "embedding", "group": 5, "max_tokens": 32}


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_process(tmp_path_factory.mktemp("group")):
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"bert": labelled.bert(folder / "bert"), "llama": labelled.llama(folder / "llama")}


def job_of(task: dict[str, Any], given: list[dict[str, Any]], model: Path, folder: Path, **more: Any) -> Job:
    return in_process.job_of(task, inputs_of(given, model, folder), folder, **more)


def train(task: dict[str, Any], given: list[dict[str, Any]], model: Path, folder: Path, **more: Any) -> Trained:
    return in_process.train(task, given, model, folder, stop={"steps": 40}, **more)


# --- preferences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", [{"method": "full"}, {"method": "lora", "rank": 4}], ids=["full", "lora"])
def test_ten_preferences_are_learnt_by_heart(adapt: dict[str, Any], models: dict[str, Path], tmp_path: Path) -> None:
    lr = 1e-3 if adapt["method"] == "full" else 2e-2
    done = train(PREFERENCE, ANSWERS, models["llama"], tmp_path, adapt=adapt, optimizer={"lr": lr, "precision": "fp32"})
    assert done.first["loss"] == pytest.approx(np.log(2), abs=1e-5), "the model is its own reference"
    assert done.first["margin"] == pytest.approx(0, abs=1e-5)
    assert done.figures["score"] == 100.0 and done.figures["rows"] == 10, done.losses
    assert done.figures["margin"] > 0.5 and done.figures["loss"] < 0.7 * done.first["loss"]
    if adapt["method"] == "lora":
        assert done.moved == {name for name in done.after if "lora_" in name} < done.after.keys()
        assert (tmp_path / "out/adapter/adapter_model.safetensors").exists()
    # What was exported is an ordinary decoder, which evaluation finds to prefer what validation did.
    margins = compared(PREFERENCE, ANSWERS, tmp_path, model=done.model, reference=models["llama"])
    assert np.mean(margins["model"]) == pytest.approx(done.figures["margin"], rel=1e-3)
    assert margins["reference"] == [0.0] * 10
    config = json.loads((done.model / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_the_reference_is_what_transformers_says_before_training(models: dict[str, Path], tmp_path: Path) -> None:
    """log p of an answer is -(tokens) x Transformers' mean loss over its tokens, of the model as it stands."""
    job = job_of(PREFERENCE, ANSWERS, models["llama"], tmp_path)
    index = load_index(job.feed.shards)
    assert index.columns == ("input_ids", "labels", "rejected_input_ids", "rejected_labels", "reference")
    columns = take(job.feed.shards, index, "train", np.arange(10), index.columns)
    model = load(models["llama"], "fp32", "clm")
    for row in range(10):
        for side, prefix in enumerate(("", "rejected_")):
            ids = torch.tensor(columns[f"{prefix}input_ids"][row : row + 1]).long()
            labels = torch.tensor(columns[f"{prefix}labels"][row : row + 1]).long()
            with torch.no_grad():
                theirs = float(model(input_ids=ids, labels=labels).loss) * int((labels != -100).sum())
            assert columns["reference"].view(np.float32)[row, side] == pytest.approx(-theirs, rel=1e-5)


def test_slices_that_are_there_are_not_computed_again(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the column was written, and after: the same bits, whoever computes how much of them."""
    given = [{**answer, "input": f"{answer['input']}{number}"} for number in range(2) for answer in ANSWERS]
    monkeypatch.setattr(reference, "SLICE", 8)
    job = job_of(PREFERENCE, given, models["llama"], tmp_path)
    folder, index = Folder(job.feed.shards), load_index(job.feed.shards)
    whole = take(job.feed.shards, index, "train", np.arange(20), ["reference"])["reference"]
    assert len(np.unique(whole)) > 20

    shards = json.loads(folder.read_text("shards.json"))
    shards["columns"].remove("reference")
    folder.write_text("shards.json", json.dumps(shards))
    folder.clear("reference/train-000000008.parquet")
    asked: list[Any] = []

    def only(calls: list[isolate.Call], _: str) -> None:
        for call in calls:
            asked.extend(call.arguments[2])
            call.function(*call.arguments)

    monkeypatch.setattr(isolate, "run", only)
    assert isinstance(job.recipe, FinetuneRecipe)
    two = job.recipe.model_copy(
        update={"resources": job.recipe.resources.model_copy(update={"workers": 2, "micro_batch": 1})}
    )
    reference.store(two, folder, str(models["llama"]), Progress(quiet=True))
    assert asked == [("train", 8)]
    again = load_index(job.feed.shards)
    np.testing.assert_array_equal(
        take(job.feed.shards, again, "train", np.arange(20), ["reference"])["reference"], whole
    )
    asked.clear()
    reference.store(two, folder, str(models["llama"]), Progress(quiet=True))
    assert not asked


# --- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", [{"method": "full"}, {"method": "lora", "rank": 4}], ids=["full", "lora"])
def test_ten_texts_find_what_belongs_to_them(adapt: dict[str, Any], models: dict[str, Path], tmp_path: Path) -> None:
    lr = 5e-3 if adapt["method"] == "full" else 2e-2
    done = train(EMBEDDING, TEXTS, models["bert"], tmp_path, adapt=adapt, optimizer={"lr": lr, "precision": "fp32"})
    assert done.first["score"] < 100.0
    assert done.figures["score"] == done.figures["mrr"] == 100.0 and done.figures["rows"] == 10, done.losses
    assert done.losses[-1] < 0.2 * done.losses[0]
    assert compared(EMBEDDING, TEXTS, tmp_path, model=done.model)["model"] == [1] * 10
    still = done.after.keys() - done.moved
    assert any("pooler" in name for name in still)
    if adapt["method"] == "full":
        assert all("pooler" in name for name in still)


def test_the_directory_says_what_to_do_with_a_text(models: dict[str, Path], tmp_path: Path) -> None:
    """By Transformers alone, following modules.json, to the vectors that evaluation has."""
    from transformers import AutoModel, AutoTokenizer

    done = train(EMBEDDING, TEXTS, models["bert"], tmp_path)
    modules = json.loads((done.model / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    assert json.loads((done.model / "sentence_bert_config.json").read_text())["max_seq_length"] == 32
    pooling = json.loads((done.model / modules[1]["path"] / "config.json").read_text())
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens"]
    model, tokenizer = AutoModel.from_pretrained(done.model).eval(), AutoTokenizer.from_pretrained(done.model)
    assert type(model).__name__ == "BertModel" and pooling["word_embedding_dimension"] == model.config.hidden_size
    found = []
    for example in TEXTS:
        sides = []
        for name in ("text", "positive"):
            given = tokenizer(example[name], return_tensors="pt")
            with torch.no_grad():
                state = model(**given).last_hidden_state[0].mean(0)
            sides.append((state / state.norm()).numpy())
        found.append(sides)
    settings = EmbeddingTask.model_validate(EMBEDDING)
    encoded = [embedding.encode(example, tokenizer, settings) for example in TEXTS]
    ours, _ = measuring._vectors(done.model, "float32", encoded, tokenizer.pad_token_id)
    np.testing.assert_allclose(ours, np.array(found), atol=1e-5)


@pytest.mark.parametrize("task", [PREFERENCE, EMBEDDING], ids=["preference", "embedding"])
def test_workers_and_micro_batches_change_no_loss_and_no_gradient(
    task: dict[str, Any], models: dict[str, Path], tmp_path: Path
) -> None:
    """Of the third step, by 1 or 2 workers, in passes of 5, 10 or 20 rows: groups are the same texts."""
    given = [
        {key: f"{value} {number}" for key, value in example.items()}
        for number in range(3)
        for example in (ANSWERS if task is PREFERENCE else TEXTS)
    ]
    source = models["llama" if task is PREFERENCE else "bert"]
    job = job_of(task, given, source, tmp_path, batch={"samples": 20})
    model, loss = model_of(job, lambda _: None).eval(), loss_of(job.objective)
    found = []
    for workers, micro in ((1, 20), (1, 5), (2, 10), (2, 5)):
        model.zero_grad()
        ranks = [read_steps(job.feed, np.array([2]), rank, workers) for rank in range(workers)]
        batches = [{name: columns[name][0] for name in job.feed.columns} for columns in ranks]
        scored = sum(int(np.sum(scored_of(job.objective)(batch))) for batch in batches)
        total = 0.0
        for batch in batches:
            for first in range(0, 20 // workers, micro):
                part = {name: torch.tensor(values[first : first + micro]) for name, values in batch.items()}
                share = mean(loss(model, part)[0], scored)
                share.backward()
                total += float(share.detach())
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((scored, total, gradient))
    assert found[0][0] == 20
    for scored, total, gradient in found[1:]:
        assert scored == 20 and total == pytest.approx(found[0][1], rel=1e-5)
        torch.testing.assert_close(gradient, found[0][2], rtol=1e-3, atol=1e-6)


def test_each_rank_validates_whole_groups(models: dict[str, Path], tmp_path: Path) -> None:
    """Of ten rows in groups of 4, two ranks have 8 and 2, and six that are not scored."""
    task = {**EMBEDDING, "group": 4}
    resources = {"workers": 2, "micro_batch": 4}
    job = job_of(task, TEXTS, models["bert"], tmp_path, resources=resources, batch={"samples": 8})
    found = [validation.rows_of(job, rank) for rank in (0, 1)]
    assert [(rows["labels"] == 0).sum() for rows in found] == [8, 2] and [len(rows["labels"]) for rows in found] == [
        8,
        8,
    ]
    judges = [comparing.Judge(job, rank, 10) for rank in (0, 1)]
    assert [judge.mine for judge in judges] == [8, 2]
    with pytest.raises(RuntimeError, match="8 of 10 validation rows were scored"):
        judges[0].figures([torch.zeros(8, 2, 4)], found[0])


def test_groups_that_would_be_torn_apart_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"task\.group = 4 .* set resources\.micro_batch=8, or another task\.group"):
        job = job_of({**EMBEDDING, "group": 4}, TEXTS, models["bert"], tmp_path)
        run.check(job.recipe, inputs_of(TEXTS, models["bert"], tmp_path))


@pytest.mark.parametrize(
    ("task", "family"), [(PREFERENCE, "llama"), (EMBEDDING, "bert")], ids=["preference", "embedding"]
)
def test_the_plan_counts_all_texts_of_a_row(
    task: dict[str, Any], family: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """Twice the activations and operations of rows as long that hold one text; a group that is torn apart is refused."""
    one = {"llama": {"name": "chat", "max_tokens": 64}, "bert": {"name": "tagging", "max_tokens": 32}}[family]
    raw = {
        "kind": "finetune", "name": "t", "output": str(tmp_path), "data": {"examples": "./x.jsonl"},
        "model": {"source": str(models[family])}, "batch": {"samples": 10}, "stop": {"steps": 4},
        "optimizer": {"precision": "fp32"}, "resources": {"micro_batch": 5},
    }  # fmt: skip
    double, single = (plans.plan(recipes.validate({**raw, "task": chosen})) for chosen in (task, one))
    assert double["memory_per_worker"]["weights_bytes"] == 4 * double["parameters"]
    if family == "llama":
        ratio = double["memory_per_worker"]["activations_bytes"] / single["memory_per_worker"]["activations_bytes"]
        assert ratio == 2.0 and double["flops"] == 2 * single["flops"]
    else:
        torn = {**raw, "task": {**task, "group": 4}}
        with pytest.raises(InputError, match=r"set resources\.micro_batch=8"):
            plans.plan(recipes.validate(torn))
        assert double["parameters"] == sum(p.numel() for p in load(models["bert"], objective="contrast").parameters())

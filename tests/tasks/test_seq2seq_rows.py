"""What an encoder reads and a decoder learns of an example, token by token, and how it is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta import recipe as recipes
from manta.artifact import Resolved
from manta.data.shards import load_index, read_rows
from manta.errors import InputError
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.sections.tasks import SummarisationTask, TranslationTask
from manta.storage import Folder
from manta.tasks import TASKS, labels
from manta.tasks.encoding import rows, seq2seq
from manta.tasks.examples import preview
from manta.train.objective import objective_of
from tests.tasks import paired

SETTINGS = TranslationTask.model_validate(paired.TASK)
EXAMPLE = paired.PAIRS[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: getattr(paired, name)(folder / name) for name in ("t5", "bart", "llama")}


def config_of(model: Path) -> dict[str, Any]:
    return dict(json.loads((model / "config.json").read_text()))


def encoded(
    model: Path, settings: Any = SETTINGS, example: dict[str, str] = EXAMPLE, **config: Any
) -> tuple[str, str, Any]:
    """What is read and what is learnt, as text with special tokens, and the row."""
    tokenizer = labels.tokenizer(model)
    row = seq2seq.encode(example, tokenizer, settings, {**config_of(model), **config}, TASKS[settings.name])
    read, learnt = (tokenizer.decode(row.columns[name]) for name in ("input_ids", "labels"))
    assert row.columns["attention_mask"] == [1] * len(row.columns["input_ids"])
    return read, learnt, row


def settings(**given: Any) -> TranslationTask:
    return TranslationTask.model_validate({**paired.TASK, **given})


def test_t5_reads_its_words_before_a_text_and_both_texts_end(models: dict[str, Path]) -> None:
    read, learnt, row = encoded(models["t5"])
    assert read.split() == ["translate", "English", "to", "German:", "the", "old", "dog", "sleeps</s>"]
    assert learnt == "der alte Hund schläft</s>" and not row.truncated
    assert row.columns["labels"].count(1) == row.columns["input_ids"].count(1) == 1, "one end each"
    brief = SummarisationTask(name="summarisation")
    assert encoded(models["t5"], brief)[0] == "summarize: the old dog sleeps</s>"


def test_the_prefix_is_the_recipes_if_it_names_one(models: dict[str, Path]) -> None:
    assert encoded(models["t5"], settings(prefix=""))[0] == "the old dog sleeps</s>"
    assert encoded(models["t5"], settings(prefix="say: "))[0] == "say: the old dog sleeps</s>"
    assert encoded(models["t5"], model_type="mt5")[0] == "the old dog sleeps</s>", "others were not taught T5's words"


def test_where_a_tokenizer_sets_no_special_tokens_the_end_is_set(models: dict[str, Path]) -> None:
    read, learnt, row = encoded(models["bart"])
    assert (read, learnt) == ("the old dog sleeps<|endoftext|>", "der alte Hund schläft<|endoftext|>")
    assert row.columns["input_ids"][-1] == row.columns["labels"][-1] == config_of(models["bart"])["eos_token_id"]


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_what_is_too_long_is_cut(name: str, models: dict[str, Path]) -> None:
    """The encoder always reads an end; an answer that is cut has none."""
    whole = encoded(models[name], settings(prefix=""))[2].columns
    size, target = len(whole["input_ids"]), len(whole["labels"])
    fits = encoded(models[name], settings(prefix="", max_input_tokens=size, max_target_tokens=target - 1))[2]
    assert not fits.truncated and fits.columns == whole
    cut = encoded(models[name], settings(prefix="", max_input_tokens=size - 1, max_target_tokens=target - 1))[2]
    assert cut.truncated and cut.columns["labels"] == whole["labels"]
    assert cut.columns["input_ids"] == [*whole["input_ids"][: size - 2], whole["input_ids"][-1]]
    cut = encoded(models[name], settings(prefix="", max_input_tokens=size, max_target_tokens=target - 2))[2]
    assert cut.truncated and cut.columns["labels"] == whole["labels"][: target - 2]


def recipe(data: dict[str, Any] | None = None, **task: Any) -> FinetuneRecipe:
    made = recipes.validate(
        {
            "kind": "finetune", "name": "t", "data": {"examples": "./x", "validation": "./y", **(data or {})},
            "model": {"source": "./m"}, "task": {**paired.TASK, **task}, "batch": {"samples": 2}, "stop": {"steps": 1},
        }
    )  # fmt: skip
    assert isinstance(made, FinetuneRecipe)
    return made


def inputs(folder: Path, model: Path) -> dict[str, Resolved]:
    found = {"model.source": Resolved("model.source", "m", "directory", str(model), "", "")}
    for name, some in (("data.examples", paired.PAIRS[:8]), ("data.validation", paired.PAIRS[8:])):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(example) + "\n" for example in some))
        found[name] = Resolved(name, str(file), "file", str(file), "", "")
    return found


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_rows_have_a_length_for_each_side(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    place = Folder(tmp_path / "rows")
    rows.write(recipe(), inputs(tmp_path, models[name]), models[name], place, Progress(quiet=True))
    index, tokenizer = load_index(place), labels.tokenizer(models[name])
    found = {column: read_rows(place, "train/00000.parquet", column) for column in index.columns}
    assert set(found) == {"input_ids", "attention_mask", "labels"}
    assert found["input_ids"].shape == found["attention_mask"].shape == (8, index.seq_len)
    assert found["labels"].shape == (8, index.target_len) and (index.target_len or 1) % 8 == 0
    assert index.padded == ("input_ids", "attention_mask"), "answers are not cut at the length of what is asked"
    for number, example in enumerate(paired.PAIRS[:8]):
        _, _, row = encoded(models[name], example=example)
        for column, values in row.columns.items():
            assert found[column][number][: len(values)].tolist() == values
        filled = found["attention_mask"][number] == 0
        assert (found["input_ids"][number][filled] == tokenizer.pad_token_id).all()
        assert (found["labels"][number][len(row.columns["labels"]) :] == -100).all()
    report = json.loads(place.read_text("report.json"))["train"]
    assert report["trained_tokens"] == int((found["labels"] != -100).sum())


def test_the_dry_run_shows_both_sides(models: dict[str, Path], tmp_path: Path) -> None:
    said = preview.lines(recipe(), inputs(tmp_path, models["t5"]))
    assert any("tokens: tr|an|sl|ate" in line and "«" not in line for line in said)
    learnt = [line for line in said if line.startswith("  answer: ")]
    assert len(learnt) == 3 and learnt[0].endswith("tokens: «d»|«er»|«»|«al»|«te»|«H»|«u»|«n»|«d»|«schläft»|«</s>»")


def test_the_objective_follows_the_model(models: dict[str, Path]) -> None:
    for name, wanted in (("t5", "denoising"), ("bart", "denoising"), ("llama", "clm")):
        assert objective_of(recipe(), config_of(models[name])).name == wanted
    with pytest.raises(
        InputError, match=r"task.name = 'translation' is taught to a decoder.* or an encoder with a decoder"
    ):
        objective_of(recipe(), {"model_type": "bert"})
    chat = recipes.validate({**recipe().model_dump(mode="json"), "task": {"name": "chat"}})
    assert isinstance(chat, FinetuneRecipe)
    with pytest.raises(InputError, match=r"is of type 't5', an encoder with a decoder, and task.name = 'chat'"):
        objective_of(chat, config_of(models["t5"]))


def test_no_chat_template_is_needed(models: dict[str, Path], tmp_path: Path) -> None:
    rows.check(recipe(), inputs(tmp_path, models["t5"]))
    with pytest.raises(InputError, match="has no chat template"):
        labels_only = tmp_path / "llama"
        labels_only.mkdir()
        (labels_only / "config.json").write_text((models["llama"] / "config.json").read_text())
        (labels_only / "tokenizer_config.json").write_text("{}")
        rows.check(recipe(), inputs(tmp_path, labels_only))


def test_settings_of_encoder_decoders_are_refused_elsewhere(models: dict[str, Path], tmp_path: Path) -> None:
    for given in ({"prefix": "say: "}, {"beams": 4}):
        rows.check(recipe(**given), inputs(tmp_path, models["bart"]))
        with pytest.raises(InputError, match=rf"task.{next(iter(given))} = .* of type 'llama'.*leave task"):
            rows.check(recipe(**given), inputs(tmp_path, models["llama"]))


def test_what_a_model_cannot_take_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    tokenizer, config = labels.tokenizer(models["bart"]), config_of(models["bart"])
    with pytest.raises(InputError, match="has no decoder_start_token_id"):
        seq2seq.check(tokenizer, {**config, "decoder_start_token_id": None})
    tokenizer.src_lang = "en_XX"
    with pytest.raises(InputError, match="codes of languages"):
        seq2seq.check(tokenizer, config)
    long = [{"input": "the old dog sleeps " * 12, "target": "der"}]
    for given, side in (
        (long, "max_input_tokens = 90"),
        ([{"input": "the", "target": "Hund " * 60}], "max_target_tokens = 90"),
    ):
        made = settings(max_input_tokens=90, max_target_tokens=90)
        with pytest.raises(InputError, match=rf"task.{side}: the longest example has \d+ tokens, the model takes 48"):
            seq2seq.rows_of({"train": given}, labels.tokenizer(models["bart"]), made, config, TASKS["translation"])
    # Answers are filled up to a multiple of 8, and to no more than there are positions.
    fitting, made = [{"input": "the", "target": "der" + " Hund" * 41}], settings(max_target_tokens=90)
    for positions in (43, 45, 48):
        given_config = {**config, "max_position_embeddings": positions}
        [row] = seq2seq.rows_of(
            {"train": fitting}, labels.tokenizer(models["bart"]), made, given_config, TASKS["translation"]
        )["train"]
        assert len(row.columns["labels"]) == positions and row.columns["labels"].count(-100) == positions - 43
    # T5's n_positions is what it was first trained on, and no limit: its positions are relative.
    found = seq2seq.rows_of(
        {"train": long}, labels.tokenizer(models["t5"]), settings(max_input_tokens=400), {**config_of(models["t5"]), "n_positions": 8}, TASKS["translation"]
    )  # fmt: skip
    assert len(found["train"][0].columns["input_ids"]) > 100 and not found["train"][0].truncated


def test_a_plan_knows_both_lengths(models: dict[str, Path]) -> None:
    from manta.plan import sources
    from manta.plan.figures import Given

    asked = {"examples": "./x", "validation": None}
    for name, wanted in (("t5", (40, 25)), ("llama", (64, None))):
        made = recipes.validate({**recipe(asked).model_dump(mode="json"), "model": {"source": f"{models[name]}"}})
        assert isinstance(made, FinetuneRecipe)
        found = sources.rows(made, Given(), [])
        assert found is not None and (found.seq_len, found.target_len) == wanted


def test_padding_changes_neither_loss_nor_what_is_learnt(models: dict[str, Path]) -> None:
    """The loss of padded rows together is that of each row alone, by Transformers' own formula."""
    import torch
    import transformers

    from manta.objectives.denoising import denoising

    for name in ("t5", "bart"):
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(models[name]).eval()
        tokenizer, config = labels.tokenizer(models[name]), config_of(models[name])
        examples = [EXAMPLE, {"input": "the old dog sleeps the king", "target": "Haus"}]
        made = [seq2seq.encode(each, tokenizer, SETTINGS, config, TASKS["translation"]) for each in examples]
        alone = 0.0
        for row in made:
            columns = {column: torch.tensor([values]) for column, values in row.columns.items()}
            alone += float(model(**columns).loss.detach()) * len(row.columns["labels"])
        filled = seq2seq.rows_of({"train": examples}, tokenizer, SETTINGS, config, TASKS["translation"])["train"]
        stacked = rows.stacked(filled, 48, {"input_ids": tokenizer.pad_token_id, **seq2seq.PADDED})
        batch = {column: torch.tensor(values) for column, values in stacked.items()}
        loss, scored = denoising(model, batch)
        assert float(loss.detach()) == pytest.approx(alone, rel=1e-5)
        assert int(scored) == sum(len(row.columns["labels"]) for row in made) == int(np.sum(stacked["labels"] != -100))
        long = {column: values.long() for column, values in batch.items()}
        assert float(model(**long).loss.detach()) == pytest.approx(float(loss.detach()) / int(scored), rel=1e-5)

"""A sweep of schemes from a model, a hardware and a target: what is decided, what is refused, and that it may start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta import cli, recipe
from manta.errors import InputError, RecipeError
from manta.quick import compressing, form
from manta.sections.compress import Quantise
from manta.tune import checks, space

VOCAB = 300


def finished(folder: Path, kind: str, inputs: dict[str, Any]) -> dict[str, str]:
    """An artifact with what lineage reads; returns what another's manifest says of it."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"kind": kind, "name": folder.name, "fingerprint": folder.name * 3, "content": "c", "recipe": {}}
    (folder / "manifest.json").write_text(json.dumps({**told, "inputs": inputs}))
    (folder / "COMPLETE").write_text("")
    return {"ref": folder.name, "kind": kind, "path": str(folder), "fingerprint": folder.name * 3, "content": "c"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/tuned comes from runs/base, which was trained on runs/rows: 40 training rows and 8 others, of 96 tokens."""
    from manta.data.shards import Index, Shard, save_index
    from manta.storage import Folder

    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    rows = finished(runs / "rows", "prepare", {})
    splits = {"train": (Shard("t", 40, 3840, 0, ""),), "validation": (Shard("v", 8, 768, 0, ""),)}
    save_index(Folder(runs / "rows"), Index(96, VOCAB, 0, None, None, splits))
    base = finished(runs / "base", "pretrain", {"data.shards": rows})
    finished(runs / "tuned", "finetune", {"data.examples": {"ref": "x", "kind": "file", "path": "x", "fingerprint": "f"}, "model.source": base})  # fmt: skip
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
    }
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "num_hidden_layers": 2}
    for name in ("base", "tuned"):
        (runs / name / "model").mkdir()
        made = {**config, **sizes, "max_position_embeddings": 128, "tie_word_embeddings": True}
        (runs / name / "model/config.json").write_text(json.dumps(made))
    return tmp_path


def made(*targets: str, hardware: str = "cpu", overrides: tuple[str, ...] = (), **more: Any) -> form.Made:
    return compressing.make(
        compressing.Words("runs/tuned", hardware, targets or ("size 0.7",), overrides=overrides, **more)
    )


def test_the_sweep_is_valid_and_may_start(here: Path) -> None:
    found = made("size 0.7", "perplexity 1.05")
    assert not [*checks.problems(found.recipe)]  # type: ignore[arg-type]
    raw = recipe.resolved(found.recipe)
    assert raw["trial"]["compress"]["calibration"] == {"shards": str(here / "runs/rows"), "samples": 40, "seq_len": 96}
    judged = raw["after"]["evaluate"]
    assert judged["base"] == raw["trial"]["model"]["source"] == "runs/tuned"
    assert judged["evaluate"]["perplexity_rows"] == 8
    assert judged["evaluate"]["speed"]["prompt_tokens"] + judged["evaluate"]["speed"]["new_tokens"] <= 128
    assert raw["search"]["constraints"] == {
        "evaluate.size_ratio": {"at_most": 0.7, "at_least": None},
        "evaluate.perplexity_ratio": {"at_most": 1.05, "at_least": None},
    }
    assert raw["search"]["objectives"] == {"evaluate.speedup_1": "max", "evaluate.speedup_16": "max"}
    found.write()
    assert recipe.load(found.file.name, kind="tune") == found.recipe


def test_every_candidate_of_every_hardware_makes_a_trial(here: Path) -> None:
    for hardware, candidates in compressing.CANDIDATES.items():
        sweep: Any = made(hardware=hardware).recipe
        tried = [*space.grid(sweep.search)]
        assert [one["compress.quantise"] for one in tried] == list(candidates)
        assert sweep.search.trials == len(candidates)
        for overrides in tried:
            places = {"trial.compress.calibration.shards": "rows", "trial.model.source": "model"}
            trial: Any = space.made(sweep, overrides, places=places).recipe
            assert trial.compress.quantise == Quantise.model_validate(overrides["compress.quantise"])
            assert (trial.compress.calibration is not None) == trial.compress.quantise.reads_rows


def test_what_the_target_leaves_open_is_searched_and_the_first_of_it_decides(here: Path) -> None:
    assert [*made("size 0.5").recipe.search.objectives] == [  # type: ignore[union-attr]
        "evaluate.perplexity_ratio",
        "evaluate.speedup_1",
        "evaluate.speedup_16",
    ]
    every = made("size 0.5", "perplexity 1.1", "speed 1.3", "throughput=1.2").recipe.search  # type: ignore[union-attr]
    assert every.objectives == {"evaluate.perplexity_ratio": "min"}
    assert every.constraints["evaluate.speedup_16"].at_least == 1.2


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("resources.concurrent_trials=2", "resources.concurrent_trials"),
        ("after.evaluate.evaluate.speed=null", "search.objectives.evaluate.speedup_1"),
        ("after.evaluate.base=null", "search.constraints.evaluate.size_ratio"),
    ],
)
def test_what_was_changed_so_that_it_cannot_be_measured_is_refused(here: Path, override: str, path: str) -> None:
    made("size 0.7").write()
    changed: Any = recipe.load("tuned-for-cpu.yaml", [override], kind="tune")
    assert path in [problem.path for problem in checks.problems(changed)]


def test_the_reasons_are_told(here: Path) -> None:
    said = made("size 0.5").shown(written=False)
    assert f"calibrated and judged on rows of {here / 'runs/rows'}" in said
    assert "of 40 training rows" in said
    assert "what the target leaves open" in said


def test_speed_of_another_machine_is_not_pretended(here: Path) -> None:
    found = made("size 0.5", hardware="h100")
    raw = recipe.resolved(found.recipe)
    assert raw["after"]["evaluate"]["evaluate"]["speed"] is None
    assert raw["after"]["evaluate"]["evaluate"]["engine"] == "transformers"
    assert raw["search"]["objectives"] == {"evaluate.perplexity_ratio": "min"}
    assert "speed on h100 is not measured: this machine is none" in found.told
    with pytest.raises(InputError, match="--target speed: the speed of --for h100 cannot be measured here"):
        made("speed 1.3", hardware="h100")


def test_what_the_user_wrote_stays(here: Path) -> None:
    found = made(
        overrides=("after.evaluate.evaluate.speed.rounds=2", "trial.compress.calibration.samples=7", "name=mine")
    )
    raw = recipe.resolved(found.recipe)
    assert (raw["name"], raw["trial"]["compress"]["calibration"]["samples"]) == ("mine", 7)
    assert raw["after"]["evaluate"]["evaluate"]["speed"]["rounds"] == 2
    assert "trial.compress.calibration.samples" not in [choice.path for choice in found.choices]
    with pytest.raises(RecipeError, match="unknown key"):
        made(overrides=("trial.compres.seed=1",))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ((), "--target is missing"),
        (("small",), "give one of perplexity, speed, throughput, size and a number"),
        (("weight 0.5",), "give one of"),
        (("size half",), "'half' is no number"),
        (("size 0.5", "size 0.6"), "stands there twice"),
        (("size -1",), "above 0"),
    ],
)
def test_targets_that_mean_nothing_are_refused(targets: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compressing.wanted(targets)


def test_rows_that_nobody_knows_are_asked_for(here: Path) -> None:
    import shutil

    shutil.copytree(here / "runs/tuned/model", here / "plain")
    with pytest.raises(InputError, match=r"is no run of Manta.*add --data"):
        compressing.make(compressing.Words("./plain", "cpu", ["size 0.5"]))
    found: Any = compressing.make(compressing.Words("./plain", "cpu", ["size 0.5"], data="runs/rows")).recipe
    assert found.trial.compress.calibration.shards == str(here / "runs/rows")
    (here / "runs/rows/shards.json").unlink()
    with pytest.raises(InputError, match="lineage holds no prepared rows that are still there"):
        made()


def test_encoders_and_other_hardware_are_refused_with_the_remedy(here: Path) -> None:
    with pytest.raises(InputError, match="--for tpu: choose one of cpu, h100"):
        made(hardware="tpu")
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 30, "hidden_size": 8,
              "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "max_position_embeddings": 16, "type_vocab_size": 2}  # fmt: skip
    (here / "runs/tuned/model/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"compress: \{dynamic: \{\}\}"):
        made()


def test_the_command_starts_nothing_in_a_dry_run(here: Path, capsys: Any) -> None:
    words = ["compress", "--model", "runs/tuned", "--for", "cpu", "--target", "size 0.7", "--dry-run"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "without --dry-run: written to ./tuned-for-cpu.yaml, and started" in said
    assert "# tune tuned-for-cpu: the resolved recipe" in said
    assert not (here / "tuned-for-cpu.yaml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compress"], "name a recipe file, or --model, --for and --target"),
        (["compress", "--model", "m", "--target", "size 0.5"], "--for"),
        (["compress", "x.yaml", "--for", "cpu"], "--for is for a compress without a recipe file"),
    ],
)
def test_half_a_command_is_explained(words: list[str], said: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err

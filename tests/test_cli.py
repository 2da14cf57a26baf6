"""The command line: exit codes, one clear message, JSON on stdout, nothing heavy for light commands."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manta import cli, commands
from manta.errors import GateRefused

QUICKSTART = Path(__file__).resolve().parents[1] / "jobs/recipes/quickstart"


def test_wrong_recipes_exit_2_with_every_problem(tmp_path, capsys) -> None:
    file = tmp_path / "pretrain.yaml"
    file.write_text(
        "kind: pretrain\nname: x\ndata: {shards: s}\nbatch: {samples: 1}\nstop: {steps: 1}\nsed: 1\nmodl: {}\n"
    )
    assert cli.main(["pretrain", str(file)]) == 2
    said = capsys.readouterr().err
    assert "sed = 1" in said
    assert "did you mean 'seed'" in said
    assert "did you mean 'model'" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "nowhere.yaml"], "does not exist"),
        (["resume", "nowhere"], "holds no run"),
        (["lineage", "nowhere"], "is not an artifact"),
        (["report", "nowhere"], "holds no run"),
        (["compare", "nowhere", "elsewhere"], "is not an artifact"),
        (["status", "nowhere"], "does not exist"),
        (["schema", "pretrian"], "did you mean 'pretrain'"),
        (["run", str(QUICKSTART / "pipeline.yaml"), "pretrian.seed=1"], "did you mean 'pretrain'"),
        (["prepare", str(QUICKSTART / "pipeline.yaml")], "use `manta run`"),
    ],
)
def test_wrong_input_exits_2_with_the_remedy(arguments, message, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_overrides_may_stand_anywhere(capsys) -> None:
    args = cli.parse(["pretrain", "x.yaml", "a=1", "--dry-run", "b.c=2"])
    assert args.overrides == ["a=1", "b.c=2"]
    for wrong in (["pretrain", "x.yaml", "--dry-rum"], ["status", "--json", "a=1", "--no"], ["doctor", "a=1"]):
        with pytest.raises(SystemExit) as caught:
            cli.parse(wrong)
        assert caught.value.code == 2


def test_parity_is_short_for_its_setting() -> None:
    args = cli.parse(["evaluate", "--parity", "x.yaml", "seed=1"])
    assert args.overrides == ["seed=1", "evaluate.parity=true"]
    assert cli.parse(["evaluate", "x.yaml"]).overrides == []


def test_unknown_command_exits_2(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["pretrian", "x"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "code"), [(GateRefused("recovery 80 < 95"), 4), (KeyboardInterrupt(), 130), (ZeroDivisionError("x"), 3)]
)
def test_exit_codes_of_failures(error, code, monkeypatch, capsys) -> None:
    def fails(args):
        raise error

    monkeypatch.setattr(commands, "run_schema", fails)
    assert cli.main(["schema", "pretrain"]) == code
    assert "manta: " in capsys.readouterr().err


def test_errors_are_json_too(tmp_path, capsys) -> None:
    assert cli.main(["prepare", "nowhere.yaml", "--json"]) == 2
    event = json.loads(capsys.readouterr().out)
    assert event["event"] == "error"
    assert event["exit_code"] == 2


def test_schema_prints_json(capsys) -> None:
    assert cli.main(["schema", "serve"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "ServeRecipe"


def test_dry_run_starts_nothing_and_prints_what_reloads(tmp_path, capsys) -> None:
    import yaml

    from manta import recipe

    assert cli.main(["prepare", str(QUICKSTART / "prepare.yaml"), f"output={tmp_path}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    document = said[said.index("kind: prepare") : said.index("\n\n", said.index("kind: prepare"))]
    assert recipe.validate(yaml.safe_load(document)).output == str(tmp_path)


def test_light_commands_load_nothing_heavy() -> None:
    code = (
        "import sys; from manta import cli\n"
        "try: code = cli.main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        "assert code == 0, code\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'vllm', 'pyarrow') if name in sys.modules], file=sys.stderr)"
    )
    pipeline = str(QUICKSTART / "pipeline.yaml")
    for arguments in (["--help"], ["schema", "pretrain"], ["run", pipeline, "--dry-run"], ["plan", pipeline]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.strip().endswith("[]"), (arguments, done.stderr)


def test_sigterm_is_an_interruption(tmp_path) -> None:
    """`kill PID` leaves the state saved and exits as Ctrl-C does, in a process of its own."""
    code = (
        "import sys, time; from manta import cli, commands\n"
        "commands.run_schema = lambda args: (print('ready', flush=True), time.sleep(60))\n"
        "sys.exit(cli.main(['schema', 'pretrain']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.2)
    os.kill(child.pid, signal.SIGTERM)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "run the same command again" in said


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m manta.cli schema pretrain | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_doctor_names_each_remedy(capsys) -> None:
    from manta.doctor import Check, examine, text

    checks = examine()
    assert {"python", "torch", "disk", "memory"} <= {check.name for check in checks}
    shown = text([Check("disk", False, "1 GiB", "free some"), Check("python", True, "3.11")])
    assert "MISS  disk" in shown
    assert "-> free some" in shown
    assert all(check.ok or check.remedy for check in checks)

"""What is refused before anything starts: unproven models, open hosts, bad keys, taken ports."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from manta import artifact
from manta import recipe as recipes
from manta.errors import GateRefused, InputError
from manta.schema import ServeModel
from serving import launch
from serving.door import keys
from serving.engines import vllm as engine
from serving.fleet import address


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def make_artifact(
    root: Path, name: str, kind: str, inputs: dict[str, Any] | None = None, metrics: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A finished artifact with just what launching reads."""
    folder = root / name
    if kind != "evaluate":
        make_model(folder / "model")
    folder.mkdir(exist_ok=True)
    manifest = {
        "kind": kind, "name": name, "fingerprint": recipes.digest(name), "content": recipes.digest([name, 1]),
        "inputs": inputs or {}, "metrics": metrics or {}, "recipe": {"kind": kind},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "COMPLETE").write_text("")
    return manifest


def judged(manifest: dict[str, Any], **changes: str) -> dict[str, Any]:
    told = {"ref": manifest["name"], "fingerprint": manifest["fingerprint"], "content": manifest["content"]}
    return {"model.source": {**told, **changes}}


def recipe(output: Path | str, source: str, evaluation: str | None = None, **serve: Any) -> Any:
    model = {"source": source} | ({"evaluation": evaluation} if evaluation else {})
    return recipes.validate(
        {"kind": "serve", "name": "s", "output": str(output), "model": model, "serve": {"port": 0, **serve}}
    )


def test_a_directory_is_served_as_it_is(tmp_path):
    folder = make_model(tmp_path / "m")
    made = launch.prepare(recipe(tmp_path, str(folder)))
    assert made.served[0].model == str(folder)
    assert made.fingerprint == artifact.content_hash(artifact.Folder(folder))
    assert made.url == f"http://127.0.0.1:{made.port}"


def test_an_artifacts_model_folder_and_fingerprint_are_taken(tmp_path):
    manifest = make_artifact(tmp_path, "base", "pretrain")
    made = launch.prepare(recipe(tmp_path, "base"))
    assert (made.served[0].model, made.fingerprint) == (str(tmp_path / "base" / "model"), manifest["fingerprint"])


def test_an_adapter_alone_is_refused_with_the_remedy(tmp_path):
    make_artifact(tmp_path, "tuned", "finetune")
    (tmp_path / "tuned" / "model" / "config.json").unlink()
    (tmp_path / "tuned" / "adapter").mkdir()
    (tmp_path / "tuned" / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapt\.merge: true"):
        launch.prepare(recipe(tmp_path, "tuned"))


class TestProof:
    def test_a_compressed_model_needs_one(self, tmp_path):
        make_artifact(tmp_path, "small", "compress")
        with pytest.raises(InputError, match=r"model\.evaluation is not set"):
            launch.prepare(recipe(tmp_path, "small"))
        assert launch.prepare(recipe(tmp_path, "small"), proven=False).name == "s"

    def test_one_that_passed_opens_the_door(self, tmp_path):
        small = make_artifact(tmp_path, "small", "compress")
        make_artifact(tmp_path, "scores", "evaluate", judged(small), {"passed": True, "score_recovery": 99.0})
        assert launch.prepare(recipe(tmp_path, "small", "scores")).fingerprint == small["fingerprint"]

    def test_one_without_a_base_proves_nothing(self, tmp_path):
        small = make_artifact(tmp_path, "small", "compress")
        make_artifact(tmp_path, "scores", "evaluate", judged(small), {"passed": True, "perplexity": 15.0})
        with pytest.raises(InputError, match=r"with no base: set model\.base"):
            launch.prepare(recipe(tmp_path, "small", "scores"))

    @pytest.mark.parametrize(("trial", "after"), [("compress", None), ("finetune", {"compress": {}})])
    def test_the_winner_of_a_sweep_of_compressions_needs_one_too(self, tmp_path, trial, after):
        manifest = make_artifact(tmp_path, "best", "tune")
        manifest["recipe"] = {"trial": {"kind": "finetune"}, "after": {"compress": None}}
        (tmp_path / "best/manifest.json").write_text(json.dumps(manifest))
        assert launch.prepare(recipe(tmp_path, "best")).fingerprint == manifest["fingerprint"]
        manifest["recipe"] = {"trial": {"kind": trial}, "after": {"compress": after}}
        (tmp_path / "best/manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=r"model\.evaluation is not set"):
            launch.prepare(recipe(tmp_path, "best"))

    @pytest.mark.parametrize("passed", [False, None, "yes"])
    def test_one_that_did_not_pass_keeps_it_shut(self, tmp_path, passed):
        small = make_artifact(tmp_path, "small", "compress")
        make_artifact(tmp_path, "scores", "evaluate", judged(small), {"passed": passed, "score_recovery": 61.5})
        with pytest.raises(GateRefused, match=r"score_recovery 61\.5"):
            launch.prepare(recipe(tmp_path, "small", "scores"))

    def test_one_that_refuses_parity_keeps_it_shut_for_any_model(self, tmp_path):
        base = make_artifact(tmp_path, "base", "pretrain")
        make_artifact(tmp_path, "scores", "evaluate", judged(base), {"passed": False, "parity": False})
        assert launch.prepare(recipe(tmp_path, "base")).fingerprint == base["fingerprint"]
        with pytest.raises(GateRefused, match="parity False"):
            launch.prepare(recipe(tmp_path, "base", "scores"))

    def test_whoever_asks_for_parity_gets_nothing_served_without(self, tmp_path):
        base = make_artifact(tmp_path, "base", "pretrain")
        asked = recipe(tmp_path, "base").model_copy(update={"model": ServeModel(source="base", parity=True)})
        with pytest.raises(InputError, match="manta evaluate --parity"):
            launch.prepare(asked)
        asked = asked.model_copy(update={"model": ServeModel(source="base", evaluation="scores", parity=True)})
        make_artifact(tmp_path, "scores", "evaluate", judged(base), {"passed": True, "parity": True})
        with pytest.raises(InputError, match="did not compare vLLM"):
            launch.prepare(asked)
        figures = {"passed": True, "parity": True, "parity_vllm_transformers": 1e-5}
        make_artifact(tmp_path, "scores", "evaluate", judged(base), figures)
        assert launch.prepare(asked).fingerprint == base["fingerprint"]

    @pytest.mark.parametrize("field", ["fingerprint", "content"])
    def test_one_about_other_weights_is_none(self, tmp_path, field):
        small = make_artifact(tmp_path, "small", "compress")
        make_artifact(tmp_path, "scores", "evaluate", judged(small, **{field: "0" * 64}), {"passed": True})
        with pytest.raises(InputError, match="manta evaluate"):
            launch.prepare(recipe(tmp_path, "small", "scores"))


class TestAddress:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
    def test_an_open_host_needs_keys(self, host):
        with pytest.raises(InputError, match=r"serve\.keys_file"):
            address.require_safe_host(host, has_keys=False)
        address.require_safe_host(host, has_keys=True)

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
    def test_loopback_does_not(self, host):
        address.require_safe_host(host, has_keys=False)

    def test_a_taken_port_is_named_with_the_remedy(self, tmp_path):
        folder = make_model(tmp_path / "m")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(InputError, match=rf"serve\.port = {port} is taken.*manta serve stop"):
                launch.prepare(recipe(tmp_path, str(folder), port=port))
        assert launch.prepare(recipe(tmp_path, str(folder), port=port)).port == port

    def test_a_free_port_is_none_that_the_system_hands_out(self):
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        assert all(address.FIRST_PORT <= address.take_port("127.0.0.1", 0) < lowest for _ in range(50))

    def test_a_free_port_passes_over_taken_ones(self, monkeypatch):
        with socket.socket() as other:
            other.bind(("127.0.0.1", address.take_port("127.0.0.1", 0)))
            other.listen()
            taken = other.getsockname()[1] - address.FIRST_PORT
            drawn = iter([taken, taken, taken + 1])
            monkeypatch.setattr(address.secrets, "randbelow", lambda _: next(drawn))
            assert address.take_port("127.0.0.1", 0) == address.FIRST_PORT + taken + 1

    def test_an_address_of_another_machine(self, tmp_path):
        file = str(tmp_path / "keys")
        keys.create(file, "alice")
        with pytest.raises(InputError, match="not an address of this machine"):
            launch.prepare(recipe(tmp_path, str(make_model(tmp_path / "m")), host="192.0.2.7", keys_file=file))

    def test_more_replicas_at_least_than_at_most(self, tmp_path):
        with pytest.raises(InputError, match="min_replicas = 3"):
            launch.prepare(recipe(tmp_path, str(make_model(tmp_path / "m")), min_replicas=3, max_replicas=2))


def test_calls_of_tools_are_read_as_the_recipe_says(tmp_path):
    """Each model may have its own way to write them; without the flags vLLM would refuse every request with tools."""
    model = str(make_model(tmp_path / "m"))
    [plain] = launch.prepare(recipe(tmp_path, model)).served
    flags = engine.arguments(plain, model)
    assert flags[flags.index("--tool-call-parser") + 1] == "hermes" and "--enable-auto-tool-choice" in flags
    [other] = launch.prepare(recipe(tmp_path, model, tool_parser="llama3_json")).served
    assert "llama3_json" in engine.arguments(other, model)


def test_traces_go_where_the_recipe_says(tmp_path):
    model = str(make_model(tmp_path / "m"))
    [traced] = launch.prepare(recipe(tmp_path, model, otlp_endpoint="http://c:4317")).served
    flags = engine.arguments(traced, model)
    assert flags[flags.index("--otlp-traces-endpoint") + 1] == "http://c:4317"
    [plain] = launch.prepare(recipe(tmp_path, model)).served
    assert "--otlp-traces-endpoint" not in engine.arguments(plain, model)


class TestKeys:
    def test_a_launch_names_the_file_and_holds_no_key(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        _, secret = keys.create("keys.jsonl", "alice")
        made = launch.prepare(recipe(tmp_path, str(make_model(tmp_path / "m")), keys_file="keys.jsonl", host="0.0.0.0"))
        assert made.keys_file == str(tmp_path / "keys.jsonl")
        assert made.has_keys and secret not in repr(made)

    def test_a_file_without_keys_is_refused_with_the_remedy(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text("")
        with pytest.raises(InputError, match="holds no key: make one with `manta keys create"):
            launch.prepare(recipe(tmp_path, str(make_model(tmp_path / "m")), keys_file=str(file)))

    def test_a_plain_file_is_refused_before_anything_starts(self, tmp_path):
        file = tmp_path / "keys"
        file.write_text("sk-aaaaaaaaaaaaaaaa\n")
        with pytest.raises(InputError, match="a plain key is not taken") as caught:
            launch.prepare(recipe(tmp_path, str(make_model(tmp_path / "m")), keys_file=str(file)))
        assert "sk-a" not in str(caught.value)

    def test_keys_of_ones_own_count(self, tmp_path):
        asked = recipe(tmp_path, str(make_model(tmp_path / "m")), host="0.0.0.0")
        with pytest.raises(InputError, match=r"serve\.keys_file"):
            launch.prepare(asked)
        assert launch.prepare(asked, key_hashes=("0" * 64,)).has_keys

    def test_pages_of_all_sites_need_keys(self, tmp_path):
        with pytest.raises(InputError, match=r"serve\.cors_origins"):
            launch.prepare(recipe(tmp_path, str(make_model(tmp_path / "m")), cors_origins=["*"]))

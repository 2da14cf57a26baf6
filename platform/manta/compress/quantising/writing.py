"""Safetensors files that are written tensor by tensor, in any order: no model need be in memory whole to be saved.

Where each tensor lies is settled beforehand, as the library of that name would lay them out, to the byte.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

# How the format calls the types, in the order in which the library sorts them: the widest come first in a file.
NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
ORDER = {dtype: place for place, dtype in enumerate(NAMES)}
LARGEST = 5_000_000_000  # bytes of tensors in one file
ALIGNMENT = 8  # what the header is padded to, bytes


class Form(NamedTuple):
    """What is known of a tensor before there is one."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Form:
        return cls(tensor.dtype, tuple(tensor.shape))


@contextlib.contextmanager
def opened(forms: Mapping[str, Form], folder: Path, largest: int = LARGEST) -> Iterator[Writer]:
    """What writes the tensors of `forms`, name -> form, into model.safetensors in `folder`, or into several files and an index
    where they are more than `largest` bytes. Raises ValueError at the end if one was not written."""
    with contextlib.ExitStack() as files:
        writer = Writer(forms, folder, largest, files)
        yield writer
    if writer.left:
        raise ValueError(f"{len(writer.left)} tensors were not written, {min(writer.left)} among them")


class Writer:
    """Use `opened`. `left`: the names of what has not been written yet."""

    def __init__(self, forms: Mapping[str, Form], folder: Path, largest: int, files: contextlib.ExitStack):
        from huggingface_hub import split_state_dict_into_shards_factory

        self._forms = forms
        self._places: dict[str, tuple[BinaryIO, int]] = {}  # name -> file, offset
        self._files = files
        self.left = set(forms)
        split = split_state_dict_into_shards_factory(
            dict(forms),
            get_storage_size=lambda form: form.size,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=largest,
        )
        for file, names in split.filename_to_tensors.items():
            self._begin(folder / file, names)
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")

    def _begin(self, path: Path, names: Iterable[str]) -> None:
        """Open a file of the final length and write its header."""
        described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in sorted(names, key=lambda name: (-ORDER[self._forms[name].dtype], name)):
            form = self._forms[name]
            begin, end = end, end + form.size
            described[name] = {"dtype": NAMES[form.dtype], "shape": form.shape, "data_offsets": [begin, end]}
        header = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % ALIGNMENT)
        file = self._files.enter_context(path.open("wb"))
        file.write(len(header).to_bytes(8, "little") + header)
        start = file.tell()
        file.truncate(start + end)
        for name in names:
            self._places[name] = (file, start + described[name]["data_offsets"][0])

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Raises ValueError for a tensor of another form than was said."""
        if Form.of(tensor) != self._forms[name]:
            raise ValueError(f"{name}: {Form.of(tensor)} is not {self._forms[name]}")
        file, place = self._places[name]
        file.seek(place)
        file.write(memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()))
        self.left.discard(name)

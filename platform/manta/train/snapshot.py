"""What a checkpoint's files will hold, copied while the step waits: the files are written from the copy afterwards."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Snapshot:
    """One rank's part of a checkpoint in host memory, which the next snapshot uses again.

    It takes the place of DeepSpeed's checkpoint engine (`runtime/checkpoint_engine/checkpoint_engine.py`) while
    DeepSpeed saves: what would be written is copied. Tensors go into buffers of their own, pinned where they come
    from a GPU; tensors that are the same memory stay the same; all else is pickled at once, as torch.save would do it.
    So each file is the one DeepSpeed would have written, but for storages that held more than the tensor in them.
    """

    def __init__(self) -> None:
        self._files: dict[str, _Frozen] = {}
        self._folder = ""

    @property
    def bytes(self) -> int:
        """Of the tensors."""
        return sum(frozen.bytes for frozen in self._files.values())

    def begin(self, folder: str) -> None:
        """The names of the files that are saved from now on are taken relative to `folder`."""
        self._folder = folder

    def end(self) -> None:
        """All copies are complete when this returns."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def write(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Write the files below `folder`, durably; yields each one's name and size (bytes) when it is complete.

        Raises OSError, after which nothing is left of the file that could not be written.
        """
        for name, frozen in self._files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            try:
                _write(path, frozen.thaw())
            except OSError:
                path.unlink(missing_ok=True)  # half a file would keep room from those who wait for it
                raise
            yield name, path.stat().st_size

    # --- what DeepSpeed asks of a checkpoint engine -------------------------------------------------------------------

    def save(self, state_dict: Any, path: str) -> None:
        name = os.path.relpath(path, self._folder)
        before = self._files.get(name)
        self._files[name] = _Frozen(state_dict, before.tensors if before else [])

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing is written yet."""

    def create(self, _info: Any) -> None:
        """Nothing is to be prepared."""

    def commit(self, _info: Any) -> bool:
        return True

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        return dp_rank == 0

    def is_decoupled(self) -> bool:
        return False

    def preserves_storage_sharing(self) -> bool:
        return False  # else DeepSpeed would copy once more


class _Frozen:
    """The content of one file: bytes of the structure, in which tensors are numbers, and the tensors."""

    def __init__(self, state: Any, buffers: list[Any]):
        self.tensors: list[Any] = []
        self._buffers, self._seen = buffers, dict[Any, tuple[int, Any]]()
        file = io.BytesIO()
        pickler = _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL)
        pickler.keep = self._keep
        pickler.dump(state)
        self.structure = file.getvalue()
        self._buffers, self._seen = [], {}

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def _keep(self, tensor: Any) -> int:
        import torch

        tensor = tensor.detach()
        same = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if same not in self._seen:
            number = len(self.tensors)
            self._seen[same] = number, tensor  # kept alive: another must not get its address meanwhile
            buffer = self._buffers[number] if number < len(self._buffers) else None
            if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self.tensors.append(buffer.copy_(tensor, non_blocking=True))
        return self._seen[same][0]

    def thaw(self) -> Any:
        unpickler = _Unpickler(io.BytesIO(self.structure))
        unpickler.tensors = self.tensors
        return unpickler.load()


class _Pickler(pickle.Pickler):
    keep: Any

    def persistent_id(self, obj: Any) -> int | None:
        import torch

        return int(self.keep(obj)) if isinstance(obj, torch.Tensor) else None


class _Unpickler(pickle.Unpickler):
    tensors: list[Any]

    def persistent_load(self, pid: int) -> Any:
        return self.tensors[pid]


class _Sink:
    """A file that remembers why it could not be written: torch puts an error of its own in the place of that."""

    def __init__(self, file: io.FileIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        done, view = 0, memoryview(data).cast("B")
        try:
            while done < len(view):  # a write to a disk that is nearly full, or of over 2 GiB, may be a part
                done += self.file.write(view[done:]) or 0
        except OSError as error:
            self.error = error
            raise
        return done

    def flush(self) -> None:
        """Nothing is held back."""


def _write(path: Path, state: Any) -> None:
    """torch.save, durable, and read again as far as its table of contents. Raises OSError."""
    import torch

    with path.open("wb", buffering=0) as file:
        sink = _Sink(file)
        try:
            torch.save(state, sink)
        except RuntimeError:
            if sink.error is not None:
                raise sink.error from None
            raise
        os.fsync(file.fileno())
    try:
        zipfile.ZipFile(path).close()
    except zipfile.BadZipFile as error:
        raise OSError(f"{path} is not whole after it was written ({error})") from error

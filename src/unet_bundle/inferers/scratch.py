"""Tensors on disk instead of in memory, gone with the process whatever ends it."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from unet_bundle.errors import ConfigError


class ScratchTensor:
    """A tensor that is a temporary file: memory holds only what of it is in use.

    The file has no name, so that the system frees it when the tensor or the process ends, also by Ctrl-C or by force.
    Its room is taken at once: a disk that fills up later would end the process without a word.

    Args:
        shape: of the tensor.
        dtype: of the tensor.
        folder: where the file lies; None for the system's folder of temporary files.

    Attributes:
        tensor: zeros at first.

    Raises:
        ConfigError: if there is no such folder, or no room in it.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, folder: str | None = None) -> None:
        size = math.prod(shape) * dtype.itemsize
        check_folder(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
            except OSError as error:
                raise ConfigError(
                    f"no room for {size / 1e9:.1f} GB of temporary data in the folder {_name(folder)}: name one on a "
                    "larger disk by scratch_dir"
                ) from error
            self._file = mmap.mmap(file.fileno(), size)
        self.tensor = torch.frombuffer(self._file, dtype=dtype).reshape(tuple(shape))

    def release(self) -> None:
        """Give back the memory of what was written; it stays in the file."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._file.madvise(mmap.MADV_DONTNEED)


def check_folder(folder: str | None) -> None:
    """Refuse what is no folder.

    Raises:
        ConfigError: there is none.
    """
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"scratch_dir {_name(folder)} is no folder: make it, or name another")


def _name(folder: str | None) -> str:
    return repr(Path(folder or tempfile.gettempdir()).name)

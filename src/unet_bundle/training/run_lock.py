"""One run a folder at a time: two that write the same files would each undo what the other has saved."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from pathlib import Path

from unet_bundle.errors import FolderInUseError
from unet_bundle.networks.checkpoint import short_name
from unet_bundle.training.distributed import from_main_process, is_main_process

logger = logging.getLogger(__name__)

FILE = ".lock"
"""Stays in the folder, empty: the system knows whether somebody holds it."""
PATIENCE_S = 10.0
"""A run that torchrun or a scheduler starts again may meet the one that is ending."""
_HELD = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})


class RunLock:
    """A lock on a run's folder, which the system frees when its process ends, in whatever way.

    Of several processes the first holds it. It belongs to the process, not to the file that is open: the loader's
    workers, which may outlive it for seconds, do not hold it.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock; all processes have to ask. Where the file system has no locks, a line says so.

        Raises:
            FolderInUseError: another run has it, and keeps it for seconds.
        """
        free = self._wait() if is_main_process() and self._file is None else True
        if not from_main_process(int(free)):
            raise FolderInUseError(
                f"Another run is training in {self.folder}: wait for its end, or give another --output_dir."
            )

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _wait(self) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self.folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                _lock(file)
            except OSError as error:
                if error.errno not in _HELD:
                    name = short_name(self.folder / FILE)
                    logger.info("%s cannot be locked here: see to it that no other run uses the folder.", name)
                elif time.monotonic() < until:
                    time.sleep(0.1)
                    continue
                else:
                    os.close(file)
                    return False
            self._file = file
            return True


def _lock(file: int) -> None:
    """Lock the open `file` for this process, or raise at once."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

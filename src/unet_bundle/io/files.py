"""Files that are either the old ones or complete new ones."""

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unet_bundle.runtime import FULL

TEMPORARY = re.compile(r"\.[0-9a-f]{32}-.+")
"""Names of the files that `replacing` gives."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and put it in the place of `path` if all went well.

    Args:
        path: the file to write; its folder is made if missing.

    Yields:
        Where to write; nothing of it remains if the body raises.

    Raises:
        OSError: as the body does; that of a full disk names `path`, which the system says of opening files only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The endings stay, since some writers choose the format by them; two processes must not share a temporary file.
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except Exception as error:
        _name_file(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _name_file(error: BaseException | None, path: Path) -> None:
    """Name the file in the refusal of a full disk that `error` is, or was raised from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            error.filename = str(path)
        error = error.__cause__


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def remove_unfinished(folder: Path, older_than_s: float = 0.0) -> None:
    """Remove what `replacing` left when its process was killed.

    Args:
        folder: looked into, not below.
        older_than_s: seconds since the last change, where other processes may be writing into the folder now.
    """
    before = time.time() - older_than_s
    for path in folder.glob(".*"):
        if TEMPORARY.fullmatch(path.name):
            with suppress(OSError):  # another process has renamed it since, or it is another's
                if path.stat().st_mtime <= before:
                    path.unlink()

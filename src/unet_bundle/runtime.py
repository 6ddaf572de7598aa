"""What every run does first and last: refuse keys nobody knows, and end an error in one line.

`start_run` stands in `initialize` of every config. Under ``python -m monai.bundle`` it also makes one of our errors the
last line of the output; inside a server, a notebook or a test errors stay exceptions.
"""

from __future__ import annotations

import errno
import inspect
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from unet_bundle.config_checks import check_classes, check_keys
from unet_bundle.errors import ConfigError, UnetBundleError

EXIT_OK = 0
EXIT_CASES_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

PACKAGE = __name__.partition(".")[0]
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Of the system: a disk that is full or only to be read, which the next file would meet as well."""
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}-")
_NOT_MADE = re.compile(r"Failed to instantiate component '([^']+)'")
"""What MONAI says round the error of a component of a config."""
_WORKER_ERROR = re.compile(rf"^{PACKAGE}(?:\.\w+)+: (.+)$", re.MULTILINE)


def start_run(config_files: Sequence[str]) -> None:
    """Check the running workflow's keys; at the edge of a MONAI command line, also arrange for one-line errors.

    Args:
        config_files: names of the files this config is made of, in the order they are merged.

    Raises:
        ConfigError: a key is neither the bundle's own, nor an argument of its `_target_`, nor used by `@`; one names a
            class that the bundle does not have; or an overlay stands without the config it is laid over.
    """
    if under_monai_command_line():
        end_errors_in_one_line()
    workflow = running_workflow()
    if workflow is None:
        return
    config = workflow.parser.config
    if "network_def" not in config:
        raise ConfigError(
            f"{config_files[-1]} is laid over another config: name that first, as in"
            f" --config_file \"['configs/inference.json','configs/evaluate.json']\"."
        )
    folders = [Path(workflow.config_root_path)]
    if isinstance(config.get("bundle_root"), str):  # a host may run a copy of the config from elsewhere
        folders.append(Path(config["bundle_root"]) / "configs")
    check_keys(config, _own_config(folders, config_files))
    check_classes(config)


def running_workflow() -> Any:
    """The MONAI ``ConfigWorkflow`` that is initialising, found on the call stack; None if there is none."""
    from monai.bundle import ConfigWorkflow

    frame = inspect.currentframe()
    try:
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, ConfigWorkflow):
                return owner
            frame = frame.f_back
    finally:
        del frame
    return None


def _own_config(folders: Sequence[Path], config_files: Sequence[str]) -> dict[str, Any] | None:
    """The bundle's files, merged, from the first folder that has them all; None if none has."""
    from monai.bundle import ConfigParser

    for folder in folders:
        paths = [folder / name for name in config_files]
        if all(path.is_file() for path in paths):
            parser = ConfigParser()
            parser.read_config([str(path) for path in paths])
            own: dict[str, Any] = parser.get()
            return own
    return None


# --- one-line errors --------------------------------------------------------------------------------------------


def under_monai_command_line() -> bool:
    """Whether this process was started as ``python -m monai.bundle`` (or by torchrun with the same module)."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name in {"monai.bundle", "monai.bundle.__main__"}


def our_error(error: BaseException | None) -> Exception | None:
    """The error of this package that `error` is, or was raised from; None if there is none.

    Counts as one: a value of the config that a component does not take (torch and MONAI raise errors of Python), and a
    disk that is full.

    Looks along the chain of causes, and into the text: a data loader's worker hands over its error as text only. What
    was merely being handled when another error arose is no cause of it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        from_worker = _WORKER_ERROR.findall(str(error))
        if from_worker:
            return UnetBundleError(from_worker[-1])
        # Networks and steps have error classes of their own, so that the package, not the base class, decides.
        if isinstance(error, Exception) and type(error).__module__.partition(".")[0] == PACKAGE:
            return error
        if isinstance(error, OSError) and error.errno in FULL:
            return ConfigError(storage_words(error))
        refused = _NOT_MADE.match(str(error))
        if refused and type(error.__cause__) is ValueError:
            reason = str(error.__cause__).partition("\n")[0]
            return ConfigError(f"A value of the config does not suit {refused[1]}: {reason}")
        error = error.__cause__
    return None


def storage_words(error: OSError) -> str:
    """What the system refuses, and the folder where the file has a temporary name or the next would fare alike."""
    if error.filename is None:
        return f"{error.strerror}." if error.errno in FULL else str(error)
    path = Path(str(error.filename))
    if error.errno not in FULL and not _TEMPORARY.match(path.name):
        return str(error)
    folder = path.parent.absolute().name
    return f"the folder {folder!r} takes no more files ({error.strerror}): make room there, or give another."


def error_message(error: BaseException | None) -> str | None:
    """The one line of the error of ours behind `error`, or None if there is none."""
    ours = our_error(error)
    return None if ours is None else str(ours)


def end_errors_in_one_line() -> None:
    """Make an uncaught error of ours the last line of the output, without a traceback, with a non-zero exit."""
    if getattr(sys.excepthook, "__module__", None) == __name__:
        return
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        message = error_message(error)
        if isinstance(error, KeyboardInterrupt):
            line = "Interrupted."
        elif message is not None:
            line = f"Error: {message}"
        else:
            usual(kind, error, traceback)
            return
        sys.stdout.flush()
        sys.stderr.write(f"{line}\n")

    sys.excepthook = hook
    quiet_logs()


def quiet_logs() -> None:
    """Keep tracebacks of our own errors, and MONAI's dump of the data it was working on, out of the logs."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(f, _OneLineErrors) for f in handler.filters):
            handler.addFilter(_OneLineErrors())


class _OneLineErrors(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "=== Transform input info" in text or record.name == "DataStats":
            return False
        if "is terminating due to exception" in text:  # Ignite says so, in full, before the error itself is reported
            return False
        if record.exc_info and error_message(record.exc_info[1]) is not None:
            record.exc_info = record.exc_text = None
        from_worker = _WORKER_ERROR.findall(text)
        if from_worker:
            record.msg, record.args = from_worker[-1], ()
        elif "applying transform" in text and record.levelno >= logging.ERROR:
            return False
        return True

"""Which number format a network runs in, and the autocast that makes it so on any device.

MONAI's engines hard-code ``torch.autocast("cuda")``, so that bfloat16 on a CPU silently stays float32; the steps of
this package open the autocast of the device they run on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from unet_bundle.errors import ConfigError

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether `device` computes in bfloat16 itself (AVX-512 BF16 or AMX on a CPU, Ampere or later on CUDA)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(supported is not None and supported())
    return False


def check_precision(precision: str) -> str:
    """`precision` itself, if it is one of `PRECISIONS`.

    Raises:
        ConfigError: it is not.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}.")
    return precision


def check_device(device: torch.device | str | int) -> torch.device:
    """The device, if this computer has it.

    Args:
        device: such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises:
        ConfigError: PyTorch knows no such device, or this computer has none.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"device is {device!r}, which PyTorch does not know: set it to {_devices()}.") from error
    if found.type == "cuda":
        is_there = torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count()
    else:
        is_there = found.type != "meta" and _holds_numbers(found)
    if not is_there:
        raise ConfigError(f"device is {str(device)!r}, which is not here: set it to {_devices()}.")
    return found


def _devices() -> str:
    """Those that this computer has, as the end of a sentence."""
    gpus = [f"'cuda:{index}'" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    if torch.backends.mps.is_available():
        gpus.append("'mps'")
    return f"'cpu' or {' or '.join(gpus)}" if gpus else "'cpu', there is no GPU that PyTorch can use"


def _holds_numbers(device: torch.device) -> bool:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, NotImplementedError, AssertionError, ImportError):  # each back end has its own way to be away
        return False
    return True


def resolve_precision(precision: str, device: torch.device | str) -> torch.dtype:
    """The format to compute in.

    Args:
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: bfloat16 where the device has it,
            float16 on an older GPU, float32 elsewhere.
        device: the device the network runs on.

    Raises:
        ConfigError: an unknown name, a device that is not there, or float16 on a CPU (its gradients vanish there
            without a scaler).
    """
    device = check_device(device)
    if check_precision(precision) == "auto":
        if has_fast_bfloat16(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision == "float16" and device.type != "cuda":
        raise ConfigError("precision 'float16' needs a CUDA device: choose 'bfloat16' or 'float32'.")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def autocast(device: torch.device, dtype: torch.dtype, *, cache_enabled: bool = True) -> AbstractContextManager[object]:
    """The context a forward pass runs in: autocast to `dtype`, or float32 in all its bits, whatever the caller is in.

    Args:
        device: that computes.
        dtype: to compute in.
        cache_enabled: keep weights that were converted until the outermost autocast ends.
    """
    if dtype != torch.float32:
        return torch.autocast(device.type, dtype=dtype, cache_enabled=cache_enabled)
    return _full_float32(device)


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(_without_tf32)
        yield


class _WithoutTF32:
    """Keeps cuDNN and cuBLAS from rounding float32 to the 10 bits of TF32, as cuDNN does unasked.

    Their flags are the process's: they are turned off by the first thread that enters and set back by the last that
    leaves, so that none that computes in between sees them on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = (False, False)

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = self._before


_without_tf32 = _WithoutTF32()

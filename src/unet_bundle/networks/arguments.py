"""What a person writes for a network's settings, checked and spelled out for each stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard


@dataclass(frozen=True)
class Stage:
    """One resolution of the network: a row of the figure.

    Args:
        channels: output channels of each convolution (residual block) of the contracting path.
        kernel_size: of the convolutions of both paths, per axis.
        stride: how much smaller this stage is than the next finer one, per axis.
    """

    channels: list[int]
    kernel_size: list[int]
    stride: list[int]


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of `choices`.

    Raises:
        ValueError: it is not.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")


def positive_int(name: str, value: object) -> int:
    """Return `value` if it is a whole number of at least one.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
    return value


def per_stage(name: str, value: int | Sequence[int], stages: int) -> list[int]:
    """Spell out a setting of each stage: one number stands for all of them.

    Raises:
        ValueError: not a whole number of at least one, or not one for each of the `stages`.
    """
    if not _is_list(value):
        return [positive_int(name, value)] * stages
    _check_length(name, value, stages, "stages")
    return [positive_int(f"{name}[{stage}]", entry) for stage, entry in enumerate(value)]


def spell_out_stages(
    spatial_dims: int,
    channels: Sequence[int | Sequence[int]],
    kernel_sizes: int | Sequence[int | Sequence[int]],
    strides: int | Sequence[int | Sequence[int]],
    convolutions_per_stage: int | Sequence[int],
    *,
    padded: bool,
    strided: bool,
) -> list[Stage]:
    """Spell out the stages, finest first, from the settings of the same names of `UNet`.

    Args:
        spatial_dims: number of axes.
        channels: per stage, or per convolution.
        kernel_sizes: one number, per stage, or per stage and axis.
        strides: one number for each stage but the first, per stage, or per stage and axis.
        convolutions_per_stage: one number, or per stage.
        padded: whether convolutions keep the size, which takes kernels with a middle.
        strided: whether the first convolution of a stage downsamples, which without padding takes as large a kernel.

    Raises:
        ValueError: numbers that are out of range, or disagree about the stages, convolutions or axes.
    """
    if not _is_list(channels) or len(channels) < 2:
        raise ValueError(f"channels must name at least two stages, not {channels!r}.")
    count = len(channels)
    convolutions = per_stage("convolutions_per_stage", convolutions_per_stage, count)
    kernels = _per_stage_and_axis("kernel_sizes", kernel_sizes, count, spatial_dims)
    if not _is_list(strides):
        strides = [1] + [positive_int("strides", strides)] * (count - 1)
    factors = _per_stage_and_axis("strides", strides, count, spatial_dims)

    if padded and any(size % 2 == 0 for kernel in kernels for size in kernel):
        raise ValueError(f"kernel_sizes must be odd for padding 'same', not {kernel_sizes!r}.")
    if (
        strided
        and not padded
        and any(k < f for pair in zip(kernels, factors, strict=True) for k, f in zip(*pair, strict=True))
    ):
        raise ValueError(
            f"kernel_sizes must not be below strides for padding 'valid', not {kernel_sizes!r} with {strides!r}."
        )
    if max(factors[0]) > 1:
        raise ValueError(f"strides[0] must be 1, the finest stage has the image's resolution, not {strides[0]!r}.")
    return [
        Stage(_per_convolution(f"channels[{index}]", entry, convolutions[index]), kernels[index], factors[index])
        for index, entry in enumerate(channels)
    ]


def _per_convolution(name: str, value: int | Sequence[int], convolutions: int) -> list[int]:
    if not _is_list(value):
        return [positive_int(name, value)] * convolutions
    _check_length(name, value, convolutions, "convolutions")
    return [positive_int(name, number) for number in value]


def _per_stage_and_axis(
    name: str, value: int | Sequence[int | Sequence[int]], stages: int, spatial_dims: int
) -> list[list[int]]:
    if not _is_list(value):
        return [[positive_int(name, value)] * spatial_dims for _ in range(stages)]
    _check_length(name, value, stages, "stages")
    return [_per_axis(f"{name}[{stage}]", entry, spatial_dims) for stage, entry in enumerate(value)]


def _per_axis(name: str, value: int | Sequence[int], spatial_dims: int) -> list[int]:
    if not _is_list(value):
        return [positive_int(name, value)] * spatial_dims
    _check_length(name, value, spatial_dims, "axes")
    return [positive_int(name, number) for number in value]


def _check_length(name: str, value: Sequence[object], length: int, of_what: str) -> None:
    if not _is_list(value) or len(value) != length:
        raise ValueError(f"{name} must be one number or one entry for each of {length} {of_what}, not {value!r}.")


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)

"""Intensity normalisation, a scheme for each channel."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from scipy import ndimage

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms.channels import MISSING
from unet_bundle.transforms.naming import name_of

MIN_STD = 1e-8
"""Least standard deviation that is divided by, as in nnU-Net."""

Scheme = Mapping[str, Any]


class NormalizeChannelsd(MapTransform):
    """Normalise each channel by its own scheme.

    - ``{"scheme": "zscore"}``: subtract the channel's mean, divide by its standard deviation, both over the whole
      image.
    - ``{"scheme": "zscore_joint"}``: the same, over all channels of this scheme together, so that the relation of
      colours stays: a grey picture stays grey, a purple one purple. For colour pictures.
    - ``{"scheme": "ct", "lower": …, "upper": …, "mean": …, "std": …}``: clip to [lower, upper], subtract mean, divide
      by std, all measured over the data set's foreground.
    - ``{"scheme": "zscore_nonzero"}``: as ``zscore``, over what is not 0 in any channel, with its holes, and only
      there: what is 0 round it, such as air round an extracted brain, stays 0.
    - ``{"scheme": "range"}``: from the smallest value, which becomes 0, to the largest, which becomes 1.
    - ``{"scheme": "bytes"}``: from 0 to 255, which becomes 1; for pictures of 8 bits.
    - ``{"scheme": "none"}``: as it is.

    A channel that the image's metadata names under ``missing_channels`` becomes zero.

    The schemes are nnU-Net's (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z).

    Args:
        keys: keys of the images, tensors of shape [channels, *spatial].
        schemes: one for each channel.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        ConfigError: if a scheme is unknown, or a value is missing, not known to it or impossible.
        InputError: when called, if an image has another number of channels than there are schemes, holds one value
            only, or for ``bytes`` others than 0 to 255.

    Example:
        >>> normalize = NormalizeChannelsd("image", schemes=[{"scheme": "zscore"}])
        >>> normalize({"image": torch.tensor([[1.0, 2.0, 3.0]])})["image"]
        tensor([[-1.2247,  0.0000,  1.2247]])
    """

    def __init__(self, keys: str | Sequence[str], schemes: Sequence[Scheme], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.schemes = [_checked(scheme) for scheme in schemes]
        self.joint = [number for number, scheme in enumerate(self.schemes) if scheme["scheme"] == _JOINT]
        self.single = [number for number in range(len(self.schemes)) if number not in self.joint]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by its normalised one: float32, same metadata."""
        normalized = dict(data)
        for key in self.key_iterator(normalized):
            image = normalized[key]
            if image.shape[0] != len(self.schemes):
                raise InputError(
                    f"{name_of(image, key)} has {image.shape[0]} channels, the model needs {len(self.schemes)}: "
                    "give a scan like those the model was trained on"
                )
            voxels = torch.as_tensor(image).as_subclass(torch.Tensor).to(torch.float32)
            missing = [int(number) for number in getattr(image, "meta", {}).get(MISSING, [])]
            if any(_is_constant(part) for part in self._parts(voxels, missing)):
                raise InputError(f"{name_of(image, key)} holds one value only: there is no picture in it to segment")
            channels = voxels.clone()
            if self.joint:
                channels[self.joint] = _zscore(channels[self.joint], {})
            mask = _not_empty(voxels) if any(scheme["scheme"] == _MASKED for scheme in self.schemes) else None
            for number in self.single:
                scheme = self.schemes[number]
                if scheme["scheme"] == "bytes" and not 0 <= voxels[number].min() <= voxels[number].max() <= BYTE:
                    raise InputError(f"{name_of(image, key)} has values beyond 0 to 255: give pictures of 8 bits")
                if mask is not None and scheme["scheme"] == _MASKED:
                    channels[number][mask] = _zscore(channels[number][mask], scheme)
                else:
                    _SCHEMES[scheme["scheme"]](channels[number], scheme)
            channels[missing] = 0
            normalized[key] = convert_to_dst_type(channels, image, dtype=torch.float32)[0]
        return normalized

    def _parts(self, voxels: torch.Tensor, missing: Sequence[int]) -> list[torch.Tensor]:
        """What is normalised by itself: one channel that is there, or those that go together."""
        single = [voxels[number] for number in self.single if number not in missing]
        return single + ([voxels[self.joint]] if self.joint else [])


def _is_constant(voxels: torch.Tensor) -> bool:
    least, most = torch.aminmax(voxels)
    return bool(least == most)


# In place: whole scans are at stake.


def _zscore(channel: torch.Tensor, scheme: Scheme) -> torch.Tensor:  # noqa: ARG001 - one signature for all schemes
    std, mean = torch.std_mean(channel, correction=0)
    return channel.sub_(mean).div_(std.clamp(min=MIN_STD))


def _ct(channel: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    return channel.clamp_(scheme["lower"], scheme["upper"]).sub_(scheme["mean"]).div_(max(scheme["std"], MIN_STD))


def _range(channel: torch.Tensor, scheme: Scheme) -> torch.Tensor:  # noqa: ARG001 - one signature for all schemes
    channel.sub_(channel.min())
    return channel.div_(channel.max().clamp(min=MIN_STD))


def _bytes(channel: torch.Tensor, scheme: Scheme) -> torch.Tensor:  # noqa: ARG001 - one signature for all schemes
    return channel.div_(BYTE)


def _none(channel: torch.Tensor, scheme: Scheme) -> torch.Tensor:  # noqa: ARG001 - one signature for all schemes
    return channel


def _not_empty(voxels: torch.Tensor) -> torch.Tensor:
    """Where an image [channels, *spatial] is not 0 in any channel, and the holes in that."""
    filled = ndimage.binary_fill_holes(voxels.ne(0).any(dim=0).cpu().numpy())
    return torch.from_numpy(filled).to(voxels.device)


BYTE = 255
_SCHEMES: dict[str, Callable[[torch.Tensor, Scheme], torch.Tensor]] = {
    "zscore": _zscore,
    "ct": _ct,
    "range": _range,
    "bytes": _bytes,
    "none": _none,
}
_JOINT, _MASKED = "zscore_joint", "zscore_nonzero"
_VALUES = {
    **dict.fromkeys((*_SCHEMES, _JOINT, _MASKED), frozenset[str]()),
    "ct": frozenset({"lower", "upper", "mean", "std"}),
}


def _checked(scheme: Any) -> Scheme:
    name = scheme.get("scheme") if isinstance(scheme, Mapping) else None
    if name not in _VALUES:
        raise ConfigError(f"normalisation {scheme!r} is unknown: its scheme must be {' or '.join(sorted(_VALUES))}")
    values = {key: value for key, value in scheme.items() if key != "scheme"}
    if values.keys() != _VALUES[name]:
        raise ConfigError(f"normalisation {name} takes {sorted(_VALUES[name])}, got {sorted(values)}")
    if not all(isinstance(value, (int, float)) for value in values.values()):
        raise ConfigError(f"normalisation {name} takes numbers, got {values}")
    if name == "ct" and not (values["lower"] < values["upper"] and values["std"] > 0):
        raise ConfigError(f"normalisation ct needs lower < upper and std > 0, got {values}")
    return dict(scheme)

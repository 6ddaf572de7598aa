"""What of a scan is worth a look: the body, and not the air around it."""

import torch


def is_above(image: torch.Tensor, value: float) -> torch.Tensor:
    """Whether voxels are above a value; all of them, if none is. For MONAI's ``CropForegroundd`` as ``select_fn``.

    Args:
        image: shape [channels, *spatial].
        value: in the image's own units, such as -500 HU for the body in a CT.

    Example:
        >>> is_above(torch.tensor([[-1000.0, 40.0]]), -500)
        tensor([[False,  True]])
    """
    above = image > value
    return above if above.any() else torch.ones_like(above)

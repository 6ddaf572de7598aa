"""A bundle's network as a file for other runtimes, compared with PyTorch before it is put in its place."""

from unet_bundle.export.formats import DEFAULT_FILES, FORMATS, Source, write
from unet_bundle.export.parity import ENOUGH, Parity, compare, made_image

__all__ = ["DEFAULT_FILES", "ENOUGH", "FORMATS", "Parity", "Source", "compare", "made_image", "write"]

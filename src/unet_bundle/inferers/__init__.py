"""Sliding windows in bounded memory, and the way back to the scan's grid."""

from unet_bundle.inferers.overlap_tile import OverlapTileInferer
from unet_bundle.inferers.scan_inferer import ScanInferer
from unet_bundle.inferers.slab_inferer import SlabInferer

__all__ = ["OverlapTileInferer", "ScanInferer", "SlabInferer"]

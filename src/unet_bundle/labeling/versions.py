"""The models before the one that is served, and the way back to them."""

from __future__ import annotations

from pathlib import Path

from unet_bundle.errors import ConfigError
from unet_bundle.training.trained_cases import copy_weights

SERVED = "model.pt"
BEFORE = "before"
"""Folder beside the weights; MONAI Label offers every ``*.pt`` of the folder above, not those in here."""


class Versions:
    """Weights of a bundle by the order in which they were served.

    Args:
        bundle: its folder.
    """

    def __init__(self, bundle: Path) -> None:
        self.served = Path(bundle) / "models" / SERVED
        self.folder = self.served.parent / BEFORE

    def kept(self) -> list[Path]:
        """Weights that were served before, the oldest first."""
        return sorted(self.folder.glob("[0-9][0-9][0-9][0-9].pt"))

    def keep(self, replaced: Path) -> None:
        """Copy weights that are not served any more, with their note of cases."""
        kept = self.kept()
        copy_weights(replaced, self.folder / f"{int(kept[-1].stem) + 1 if kept else 1:04d}.pt")

    def back(self) -> Path:
        """Serve the weights before again; those that were served stay as ``withdrawn.pt``.

        Returns:
            The file that is served again, by its former name.

        Raises:
            ConfigError: there are none before.
        """
        kept = self.kept()
        if not kept:
            raise ConfigError("there is no model before this one: it is the first that is served")
        if self.served.is_file():
            copy_weights(self.served, self.folder / "withdrawn.pt")
        copy_weights(kept[-1], self.served)
        for file in (kept[-1], kept[-1].with_suffix(".json")):
            file.unlink(missing_ok=True)
        return kept[-1]

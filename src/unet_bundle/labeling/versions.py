"""The models before the one that is served, and the way back to them."""

from __future__ import annotations

import shutil
from pathlib import Path

from unet_bundle.errors import ConfigError
from unet_bundle.io.files import replacing

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

    def keep(self) -> Path | None:
        """Copy what is served now, with its note of cases; None if nothing is."""
        if not self.served.is_file():
            return None
        kept = self.kept()
        path = self.folder / f"{int(kept[-1].stem) + 1 if kept else 1:04d}.pt"
        self._copy(self.served, path)
        return path

    def drop(self, path: Path) -> None:
        """Forget weights that were kept for nothing, as those that are served are still the same."""
        for file in (path, path.with_suffix(".json")):
            file.unlink(missing_ok=True)

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
            self._copy(self.served, self.folder / "withdrawn.pt")
        self._copy(kept[-1], self.served)
        self.drop(kept[-1])
        return kept[-1]

    def _copy(self, source: Path, target: Path) -> None:
        """The note first: a server that sees new weights finds it beside them."""
        target.parent.mkdir(parents=True, exist_ok=True)
        note = source.with_suffix(".json")
        if note.is_file():
            _copy_file(note, target.with_suffix(".json"))
        else:
            target.with_suffix(".json").unlink(missing_ok=True)
        _copy_file(source, target)


def _copy_file(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)

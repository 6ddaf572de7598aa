"""From `unet-bundle label` to a running server: its environment, its settings, and how clients connect."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unet_bundle.errors import ConfigError
from unet_bundle.io.files import write_text
from unet_bundle.labeling.dicom import reading_options

MAIN = '''\
"""The app of `unet-bundle label`; written at each start."""

from unet_bundle.labeling.app import UnetBundleApp

__all__ = ["UnetBundleApp"]
'''
FORMATS = ["*.nii.gz", "*.nii", "*.nrrd", "*.mha", "*.png", "*.tif", "*.tiff"]
"""Files of a folder that are taken for scans, as far as both sides read them."""
LISTED_AGAIN_S = 30
"""Seconds after which a PACS is asked again what it has; MONAI Label's two hours would hide new labels."""
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Server:
    """What is to be served, and where.

    Attributes:
        bundle: folder.
        studies: folder of scans, or URL of a DICOMweb service.
        folder: for the app, its logs, the scans it fetches and those that clients send.
        host: address to listen on.
        port: alike.
        train_every: new labels that start a training; 0: none does.
    """

    bundle: Path
    studies: str
    folder: Path
    host: str = "127.0.0.1"
    port: int = 8000
    train_every: int = 0

    @property
    def is_remote(self) -> bool:
        """Whether the scans are in a PACS."""
        return self.studies.startswith(("http://", "https://"))

    @property
    def url(self) -> str:
        """By which clients on this computer reach it."""
        return f"http://{'127.0.0.1' if self.host in ('0.0.0.0', '::') else self.host}:{self.port}"  # noqa: S104

    def prepare(self) -> None:
        """Write the app.

        Raises:
            ConfigError: the bundle or the folder of scans is missing, or the port is taken.
        """
        for name in ("inference.json", "train.json", "metadata.json"):
            if not (self.bundle / "configs" / name).is_file():
                raise ConfigError(f"{self.bundle / 'configs' / name} is missing: give the folder of a bundle.")
        if not self.is_remote and not Path(self.studies).is_dir():
            raise ConfigError(f"{self.studies} is no folder: give one of scans, or the URL of a DICOMweb service.")
        with socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except (OSError, OverflowError):
                raise ConfigError(f"{self.host}:{self.port} cannot be listened on: name another --port.") from None
        write_text(self.folder / "app" / "main.py", MAIN)

    def command(self, python: Path) -> list[str]:
        """The command line of the server, with the interpreter of MONAI Label's environment."""
        studies = self.studies if self.is_remote else str(Path(self.studies).resolve())
        line = [str(python), "-m", "monailabel.main", "start_server", "--app", str((self.folder / "app").resolve())]
        line += ["--studies", studies, "--host", self.host, "--port", str(self.port)]
        line += ["--conf", "bundle", str(self.bundle.resolve()), "--conf", "train_every", str(self.train_every)]
        return line

    def environment(self, python: Path, given: Mapping[str, str]) -> dict[str, str]:
        """Settings of MONAI Label: nothing is downloaded, the PACS is asked for what the bundle segments.

        Args:
            python: interpreter of MONAI Label's environment.
            given: variables of this process; those of MONAI Label that a person has set stay.
        """
        own = {
            "MONAI_ZOO_SOURCE": "local",
            "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",  # at each next sample; ours is after a training
            "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(FORMATS),
            "MONAI_LABEL_TRACKING_ENABLED": "false",
            "MONAI_LABEL_DICOMWEB_CACHE_PATH": str((self.folder / "cache").resolve()),
            "MONAI_LABEL_SESSION_PATH": str((self.folder / "sessions").resolve()),
            "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": str(LISTED_AGAIN_S),
        }
        modality = reading_options(self.bundle).get("modality")
        if modality:
            own["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] = json.dumps({"Modality": modality})
        path = os.pathsep.join([str(python.parent), given.get("PATH", "")])
        return {**own, **given, "PATH": path}

    def how_to_connect(self) -> str:
        """For the terminal."""
        ohif = f"open {self.url}/ohif/ in a browser" if self.is_remote else "needs a DICOMweb service as --studies"
        lines = [
            f"MONAI Label will listen on {self.url}; stop it by Ctrl-C.",
            f"  3D Slicer  extension MONAILabel, module MONAI Label: server {self.url}",
            f"  OHIF       {ohif}",
            f"  MITK       segmentation tools 3D, MONAI Label: URL {self.url}",
            "Train in the client trains on the stored labels; to train",
            f"`{self.bundle.resolve().name}_back` there, or `unet-bundle label --back`, serves the model before.",
            "Research software: not a medical device.",
        ]
        if self.host not in LOCAL:
            lines.insert(1, "Everyone who reaches this address sees the scans: it has no login of its own.")
        return "\n".join(lines)


def find_python(environment: Path | None) -> Path:
    """Interpreter of MONAI Label's environment.

    Args:
        environment: its folder; None: this interpreter's own, if MONAI Label is there, else ``.venv-label``.

    Raises:
        ConfigError: there is none.
    """
    if environment is None and importlib.util.find_spec("monailabel") is not None:
        return Path(sys.executable)
    folder = environment or Path(".venv-label")
    for place in (folder / "bin" / "python", folder / "Scripts" / "python.exe"):
        if place.is_file():
            return place.absolute()
    raise ConfigError(f"{folder} holds no environment of MONAI Label: `make label-env` makes it, or name another.")

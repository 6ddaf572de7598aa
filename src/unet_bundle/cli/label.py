"""``unet-bundle label``: an annotation server for 3D Slicer, OHIF and MITK."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unet_bundle.cli.workflow import say
from unet_bundle.errors import ConfigError
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_OK, EXIT_TERMINATED

EPILOG = """\
Scans are NIfTI, NRRD, MHA or pictures in a folder, or the series in a PACS (DICOMweb) of the bundle's modality; login
and password for that stand in ~/.netrc. Final labels lie in FOLDER/labels/final, or go into the PACS as DICOM SEG.
Training goes on from the model that is served with the labels that are stored. A new model is served if it scores
better on the fifth of them that is kept back. --back serves the model before again.
MONAI Label lives in an environment of its own: `make label-env`.

examples:
  unet-bundle label --studies scans/
  unet-bundle label --studies https://pacs/dicom-web --bundle bundle --train-every 10
  unet-bundle label --bundle bundle --back"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "label",
        help="serve a bundle to annotators",
        description="Serve a bundle to annotators by MONAI Label.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--studies", metavar="SCANS", help="folder of scans, or URL of a DICOMweb service")
    parser.add_argument("--bundle", type=Path, default=Path("bundle"), metavar="BUNDLE", help="default: bundle")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this computer only")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument(
        "--folder", type=Path, default=Path("label"), metavar="FOLDER",
        help="for the server's logs and the scans it fetches from a PACS; default: label",
    )  # fmt: skip
    parser.add_argument("--train-every", type=int, default=0, metavar="N", help="train by itself after N new labels")
    parser.add_argument("--environment", type=Path, metavar="ENV", help="of MONAI Label; default: .venv-label")
    parser.add_argument("--back", action="store_true", help="serve the model before again, start nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until it is stopped."""
    from unet_bundle.labeling.launch import Server, find_python
    from unet_bundle.labeling.versions import Versions

    if args.back:
        say(f"The model of before/{Versions(args.bundle).back().name} is served again.")
        return EXIT_OK
    if args.studies is None:
        raise ConfigError("--studies is missing: give a folder of scans, or the URL of a DICOMweb service.")
    if args.train_every < 0:
        raise ConfigError(f"--train-every must be 0 or more, not {args.train_every}.")
    server = Server(args.bundle, args.studies, args.folder, args.host, args.port, args.train_every)
    if server.is_remote:
        from unet_bundle.io.dicomweb import DicomWeb

        DicomWeb(server.studies)  # refuses a login in the URL, or one that would cross the network in the clear
    python = find_python(args.environment)
    server.prepare()
    say(server.how_to_connect())
    # MONAI Label leaves files of scans behind it where a request is refused: they go with the server.
    scratch = tempfile.TemporaryDirectory(prefix=".scratch_", dir=args.folder.resolve(), ignore_cleanup_errors=True)
    environment = {**server.environment(python, os.environ), "TMPDIR": scratch.name}
    with scratch, subprocess.Popen(server.command(python), env=environment) as process:  # noqa: S603
        ended = _pass_on_sigterm(process)
        try:
            status = process.wait()
        except KeyboardInterrupt:  # it has got that, too
            process.wait()
            raise
    if ended():
        return EXIT_TERMINATED
    return EXIT_OK if status == 0 else EXIT_CASES_FAILED


def _pass_on_sigterm(process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    """Let SIGTERM end the server, which would go on without us; a function that says whether it came."""
    came: list[int] = []

    def end(number: int, _frame: object) -> None:
        came.append(number)
        process.terminate()

    signal.signal(signal.SIGTERM, end)
    return lambda: bool(came)

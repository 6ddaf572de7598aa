"""Real servers on loopback: Orthanc, and MONAI Label in the environment that `make label-env` makes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ENVIRONMENT = ROOT / ".venv-label"
LABEL_PYTHON = ENVIRONMENT / "bin" / "python"
PATIENCE_S = 240
"""How long a server may take to start, or a request to be answered, on a machine that does other things too."""


@dataclass
class Server:
    """A running server.

    Attributes:
        process: it.
        url: its root; of Orthanc that of its DICOMweb service.
        folder: has its log, and of Orthanc its configuration, storage and a netrc file with its login.
    """

    process: "subprocess.Popen[bytes]"
    url: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def request(self, method: str, path: str, status: int = 200, **arguments: Any) -> requests.Response:
        """Ask it for something; the test fails, with the end of the log, if the answer has another status."""
        answer = requests.request(method, f"{self.url}{path}", timeout=PATIENCE_S, **arguments)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[-500:]}\n{self.end}"
        return answer

    @property
    def end(self) -> str:
        return self.log[-6000:]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: Sequence[str | Path], folder: Path, url: str, ready: str, **options: Any) -> Iterator[Server]:
    """Start a server, wait until the URL `ready` answers, and end it at last."""
    folder.mkdir(parents=True, exist_ok=True)
    auth = options.pop("auth", None)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=log, stderr=log, start_new_session=True, **options
        )
    server = Server(process, url, folder)
    try:
        end = time.monotonic() + PATIENCE_S
        while not _answers(ready, auth):
            assert process.poll() is None, server.end
            assert time.monotonic() < end, f"it did not start: {server.end}"
            time.sleep(0.2)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str, auth: tuple[str, str] | None) -> bool:
    try:
        return requests.get(url, auth=auth, timeout=30).ok
    except (requests.ConnectionError, requests.Timeout):
        return False


@contextmanager
def orthanc(folder: Path, login: tuple[str, str]) -> Iterator[Server]:
    """Orthanc with DICOMweb on a free port, with a login."""
    command = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if command is None or not PLUGIN.is_file():
        pytest.skip("needs Orthanc with DICOMweb (apt-get install orthanc orthanc-dicomweb)")
    port, storage = free_port(), str(folder / "storage")
    user, password = login
    config = {
        "Name": "test", "HttpPort": port, "HttpBindAddresses": ["127.0.0.1"], "RemoteAccessAllowed": False,
        "DicomServerEnabled": False, "StorageDirectory": storage, "IndexDirectory": storage,
        "AuthenticationEnabled": True, "RegisteredUsers": {user: password}, "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(config))
    (folder / "netrc").write_text(f"machine 127.0.0.1 login {user} password {password}\n")
    (folder / "netrc").chmod(0o600)
    root = f"http://127.0.0.1:{port}"
    line = [command, folder / "orthanc.json"]
    with running(line, folder, f"{root}/dicom-web", f"{root}/system", auth=login, cwd=folder) as server:
        yield server


@dataclass
class LabelServer:
    """A MONAI Label server and what a client asks of it."""

    server: Server

    def info(self) -> dict[str, Any]:
        return dict(self.server.request("GET", "/info/").json())

    def segment(self, model: str, image: str, path: Path, **params: Any) -> dict[str, Any]:
        """Store the label map that the server makes of an image, and give what it says of it."""
        form = {"params": json.dumps(params)}
        path.write_bytes(self.server.request("POST", f"/infer/{model}?image={image}&output=image", data=form).content)
        return dict(self.server.request("POST", f"/infer/{model}?image={image}&output=json", data=form).json())

    def next_sample(self, strategy: str = "random") -> dict[str, Any]:
        return dict(self.server.request("POST", f"/activelearning/{strategy}", json={}).json())

    def store(self, image: str, label: Path, names: Sequence[str] = ()) -> dict[str, Any]:
        """Store an annotator's label map as 3D Slicer does."""
        params = {"label_info": [{"name": name, "idx": number} for number, name in enumerate(names, 1)]}
        with label.open("rb") as file:
            answer = self.server.request(
                "PUT", f"/datastore/label?image={image}&tag=final",
                data={"params": json.dumps(params)}, files={"label": (label.name, file)},
            )  # fmt: skip
        return dict(answer.json())

    def train(self, model: str, *, wait: bool = True, **params: Any) -> dict[str, Any]:
        """Train, in the server's own process, or in another one until it has ended."""
        if not wait:
            return dict(self.server.request("POST", f"/train/{model}?run_sync=true", json=params).json())
        self.server.request("POST", f"/train/{model}", json=params)
        return self.trained()

    def trained(self) -> dict[str, Any]:
        """Wait until the training in the background has ended."""
        end = time.monotonic() + PATIENCE_S
        while (task := self.server.request("GET", "/train/").json())["status"] in ("SUBMITTED", "RUNNING"):
            assert time.monotonic() < end, self.server.end
            time.sleep(0.5)
        assert task["status"] == "DONE", self.server.end
        return dict(task)


def label_environment(**settings: str) -> dict[str, str]:
    """Variables for a process in MONAI Label's environment, which runs this checkout's package."""
    if not LABEL_PYTHON.is_file():
        pytest.skip("needs the environment of MONAI Label (make label-env)")
    path = os.pathsep.join([str(LABEL_PYTHON.parent), os.environ.get("PATH", "")])  # else it would download dcmqi
    own = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, "PATH": path, **own, **settings}


@contextmanager
def stock_app(folder: Path, bundles: dict[str, Path], studies: str | Path, **settings: str) -> Iterator[LabelServer]:
    """MONAI Label's own `monaibundle` app with bundles by the names they are to have there."""
    environment = label_environment(**settings)
    app = folder / "monaibundle"
    line = [LABEL_PYTHON, "-m", "monailabel.main"]
    # As `python -m monailabel.main apps --download --name monaibundle` does, which takes seconds to import.
    shutil.copytree(ENVIRONMENT / "monailabel" / "sample-apps" / app.name, app)
    for name, bundle in bundles.items():
        shutil.copytree(bundle, app / "model" / name)
    port = free_port()
    line += ["start_server", "--app", app, "--studies", studies, "--host", "127.0.0.1", "--port", str(port)]
    line += ["--conf", "models", ",".join(bundles), "--conf", "zoo_source", "local", "--conf", "sam2", "false"]
    url = f"http://127.0.0.1:{port}"
    with running(line, folder, url, f"{url}/info/", env=environment, cwd=folder) as server:
        yield LabelServer(server)


@contextmanager
def own_app(folder: Path, bundle: Path, studies: str | Path, *options: str, **settings: str) -> Iterator[LabelServer]:
    """``unet-bundle label``, from our environment, with a bundle and scans; ended by SIGTERM, it leaves no server."""
    environment = label_environment(**settings)
    environment["PATH"] = os.environ.get("PATH", "")  # the verb finds the programs of the other environment itself
    port = free_port()
    line = [sys.executable, "-m", "unet_bundle.cli", "label", "--studies", studies, "--bundle", bundle]
    line += ["--environment", ENVIRONMENT, "--folder", folder / "label", "--port", str(port), *options]
    url = f"http://127.0.0.1:{port}"
    with running(line, folder, url, f"{url}/info/", env=environment, cwd=folder) as server:
        (scratch,) = (folder / "label").glob(".scratch_*")
        yield LabelServer(server)
    assert server.process.returncode == 143, server.end
    assert not scratch.exists(), "files of scans that requests left behind go with the server"
    assert not _answers(f"{url}/info/", None)

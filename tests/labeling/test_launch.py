import dataclasses
import json
import socket
from pathlib import Path

import pytest

from unet_bundle.cli import main
from unet_bundle.errors import ConfigError
from unet_bundle.labeling.launch import Server, find_python

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path("env") / "bin" / "python"


@pytest.fixture
def server(tmp_path: Path) -> Server:
    (tmp_path / "scans").mkdir()
    return Server(ROOT / "bundle", str(tmp_path / "scans"), tmp_path / "label", port=8123, train_every=5)


def test_nothing_is_downloaded_and_the_pacs_is_asked_for_the_bundles_modality(server: Server):
    settings = server.environment(PYTHON, {"PATH": "usual"})
    assert settings["MONAI_ZOO_SOURCE"] == "local"
    assert json.loads(settings["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"]) == {"Modality": "MR"}
    assert settings["PATH"].split(":")[0] == str(PYTHON.parent), "else MONAI Label would fetch programs that lie there"


def test_scans_that_clients_send_stay_in_its_folder(server: Server):
    settings = server.environment(PYTHON, {})
    for name in ("MONAI_LABEL_SESSION_PATH", "MONAI_LABEL_DICOMWEB_CACHE_PATH"):
        assert Path(settings[name]).is_relative_to(server.folder.resolve())


def test_what_a_person_has_set_stays(server: Server):
    given = {"MONAI_LABEL_DICOMWEB_SEARCH_FILTER": "{}"}
    assert server.environment(PYTHON, given)["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] == "{}"


def test_it_listens_on_this_computer_unless_told_otherwise(server: Server):
    line = server.command(PYTHON)
    assert line[line.index("--host") + 1] == "127.0.0.1"
    assert "no login" not in server.how_to_connect()
    assert "http://127.0.0.1:8123" in server.how_to_connect()
    assert "no login of its own" in Server(server.bundle, "scans", server.folder, host="192.0.2.1").how_to_connect()


def test_the_app_is_one_that_the_server_finds(server: Server):
    dataclasses.replace(server, port=0).prepare()
    source = (server.folder / "app" / "main.py").read_text()
    compile(source, "main.py", "exec")
    assert "from unet_bundle.labeling.app import UnetBundleApp" in source


@pytest.mark.parametrize(("bundle", "studies"), [("nothing", "scans"), (None, "nothing")])
def test_what_is_missing_is_said(bundle: str | None, studies: str, server: Server, tmp_path: Path):
    path = server.bundle if bundle is None else tmp_path / bundle
    with pytest.raises(ConfigError, match="nothing"):
        Server(path, str(tmp_path / studies), tmp_path / "label").prepare()


def test_a_port_that_is_taken_is_said(server: Server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be listened on"):
            Server(server.bundle, server.studies, server.folder, port=port).prepare()


def test_without_an_environment_it_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ConfigError, match="make label-env"):
        find_python(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], "--studies is missing"),
        (["--studies", "https://me:secret@pacs/dicom-web"], "holds a login"),
        (["--studies", ".", "--train-every", "-1"], "--train-every must be 0 or more"),
        (["--back", "--bundle", "nothing"], "no model before"),
    ],
)
def test_wrong_usage_ends_in_one_line(line: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["label", *line]) == 2
    assert words in capsys.readouterr().err
    assert "secret" not in capsys.readouterr().err

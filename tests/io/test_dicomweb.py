"""What is said before a PACS is asked; a real server answers in tests/integration/test_pacs.py."""

import logging

import pydicom
import pytest

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.dicomweb import DicomWeb, RemoteSeries, check_uid

pytest.importorskip("dicomweb_client")


@pytest.mark.parametrize(
    "url",
    [
        "https://joe:secret@host/dicom-web",
        "https://secret@host/dicom-web",
        "https://host/dicom-web?key=secret",
        "https://host/dicom-web#secret",
        "ftp://secret/dicom-web",
        "secret",
        "https://[secret/dicom-web",
    ],
)
def test_a_url_that_cannot_be_is_refused_and_not_shown(url):
    with pytest.raises(ConfigError) as refusal:
        DicomWeb(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://pacs.example.org/dicom-web", True),
        ("http://192.168.1.2:8042/dicom-web", True),
        ("https://pacs.example.org/dicom-web", False),
        ("http://127.0.0.1:8042/dicom-web", False),
        ("http://localhost:8042/dicom-web", False),
    ],
)
def test_http_beyond_this_computer_gives_a_warning(url, warned, caplog):
    with caplog.at_level(logging.WARNING):
        DicomWeb(url)
    assert ("in the clear" in caplog.text) == warned


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    """A function that writes a netrc file and has it used."""

    def write(text):
        (tmp_path / "netrc").write_text(text)
        (tmp_path / "netrc").chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    return write


@pytest.mark.parametrize("entry", ["machine pacs.example.org", "machine other machine pacs.example.org", "default"])
def test_a_login_never_goes_to_another_computer_by_http(entry, netrc):
    netrc(f"{entry} login reader password secret\n".replace("other ", "other login a password b "))
    with pytest.raises(ConfigError, match=r"pacs\.example\.org:8042 is reached by http, so its login") as refusal:
        DicomWeb("http://pacs.example.org:8042/dicom-web")
    assert "secret" not in str(refusal.value)
    assert "reader" not in str(refusal.value)
    DicomWeb("https://pacs.example.org/dicom-web")
    DicomWeb("http://127.0.0.1:8042/dicom-web")


def test_a_login_of_another_host_is_no_reason_to_refuse(netrc, caplog):
    netrc("machine other.example.org login reader password secret\n")
    DicomWeb("http://pacs.example.org/dicom-web")
    assert "patient data cross the network in the clear" in caplog.text


@pytest.fixture
def elsewhere(dicomweb_server):
    """The server, whose every answer leads to another one; and that one."""
    other = type(dicomweb_server)()
    dicomweb_server.leads_to = other.url
    yield dicomweb_server, other
    other.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_redirects_are_refused_and_not_followed(elsewhere, netrc, synthetic, tmp_path, monkeypatch, caplog, scheme):
    """Neither scans nor logins go where nobody said they should."""
    monkeypatch.setattr("unet_bundle.io.dicomweb.ATTEMPTS", 1)
    server, other = elsewhere
    server.leads_to = server.leads_to.replace("http", scheme)
    netrc("default login reader password secret\n")
    files = synthetic.write_series(tmp_path / "in", shape=(4, 4, 2)).files
    web = DicomWeb(server.url)
    host = server.url.split("/")[2]
    series = RemoteSeries("1.2.3", "CT", 1, 2)
    for ask in (
        lambda: web.series("1.2"),
        lambda: web.fetch("1.2", series, tmp_path / "out"),
        lambda: web.store(files[:1]),
    ):
        with pytest.raises(InputError, match=f"{host} sends elsewhere: give the URL that it leads to, if that is"):
            ask()
    assert sum(server.asked.values()) == 3
    assert "Traceback" not in caplog.text
    assert server.logins, "to this computer it may go"
    assert not other.asked
    assert not other.logins
    assert not list((tmp_path / "out").iterdir())


def test_of_a_series_all_files_come_as_they_are(dicomweb_server, synthetic, tmp_path, caplog):
    series = synthetic.write_series(tmp_path / "in", shape=(4, 4, 5))
    uid = dicomweb_server.hold(series.files)
    web = DicomWeb(dicomweb_server.url)
    (found,) = web.series("1.2.826.0.1.3680043.8.498.1")
    assert found == RemoteSeries(uid, "CT", 0, 5)
    assert web.fetch("1.2.826.0.1.3680043.8.498.1", found, tmp_path / "out") == 5
    assert sorted(map(pydicom.dcmread, (tmp_path / "out").iterdir()), key=str) == sorted(
        map(pydicom.dcmread, series.files), key=str
    )
    dicomweb_server.files[uid].pop()
    with pytest.raises(InputError, match="sent 4 of 5 files of a series"):
        web.fetch("1.2.826.0.1.3680043.8.498.1", found, tmp_path / "out")
    assert "whether all came" not in caplog.text
    web.fetch("1.2.826.0.1.3680043.8.498.1", RemoteSeries(uid, "CT", 0, None), tmp_path / "out")
    assert "whether all came is unknown" in caplog.text


@pytest.mark.parametrize("uid", ["", "PLANTED-ID-77", "12345", "1..2", "1.2/../3", "1." + "2" * 63])
def test_what_is_no_uid_is_refused_and_not_shown(uid):
    with pytest.raises(ConfigError) as refusal:
        check_uid(uid, "study")
    assert not uid or uid not in str(refusal.value)


def test_no_server(caplog):
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1 does not answer"):
        DicomWeb("http://127.0.0.1:1/dicom-web").series("1.2")
    assert "Traceback" not in caplog.text


def test_https_of_a_server_that_speaks_none(dicomweb_server):
    with pytest.raises(InputError, match="speaks no https") as refusal:
        DicomWeb(dicomweb_server.url.replace("http:", "https:")).series("1.2")
    assert "certificate" not in str(refusal.value)

"""What is said before a PACS is asked; a real server answers in tests/integration/test_pacs.py."""

import logging

import pytest

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.dicomweb import DicomWeb, check_uid

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


@pytest.mark.parametrize("uid", ["", "PLANTED-ID-77", "12345", "1..2", "1.2/../3", "1." + "2" * 63])
def test_what_is_no_uid_is_refused_and_not_shown(uid):
    with pytest.raises(ConfigError) as refusal:
        check_uid(uid, "study")
    assert not uid or uid not in str(refusal.value)


def test_no_server():
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1 does not answer"):
        DicomWeb("http://127.0.0.1:1/dicom-web").series("1.2")

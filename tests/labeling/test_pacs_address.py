from urllib.parse import unquote, urlsplit

import pytest

from unet_bundle.labeling.pacs_address import pacs_address

requests = pytest.importorskip("requests")
parse_url = pytest.importorskip("urllib3").util.parse_url

ROOT = "http://pacs:8042/dicom-web/"
SERVICES = {"wado": "", "qido": "", "stow": ""}


def sent(path: str) -> str:
    """The path that a PACS is asked for when a browser asks for this one."""
    address = pacs_address(ROOT, SERVICES, unquote(path))
    assert address is not None
    return str(parse_url(requests.Request("GET", address).prepare().url).path)


def test_a_request_goes_to_its_service():
    frames = "studies/1.2/series/1.3/instances/1.4/frames/1,2"
    assert sent(f"wado/{frames}") == f"/dicom-web/{frames}"
    prefixes = {"wado": "/rs/", "qido": "q", "stow": ""}
    assert pacs_address(ROOT, prefixes, "qido/studies") == f"{ROOT}q/studies"
    assert pacs_address(ROOT, prefixes, "qido/studies/1.2/metadata") == f"{ROOT}rs/studies/1.2/metadata"


@pytest.mark.parametrize("way", ["..", "%2e%2e", "%252e%252e", "%25252e%25252e", "x/%252e%252e/%252e%252e"])
def test_no_request_leads_out_of_the_services(way: str):
    path = f"wado/{way}/tools/shutdown"
    if pacs_address(ROOT, SERVICES, unquote(path)) is not None:
        assert sent(path).startswith("/dicom-web/")


def test_another_service_is_none():
    assert pacs_address(ROOT, SERVICES, "tools/shutdown") is None


def test_what_is_written_as_a_parameter_of_the_path_is_none():
    assert not urlsplit(sent("wado/studies%3Fx=1")).query

import threading
import time

import pytest

from unet_bundle.errors import InputError
from unet_bundle.labeling.dicom import download_series

dicomweb_client = pytest.importorskip("dicomweb_client")
pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def held(dicomweb_server, synthetic, tmp_path):
    """A series that a PACS holds: its files, its UID and its study's, a client, and its folder in the cache."""
    series = synthetic.write_series(tmp_path / "sent")
    uid = dicomweb_server.hold(series.files)
    study = pydicom.dcmread(series.files[0]).StudyInstanceUID
    return series, uid, study, dicomweb_client.DICOMwebClient(dicomweb_server.url), tmp_path / "cache" / uid


def test_a_series_comes_whole_or_not_at_all(dicomweb_server, held, tmp_path):
    series, uid, study, client, folder = held
    download_series(study, uid, str(folder), client)
    fetched = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, folder.iterdir())}
    assert {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, series.files)} == fetched

    dicomweb_server.files[uid][-1] = b"cut off"
    with pytest.raises(InputError, match="did not give the series"):
        download_series(study, uid, str(tmp_path / "cut"), client)
    assert not (tmp_path / "cut").exists(), "a part of a series would be taken for all of it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "sent"], "nothing is left of it"


def test_a_series_that_is_asked_for_twice_at_once_is_never_seen_in_part(dicomweb_server, held, tmp_path):
    series, uid, study, client, folder = held
    dicomweb_server.pause = threading.Event()
    first = threading.Thread(target=download_series, args=(study, uid, str(folder), client))
    first.start()
    end = time.monotonic() + 60
    while not list((tmp_path / "cache").rglob("*.dcm")):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not folder.exists(), "the server would take it for the series"
    second = threading.Thread(target=download_series, args=(study, uid, str(folder), client))
    second.start()
    dicomweb_server.pause.set()
    first.join()
    second.join()
    assert len(list(folder.iterdir())) == len(series.files)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [uid]


def test_what_stands_in_the_files_leads_to_no_other_folder(dicomweb_server, synthetic, tmp_path):
    series = synthetic.write_series(tmp_path / "sent")
    for number, path in enumerate(series.files):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = f"../../{number}"
        dataset.save_as(path)
    uid = dicomweb_server.hold(series.files)
    client = dicomweb_client.DICOMwebClient(dicomweb_server.url)
    download_series("1.2", uid, str(tmp_path / "cache" / uid), client)
    assert len(list((tmp_path / "cache" / uid).iterdir())) == len(series.files)
    assert not list(tmp_path.glob("*.dcm"))

    dicomweb_server.files["1.2.3"] = dicomweb_server.files[uid]
    with pytest.raises(InputError, match="did not give the series"):
        download_series("1.2", "1.2.3", str(tmp_path / "cache" / "1.2.3"), client)


def test_what_the_pacs_does_not_have_or_give_is_one_sentence(dicomweb_server, tmp_path):
    client = dicomweb_client.DICOMwebClient(dicomweb_server.url)
    with pytest.raises(InputError, match="no such series"):
        download_series(None, "1.2.3", str(tmp_path / "series"), client)
    with pytest.raises(InputError, match="did not give the series"):
        download_series("1.2", "1.2.3", str(tmp_path / "series"), client)
    assert not (tmp_path / "series").exists()

import pytest

from unet_bundle.errors import InputError
from unet_bundle.labeling.dicom import download_series

dicomweb_client = pytest.importorskip("dicomweb_client")
pydicom = pytest.importorskip("pydicom")


def test_a_series_comes_whole_or_not_at_all(dicomweb_server, synthetic, tmp_path):
    series = synthetic.write_series(tmp_path / "sent")
    uid = dicomweb_server.hold(series.files)
    study = pydicom.dcmread(series.files[0]).StudyInstanceUID
    client = dicomweb_client.DICOMwebClient(dicomweb_server.url)
    folder = tmp_path / "cache" / uid
    download_series(study, uid, str(folder), client)
    fetched = {path.stem: pydicom.dcmread(path) for path in folder.iterdir()}
    assert {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, series.files)} == fetched

    dicomweb_server.files[uid][-1] = b"cut off"
    with pytest.raises(InputError, match="did not give the series"):
        download_series(study, uid, str(tmp_path / "cut"), client)
    assert not (tmp_path / "cut").exists(), "a part of a series would be taken for all of it"


def test_what_the_pacs_does_not_have_or_give_is_one_sentence(dicomweb_server, tmp_path):
    client = dicomweb_client.DICOMwebClient(dicomweb_server.url)
    with pytest.raises(InputError, match="no such series"):
        download_series(None, "1.2.3", str(tmp_path / "series"), client)
    with pytest.raises(InputError, match="did not give the series"):
        download_series("1.2", "1.2.3", str(tmp_path / "series"), client)
    assert not (tmp_path / "series").exists()

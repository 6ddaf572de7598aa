from pathlib import Path

import pytest

from unet_bundle.errors import ConfigError
from unet_bundle.labeling.versions import Versions


def serve(bundle: Path, content: str) -> None:
    (bundle / "models").mkdir(exist_ok=True)
    (bundle / "models" / "model.pt").write_text(content)
    (bundle / "models" / "model.json").write_text(f"note of {content}")


def test_the_way_back_leads_over_every_model_that_was_served(tmp_path: Path):
    versions = Versions(tmp_path)
    for content in ("first", "second", "third"):
        if versions.served.is_file():
            versions.keep(versions.served)
        serve(tmp_path, content)
    for content in ("second", "first"):
        versions.back()
        assert versions.served.read_text() == content
        assert versions.served.with_suffix(".json").read_text() == f"note of {content}"
    assert (versions.folder / "withdrawn.pt").read_text() == "second"
    with pytest.raises(ConfigError, match="no model before this one"):
        versions.back()
    assert versions.served.read_text() == "first"
    assert sorted(path.name for path in versions.folder.iterdir()) == ["withdrawn.json", "withdrawn.pt"]


def test_a_server_offers_the_served_model_only(tmp_path: Path):
    serve(tmp_path, "first")
    Versions(tmp_path).keep(tmp_path / "models" / "model.pt")
    assert [path.name for path in (tmp_path / "models").glob("*.pt")] == ["model.pt"]

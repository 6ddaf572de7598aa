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
    assert versions.keep() is None, "nothing is served yet"
    for content in ("first", "second", "third"):
        serve(tmp_path, content)
        if content != "third":
            versions.keep()
    for content in ("second", "first"):
        versions.back()
        assert versions.served.read_text() == content
        assert versions.served.with_suffix(".json").read_text() == f"note of {content}"
    assert (versions.folder / "withdrawn.pt").read_text() == "second"
    with pytest.raises(ConfigError, match="no model before this one"):
        versions.back()
    assert versions.served.read_text() == "first"


def test_a_server_offers_the_served_model_only(tmp_path: Path):
    serve(tmp_path, "first")
    Versions(tmp_path).keep()
    assert [path.name for path in (tmp_path / "models").glob("*.pt")] == ["model.pt"]


def test_what_was_kept_for_nothing_is_forgotten(tmp_path: Path):
    serve(tmp_path, "first")
    versions = Versions(tmp_path)
    versions.drop(versions.keep())
    assert versions.kept() == []
    assert list(versions.folder.iterdir()) == []

"""What `python -m monai.bundle push_to_hf_hub` would send of the shipped bundle to Hugging Face; nothing is sent."""

import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

SHIPPED = Path(__file__).resolve().parents[2] / "bundle"
LEFT_OUT = ["runs/*", "eval/*", "models/before/*"]
"""As docs/export.md says it."""


class Offline:
    """The hub's interface, up to where it would go to the network."""

    calls: list[tuple[str, dict[str, Any]]]

    def __init__(self, token: str | None = None) -> None:
        Offline.calls = []
        assert token is None

    def create_repo(self, **arguments: Any) -> None:
        self.calls.append(("create_repo", arguments))

    def create_tag(self, **arguments: Any) -> None:
        self.calls.append(("create_tag", arguments))

    def upload_folder(self, *, folder_path: str, ignore_patterns: list[str], **arguments: Any) -> str:
        from huggingface_hub.utils import filter_repo_objects

        paths = [p.relative_to(folder_path).as_posix() for p in Path(folder_path).rglob("*") if p.is_file()]
        sent = sorted(filter_repo_objects(paths, ignore_patterns=ignore_patterns))
        self.calls.append(("upload_folder", {"files": sent, **arguments}))
        return "https://huggingface.co/someone/hippocampus"


def test_what_would_be_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    from monai.bundle import push_to_hf_hub

    bundle = Path(shutil.copytree(SHIPPED, tmp_path / "hippocampus"))
    (bundle / "runs" / "fold_0").mkdir(parents=True, exist_ok=True)
    (bundle / "runs" / "fold_0" / "last.pt").write_bytes(b"state")
    (bundle / "models" / "before").mkdir()
    (bundle / "models" / "before" / "0001.pt").write_bytes(b"of annotators")
    monkeypatch.setattr(hub, "HfApi", Offline)
    push_to_hf_hub(
        repo="someone/hippocampus", name="hippocampus", bundle_dir=str(tmp_path), version="0.1.0",
        tag_as_latest_version=True, ignore_patterns=LEFT_OUT,
    )  # fmt: skip
    calls = dict(Offline.calls)
    assert calls["create_repo"] == {"repo_id": "someone/hippocampus", "private": True, "exist_ok": True}
    sent = calls["upload_folder"]["files"]
    assert {"README.md", "LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt"} <= set(sent)
    assert not [name for name in sent if name.startswith(("runs/", "eval/", "models/before/")) or "__pycache__" in name]
    tags = [arguments["tag"] for name, arguments in Offline.calls if name == "create_tag"]
    assert tags == ["0.1.0", "latest_version"]

    card = hub.ModelCard.load(bundle / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "monai"
    assert {"monai", "medical"} <= set(card.data.tags)
    assert card.text.strip() == (SHIPPED / "docs" / "README.md").read_text().strip()
    assert "Research software" in card.text

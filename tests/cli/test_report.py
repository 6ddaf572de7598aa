"""`unet-bundle report`: where the page goes, and what is refused."""

from pathlib import Path

import pytest

from unet_bundle.cli import main


def test_the_page_goes_into_the_bundle_or_where_it_is_wanted(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tiny_bundle)]) == 0
    assert main(["report", str(tiny_bundle), "--output", str(tmp_path / "new" / "page.html")]) == 0
    assert "0 runs and 0 scored cases" in capsys.readouterr().out
    assert (tmp_path / "new" / "page.html").read_bytes() == (tiny_bundle / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models"], "is no bundle"),
        ([".", "--evaluation", "none"], "is no folder"),
        ([".", "--output", "."], "is a folder"),
    ],
)
def test_what_makes_no_report_is_refused(
    arguments: list[str],
    words: str,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tiny_bundle)
    assert main(["report", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not list(tiny_bundle.rglob("*.html"))

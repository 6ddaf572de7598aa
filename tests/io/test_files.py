from pathlib import Path

import pytest

from unet_bundle.io.files import replacing, write_text


def test_a_body_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "new" / "scores.csv"
    write_text(file, "old\n")

    def write_half() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half")
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk"):
        write_half()
    assert file.read_text() == "old\n"
    assert [path.name for path in file.parent.iterdir()] == ["scores.csv"]


def test_text_is_written_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\nb\n".encode()

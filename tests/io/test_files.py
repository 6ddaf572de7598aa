import errno
from pathlib import Path

import pytest

from unet_bundle.io.files import remove_unfinished, replacing, write_text
from unet_bundle.runtime import error_message


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


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_line_with_the_folders_name(wrapped: bool, tmp_path: Path) -> None:
    refusal = OSError(errno.ENOSPC, "No space left on device")  # the system's of writing, without a name

    def write_half() -> None:
        with replacing(tmp_path / "results" / "a.dcm") as temporary:
            temporary.write_bytes(b"half")
            if wrapped:  # by pydicom
                raise OSError("No space for tag (7fe0,0010)") from refusal
            raise refusal

    with pytest.raises(OSError, match="No space") as raised:
        write_half()
    assert error_message(raised.value) == (
        "the folder 'results' takes no more files (No space left on device): make room there, or give another."
    )
    assert not list((tmp_path / "results").iterdir())


def test_text_is_written_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\nb\n".encode()


def test_what_a_killed_process_left_is_removed_and_what_is_gone_by_then_is_no_error(tmp_path: Path) -> None:
    left, other = tmp_path / f".{'0' * 32}-model.pt", tmp_path / ".hidden"
    gone = tmp_path / f".{'1' * 32}-model.pt"
    for path in (left, other):
        path.write_text("half")
    gone.symlink_to(tmp_path / "nowhere")  # as one that was renamed since the folder was listed
    remove_unfinished(tmp_path)
    assert not left.exists()
    assert other.exists()
    remove_unfinished(tmp_path / "no folder")

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import AddressError
from storage.files import checked_path, normal_root


@pytest.mark.parametrize("path", ["a", "a/b.tar", "plan/0123/x.done.json", ".hidden", "a b/ü.json", "..."])
def test_plain_relative_paths_are_taken_as_they_are(path: str):
    assert checked_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/./b",
            "a//b",
            "a/",
            "~/../x",
            "a\\b",
            "a\nb",
            "a\0b",
            "*",
            "a?",
            "a[0]",
        ),
        *("s3://bucket/x", "x" * 201, 3, None),
    ],
)
def test_paths_that_could_leave_the_root_or_name_many_files_are_refused(path: str):
    with pytest.raises(AddressError):
        checked_path(path)


@given(st.text(alphabet="ab./\\~:*\n ", max_size=12))
def test_whatever_is_accepted_stays_inside_the_root(path: str):
    try:
        accepted = checked_path(path)
    except AddressError:
        return
    root = Path("store").resolve()
    assert (root / accepted).resolve().is_relative_to(root)
    assert (root / accepted).resolve() != root


def test_local_roots_have_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    spellings = ["data", "./data/", f"{tmp_path}/x/../data", f"file://{tmp_path}/data", f"local://{tmp_path}/data/"]
    assert {normal_root(spelling) for spelling in spellings} == {str(tmp_path / "data")}


def test_remote_roots_lose_their_final_slash():
    assert normal_root("s3://bucket/prefix/") == "s3://bucket/prefix"
    assert normal_root("memory://") == "memory://"


@pytest.mark.parametrize("root", ["", "a\nb", "simplecache::s3://bucket", "s3://", "s3:///", "file://relative"])
def test_roots_that_cannot_be_written_atomically_or_name_nothing_are_refused(root: str):
    with pytest.raises(AddressError):
        normal_root(root)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What is checked of files before they are read."""

import os
import re
import zipfile

import pytest

from mct_quantizers.common import untrusted


def sparse(path, size):
    """A file of many zeros that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_may_never_end_is_refused(tmp_path, make):
    path = tmp_path / "file"
    make(path)
    with pytest.raises(OSError, match=re.escape("`path` must name a regular file. Received a pipe, socket or device")):
        untrusted.check_is_file(path)


def test_a_link_to_a_file_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    untrusted.check_is_file(tmp_path / "link")


def test_a_file_may_have_what_can_be_needed_and_not_more(tmp_path):
    path = sparse(tmp_path / "file", 2**24 + 100)
    untrusted.check_size(path, 100, "a test")
    with pytest.raises(ValueError, match=r"at most 16,777,315 bytes for a test\. Received: 16,777,316 bytes"):
        untrusted.check_size(path, 99, "a test")


def test_an_archive_that_grows_is_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as entry:
        for _ in range(40):
            entry.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"declares 41,943,040 bytes"):
        untrusted.check_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zeros", bytes(2**25))
    untrusted.check_archive(path)


def test_json_that_is_nested_too_deeply_is_no_value():
    with pytest.raises(ValueError, match="nested too deeply"):
        untrusted.parse_json("[" * 100_000 + "]" * 100_000)
    assert untrusted.parse_json(b'{"a": [1]}') == {"a": [1]}


def test_long_errors_are_shortened():
    assert untrusted.shortened(ValueError("a")) == "a"
    assert untrusted.shortened(ValueError("a" * 2000 + "b" * 2000)) == "a" * 1000 + " … " + "b" * 1000

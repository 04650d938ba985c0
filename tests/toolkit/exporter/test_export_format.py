# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import os
import stat

import pytest

from model_compression_toolkit.exporter import ExportFormat
from model_compression_toolkit.exporter.common.format import check_writable, format_of, write_atomically


@pytest.mark.parametrize("name", ["a.onnx", "A.ONNX", "folder.safetensors/a.onnx"])
def test_suffix_tells_the_format(name):
    assert format_of(name) is ExportFormat.ONNX


@pytest.mark.parametrize("name", ["a", "a.pt", "onnx", ".onnx", "a.onnx.zip", "a.onnx "])
def test_unknown_suffix_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"\.onnx.*\.safetensors.*Received"):
        format_of(name)


def test_writes_with_the_usual_permissions_and_leaves_nothing_else(tmp_path):
    umask = os.umask(0o022)
    try:
        path = write_atomically(tmp_path / "a.onnx", lambda file: file.write(b"new"))
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_follows_links(tmp_path):
    target, link = tmp_path / "target.onnx", tmp_path / "link.onnx"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def half_written(file):
    file.write(b"half")
    raise KeyboardInterrupt


def refused(*_):
    raise OSError("no space left")


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("interruption", ["write", "replace", "fsync"])
def test_interrupted_writing_leaves_the_old_file_whole(tmp_path, monkeypatch, exists, interruption):
    path = tmp_path / "a.onnx"
    if exists:
        path.write_bytes(b"old")
    if interruption != "write":
        monkeypatch.setattr(os, interruption, refused)
    write = half_written if interruption == "write" else (lambda file: file.write(b"new"))
    with pytest.raises((KeyboardInterrupt, OSError)):
        write_atomically(path, write)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("a.onnx", b"old")] if exists else [])


def test_refuses_what_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IsADirectoryError, match="folder"):
        check_writable(tmp_path)
    with pytest.raises(FileNotFoundError, match="must exist"):
        check_writable(tmp_path / "none" / "a.onnx")
    with pytest.raises(NotADirectoryError, match="is a file"):
        check_writable(tmp_path / "file" / "a.onnx")
    # Not by its mode: the administrator may write anywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="writable"):
        check_writable(tmp_path / "a.onnx")

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole at every moment, the same each time, and that tell when they were changed."""

import os
import stat

import numpy as np
import pytest
import safetensors.numpy

from mct_quantizers.common import files, untrusted


def test_writes_with_the_usual_permissions_and_leaves_nothing_else(tmp_path):
    umask = os.umask(0o022)
    try:
        path = files.write_atomically(tmp_path / "a.onnx", lambda file: file.write(b"new"))
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_follows_links(tmp_path):
    target, link = tmp_path / "target.onnx", tmp_path / "link.onnx"
    target.write_bytes(b"old")
    link.symlink_to(target)
    files.write_atomically(link, lambda file: file.write(b"new"))
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
        files.write_atomically(path, write)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("a.onnx", b"old")] if exists else [])


def test_refuses_what_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IsADirectoryError, match="folder"):
        files.check_writable(tmp_path)
    with pytest.raises(FileNotFoundError, match="must exist"):
        files.check_writable(tmp_path / "none" / "a.onnx")
    with pytest.raises(NotADirectoryError, match="is a file"):
        files.check_writable(tmp_path / "file" / "a.onnx")
    # Not by its mode: the administrator may write anywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="writable"):
        files.check_writable(tmp_path / "a.onnx")


def test_refuses_what_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="folder"):
        untrusted.check_is_file(tmp_path)
    with pytest.raises(FileNotFoundError, match="exists"):
        untrusted.check_is_file(tmp_path / "none")


def stored(metadata=None):
    arrays = {"a": np.arange(5, dtype=np.float32), "é": np.zeros((2, 0), np.int8)}
    return safetensors.numpy.save(arrays, {files.CHECKSUM_KEY: files.UNSEALED, "b": "2", "c": "ü", **(metadata or {})})


def test_the_same_content_is_the_same_file_and_reads_back(tmp_path):
    # The library writes metadata in another order every time.
    contents = {stored() for _ in range(64)}
    assert len(contents) > 1
    (content,) = {files.reproducible(content) for content in contents}
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert files.read_metadata(path) == {files.CHECKSUM_KEY: files.UNSEALED, "b": "2", "c": "ü"}
    tensors = files.read_tensors(path, "np")
    assert tensors["a"].tolist() == [0, 1, 2, 3, 4]
    assert tensors["é"].shape == (2, 0)
    assert files.is_safetensors(path)


def test_a_header_that_no_reader_takes_is_not_written(monkeypatch):
    monkeypatch.setattr(files, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(ValueError, match=r"at most 1,000 bytes in a file. Received: 1,\d\d\d"):
        files.reproducible(stored({"d": "x" * 1000}))


def test_every_changed_byte_breaks_the_seal(tmp_path):
    path = tmp_path / "a.safetensors"
    # Metadata that look like the place of the checksum.
    content = files.seal(files.reproducible(stored({"a": f'"checksum":"{files.UNSEALED}"'})))
    path.write_bytes(content)
    checksum = files.read_metadata(path)[files.CHECKSUM_KEY]
    files.check_seal(path, checksum)
    for position in range(8, len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            files.check_seal(path, checksum)
    path.write_bytes(content)
    for other in (None, "", files.UNSEALED, checksum.upper()):
        with pytest.raises(ValueError, match="damaged"):
            files.check_seal(path, other)


@pytest.mark.parametrize(
    ("content", "description"),
    [
        (b"", "0 bytes"),
        (b"12345678", "8 bytes"),
        (b"PK\x03\x04" + bytes(26), "zip archive"),
        (b"\x80\x04\x95" + bytes(8), "pickle"),
        (b"\x80\x09\x95" + bytes(8), "unknown"),
        (b"<html> and so on", "unknown"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, description):
    path = tmp_path / "a"
    path.write_bytes(content)
    assert not files.is_safetensors(path)
    assert description in files.describe(path)


@pytest.mark.parametrize("read", [files.read_metadata, lambda path: files.read_tensors(path, "np")])
def test_a_file_that_is_not_whole_is_refused(tmp_path, read):
    content, path = stored(), tmp_path / "a.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"whole .safetensors file. Received: {path}"):
            read(path)

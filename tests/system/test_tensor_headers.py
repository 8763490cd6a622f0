"""lora_core.system.tensor_headers: metadata and shapes from the first bytes of a .safetensors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from lora_core.errors import UserError
from lora_core.system.tensor_headers import Tensor, metadata_of, read, safetensors
from tests.support import header_lengths


def test_metadata_of_a_file_of_any_name(tmp_path: Path) -> None:
    save_file({"a": np.zeros((2, 3), np.float16)}, tmp_path / "x.tmp", {"ss_network_dim": "7"})
    assert metadata_of(tmp_path / "x.tmp") == {"ss_network_dim": "7"}
    save_file({"a": np.zeros(2, np.float16)}, tmp_path / "plain.safetensors")
    assert metadata_of(tmp_path / "plain.safetensors") == {}


def test_a_file_that_is_not_there_and_one_that_is_cut(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        metadata_of(tmp_path / "none.safetensors")
    save_file({"a": np.zeros(100, np.float16)}, tmp_path / "x.safetensors", {"k": "v"})
    data = (tmp_path / "x.safetensors").read_bytes()
    for damaged in (b"", b"\x00" * 4, data[:20], data[:-1], b"pickle" * 9):
        (tmp_path / "x.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.safetensors"):
            metadata_of(tmp_path / "x.safetensors")


def test_a_header_in_memory_reads_as_one_on_disk() -> None:
    file = io.BytesIO(save({"a": np.zeros((2, 3), np.float32)}, {"k": "v"}))
    file.seek(5)
    header = safetensors(file, Path("memory"))
    assert (header.tensors, header.metadata) == ({"a": Tensor("F32", (2, 3))}, {"k": "v"})


def test_a_header_of_any_length_is_read_or_told_to_be_damaged() -> None:
    for length, path in header_lengths.headers():
        if length >= header_lengths.SHORTEST:
            assert read(path).tensors == {"a": Tensor("F16", (1,))}, length
        else:
            with pytest.raises(UserError, match="header cannot be read|no .safetensors"):
                read(path)

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lora_core.events import Event, Warned
from lora_core.training.data import tensor_store
from tests.support import header_lengths

SIZE = 4000  # bytes of a file in these tests, and a little for its header


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path))
    return tmp_path


def keep(name: str, value: float = 0.0, used_s_ago: float = 0.0) -> Path:
    path = tensor_store.place_of(name)
    assert tensor_store.write(path, {"x": torch.full((SIZE // 4,), value)}) is None
    os.utime(path, (time.time() - used_s_ago,) * 2)
    return path


def test_what_was_not_used_for_longest_goes_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [keep(str(n), used_s_ago=100 * n) for n in range(10)]
    monkeypatch.setenv(tensor_store.LIMIT_VARIABLE, "1")
    assert tensor_store.make_room(lambda event: None) == 0
    monkeypatch.setenv(tensor_store.LIMIT_VARIABLE, str(5.5 * SIZE / 1e9))
    assert tensor_store.make_room(lambda event: None) > 5 * SIZE
    assert [path.exists() for path in files] == [True] * 4 + [False] * 6  # to 80 % of the limit


def test_a_use_saves_from_being_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    old, older = keep("old", used_s_ago=2e5), keep("older", used_s_ago=3e5)
    assert tensor_store.read(older) is not None
    monkeypatch.setenv(tensor_store.LIMIT_VARIABLE, str(1.5 * SIZE / 1e9))
    tensor_store.make_room(lambda event: None)
    assert older.exists() and not old.exists()


def test_a_limit_that_is_no_number_is_told_and_the_usual_one_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = keep("one"), list[Event]()
    monkeypatch.setenv(tensor_store.LIMIT_VARIABLE, "lots")
    assert tensor_store.make_room(told.append) == 0 and path.exists()
    assert [type(event) for event in told] == [Warned] and "lots" in str(told[0].message)  # type: ignore[attr-defined]


def test_other_files_in_the_folder_are_left_alone(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [own_store / "locks" / "a.safetensors", own_store / "ab" / "notes.txt"]
    for other in others:
        other.parent.mkdir()
        other.write_bytes(b"x" * SIZE)
    monkeypatch.setenv(tensor_store.LIMIT_VARIABLE, "0.000000001")
    keep("one")
    tensor_store.make_room(lambda event: None)
    assert all(other.exists() for other in others) and not tensor_store.place_of("one").exists()


def test_readers_writers_and_one_who_makes_room_meet_only_whole_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tensor_store.LIMIT_VARIABLE, str(2.5 * SIZE / 1e9))

    def write(n: int) -> object:
        made = {"x": torch.full((SIZE // 4,), float(n % 4))}
        return tensor_store.write(tensor_store.place_of(str(n % 4)), made) is None

    def read(n: int) -> object:
        found = tensor_store.read(tensor_store.place_of(str(n % 4)))
        return found is None or torch.equal(found["x"], torch.full((SIZE // 4,), float(n % 4)))

    with ThreadPoolExecutor(6) as pool:
        room = [pool.submit(tensor_store.make_room, lambda event: None) for _ in range(40)]
        done = [pool.submit(work, n) for n in range(120) for work in (write, read)]
        assert all(each.result() for each in done)
        assert all(each.result() >= 0 for each in room)


def test_a_damaged_file_counts_as_missing_and_is_replaced() -> None:
    path = keep("one", 1.0)
    path.write_bytes(path.read_bytes()[:50])
    assert tensor_store.read(path) is None
    made = tensor_store.stored("one", lambda: {"x": torch.ones(3)}, lambda event: None)
    assert torch.equal(made["x"], torch.ones(3)) and tensor_store.read(path) is not None


def test_a_header_of_any_length_is_read() -> None:
    for length, path in header_lengths.headers():
        found = tensor_store.read(path)
        assert (found is not None and found["a"].tolist() == [1.0]) == (length >= header_lengths.SHORTEST), length


def test_what_is_written_is_read_again_whatever_the_length_of_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(tensor_store, "write_bytes_whole", lambda path, data: written.append(data))
    for length in range(0, header_lengths.LENGTHS[-1], 8):
        assert tensor_store.write(tensor_store.place_of("any"), {"x" * length: torch.ones(1)}) is None
        assert list(tensor_store.read(header_lengths.in_memory(written.pop())) or {}) == ["x" * length]

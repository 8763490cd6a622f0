"""lora_core.training.engine.cuda_graphs: replayed steps teach what plain ones teach; where that fails, those go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.events import Event, Step, Validation, Warned
from lora_core.models.device import in_turn
from lora_core.training.engine import cuda_graphs as graphs
from lora_core.training.engine.stepper import MicroBatch, PlainStepper, Stepper
from tests.support.played_graphs import Played, PlayedGraph, play
from tests.support.training import adapters_after, config_for, run
from tests.support.twins import save_twin

VALUES: dict[str, object] = {
    "max_train_steps": 9, "save_steps": 5, "prior_prompts": ["a cow"], "prior_pictures": 2, "prior_every": 2,
    "gradient_accumulation_steps": 2, "lora_dropout": 0.0, "validation_split": 0.0,
    "cuda_graphs": "on",
}  # fmt: skip


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    """Graphs for every training without dropout, also on a processor."""
    monkeypatch.setattr(graphs, "can_capture", lambda config, _: config.cuda_graphs == "on" and not config.lora_dropout)
    return play(monkeypatch)


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step | Validation)]


def told(events: list[Event]) -> list[str]:
    return [str(event.message) for event in events if isinstance(event, Warned) and "graph" in str(event.message)]


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("sd1", {}), ("sd1", {"gradient_checkpointing": True, "eight_bit_base": True}), ("sd1", {"adapter": "dora"}),
        ("sd1", {"adapter": "loha"}),
        ("sd1", {"train_text_encoder": True, "lean_activations": False}), ("sdxl", {"train_text_encoder": True}),
    ],
    ids=["sd1", "least memory", "dora", "loha", "text encoder", "sdxl"],
)  # fmt: skip
def test_a_training_ends_where_the_plain_one_does(
    family: str, values: dict[str, object], tiny_sd1: Path, pictures: Path, tmp_path: Path, played: Played
) -> None:
    base = tiny_sd1 if family == "sd1" else save_twin(family, tmp_path / "base")
    found = {}
    for name, cuda_graphs in (("plain", "off"), ("replayed", "on")):
        config = config_for(base, pictures, tmp_path / name, **{**VALUES, **values, "cuda_graphs": cuda_graphs})
        job, events = run(config)
        assert job.error is None and told(events) == []
        found[name] = losses(events)
        assert bool(played.replays) == (cuda_graphs == "on")
    assert sum(played.replays) > 2 * len(played.replays), "each was tried once, and then used"
    assert found["replayed"] == pytest.approx(found["plain"], rel=1e-5)
    plain, replayed = (adapters_after(tmp_path / name, 9) for name in ("plain", "replayed"))
    for name, tensor in plain.items():
        torch.testing.assert_close(replayed[name], tensor, atol=2e-5, rtol=1e-4)


def test_memory_is_given_back_for_other_work_and_graphs_are_captured_anew(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.pool = 2**30
    left: list[tuple[int, int]] = []
    release = graphs.CudaGraphStepper.release

    def counted(self: graphs.CudaGraphStepper) -> None:
        release(self)
        left.append((len(played.alive), played.left()))

    monkeypatch.setattr(graphs.CudaGraphStepper, "release", counted)
    values = {
        **VALUES,
        "enable_bucket": False,
        "prior_pictures": 0,
        "prior_prompts": [],
        "save_steps": 3,
        "train_batch_size": 1,
    }
    job, _ = run(config_for(tiny_sd1, pictures, tmp_path / "run", **values))
    assert job.error is None
    assert played.replays == [2 * 3] * 3, "one after each save, which answers all micro-batches of its steps"
    assert set(left) == {(0, played.free)}


@pytest.mark.parametrize("why", ["the weights were moved", "another size", "they differ", "they fail", "too many sizes"])
def test_dropped_graphs_give_their_memory_back_at_once(why: str, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch keeps for later is not refused to others under Windows: they go on in slow system memory."""
    played.pool = 2**28
    played.free = 2**28 + 8 * played.taken
    if why == "too many sizes":
        monkeypatch.setattr(graphs, "TRIES", 1)
    model: Any = Small()
    stepper, scaler = graphs.CudaGraphStepper(model, [].append), torch.amp.GradScaler("cpu", enabled=False)
    learned(model, stepper, [micro_batch(0)], scaler)
    assert played.left() < 2**28
    beside: list[int] = []
    plainly = Small.loss_of

    def loss_of(self: Small, given: MicroBatch) -> torch.Tensor:
        beside.append(played.left())
        if why == "they fail" and len(beside) == 2:
            raise RuntimeError("tested")
        return plainly(self, given) * (len(beside) if why == "they differ" else 1)

    monkeypatch.setattr(Small, "loss_of", loss_of)
    if why == "the weights were moved":
        model.layer.weight.data = model.layer.weight.data * 2
    learned(model, stepper, [micro_batch(0, side=16)], scaler)
    assert beside[0] == played.free, "the plain way has room"
    if why in ("they differ", "they fail", "too many sizes"):
        learned(model, stepper, [micro_batch(0, side=24)], scaler)
        assert beside[-1] == played.free == played.left()


class Small(torch.nn.Module):
    """A model of one layer, with what graphs ask of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(4, 4, 1)

    def adapted(self) -> dict[str, Any]:
        return {"unet": self}

    def loss_of(self, batch: MicroBatch) -> torch.Tensor:
        missed = self.layer(batch.noisy_latents_BCHW) - batch.target_BCHW
        return batch.weight_B * missed.square().mean(dim=(1, 2, 3))


def micro_batch(seed: int, count: int = 2, side: int = 8) -> MicroBatch:
    rng = torch.Generator().manual_seed(seed)
    latents, target = torch.randn(2, count, 4, side, side, generator=rng)
    weight_B = torch.full((count,), 1 / count)
    return MicroBatch(latents, torch.arange(count), {"frames": torch.zeros(count, 6)}, target, weight_B)


def learned(model: Small, stepper: Stepper, batches: list[MicroBatch], scaler: torch.amp.GradScaler) -> list[torch.Tensor]:
    trained = list(model.parameters())
    for parameter in trained:
        parameter.grad = None
    losses_B = stepper.backward(model.loss_of, batches, trained, scaler)
    return [losses_B, *(p.grad for p in trained if p.grad is not None)]


def test_gradients_add_up_over_micro_batches_of_one_size_and_follow_the_scale(played: Played) -> None:
    model: Any = Small()
    stepper = graphs.CudaGraphStepper(model, [].append)
    for turn, scale in enumerate((1.0, 1024.0, 512.0)):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)  # a new one, whose scale stands elsewhere
        given = [micro_batch(turn), micro_batch(turn + 10), micro_batch(turn, side=16), micro_batch(turn + 20)]
        answers = (learned(model, each, given, scaler) for each in (stepper, PlainStepper()))
        for mine, plain in zip(*answers, strict=True):
            torch.testing.assert_close(mine, plain)
    assert played.replays == [3 * 3, 3]


def test_weights_that_were_moved_are_captured_anew(played: Played) -> None:
    model: Any = Small()
    stepper, scaler = graphs.CudaGraphStepper(model, [].append), torch.amp.GradScaler("cpu", enabled=False)
    for turn in range(4):
        if turn == 2:
            model.layer.weight.data = model.layer.weight.data * 2
        mine, plain = (learned(model, each, [micro_batch(turn)], scaler) for each in (stepper, PlainStepper()))
        assert all(map(torch.equal, mine, plain))
    assert played.replays == [2, 2]


@pytest.mark.parametrize("how", ["refused", "reads a number", "another answer"])
def test_where_it_fails_the_plain_way_goes_on_and_it_is_told_once(
    how: str, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = Small()
    plain = Small.loss_of
    asked = [0]

    def loss_of(self: Small, given: MicroBatch) -> torch.Tensor:
        asked[0] += 1
        loss_B = plain(self, given)
        if how == "reads a number":
            assert loss_B.sum().item() >= 0
        return loss_B * asked[0] if how == "another answer" else loss_B

    monkeypatch.setattr(Small, "loss_of", loss_of)
    if how == "refused":
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 1 // 0)
    warned: list[Event] = []
    stepper, scaler = graphs.CudaGraphStepper(model, warned.append), torch.amp.GradScaler("cpu", enabled=False)
    for turn in range(3):
        found = learned(model, stepper, [micro_batch(turn)], scaler)
        assert len(found) == 3 and all(torch.isfinite(each).all() for each in found)
    assert [type(event) for event in warned] == [Warned] and len(played.replays) == (how != "refused")
    if how != "another answer":
        assert all(map(torch.equal, found, learned(model, PlainStepper(), [micro_batch(2)], scaler)))


@pytest.mark.parametrize(
    "how", ["at its beginning", "while it is recorded", "at its end", "at both", "as there is no room for it"]
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_capture_that_fails_leaves_stream_pool_and_turn_as_they_were(
    is_first: bool, how: str, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.13.0 goes on on the capture's stream, and keeps the pool where a capture could not be ended."""
    played.pool = 2**28
    plain = Small.loss_of

    def loss_of(self: Small, given: MicroBatch) -> torch.Tensor:
        if played.is_recording:
            assert not in_turn_elsewhere(), "others that wait for the card must not spoil it"
            if how in ("while it is recorded", "at both"):
                raise RuntimeError("tested")
        return plain(self, given)

    model: Any = Small()
    told: list[Any] = []
    stepper, scaler = graphs.CudaGraphStepper(model, told.append), torch.amp.GradScaler("cpu", enabled=False)
    if not is_first:
        learned(model, stepper, [micro_batch(0, side=16)], scaler)
    monkeypatch.setattr(Small, "loss_of", loss_of)
    played.begins, played.ends = how != "at its beginning", how not in ("at its end", "at both")
    if how == "as there is no room for it":
        played.taken, played.free = 2**28, 2**28 + 2**27
    for turn in range(2):
        learned(model, stepper, [micro_batch(turn)], scaler)
    assert len(played.streams) == 1 and not played.alive and in_turn_elsewhere()
    assert played.uses == 0 and played.left() == played.free, "nothing of it is left on the card"
    (warned,) = [str(event.message) for event in told]
    said = {
        "at its beginning": "not permitted",
        "at its end": "previous error",
        "as there is no room for it": "out of memory",
    }
    assert said.get(how, "tested") in warned, "what was first"


@pytest.mark.parametrize(("version", "hip"), [("2.13.1+cu130", None), ("2.14.0", None), ("2.13.0+rocm7.1", "7.1")])
def test_a_torch_that_gives_the_pool_back_itself_is_left_to_it(
    version: str, hip: str | None, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back twice, it would be gone from under graphs that live, and the last of them would end the process."""
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.version, "hip", hip)
    asked: list[int] = []
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *pool: asked.append(1))
    played.pool, played.ends, played.is_mended = 2**28, False, True
    assert "previous error" in learn_sides([8])[0]
    assert asked == [] and played.uses == 0 and played.left() == played.free


def in_turn_elsewhere() -> bool:
    """Whether another thread may have the card now."""
    found: list[bool] = []

    def ask() -> None:
        found.append(in_turn.acquire(blocking=False))
        if found[-1]:
            in_turn.release()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def test_sizes_that_are_known_share_a_pool_on_a_card_that_is_nearly_full(played: Played) -> None:
    """Half of all graphs' memory is not free, and a known size needs no more than its list of kernels."""
    played.pool, played.taken = 2**28, 2**20
    played.free = 3 * 2**28
    model: Any = Small()
    stepper, scaler = graphs.CudaGraphStepper(model, [].append), torch.amp.GradScaler("cpu", enabled=False)
    for side in (8, 16):
        learned(model, stepper, [micro_batch(0, side=side)], scaler)
    played.free = played.pool + 2 * played.taken  # others have come
    model.layer.weight.data = model.layer.weight.data * 2  # all are captured anew
    for turn in range(4):
        learned(model, stepper, [micro_batch(turn, side=8), micro_batch(turn, side=16)], scaler)
    assert played.most == 2 and played.replays == [1, 1, 4, 4]


def test_a_larger_size_that_is_known_finds_room_for_a_larger_pool(played: Played) -> None:
    played.taken = 2**20
    model: Any = Small()
    stepper, scaler = graphs.CudaGraphStepper(model, [].append), torch.amp.GradScaler("cpu", enabled=False)
    for side, pool in ((8, 2**26), (16, 2**28)):
        played.pool = pool
        learned(model, stepper, [micro_batch(0, side=side)], scaler)
    model.layer.weight.data = model.layer.weight.data * 2
    played.free, played.pool = 2**28 + played.taken, 2**26
    learned(model, stepper, [micro_batch(1, side=8)], scaler)
    played.pool = 2**28
    learned(model, stepper, [micro_batch(1, side=16)], scaler)
    assert len(played.alive) == 1 and played.replays[-1] == 1, "the smaller one had to go"


def test_graphs_that_had_to_go_are_not_counted_as_held(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a training of many sizes drops all its graphs over and over, though the card has room."""
    monkeypatch.setattr(graphs, "MOST", 2)
    played.free = 7 * played.taken
    assert learn_sides([8, 16, 24, 32, 40, 32]) == []
    assert played.replays == [1, 1, 1, 2, 1] and played.most == 2


def test_what_a_graph_takes_is_measured_while_nobody_else_takes_any(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: asked.append(in_turn_elsewhere()) or played.held)
    assert learn_sides([8]) == []
    assert asked == [False, False]


def test_a_replay_without_room_for_its_answer_adds_nothing(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the plain way, which then answers a size that is known, would add the same gradients once more."""
    model: Any = Small()
    told: list[Any] = []
    stepper, scaler = graphs.CudaGraphStepper(model, told.append), torch.amp.GradScaler("cpu", enabled=False)
    learned(model, stepper, [micro_batch(0)], scaler)
    model.layer.weight.data = model.layer.weight.data * 2  # captured anew, and not compared again
    captured = PlayedGraph.capture_end

    def capture_end(self: PlayedGraph) -> None:
        captured(self)
        monkeypatch.setattr(torch.Tensor, "clone", no_room)
        monkeypatch.setattr(torch, "empty_like", no_room)

    monkeypatch.setattr(PlayedGraph, "capture_end", capture_end)
    mine = learned(model, stepper, [micro_batch(1)], scaler)
    monkeypatch.undo()
    assert all(map(torch.equal, mine, learned(model, PlainStepper(), [micro_batch(1)], scaler)))
    assert "no room" in str(told[0].message) and not played.alive


def no_room(rows: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("There is no room.")


def test_numbers_that_overflow_are_no_reason_to_leave_graphs(played: Played) -> None:
    model: Any = Small()
    model.layer.weight.data[:] = torch.inf
    warned: list[Event] = []
    stepper, scaler = graphs.CudaGraphStepper(model, warned.append), torch.amp.GradScaler("cpu", enabled=False)
    learned(model, stepper, [micro_batch(0)], scaler)
    assert warned == [] and played.replays == [1]


def learn_sides(sides: list[int]) -> list[str]:
    """Learn squares of these sides, one after the other, as the plain way does; returns what was told."""
    model: Any = Small()
    told: list[Any] = []
    stepper, scaler = graphs.CudaGraphStepper(model, told.append), torch.amp.GradScaler("cpu", enabled=False)
    for turn, side in enumerate(sides):
        mine, plain = (learned(model, each, [micro_batch(turn, side=side)], scaler) for each in (stepper, PlainStepper()))
        assert all(map(torch.equal, mine, plain))
    return [str(event.message) for event in told]


def test_of_more_sizes_than_graphs_the_last_used_are_kept(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    assert learn_sides([8, 16, 8, 24, 8, 16, 24]) == []
    assert played.replays == [3, 1, 1, 1, 1] and played.most == 2


@pytest.mark.parametrize(("free", "most"), [(7, 3), (3, 3), (2, 2), (1, 1)], ids=str)
def test_a_new_size_is_computed_where_the_card_has_room_for_it(
    free: int, most: int, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain way wants as much as the graphs hold, or more, and those may have taken all there is."""
    played.free = free * played.taken
    beside: list[int] = []
    prove = graphs.CudaGraphStepper._prove

    def counted(self: graphs.CudaGraphStepper, *asked: Any) -> graphs.Found:
        beside.append(len(played.alive))
        return prove(self, *asked)

    monkeypatch.setattr(graphs.CudaGraphStepper, "_prove", counted)
    assert learn_sides([8, 16, 24, 8, 16, 24]) == []
    assert len(beside) == 3 and all(free - count >= 2 * count for count in beside)
    assert played.most == most


def test_sizes_that_seldom_come_again_are_not_worth_graphs(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    monkeypatch.setattr(graphs, "TRIES", 5)
    (told,) = learn_sides([8, 16, 24] * 4)
    assert "too many sizes" in told and len(played.replays) == 5 and not played.alive


@pytest.mark.parametrize(
    ("values", "device", "expected"),
    [
        ({"cuda_graphs": "on"}, "cuda", True), ({"cuda_graphs": "on"}, "cpu", False),
        ({"cuda_graphs": "off"}, "cuda", False),
        ({"cuda_graphs": "on", "lora_dropout": 0.1}, "cuda", False), ({}, "cuda", False),
    ],
    ids=str,
)  # fmt: skip
def test_who_gets_graphs(values: dict[str, object], device: str, expected: bool) -> None:
    assert graphs.can_capture(TrainConfig.of(values), torch.device(device)) is expected


def test_a_micro_batch_travels_to_a_card_without_being_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy from pageable memory would wait for all that the card has still to compute."""
    seen: list[tuple[str, bool]] = []

    def to(rows: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        seen.append((device.type, non_blocking))
        return rows

    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda rows: pinned.append(rows.dim()) or rows)
    monkeypatch.setattr(torch.Tensor, "to", to)
    moved = micro_batch(0).to(torch.device("cuda"))
    assert len(pinned) == 5 and seen == [("cuda", True)] * 5 and isinstance(moved, MicroBatch)

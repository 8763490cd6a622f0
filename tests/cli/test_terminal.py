"""lora_core.cli.terminal: a bar on a screen, plain lines elsewhere, and no trouble from either."""

from __future__ import annotations

import io
import os
import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from lora_core.cli.terminal import Terminal
from lora_core.events import (
    Event,
    Failed,
    Finished,
    Phase,
    Sample,
    Saved,
    State,
    Step,
    Validation,
    Warned,
)  # fmt: skip
from lora_core.messages import plain


class Stream(io.TextIOWrapper):
    """A stream that is or is not a screen, of a given width and encoding."""

    def __init__(self, *, screen: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="")
        self._screen = screen

    def isatty(self) -> bool:
        return self._screen

    def text(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


_CODE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


def shown(text: str) -> list[str]:
    """The lines as a screen shows them after every carriage return and every order to the cursor."""
    lines: list[list[str]] = [[]]
    row = column = at = 0
    while at < len(text):
        if order := _CODE.match(text, at):
            at = order.end()
            if order[2] == "A":
                row -= int(order[1] or 1)
            elif order[2] == "K":
                assert order[1] == "2", order
                lines[row] = []
            else:
                assert order[0] in ("\x1b[?25l", "\x1b[?25h") or order[2] == "m", order
            continue
        character, at = text[at], at + 1
        if character == "\n":
            row, column = row + 1, 0
            lines += [[]] * (row - len(lines) + 1)
        elif character == "\r":
            column = 0
        else:
            line = lines[row] = lines[row] + [" "] * (column - len(lines[row]))
            line[column : column + 1] = character
            column += 1
    return ["".join(line).rstrip() for line in lines]


def step(n: int, total: int = 400, loss: float = 0.1432) -> Step:
    return Step(n, total, loss, 1e-4, steps_per_second=8.24, eta_seconds=26.0)


def test_the_bar_shows_loss_speed_and_time_left() -> None:
    stream = Stream(screen=True)
    show = Terminal(stream, {})
    show(step(188))
    (line,) = shown(stream.text())
    assert line.startswith(" 47% ━")
    assert line.endswith("188/400  loss 0.1432  ETA 0:26  8.2 it/s")


def test_the_bar_is_redrawn_in_place_and_left_behind_at_the_end() -> None:
    stream, clock = Stream(screen=True), Clock()
    show = Terminal(stream, {}, clock)
    for n in range(1, 401):
        clock.now += 1
        show(step(n))
    show(Finished(400, "a.safetensors", 400))
    lines = shown(stream.text())
    assert len(lines) == 2 and lines[1] == ""
    assert lines[0].startswith("100% ") and "400/400" in lines[0]


def test_a_shorter_bar_leaves_nothing_of_a_longer_one() -> None:
    stream, clock = Stream(screen=True), Clock()
    show = Terminal(stream, {}, clock)
    show(Phase("load", detail="a model with a long name " * 2))
    clock.now += 1
    show(Phase("cache", 1, 9))
    assert shown(stream.text()) == ["Preparing the pictures 1/9"]


@pytest.mark.parametrize("columns", [10, 20, 30, 44, 60, 80, 200])
def test_the_bar_fits_any_width(columns: int) -> None:
    stream = Stream(screen=True)
    show = Terminal(stream, {"COLUMNS": str(columns)})
    show(Step(123456, 1000000, 0.123456, 1e-4, 0.01, 360000.0, 8 << 30))
    (line,) = shown(stream.text())
    assert 0 < len(line) < columns
    assert line.startswith(" 12%"[:columns])
    assert ("ETA" in line) == (columns >= 60)
    assert columns < 80 or ("━" in line and "GiB" in line)


def test_no_more_than_ten_drawings_a_second() -> None:
    stream, clock = Stream(screen=True), Clock()
    show = Terminal(stream, {}, clock)
    for n in range(1, 101):
        clock.now += 0.01
        show(step(n, total=1000))
    assert 8 <= stream.text().count("loss") <= 12


def test_a_warning_comes_above_the_bar_and_the_bar_comes_back() -> None:
    stream = Stream(screen=True)
    show = Terminal(stream, {"NO_COLOR": "1"})
    show(step(100))
    show(Warned(plain("fp16 needs a graphics card; computing in fp32")))
    show(step(101))
    lines = shown(stream.text())
    assert lines[0] == "Warning: fp16 needs a graphics card; computing in fp32"
    assert lines[1].startswith(" 25% ")
    assert not re.search(r"\x1b\[[\d;]*m", stream.text())


@pytest.mark.skipif(os.name == "nt", reason="the old Windows console has no colour codes")
def test_warnings_and_the_bar_are_coloured_only_where_that_is_wanted() -> None:
    for environ, coloured in (
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
    ):
        stream = Stream(screen=True)
        show = Terminal(stream, environ)
        show(Warned(plain("a")))
        show(step(200))
        assert ("\x1b[33m" in stream.text()) == ("\x1b[32m" in stream.text()) == coloured
        assert coloured or not re.search(r"\x1b\[[\d;]*m", stream.text())
    stream = Stream(screen=False)
    Terminal(stream, {})(Warned(plain("a")))
    assert stream.text() == "Warning: a\n"


def test_a_console_without_block_characters_gets_ascii() -> None:
    stream = Stream(screen=True, encoding="cp1252")
    show = Terminal(stream, {})
    show(step(200))
    assert re.match(r" 50% -[- ]+ +200/400", shown(stream.text())[0]) and stream.text().isascii()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8"])
def test_text_the_console_cannot_show_is_no_error(encoding: str) -> None:
    stream = Stream(screen=False, encoding=encoding)
    show = Terminal(stream, {})
    show(Sample(100, "samples/a.png", "uma ampulheta 砂時計 \udce9", 1))
    assert "samples/a.png  uma ampulheta " in stream.text()


def test_captions_and_names_cannot_command_the_terminal() -> None:
    stream = Stream(screen=True)
    show = Terminal(stream, {"NO_COLOR": "1"})
    show(Sample(100, "a.png", "red\x1b[2J\r\nblue\x07", 1))
    show.say("one\ntwo\x1b[31m")
    show(Phase("load", detail="bad\x1b]0;title\x07name\n"))
    assert "\x1b[2J" not in stream.text() and "\x1b[31m" not in stream.text() and "\x1b]" not in stream.text()
    assert "\x07" not in stream.text()
    assert shown(stream.text())[:3] == ["step 100: sample a.png  red [2J  blue", "one", "two [31m"]


def test_wide_characters_do_not_break_the_line() -> None:
    stream = Stream(screen=True)
    Terminal(stream, {"COLUMNS": "30"})(Phase("load", detail="砂" * 40))
    (line,) = shown(stream.text())
    assert line.count("砂") == 5 and len(line) + line.count("砂") <= 29


def test_plain_lines_come_every_twentieth_of_the_run() -> None:
    stream, clock = Stream(screen=False), Clock()
    show = Terminal(stream, {}, clock)
    show(Phase("train"))
    for n in range(1, 401):
        clock.now += 0.01
        show(step(n))
    lines = stream.text().splitlines()
    assert lines[0] == "Training"
    told = [int(re.findall(r"step (\d+)/400", line)[0]) for line in lines[1:]]
    assert told == [1, *range(20, 401, 20)]
    assert "\r" not in stream.text()


def test_plain_lines_come_every_half_minute_of_a_slow_run() -> None:
    stream, clock = Stream(screen=False), Clock()
    show = Terminal(stream, {}, clock)
    for n in range(1, 11):
        clock.now += 31
        show(step(n, total=100_000))
    assert len(stream.text().splitlines()) == 10


def test_plain_lines_name_each_phase_once() -> None:
    stream, clock = Stream(screen=False), Clock()
    show = Terminal(stream, {}, clock)
    for n in range(50):
        show(Phase("cache", n, 50))
    show(Phase("train"))
    clock.now += 60
    show(Phase("cache", 49, 50))
    assert stream.text().splitlines() == ["Preparing the pictures 0/50", "Training", "Preparing the pictures 49/50"]


def test_a_phase_that_is_over_leaves_nothing_behind() -> None:
    stream = Stream(screen=True)
    show = Terminal(stream, {})
    show(Phase("sample", 2, 2))
    show(Finished(60, "a.safetensors", 60))
    show.say("The LoRA is in a.safetensors")
    assert shown(stream.text()) == ["The LoRA is in a.safetensors", ""]


def test_a_download_is_counted_in_bytes() -> None:
    for screen in (False, True):
        stream = Stream(screen=screen)
        Terminal(stream, {})(Phase("download", 512_000_000, 4_265_000_000, "sd15: unet"))
        assert shown(stream.text())[0] == "Downloading 512 of 4265 MB: sd15: unet"


def test_everything_worth_knowing_has_a_line() -> None:
    stream = Stream(screen=False)
    show = Terminal(stream, {})
    events: list[Event] = [
        State("running"), Validation(0, 0.25, 0.24, True), Validation(100, 0.2, 0.1, False),
        Saved(100, "checkpoints/step_0000100"), Sample(100, "samples/a.png", "a zebu", 7),
        State("paused"), State("running"), State("stopping"), Failed(plain("told by the door")),
    ]  # fmt: skip
    for event in events:
        show(event)
    assert stream.text().splitlines() == [
        "step 0: validation loss 0.2500, training pictures 0.2400, the best so far",
        "step 100: validation loss 0.2000, training pictures 0.1000",
        "step 100: saved checkpoints/step_0000100",
        "step 100: sample samples/a.png  a zebu",
        "Paused.",
        "Training goes on.",
        "stopping...",
    ]


def test_the_shown_loss_is_smoothed_and_forgets_what_is_no_number() -> None:
    stream, clock = Stream(screen=False), Clock()
    show = Terminal(stream, {}, clock)
    for n, loss in enumerate([1.0, float("nan"), 1.0, float("inf"), 2.0], 1):
        clock.now += 31
        show(step(n, loss=loss))
    losses = [float(x) for x in re.findall(r"loss (\S+)", stream.text())]
    assert losses[:4] == [1.0] * 4
    assert 1.0 < losses[4] < 1.5


def test_what_is_not_known_is_not_made_up() -> None:
    stream = Stream(screen=False)
    Terminal(stream, {})(Step(1, 10, float("nan"), 1e-4))
    assert stream.text() == "step 1/10  loss nan  ETA ?  ? it/s\n"


def test_a_stream_that_breaks_falls_silent() -> None:
    for screen in (False, True):
        stream = Stream(screen=screen)
        show = Terminal(stream, {})
        show(step(1))
        stream.detach()
        show(step(400))
        show.say("more")
        show.close()


def test_a_closed_pipe_does_not_end_the_training() -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8", closefd=False) as stream:
        show = Terminal(stream, {})
        show(step(400))
        show(step(400))
        assert show._console.file.is_broken  # type: ignore[attr-defined]
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)
    os.close(write)


def test_threads_do_not_mix_lines() -> None:
    stream = Stream(screen=True)
    show = Terminal(stream, {"NO_COLOR": "1"})
    threads = [threading.Thread(target=lambda: [show.say("x" * 50) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(200):
        show(step(n + 1))
    for thread in threads:
        thread.join()
    lines = shown(stream.text())
    assert lines.count("x" * 50) == 200
    assert all(line == "x" * 50 or "loss" in line or line == "" for line in lines)


@settings(deadline=None)
@given(text=st.text(), columns=st.integers(1, 100))
def test_no_text_is_wider_than_the_screen(text: str, columns: int) -> None:
    stream = Stream(screen=True)
    Terminal(stream, {"COLUMNS": str(columns)})(Phase("load", detail=text))
    (line,) = shown(stream.text())
    assert cell_len(line) <= columns


def test_a_dumb_screen_gets_plain_lines_without_codes() -> None:
    stream = Stream(screen=True)
    show = Terminal(stream, {"TERM": "dumb"})
    show(Phase("load"))
    show(step(1))
    show(Warned(plain("a")))
    assert "\x1b" not in stream.text() and "\r" not in stream.text()
    assert stream.text().startswith("Loading the model\nstep 1/400  ")


def test_in_a_pipe_there_are_no_codes_whatever_the_system_asks_for() -> None:
    stream = Stream(screen=False)
    show = Terminal(stream, {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLORTERM": "truecolor", "COLUMNS": "20"})
    show(Warned(plain("a line that is longer than twenty columns")))
    show(step(400))
    show.close()
    assert stream.text().splitlines()[0] == "Warning: a line that is longer than twenty columns"
    assert "\x1b" not in stream.text() and len(stream.text().splitlines()) == 2


def test_the_cursor_is_never_left_hidden() -> None:
    """Not even by a second Ctrl-C, which ends the program on the spot."""
    stream = Stream(screen=True)
    show = Terminal(stream, {})
    for each in (Phase("load"), step(1), step(400)):
        show(each)
        assert stream.text().rfind("\x1b[?25h") > stream.text().rfind("\x1b[?25l")

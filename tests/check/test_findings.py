"""lora_core.check.findings: a report of one page that holds nothing private."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_core.check.findings import FAILED, GOOD, MOST_LINES, SLOWER, Finding, Report
from lora_core.messages import Message, plain, say
from lora_core.models.computer import Computer, Identity

COMPUTER = Computer(Identity("NVIDIA GeForce RTX 3060", 12 * 2**30, "NVIDIA 580.97", "2.13.0+cu130", "0.1.0"))


def report(*findings: Finding, unsafe: tuple[str, ...] = ()) -> Report:
    return Report((plain("Treino"),), findings, COMPUTER, 21.4, unsafe=unsafe)


def test_each_verdict_has_its_mark_and_each_decision_its_line() -> None:
    found = report(
        Finding(GOOD, plain("one"), plain("so")),
        Finding(SLOWER, plain("two")),
        Finding(FAILED, plain("three"), plain("do")),
    )
    assert found.text().splitlines()[:-1] == ["Treino", "  one", "    -> so", "- two", "! three", "    -> do"]
    assert found.text().splitlines()[-1].startswith("The check took 21 s.")


def test_a_long_report_ends_on_its_page() -> None:
    lines = report(*(Finding(GOOD, plain(f"finding {number}")) for number in range(100))).text().splitlines()
    assert len(lines) == MOST_LINES and lines[-2] == "  and 43 more lines; --json has all of them"
    assert lines[-1].startswith("The check took")
    exactly = report(*(Finding(GOOD, plain("x")) for _ in range(MOST_LINES - 2))).text().splitlines()
    assert len(exactly) == MOST_LINES and "more lines" not in "".join(exactly)


@pytest.mark.parametrize(
    "private",
    [
        "/home/anna/Treino/x.py", r"C:\Users\anna\AppData\x.dll", r"\\server\share\anna",
        "GPU-1b2c3d4e-5f60-7a8b-9c0d-1e2f3a4b5c6d",
        "MIG-1b2c3d4e-5f60", "Serial Number: 1320620012345", "serial=1320620012345", "0000:01:00.0", "anna", "ANNA-PC",
    ],
)  # fmt: skip
def test_nothing_private_is_in_it(private: str) -> None:
    said = Message("check.part_failed", part=Message("check.name_disk"), why=f"cannot open '{private}' (denied)")
    found = report(Finding(FAILED, said, plain(f"look at {private}")), unsafe=("anna-pc", "anna"))
    table = json.dumps(found.to_json(), ensure_ascii=False)
    for text in (found.text(), table, *(say(line, "pt-BR") for line in found.lines())):
        assert private not in text and "anna" not in text.lower() and "1320620012345" not in text
        assert "denied" in text or text.startswith(("Treino", "A verif")) or "look" in text


def test_names_of_this_user_and_computer_are_hidden_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_core.check.findings.getpass.getuser", lambda: "mariana")
    monkeypatch.setattr("lora_core.check.findings.socket.gethostname", lambda: "studio-7.local")
    monkeypatch.setattr("pathlib.Path.home", lambda: Path("/Users/mari"))
    found = Report((), (Finding(FAILED, plain("mariana at Studio-7 in mari: a marimba")),), COMPUTER, 1.0)
    assert found.text().splitlines()[0] == "! … at … in …: a marimba"


def test_a_user_without_a_name_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("lora_core.check.findings.getpass.getuser", nobody)
    assert Report((), (), COMPUTER, 1.0).text()


@pytest.mark.parametrize(
    "text",
    [
        "367 MB/s", "Linux 6.18 (x86_64)", "CUDA 13.0", "off by 0.2% in attention",
        "NVIDIA GeForce RTX 3060, 12 GB (cuda:0)",
        "sm_75, sm_80", "AMD Ryzen 7/8 cores",
    ],
)  # fmt: skip
def test_figures_and_names_of_parts_stay(text: str) -> None:
    assert text in report(Finding(GOOD, plain(text))).text()


def test_json_has_the_findings_by_their_keys_and_what_is_known() -> None:
    table = report(Finding(SLOWER, Message("check.page_file", promised=1.5), Message("check.enlarge_page_file"))).to_json()
    (row,) = table["findings"]
    assert row["key"] == "check.page_file" and row["params"] == {"promised": 1.5} and row["verdict"] == SLOWER
    assert row["decision"]["key"] == "check.enlarge_page_file"
    assert table["computer"]["identity"]["device"] == "NVIDIA GeForce RTX 3060" and table["seconds"] == 21.4
    json.dumps(table, allow_nan=False)

"""lora_core.install.torch_build: every kind of computer in a table, and what nvidia-smi prints on real ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.install import torch_build
from lora_core.install.other_cards import AMD, INTEL, OtherCard
from lora_core.install.torch_build import NvidiaCard, TorchBuild
from tests import ROOT

CPU, CU126, CU130 = (torch_build.INDEX + label for label in ("cpu", "cu126", "cu130"))


def card(name: str, capability: tuple[int, int] | None, cuda: tuple[int, int] | None, driver: str = "0") -> NvidiaCard:
    return NvidiaCard(name, driver, capability, cuda)


COMPUTERS: list[tuple[str, str, NvidiaCard | None, str, str | None, str]] = [
    # system, machine, card -> label, index, a word of the warning
    ("Windows", "AMD64", None, "cpu", None, ""),
    ("Linux", "x86_64", None, "cpu", CPU, ""),
    ("Linux", "aarch64", None, "cpu", CPU, ""),
    ("Windows", "ARM64", None, "cpu", None, ""),
    ("Darwin", "arm64", None, "default", None, ""),
    # RTX 50xx: only CUDA 13 knows them in this version of PyTorch
    ("Windows", "AMD64", card("RTX 5090", (12, 0), (13, 0)), "cu130", CU130, ""),
    ("Linux", "x86_64", card("RTX 5060", (12, 0), (13, 2)), "cu130", CU130, ""),
    ("Windows", "AMD64", card("RTX 5080", (12, 0), (12, 9), "576.02"), "cu130", CU130, "580"),
    ("Linux", "x86_64", card("B200", (10, 0), (13, 0)), "cu130", CU130, ""),
    ("Linux", "x86_64", card("a card of 2028", (14, 0), (14, 1)), "cu130", CU130, ""),
    ("Windows", "AMD64", card("a card of 2028", (14, 0), (14, 1)), "cpu", None, "newer than this PyTorch knows"),
    # Turing to Hopper: what the driver speaks decides
    ("Windows", "AMD64", card("RTX 4090", (8, 9), (13, 0)), "cu130", CU130, ""),
    ("Windows", "AMD64", card("RTX 4090", (8, 9), (12, 8)), "cu126", CU126, ""),
    ("Linux", "x86_64", card("RTX 3060", (8, 6), (12, 0)), "cu126", CU126, ""),
    ("Linux", "x86_64", card("GTX 1660", (7, 5), (13, 3)), "cu130", CU130, ""),
    ("Linux", "x86_64", card("H200", (9, 0), (12, 6)), "cu126", CU126, ""),
    ("Windows", "AMD64", card("RTX 2080", (7, 5), (11, 8), "522.06"), "cu126", CU126, "525"),
    # Maxwell, Pascal, Volta: CUDA 13 has dropped them, however new the driver
    ("Windows", "AMD64", card("GTX 1080", (6, 1), (13, 0)), "cu126", CU126, ""),
    ("Linux", "x86_64", card("V100", (7, 0), (12, 2)), "cu126", CU126, ""),
    ("Linux", "x86_64", card("GTX 960", (5, 2), (12, 4)), "cu126", CU126, ""),
    ("Linux", "x86_64", card("GTX 1060", (6, 1), (11, 4), "470.256.02"), "cu126", CU126, "470.256.02"),
    # Kepler: nobody knows them any more
    ("Windows", "AMD64", card("GTX 780", (3, 5), (11, 4)), "cpu", None, "older than any card"),
    ("Linux", "x86_64", card("K80", (3, 7), (11, 4)), "cpu", CPU, "older than any card"),
    # The tool did not tell everything
    ("Linux", "x86_64", card("NVIDIA card", None, (12, 2)), "cu126", CU126, ""),
    ("Linux", "x86_64", card("NVIDIA card", None, (11, 2), "460.91"), "cu126", CU126, "525"),
    ("Linux", "x86_64", card("RTX 4070", (8, 9), None, "580.65.06"), "cu130", CU130, ""),
    ("Linux", "x86_64", card("RTX 4070", (8, 9), None, "550.40"), "cu126", CU126, ""),
    ("Linux", "x86_64", card("RTX 4070", (8, 9), None, "515.1"), "cu126", CU126, "515.1"),
    # ARM servers have builds, from Ampere on
    ("Linux", "aarch64", card("GH200", (9, 0), (13, 0)), "cu130", CU130, ""),
    ("Linux", "aarch64", card("Xavier", (7, 2), (12, 6)), "cpu", CPU, "older"),
    ("Windows", "ARM64", card("an eGPU", (8, 6), (13, 0)), "cpu", None, ""),
]


@pytest.mark.parametrize(("system", "machine", "nvidia", "label", "index", "warning"), COMPUTERS)
def test_computers(
    system: str, machine: str, nvidia: NvidiaCard | None, label: str, index: str | None, warning: str
) -> None:
    build = torch_build.torch_build(system, machine, nvidia)
    assert (build.label, build.index_url) == (label, index)
    assert warning in (build.warning or "") and bool(build.warning) == bool(warning)
    if nvidia and build.warning:
        assert nvidia.name in build.warning


AMD_7900 = OtherCard(AMD, "AMD card (gfx1100)", "gfx1100")
OTHERS: list[tuple[str, str, OtherCard, str, str]] = [
    ("Linux", "x86_64", AMD_7900, "rocm7.2", ""),
    ("Linux", "x86_64", OtherCard(AMD, "AMD card (gfx1036)", "gfx1036"), "cpu", "no code for the AMD card (gfx1036)"),
    ("Linux", "aarch64", AMD_7900, "cpu", ""),
    ("Linux", "x86_64", OtherCard(AMD, "AMD card (gfx906)", "gfx906"), "cpu", "no code for the AMD card (gfx906)"),
    ("Windows", "AMD64", OtherCard(AMD, "AMD Radeon RX 7900 XTX"), "cpu", "no build for AMD cards under Windows"),
    ("Linux", "x86_64", OtherCard(INTEL, "Intel Arc card"), "xpu", ""),
    ("Windows", "AMD64", OtherCard(INTEL, "Intel(R) Arc(TM) B580 Graphics"), "xpu", ""),
    ("Windows", "ARM64", OtherCard(INTEL, "Intel Arc card"), "cpu", ""),
    ("Darwin", "arm64", AMD_7900, "default", ""),
]


@pytest.mark.parametrize(("system", "machine", "other", "label", "warning"), OTHERS)
def test_cards_of_other_makers(system: str, machine: str, other: OtherCard, label: str, warning: str) -> None:
    build = torch_build.torch_build(system, machine, None, other)
    assert build.label == label and warning in (build.warning or "") and bool(build.warning) == bool(warning)
    if label in ("rocm7.2", "xpu"):
        assert build.requirement("2.13.0") == f"torch==2.13.0+{label}" and build.index_url == torch_build.INDEX + label
        assert torch_build.installed_label(f"2.13.0+{label}", system, machine) == label


RADEON_WINDOWS, ARC = OtherCard(AMD, "AMD Radeon RX 9070 XT"), OtherCard(INTEL, "Intel(R) Arc(TM) B580 Graphics")


@pytest.mark.parametrize(
    ("version", "system", "other", "mends"),
    [
        ("2.13.0+cpu", "Linux", AMD_7900, "torch==2.13.0+rocm7.2"),
        ("2.13.0", "Linux", AMD_7900, "torch==2.13.0+rocm7.2"),  # CUDA's, of the public index
        ("2.13.0", "Windows", ARC, "torch==2.13.0+xpu"), ("2.13.0+cpu", "Linux", ARC, "torch==2.13.0+xpu"),
        ("2.13.0+rocm7.2", "Linux", AMD_7900, None), ("2.13.0+rocm10.0.0", "Linux", AMD_7900, None),
        ("2.13.0+xpu", "Windows", ARC, None),
        ("2.13.0", "Windows", RADEON_WINDOWS, None),  # no build of PyTorch's own would mend it
        ("2.13.0+rocm10.0.0", "Windows", RADEON_WINDOWS, None), ("2.13.0", "Darwin", AMD_7900, None),
    ],
)  # fmt: skip
def test_a_build_that_cannot_use_a_card_of_another_maker(
    version: str, system: str, other: OtherCard, mends: str | None
) -> None:
    machine = {"Windows": "AMD64", "Darwin": "arm64"}.get(system, "x86_64")
    told = torch_build.wrong_build_message(version, system, machine, other, "python")
    assert (told is not None) == (mends is not None)
    if told and mends:
        index = torch_build.INDEX + mends.partition("+")[2]
        assert other.name in told and f"python -m pip install {mends} --extra-index-url {index}" in told


def test_who_has_a_radeon_under_windows_is_told_where_a_build_is() -> None:
    told = torch_build.torch_build("Windows", "AMD64", None, RADEON_WINDOWS).warning or ""
    assert "on the CPU" in told and "AMD Radeon RX 9070 XT" in told and "docs/installing.md" in told
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    assert "## An AMD card under Windows" in page and "2.13" in page


def test_nvidias_card_is_preferred() -> None:
    found = torch_build.torch_build("Linux", "x86_64", card("RTX 3060", (8, 6), (13, 0)), AMD_7900)
    assert found.label == "cu130"


def test_a_mac_with_an_intel_processor_is_told_so() -> None:
    with pytest.raises(UserError, match="Intel"):
        torch_build.torch_build("Darwin", "x86_64", None)


def test_the_label_is_asked_for_where_it_has_an_index() -> None:
    assert TorchBuild("cu130", CU130).requirement("2.13.0") == "torch==2.13.0+cu130"
    assert TorchBuild("cpu").requirement("2.13.0") == "torch==2.13.0"


@pytest.mark.parametrize(
    ("version", "system", "machine", "label"),
    [
        ("2.13.0+cpu", "Windows", "AMD64", "cpu"),
        ("2.13.0+cu126", "Linux", "x86_64", "cu126"),
        ("2.13.0", "Windows", "AMD64", "cpu"),
        ("2.13.0", "Linux", "x86_64", "cu130"),
        ("2.13.0", "Darwin", "arm64", "cpu"),
    ],
)
def test_installed_labels(version: str, system: str, machine: str, label: str) -> None:
    assert torch_build.installed_label(version, system, machine) == label


RTX_3060 = card("RTX 3060", (8, 6), (12, 4))
GTX_1080 = card("GTX 1080", (6, 1), (13, 0))


def test_a_cpu_build_beside_a_card_is_told_with_the_command_that_mends_it() -> None:
    told = torch_build.wrong_build_message("2.13.0+cpu", "Linux", "x86_64", RTX_3060, "/opt/x/bin/python")
    assert told is not None
    assert "RTX 3060" in told
    command = f"/opt/x/bin/python -m pip install torch==2.13.0+cu126 --extra-index-url {CU126}"
    assert command in told.splitlines()[1]


def test_the_command_suits_powershell_and_paths_with_spaces() -> None:
    told = torch_build.wrong_build_message("2.13.0", "Windows", "AMD64", RTX_3060, r"C:\My Files\python.exe")
    assert told is not None and r'& "C:\My Files\python.exe" -m pip install torch==2.13.0+cu126' in told


@pytest.mark.parametrize(
    ("version", "nvidia", "is_wrong"),
    [
        ("2.13.0+cu126", RTX_3060, False),
        ("2.13.0+cu130", GTX_1080, True),  # CUDA 13 has no code for it
        ("2.13.0+cu126", GTX_1080, False),
        ("2.13.0+cu132", card("RTX 5090", (12, 0), (13, 2)), False),  # not ours to judge
        ("2.13.0+cu126", card("RTX 5090", (12, 0), (13, 0)), True),
        ("2.13.0+rocm6.4", RTX_3060, True),
        ("2.13.0+cpu", card("K80", (3, 7), (11, 4)), False),  # nothing would mend it
    ],
)
def test_which_builds_are_wrong(version: str, nvidia: NvidiaCard, is_wrong: bool) -> None:
    told = torch_build.wrong_build_message(version, "Linux", "x86_64", nvidia, "python")
    assert (told is not None) == is_wrong


def test_an_old_driver_is_told_beside_a_right_build() -> None:
    old = card("RTX 2080", (7, 5), (11, 8), "522.06")
    told = torch_build.wrong_build_message("2.13.0+cu126", "Linux", "x86_64", old, "python")
    assert told is not None and "update it to version 525" in told and "pip" not in told


BANNER = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 555.42.02              Driver Version: 555.42.02      CUDA Version: 12.5     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
|=========================================+========================+======================|
|   0  NVIDIA GeForce RTX 4090        Off |   00000000:01:00.0 Off |                  N/A |
"""
NEW_BANNER = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 610.43.02              KMD Version: 610.43.02     CUDA UMD Version: 13.3     |
+-----------------------------------------+------------------------+----------------------+
|   0  NVIDIA GeForce RTX 5070 ...    Off |   00000000:02:00.0  On |                  N/A |
"""
OLD_BANNER = """\
| NVIDIA-SMI 331.62     Driver Version: 331.62         |
|===============================+======================+======================|
|   0  GeForce GTX 680     Off  | 0000:03:00.0     N/A |                  N/A |
"""
NO_CARD = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"


@pytest.mark.parametrize(
    ("banner", "query", "expected"),
    [
        (
            BANNER,
            "8.9, NVIDIA GeForce RTX 4090, 555.42.02\n",
            card("NVIDIA GeForce RTX 4090", (8, 9), (12, 5), "555.42.02"),
        ),
        (
            NEW_BANNER,
            "12.0, NVIDIA GeForce RTX 5070 Ti, 610.43.02\r\n",
            card("NVIDIA GeForce RTX 5070 Ti", (12, 0), (13, 3), "610.43.02"),
        ),
        (  # the strongest of three, by number and not by letter
            BANNER,
            "6.1, GeForce GTX 1080, 555.42\n12.0, NVIDIA RTX PRO, 555.42\n8.6, NVIDIA RTX A6000, 555.42\n",
            card("NVIDIA RTX PRO", (12, 0), (12, 5), "555.42"),
        ),
        (
            OLD_BANNER,
            'Field "compute_cap" is not a valid field to query.\n',
            card("NVIDIA card", None, None, "331.62"),
        ),
        ("", "8.0, NVIDIA A100, 535.1\n", card("NVIDIA A100", (8, 0), None, "535.1")),
        (BANNER, "[N/A], NVIDIA card in error, 555.42.02\n", card("NVIDIA card", None, (12, 5), "555.42.02")),
        (NO_CARD, NO_CARD, None),
        (BANNER[:180], "No devices were found\n", None),
        ("", "", None),
    ],
)
def test_what_nvidia_smi_prints(banner: str, query: str, expected: NvidiaCard | None) -> None:
    assert torch_build.parse_nvidia_smi(banner, query) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvidia-smi is a shell script")
@pytest.mark.parametrize("works", [True, False])
def test_the_tool_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    script = f"""#!/bin/sh
case "$*" in
"") cat <<'END'
{BANNER if works else NO_CARD}END
;;
*compute_cap,name,driver_version*) echo "{"8.9, NVIDIA GeForce RTX 4090, 555.42.02" if works else NO_CARD.strip()}" ;;
esac
"""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(script, encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    said: list[str] = []
    found = torch_build.find_nvidia(said.append)
    assert torch_build.nvidia_smi() == str(tool)
    assert (found.capability if found else None) == ((8, 9) if works else None)
    assert bool(said) != works

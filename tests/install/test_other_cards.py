"""lora_core.install.other_cards: cards of AMD and Intel in trees as Linux shows them, and in Windows' registry."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_core.install import other_cards
from lora_core.install.other_cards import AMD, INTEL, OtherCard, find_other


@pytest.fixture(autouse=True)
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HSA_OVERRIDE_GFX_VERSION", raising=False)


def tree(root: Path, codes: tuple[int, ...] = (), displays: tuple[tuple[str, str], ...] = ()) -> Path:
    for number, code in enumerate(codes):
        node = root / "kfd" / "kfd" / "topology" / "nodes" / str(number)
        node.mkdir(parents=True)
        (node / "properties").write_text(f"cpu_cores_count 0\ngfx_target_version {code}\nlds_size_in_kb 64\n")
    for number, (vendor, device) in enumerate(displays):
        place = root / "drm" / f"card{number}" / "device"
        place.mkdir(parents=True)
        (place / "vendor").write_text(f"{vendor}\n")
        (place / "device").write_text(f"{device}\n")
        (root / "drm" / f"card{number}-HDMI-A-1").mkdir()
    return root


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ((0, 110000), "gfx1100"), ((0, 110001), "gfx1101"), ((0, 100300), "gfx1030"), ((0, 90010), "gfx90a"),
        ((0, 90402), "gfx942"), ((0, 120001), "gfx1201"), ((0, 110501), "gfx1151"), ((0, 100306), "gfx1036"),
        ((0, 100306, 110000), "gfx1100"), ((0, 110000, 100306), "gfx1100"),
    ],
    ids=str,
)  # fmt: skip
def test_amds_architectures_as_the_kernel_numbers_them(codes: tuple[int, ...], code: str, tmp_path: Path) -> None:
    """A Ryzen's own graphics (gfx1036) stand beside a card, before or after it."""
    assert find_other("Linux", tree(tmp_path, codes)) == OtherCard(AMD, f"AMD card ({code})", code)


def test_a_card_that_its_owner_lets_pass_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An RX 6600, for which ROCm has no code, computes as its sister RX 6800."""
    root = tree(tmp_path, (0, 100302))
    for told, code in (("", "gfx1032"), ("10.3.0", "gfx1030"), ("nonsense", "gfx1032")):
        monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION", told)
        assert find_other("Linux", root) == OtherCard(AMD, f"AMD card ({code})", code)
    assert find_other("Linux", tree(tmp_path / "none", (0,))) is None


def test_intels_cards_are_told_from_what_is_in_processors(tmp_path: Path) -> None:
    built_in = ("0x8086", "0x4680")
    assert find_other("Linux", tree(tmp_path / "a", displays=(built_in, ("0x10de", "0x2504")))) is None
    for device in ("0x56a0", "0xe20b"):
        assert find_other("Linux", tree(tmp_path / device, displays=(built_in, ("0x8086", device)))) == OtherCard(
            INTEL, "Intel Arc card"
        )
    assert find_other("Linux", tmp_path / "nothing") is None and find_other("Linux", tree(tmp_path / "b", (0,))) is None
    assert find_other("Darwin") is None


class Registry:
    """Stands for `winreg`: adapters by the name of their key, each with its values."""

    HKEY_LOCAL_MACHINE = "HKLM"

    def __init__(self, adapters: dict[str, dict[str, Any]]) -> None:
        self.adapters = adapters

    def OpenKey(self, key: object, path: str) -> Any:
        name = path.rpartition("\\")[2]
        if name == "Properties":
            raise PermissionError("5")
        found = SimpleNamespace(values=self.adapters.get(name, {}))
        found.__dict__["close"] = None
        return _Opened(found.values)

    def EnumKey(self, key: object, number: int) -> str:
        return [*self.adapters][number]

    def QueryInfoKey(self, key: object) -> tuple[int, int, int]:
        return len(self.adapters), 0, 0

    def QueryValueEx(self, key: Any, name: str) -> tuple[Any, int]:
        if name not in key.values:
            raise FileNotFoundError(name)
        return key.values[name], 1


class _Opened:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def adapter(device: str, name: str, gigabytes: float) -> dict[str, Any]:
    return {
        "MatchingDeviceId": f"PCI\\{device}&REV_C8", "DriverDesc": name,
        "HardwareInformation.qwMemorySize": int(gigabytes * 2**30),
    }  # fmt: skip


RYZEN = adapter("VEN_1002&DEV_164E", "AMD Radeon(TM) Graphics", 0.5)
RADEON = adapter("ven_1002&dev_744c", "AMD Radeon RX 7900 XTX", 24)
ARC_B580 = adapter("VEN_8086&DEV_E20B", "Intel(R) Arc(TM) B580 Graphics", 12)
UHD = adapter("VEN_8086&DEV_4680", "Intel(R) UHD Graphics 770", 0.1)


@pytest.mark.parametrize(
    ("adapters", "found"),
    [
        ([RYZEN, RADEON], OtherCard(AMD, "AMD Radeon RX 7900 XTX")),
        ([UHD, ARC_B580], OtherCard(INTEL, "Intel(R) Arc(TM) B580 Graphics")),
        ([RYZEN], None), ([UHD], None), ([{"DriverDesc": "Microsoft Basic Display Adapter"}], None), ([], None),
    ],
    ids=["radeon", "arc", "ryzen", "uhd", "basic", "none"],
)  # fmt: skip
def test_windows_registry(adapters: list[dict[str, Any]], found: OtherCard | None, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {f"{number:04}": values for number, values in enumerate(adapters)} | {"Properties": {}}
    monkeypatch.setitem(sys.modules, "winreg", Registry(keys))  # type: ignore[arg-type]  # a part of it
    monkeypatch.setattr(other_cards.sys, "platform", "win32")
    assert find_other("Windows") == found

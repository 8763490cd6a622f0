"""lora_core.install.requirements, with the `packaging` library as the judge of versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from lora_core.install import requirements
from tests import ROOT

NUMBER = st.integers(0, 12).map(str)
RELEASE = st.lists(NUMBER, min_size=1, max_size=3).map(".".join)
PRE = st.one_of(st.just(""), st.builds("{}{}".format, st.sampled_from(["a", "b", "rc"]), st.integers(0, 3)))
POST = st.one_of(st.just(""), st.integers(0, 3).map(".post{}".format))
DEV = st.one_of(st.just(""), st.integers(0, 3).map(".dev{}".format))
LOCAL = st.sampled_from(["", "+cpu", "+cu130"])
VERSION = st.builds("{}{}{}{}".format, RELEASE, PRE, POST, DEV)
SIGN = st.sampled_from(["==", "!=", ">=", "<=", ">", "<"])


@settings(max_examples=500, deadline=None)
@given(sign=SIGN, bound=RELEASE, have=VERSION, local=LOCAL)
def test_versions_are_judged_as_packaging_does(sign: str, bound: str, have: str, local: str) -> None:
    ours = requirements.parse(f"torch{sign}{bound}").allows(have + local)
    # For these two signs packaging counts the label; to us a build of 2.13.0 is 2.13.0.
    version = have if sign in (">", "<=") else have + local
    assert ours == SpecifierSet(sign + bound).contains(Version(version), prereleases=True)


@settings(max_examples=200, deadline=None)
@given(release=RELEASE, near=st.sampled_from(["", "rc1", ".post1", ".dev1", "a2", ".post1.dev2"]), sign=SIGN)
def test_versions_next_to_the_bound(release: str, near: str, sign: str) -> None:
    ours = requirements.parse(f"torch{sign}{release}").allows(release + near)
    assert ours == SpecifierSet(sign + release).contains(Version(release + near), prereleases=True)


@pytest.mark.parametrize(
    ("line", "name", "versions"),
    [
        ("torch==2.13.0", "torch", (("==", "2.13.0"),)),
        ("opencv-python >= 5.0 , < 6", "opencv-python", ((">=", "5.0"), ("<", "6"))),
        ("pytest", "pytest", ()),
    ],
)
def test_lines(line: str, name: str, versions: tuple[tuple[str, str], ...]) -> None:
    assert requirements.parse(line) == requirements.Requirement(name, versions)


@pytest.mark.parametrize(
    "line",
    ["-r other.txt", "torch @ file:///x", "torch[gpu]==2", "torch==2.*", "torch~=2.0", "torch>=2rc1", "a; b<'3'", "a b"],
)
def test_lines_of_another_kind_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        requirements.parse(line)


def test_a_file_may_have_comments_and_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# why\n\ntorch==2.13.0  # exactly\r\npillow>=12\n", encoding="utf-8", newline="")
    assert [str(r) for r in requirements.read(file)] == ["torch==2.13.0", "pillow>=12"]
    assert [r.pin for r in requirements.read(file)] == ["2.13.0", ""]


@pytest.mark.parametrize("name", ["requirements.txt", "tests/requirements.txt"])
def test_our_own_files_are_met_where_the_tests_run(name: str) -> None:
    assert requirements.unmet(requirements.read(ROOT / name)) == []


def test_torch_is_pinned_and_everything_else_has_both_ends() -> None:
    main = {r.name: r for r in requirements.read(ROOT / "requirements.txt")}
    assert main.pop("torch").pin == "2.13.0"
    assert [name for name, r in main.items() if [sign for sign, _ in r.versions] != [">=", "<"]] == []


def install(folder: Path, directory: str, metadata: str) -> None:
    (folder / directory).mkdir()
    (folder / directory / "METADATA").write_text(metadata, encoding="utf-8")


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    install(tmp_path, "Open_CV-5.0.dist-info", "Metadata-Version: 2.1\nName: Open.CV_Python\nVersion: 5.0.1\n")
    install(tmp_path, "torch-2.13.0+cpu.dist-info", "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\n")
    install(tmp_path, "broken-1.0.dist-info", "")  # as pip leaves it when it is killed
    wanted = [requirements.parse(line) for line in ("opencv-python", "open-cv-python>=5", "torch==2.13.0", "torch>=3")]
    assert requirements.unmet(wanted, [str(tmp_path)]) == [
        "opencv-python is missing",
        "torch>=3 is wanted, 2.13.0+cpu is there",
    ]


def test_a_version_nobody_can_read_does_not_do() -> None:
    assert not requirements.parse("torch>=2").allows("unknown")

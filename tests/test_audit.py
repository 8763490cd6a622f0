"""No version that is installed, or that the requirements let in, has a hole that the list knows."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import audit
from tests.licences import requirements


def test_nothing_installed_has_a_known_hole(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([]) == 0, capsys.readouterr().out
    assert re.fullmatch(r"\d\d+ packages; \d\d+ known holes of \d\d+ of them; 0 open here\n", capsys.readouterr().out)


def test_a_hole_is_found_and_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    versions = {"torch": "2.5.1+cu121", "pillow": "10.3.0", "gradio": "6.31.0", "numpy": "2.0"}
    monkeypatch.setattr(audit, "installed", lambda: versions)
    assert audit.main([]) == 1
    told = capsys.readouterr().out
    assert "torch 2.5.1+cu121: " in told and "CVE-2025-32434" in told and "CVE-2026-40192" in told
    assert "gradio" not in told and told.endswith(f"{len(told.splitlines()) - 1} open here\n")


@pytest.mark.parametrize("path", audit.FILES, ids=lambda path: path.parent.name)
def test_the_requirements_let_in_no_version_with_a_known_hole(path: audit.Path) -> None:
    """The lowest version of each range is the most likely to have one."""
    for line in requirements(path):
        wanted = Requirement(line)
        lowest = next(each.version for each in wanted.specifier if each.operator in (">=", "=="))
        assert audit.found({canonicalize_name(wanted.name): lowest}) == [], line


def test_the_list_is_well_formed() -> None:
    holes = audit.known()
    assert len(holes) > 30
    for hole in holes:
        assert hole.package == canonicalize_name(hole.package) and hole.what and len(hole.versions) >= 1
        assert all(re.fullmatch(r"CVE-20\d\d-\d{4,}|GHSA(-[0-9a-z]{4}){3}|PYSEC-20\d\d-\d+", each) for each in hole.ids)
    every = [each for hole in holes for each in hole.ids]
    assert len(every) == len(set(every))

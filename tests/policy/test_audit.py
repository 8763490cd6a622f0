"""No version that is installed, or that the requirements let in, has a hole that the list knows."""

from __future__ import annotations

import importlib.util
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.policy import audit
from tests.policy.licences import requirements


def test_nothing_installed_has_a_known_hole(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([]) == 0, capsys.readouterr().out
    *passed_over, summary = capsys.readouterr().out.splitlines()
    assert re.match(r"\d\d+ packages; \d\d\d+ known holes of \d\d+ of them; 0 open here, and \d+ that", summary)
    assert all("It does not reach Treino: " in each for each in passed_over)


def test_a_hole_is_found_and_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    versions = {"torch": "2.5.1+cu121", "pillow": "10.3.0", "gradio": "6.31.0", "numpy": "2.0"}
    monkeypatch.setattr(audit, "installed", lambda: versions)
    assert audit.main([]) == 1
    told = capsys.readouterr().out
    assert "torch 2.5.1+cu121: " in told and "CVE-2025-32434" in told and "CVE-2026-40192" in told
    assert "gradio" not in told and "numpy" not in told and ", 0 open here" not in told
    assert audit.found({"torch": "2.13.0"}) == [hole for hole in audit.found({"torch": "2.12.0"}) if hole.passed_over]


@pytest.mark.parametrize("path", audit.FILES, ids=lambda path: path.parent.name)
def test_the_requirements_let_in_no_version_with_a_known_hole(path: audit.Path) -> None:
    """Looked at are the lowest version of each range, and those that a hole begins or ends with."""
    edges = {(hole.package, each.version) for hole in audit.known() for each in hole.versions}
    for line in requirements(path):
        wanted = Requirement(line)
        name = canonicalize_name(wanted.name)
        lowest = next(each.version for each in wanted.specifier if each.operator in (">=", "=="))
        within = [version for package, version in edges if package == name and wanted.specifier.contains(version)]
        for version in (lowest, *within):
            assert [hole for hole in audit.found({name: version}) if not hole.passed_over] == [], line


@pytest.mark.parametrize("hole", [hole for hole in audit.known() if hole.passed_over], ids=lambda hole: hole.package)
def test_what_is_passed_over_is_not_used(hole: audit.Hole) -> None:
    assert hole.unused
    for path in (audit.ROOT / "lora_core").rglob("*.py"):
        assert not re.search(hole.unused, path.read_text(encoding="utf-8")), path


@pytest.mark.skipif(importlib.util.find_spec("pip_audit") is not None, reason="here it would ask the internet")
def test_without_pip_audit_it_is_told_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--online"]) == 2
    assert "python -m pip install pip-audit" in capsys.readouterr().out


def test_the_list_is_well_formed() -> None:
    holes = audit.known()
    assert len(holes) > 90
    for hole in holes:
        assert hole.package == canonicalize_name(hole.package) and hole.what and len(hole.versions) >= 1
        assert all(re.fullmatch(r"CVE-20\d\d-\d{4,}|GHSA(-[0-9a-z]{4}){3}|PYSEC-20\d\d-\d+", each) for each in hole.ids)
        assert hole.ids and bool(hole.passed_over) == (str(hole.versions) == ">=0"), hole
    every = [(hole.package, each) for hole in holes for each in hole.ids]
    assert len(every) == len(set(every))

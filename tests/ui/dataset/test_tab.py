"""The Dataset tab's logic: what the page is told, captions saved and taken back, fixes, folders that change or go."""

from __future__ import annotations

import json
import os
import re
import shutil
import string
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from lora_core.dataset import CaptionEditor, fixes
from lora_core.messages import LANGUAGES
from lora_core.system import files
from lora_core.ui.shared.texts import LOCALE, Texts, load
from lora_core.ui.state import open_dataset
from lora_core.ui.state.app import App
from lora_core.ui.tabs.dataset import routes as dataset_routes
from lora_core.ui.tabs.dataset import tab as dataset_tab
from lora_core.ui.tabs.dataset import uploads

EN, PT = Texts("en"), Texts("pt-BR")


def picture(seed: int, width: int = 96, height: int = 96) -> Image.Image:
    """Discs: sharp, and unlike the picture of any other seed."""
    random = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), random.integers(0, 256, 3), np.uint8)
    for _ in range(20):
        at = (int(random.integers(0, width)), int(random.integers(0, height)))
        cv2.circle(canvas, at, int(random.integers(4, 20)), random.integers(0, 256, 3).tolist(), -1)
    return Image.fromarray(canvas)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures that give little to say, one of them in a sub-folder."""
    home = tmp_path / "quadros ção"
    (home / "sub").mkdir(parents=True)
    for n, name in enumerate(("000.png", "001.jpg", "002.png", "003.png", "sub/004.png")):
        picture(n).save(home / name)
        (home / name).with_suffix(".txt").write_text(f"a red ball, number {n}", encoding="utf-8")
    return home


class Page:
    """A page that remembers what it has seen, as the tab's script does."""

    def __init__(self, client: TestClient, app: App, language: str = "en") -> None:
        self.client, self.app, self.language = client, app, language
        self.seen = {"version": -1, "edits": -1}

    def ask(self, act: str, **more: Any) -> dict[str, Any]:
        answer = self.client.post(f"/dataset/{act}", params={"language": self.language}, json=more)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def refresh(self) -> dict[str, Any]:
        """What is new, once the pictures are read."""
        told = self.ask("state", **self.seen)
        while told["reading"]:
            time.sleep(0.02)
            told = {**told, **self.ask("state", **self.seen)}
        self.seen = {"version": told["version"], "edits": told["edits"]}
        return told

    def until(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first state of which it is true."""
        deadline = time.monotonic() + 60
        while not is_it(told := self.ask("state", version=-1, edits=-1)):
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        return told


@pytest.fixture
def page(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setattr(open_dataset, "_CHECK_EVERY_S", 0.0)
    monkeypatch.setattr(open_dataset, "_REST_S", 0.0)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    app, server = App(tmp_path / "config", tmp_path / "runs"), FastAPI()
    dataset_routes.add_dataset_routes(server, app)
    with TestClient(server) as client:
        page = Page(client, app)
        assert page.ask("open", folder=f'  "{folder}" ') == {}
        yield page


def read(folder: Path, name: str) -> str:
    return (folder / name).with_suffix(".txt").read_text(encoding="utf-8")


# --- words ------------------------------------------------------------------------------------------------------------


def test_both_languages_have_the_same_texts_with_the_same_gaps() -> None:
    for file in ("dataset",):
        en, pt = (tomllib.loads((LOCALE / name / f"{file}.toml").read_text(encoding="utf-8")) for name in LANGUAGES)
        assert list(en) == list(pt)
        for key, text in en.items():
            gaps = [{part[1] for part in string.Formatter().parse(each) if part[1]} for each in (text, pt[key])]
            assert gaps[0] == gaps[1], key


# --- what a page is told ----------------------------------------------------------------------------------------------


def test_pictures_are_shown_at_once_and_what_is_wrong_after_they_are_read(page: Page, folder: Path) -> None:
    first = page.ask("state", version=-1, edits=-1)
    assert [item["name"] for item in first["items"]] == ["000.png", "001.jpg", "002.png", "003.png", "sub/004.png"]
    assert first["captions"]["sub/004.png"] == "a red ball, number 4" and ["a red ball", 5] in first["tags"]
    told = page.refresh()
    assert (told["done"], told["total"], told["folder"], told["gone"]) == (5, 5, str(folder), False)
    assert {each["kind"] for each in told["problems"]} == {"tiny"}  # of 96 pixels, for 512
    assert {item["level"] for item in told["items"]} == {"warning"}
    assert told["buckets"] == [[512, 512, 5]]
    assert page.ask("resolution", resolution=64) == {}
    assert page.until(lambda told: told["problems"] == [])["buckets"] == [[64, 64, 5]]
    assert page.app.recall("dataset.folder") == str(folder)
    known = page.refresh()
    assert "items" not in page.ask("state", version=known["version"], edits=known["edits"])


def test_a_picture_is_shown_with_what_the_model_sees_of_it(page: Page, folder: Path) -> None:
    picture(9, 200, 100).save(folder / "wide.png")
    (folder / "broken.png").write_bytes(b"no picture")
    page.until(lambda told: len(told["items"]) == 7)
    told = page.ask("look", name="wide.png")
    assert (told["width"], told["height"], told["tokens"]) == (200, 100, 0)
    assert told["size"] == [640, 384] and told["box"] == [8.0, 0.0, 83.5, 100.0]
    assert page.ask("look", name="000.png")["tokens"] == 6
    page.app.files.open(told["url"].removeprefix("/files/"))  # raises what it does not serve
    assert "Check" in page.ask("look", name="broken.png")["unreadable"]
    assert page.ask("look", name="none.png") == {"error": "none.png is not in the dataset any more."}


# --- captions ---------------------------------------------------------------------------------------------------------


def test_a_caption_typed_in_pieces_is_one_undo_and_only_it_is_told_again(page: Page, folder: Path) -> None:
    page.refresh()
    was = "a red ball, number 0"
    for text in ("a blue ball", "a blue ball on sand "):
        told = page.ask("caption", name="000.png", text=text, was=was, join=was != "a red ball, number 0")
        was = told["saved"]
    assert (was, told["tokens"], told["undo"]) == ("a blue ball on sand", 5, "caption of 000.png")
    assert read(folder, "000.png") == was
    assert page.refresh()["captions"] == {"000.png": was}
    assert page.ask("undo") == {"name": "000.png", "undo": "", "redo": "caption of 000.png"}
    assert read(folder, "000.png") == "a red ball, number 0"
    assert page.ask("redo")["name"] == "000.png" and read(folder, "000.png") == was


def test_what_another_program_wrote_is_never_written_over_unasked(page: Page, folder: Path) -> None:
    page.refresh()
    (folder / "000.txt").write_text("theirs", encoding="utf-8")
    mine = {"name": "000.png", "text": "mine", "was": "a red ball, number 0"}
    assert page.ask("caption", **mine) == {"conflict": "theirs"}
    assert read(folder, "000.png") == "theirs"
    assert page.ask("caption", **{**mine, "was": "theirs"})["saved"] == "mine"
    page.ask("undo")
    assert read(folder, "000.png") == "theirs"


def test_many_captions_change_together_after_a_preview(page: Page, folder: Path) -> None:
    order = {"edit": "replace", "find": "BALL", "replace": "cube", "case": True, "names": ["000.png", "sub/004.png"]}
    told = page.ask("preview", **order)
    assert told["count"] == 2
    assert told["changes"][0] == ["000.png", "a red ball, number 0", "a red cube, number 0"]
    assert read(folder, "000.png") == "a red ball, number 0"
    assert page.ask("apply", **order) | {"redo": ""} == {"count": 2, "undo": "“BALL” replaced by “cube”", "redo": ""}
    assert page.ask("apply", edit="prefix", find="photo of ")["count"] == 5
    assert page.ask("apply", edit="suffix", find=", studio")["count"] == 5
    assert page.ask("apply", edit="trigger", find="zbu")["count"] == 5
    assert read(folder, "sub/004.png") == "zbu, photo of a red cube, number 4, studio"
    assert page.ask("apply", edit="remove_tag", find="studio")["count"] == 5
    page.language = "pt-BR"
    assert page.ask("undo")["undo"] == "palavra de ativação “zbu”"
    for _ in range(4):
        page.ask("undo")
    assert [read(folder, name) for name in ("000.png", "sub/004.png")] == ["a red ball, number 0", "a red ball, number 4"]


def test_what_cannot_be_done_is_a_sentence_in_the_language_of_the_page(page: Page, folder: Path) -> None:
    assert "type a text first" in page.ask("preview", edit="prefix", find="")["error"]
    page.language = "pt-BR"
    assert page.ask("preview", edit="replace", find="(", regex=True)["error"].startswith("A expressão não pode ser usada")
    missing = folder / "nowhere"
    assert page.ask("open", folder=str(missing))["error"].startswith(f"A pasta {missing} não existe")
    assert "Digite ou escolha" in page.ask("open", folder=" ")["error"]
    assert page.ask("state", version=-1, edits=-1)["folder"] == str(folder)


def test_nonsense_is_refused_and_surprises_reach_the_error_panel(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    nonsense = (
        ("state", {}), ("state", ["x"]), ("state", {"version": "x", "edits": 1}), ("preview", {"find": "x"}),
        ("preview", {"edit": "none", "find": "x"}), ("open", {"folder": "a\0b"}),
        ("fix", {"fix": "leave_out", "names": []}),
        ("add", {"batch": "../x"}),
    )  # fmt: skip
    page.language = "pt-BR"
    for act, body in nonsense:
        answer = page.client.post(f"/dataset/{act}", params={"language": page.language}, json=body)
        assert answer.status_code == 422 and answer.json()["error"].startswith("A página pediu algo"), (act, body)
    version = page.client.post("/dataset/state", json={"version": "x", "edits": 1}).json()["error"]
    assert version.startswith("The page asked for something that this Treino does not know (body.version: ")
    assert page.client.post("/dataset/state", content=b"{").status_code == 422
    assert page.client.post("/dataset/none", json={}).status_code == 404
    assert not page.app.crashes

    def fail(*_: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr(page.app.dataset, "set_resolution", fail)
    answer = page.client.post("/dataset/resolution", json={"resolution": 64})
    assert (answer.status_code, answer.json()) == (500, {"error": ""})
    assert "surprise" in page.app.crashes[-1].report


# --- fixes ------------------------------------------------------------------------------------------------------------


def test_problems_are_mended_with_one_click_and_undo_takes_it_back(page: Page, folder: Path) -> None:
    page.ask("resolution", resolution=64)
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "cp.txt").write_bytes("coração".encode("cp1252"))
    picture(10).save(folder / "cp.png", "JPEG")
    picture(11).save(folder / "red_hill.png")
    picture(12).save(folder / "moving.gif")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(13, 120, 80).save(folder / "turned.jpg", exif=exif)
    (folder / "turned.txt").write_text("turned", encoding="utf-8")
    picture(14).save(folder / "003.jpg")
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*.*")) if ".treino" not in path.parts}
    told = page.until(lambda told: any(each["kind"] == "same_stem" for each in told["problems"]) and not told["reading"])
    by_kind = {each["kind"]: each for each in told["problems"]}
    assert by_kind["same_stem"]["fixes"] == ["separate", "leave_out"]
    out = [each["name"] for each in told["problems"] if "leave_out" in each["fixes"][:1]]
    assert out == ["broken.png", "empty.png"]
    assert page.ask("fix", fix="leave_out", names=out)["undo"] == "2 left out"
    for kind in ("wrong_extension", "exif_rotated", "caption_encoding", "missing_caption", "unknown_suffix", "same_stem"):
        each = by_kind[kind]
        answer = page.ask("fix", fix=each["fixes"][0], kind=kind, names=[each["name"]])
        assert "error" not in answer, answer
        if kind == "wrong_extension":  # the others are told of the picture by its new name
            page.until(lambda told: any((p["name"], p["kind"]) == ("cp.jpg", "caption_encoding") for p in told["problems"]))
            by_kind["caption_encoding"]["name"] = "cp.jpg"
    page.until(lambda told: [(p["kind"], p["name"]) for p in told["problems"]] == [("missing_caption", "moving.png")])
    assert read(folder, "red_hill.png") == "red hill" and read(folder, "003-2.png") == "a red ball, number 3"
    while page.ask("undo")["undo"]:
        pass
    assert before == {path: path.read_bytes() for path in sorted(folder.rglob("*.*")) if ".treino" not in path.parts}


def test_a_fix_that_fails_is_told_and_the_others_are_done(page: Page, folder: Path) -> None:
    for n, name in enumerate(("a", "b")):
        picture(20 + n).save(folder / f"{name}.png", "JPEG")
        (folder / f"{name}.txt").write_text(name, encoding="utf-8")
    picture(22).save(folder / "a.jpg")
    page.until(lambda told: sum(each["kind"] == "wrong_extension" for each in told["problems"]) == 2)
    told = page.ask("fix", fix="rename", kind="wrong_extension", names=["a.png", "b.png"])
    assert "a.jpg is in the way" in told["error"] and told["undo"] == "b.png renamed"
    assert (folder / "b.jpg").is_file() and (folder / "a.png").is_file()


def test_a_picture_is_turned(page: Page, folder: Path) -> None:
    picture(30, 120, 60).save(folder / "wide.png")
    page.until(lambda told: len(told["items"]) == 6)
    first = page.ask("look", name="wide.png")
    assert page.ask("turn", name="wide.png", quarters=1)["undo"] == "wide.png turned"
    second = page.ask("look", name="wide.png")
    assert (second["width"], second["height"]) == (60, 120) and second["url"] != first["url"]


# --- folders that change, go, or are write-protected ------------------------------------------------------------------


def test_changes_by_other_programs_are_noticed(page: Page, folder: Path) -> None:
    page.refresh()
    stamp = (folder / "000.txt").stat()
    (folder / "000.txt").write_text("theirs, of another length", encoding="utf-8")
    os.utime(folder / "000.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns - 10**9))  # copied with an older time
    (folder / "001.txt").unlink()
    assert page.refresh()["captions"] == {"000.png": "theirs, of another length", "001.jpg": ""}
    picture(40).save(folder / "new.png")
    (folder / "002.png").unlink()
    told = page.refresh()
    assert [item["name"] for item in told["items"]] == ["000.png", "001.jpg", "003.png", "new.png", "sub/004.png"]


def test_a_folder_that_goes_is_told_and_one_that_comes_back_is_shown(page: Page, folder: Path, tmp_path: Path) -> None:
    page.refresh()
    folder.rename(tmp_path / "elsewhere")
    assert page.refresh()["gone"] is True
    assert "error" in page.ask("caption", name="000.png", text="x", was="a red ball, number 0")
    assert not folder.exists()
    (tmp_path / "elsewhere").rename(folder)
    assert page.refresh()["gone"] is False
    assert page.ask("caption", name="000.png", text="x", was="a red ball, number 0")["saved"] == "x"


def test_a_write_protected_folder_is_told_and_stays_as_it_is(
    page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(files.Path, "touch", refuse)
    page.ask("open", folder=str(folder))
    told = page.until(lambda told: not told["reading"])
    assert told["read_only"] is True and len(told["items"]) == 5
    assert not (folder / ".treino").exists()


def test_the_last_folder_is_open_again_after_a_restart(page: Page, folder: Path, tmp_path: Path) -> None:
    again = App(tmp_path / "config", tmp_path / "runs")
    dataset_tab.open_last(again)
    assert again.dataset.folder == folder and again.dataset.recent() == [str(folder)]
    shutil.rmtree(folder)
    gone = App(tmp_path / "config", tmp_path / "runs")
    dataset_tab.open_last(gone)
    assert gone.dataset.folder is None


def test_a_folder_without_a_readable_picture_is_shown_with_the_reasons(page: Page, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"<html>")
    page.ask("open", folder=str(tmp_path / "bad"))
    told = page.until(lambda told: not told["reading"])
    sentence = "a.png is an HTML page, not a picture: save it as PNG or JPEG."
    assert [each["message"] for each in told["problems"]] == [sentence]
    page.language = "pt-BR"
    assert "é uma página HTML" in page.until(lambda told: not told["reading"])["problems"][0]["message"]


def test_the_reading_of_a_folder_that_ends_while_the_next_is_opened_is_given_up(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    picture(7).save(other / "a.png")

    def allow(opened: Path) -> None:
        if opened == other:  # between showing a folder and reading it: let the reading before end here
            for thread in threading.enumerate():
                if thread.name == "scan":
                    thread.join(60)

    dataset = open_dataset.OpenDataset(allow, lambda key, default: default, lambda key, value: None)
    dataset.open(folder)
    dataset.open(other)
    assert dataset.dataset is None and dataset.problems == ()
    assert dataset.state(EN, lambda path, size: "", -1, -1)["reading"]


# --- choosing and dropping --------------------------------------------------------------------------------------------


def drop(page: Page, batch: str, files: dict[str, bytes], place: str = "") -> list[dict[str, Any]]:
    query = {"place": place, "language": page.language}
    return [
        page.client.post(f"/dataset/upload/{batch}/{name}", params=query, content=content).json()
        for name, content in files.items()
    ]


def test_dropped_pictures_are_added_and_undo_takes_them_out(page: Page, folder: Path) -> None:
    content = (folder / "000.png").read_bytes()
    assert drop(page, "0123abcd", {"000.png": content, "000.txt": b"mine", "Caf%C3%A9.PNG": content}) == [{}, {}, {}]
    assert len(page.refresh()["items"]) == 5  # not yet
    told = page.ask("add", batch="0123abcd")
    assert told["undo"] == "3 files added"
    assert [i["name"] for i in page.refresh()["items"]] == [
        "000-2.png", "000.png", "001.jpg", "002.png", "003.png", "Café.png", "sub/004.png"
    ]  # fmt: skip
    assert read(folder, "000-2.png") == "mine" and read(folder, "000.png") == "a red ball, number 0"
    page.ask("undo")
    assert len(page.refresh()["items"]) == 5


def test_a_new_dataset_is_made_of_what_is_dropped(page: Page, folder: Path, tmp_path: Path) -> None:
    assert drop(page, "ffff0000", {"a.png": (folder / "000.png").read_bytes()}, place="my: cats/..") == [{}]
    assert page.ask("add", batch="ffff0000", place="my: cats/..")["name"] == "a.png"
    made = tmp_path / "home" / "Treino" / "my_ cats"
    assert page.refresh()["folder"] == str(made) and (made / "a.png").is_file()
    assert "type one" in page.ask("add", batch="ffff0000", place="..")["error"]


@pytest.mark.parametrize("name", ["evil.exe", "page.html", ".png", "%2e%2e%5c%2e%2e%5cx.exe"])
def test_what_is_neither_picture_nor_caption_is_not_taken(page: Page, folder: Path, name: str) -> None:
    assert "neither a picture nor a caption" in drop(page, "0123abcd", {name: b"x"})[0]["error"]
    assert "None of these files" in page.ask("add", batch="0123abcd")["error"]
    assert not (folder / ".treino").exists()


def test_drops_are_bounded_and_stay_in_their_place(page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drop(page, "0123abcd", {"..%5c..%5cup.png": b"x"}) == [{}]
    assert (folder / fixes.ADDED / "0123abcd" / "up.png").read_bytes() == b"x"
    assert page.client.post("/dataset/upload/..%2f..%2f/a.png", content=b"x").status_code in (404, 422)
    assert page.client.post("/dataset/upload/nohex/a.png", content=b"x").status_code == 422
    monkeypatch.setattr(uploads, "MOST_FILES", 1)
    assert "the most at once" in drop(page, "0123abcd", {"b.png": b"x"})[0]["error"]
    monkeypatch.setattr(uploads, "LARGEST_FILE", 3)
    answer = page.client.post("/dataset/upload/0123abcd/c.png", content=b"four")
    assert answer.status_code == 413 and "c.png is larger than" in answer.json()["error"]
    assert [path.name for path in folder.parent.rglob("*up.png")] == ["up.png"]


def test_a_typed_path_is_completed(page: Page, folder: Path) -> None:
    typed = str(folder.parent / "QUAD")
    assert page.ask("complete", folder=typed)["folders"] == [str(folder)]
    assert page.ask("complete", folder="")["folders"] == [str(folder)]  # what was open before
    assert page.ask("complete", folder=str(folder / "no" / "such"))["folders"] == [str(folder)]


def test_a_hundred_edits_stay_quick_to_tell(page: Page, folder: Path) -> None:
    """The page is told what changed, not everything again: its answer does not grow with the dataset."""
    page.refresh()
    editor = page.app.dataset.opened()
    assert isinstance(editor, CaptionEditor)
    was = editor.captions[folder / "001.jpg"]
    for n in range(20):
        was = page.ask("caption", name="001.jpg", text=f"text {n}", was=was)["saved"]
        told = page.refresh()
        assert told["captions"] == {"001.jpg": was} and "items" not in told
    assert len(json.dumps(told)) < 2000


def test_the_script_is_whole() -> None:
    """Every part of the page the script looks for is in the markup, and every word it says is handed to it."""
    script = (dataset_tab.ASSETS / "dataset.js").read_text(encoding="utf-8")
    markup = (dataset_tab.ASSETS / "dataset.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'\bid\("([\w-]+)"\)', script)) | set(re.findall(r'\bon\("([\w-]+)"', script))
    there = set(re.findall(r'id="dataset-([\w-]+)"', markup))
    assert ids - there == {"browse"}  # only where there is a dialog
    spoken_words = set(re.findall(r"\bwords\.(\w+)", script)) | set(re.findall(r'\bsay\("(\w+)"', script))
    assert spoken_words <= set(dataset_tab._SPOKEN)
    placed = set(re.findall(r"\[\[(\w+)\]\]", markup))
    assert {f"dataset.{name}" for name in placed | set(dataset_tab._SPOKEN)} <= set(load("en"))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to read the script")
def test_the_script_parses() -> None:
    subprocess.run(["node", "--check", str(dataset_tab.ASSETS / "dataset.js")], check=True, capture_output=True)

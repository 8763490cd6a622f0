"""Models from the Hugging Face hub, or a mirror of it (HF_ENDPOINT), into the cache all its tools share.

`fetch` returns a base model's folder in the diffusers layout, `fetch_files` the folder with the named files of any
model. What the cache holds complete is used without any network; what is missing is downloaded: of base models the
small settings and the weights of each component once (layout.py), resumed after a kill and verified (download.py); what
goes wrong is one sentence (errors.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url, parse_hf_uri
from huggingface_hub.errors import HfUriError, HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, unseen by mypy

from lora_core.errors import UserError
from lora_core.events import Emit, Phase, Warned
from lora_core.messages import Message, joined
from lora_core.models.catalog import MOVED
from lora_core.models.hub import download
from lora_core.models.hub.download import Meter, RemoteFile, Target
from lora_core.models.hub.errors import NotAHub, UnreachableError, endpoint, explain, host, session
from lora_core.models.hub.layout import HALF, INDEX, PARTS, Choice, Variant, choose, single_files
from lora_core.system import files, windows
from lora_core.system.units import disk_size

# No reports about the people who train. The library reads these two when it is imported, and asks them when it acts;
# the environment is for processes started from here.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
constants.HF_HUB_DISABLE_TELEMETRY = True
constants.HF_HUB_DISABLE_SYMLINKS_WARNING = True  # the cache works without symbolic links, on Windows as a rule

MODEL_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
SPARE_BYTES = 200 * 2**20  # left free on the disk beside the model
ASKING_TIMEOUT_S = 15.0
SHA = re.compile(r"[0-9a-f]{40}")
CHECKSUM = re.compile(r"[0-9A-Za-z._-]{8,128}")


@dataclass(frozen=True)
class Fetched:
    """A model on disk: every component loads with `from_pretrained(folder / part, variant=variant)`.

    `variant` is "fp16" or None (files without a suffix), the same for all components. It says how the files are named
    and which precision was preferred; a model that lacks a component in half precision has that component's full file
    under the fp16 name too.
    """

    folder: Path
    variant: Variant


def is_repo_id(name: str) -> bool:
    """Whether `name` reads as an id of the hub: owner/name, and not the name of a model file."""
    if name.count("/") != 1 or name.lower().endswith(MODEL_FILES):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def canonical(name: str) -> tuple[str, Message | None]:
    """The id a name stands for, and the sentence to tell once when it is not what was written.

    A page's address on the hub or its mirror becomes the id; the id of a model that moved becomes its successor's.
    Anything else comes back as it is.
    """
    asked, note = _plain_id(name)
    if asked not in MOVED:
        return asked, note
    moved = Message("models.hub_moved", repo=asked, copy=MOVED[asked])
    return MOVED[asked], Message("models.hub_moved_and", moved=moved, note=note) if note else moved


def fetch(repo_id: str, emit: Emit, precision: str = "fp16") -> Fetched:
    """The model `repo_id` (an id or an address) on disk, downloaded as far as the cache lacks it.

    `precision` is mixed_precision: with "fp16" and "bf16" weights stored in half precision are preferred, where the
    model has them; with "no" the full ones.

    Raises:
        UserError: no such model, no access, no connection, no space, or a model that Treino cannot use.
    """
    assert precision in ("fp16", "bf16", "no"), precision
    asked = _plain_id(repo_id)[0]
    successor, note = canonical(repo_id)
    repo = _renamed().get(successor, successor)
    if not is_repo_id(repo):
        raise UserError("models.hub_no_id", repo=repo_id)
    order: tuple[Variant, ...] = (None, HALF) if precision == "no" else (HALF, None)
    if note is None or repo == asked or not (found := _cached(asked, _good_enough(order))):  # from before it moved
        if note:
            emit(Warned(note))
        found = _cached(repo, _good_enough(order))
    if found:
        return found
    try:
        return _download(repo, order, emit)
    except UnreachableError as error:
        if not (found := _cached(repo, order)):
            raise
        emit(Warned(Message("models.hub_half_until_then", error=error)))
        return found


def fetch_files(repo_id: str, names: Sequence[str], emit: Emit) -> Path:
    """The folder that holds the files `names` of the model `repo_id`, downloaded as far as the cache lacks them.

    Raises:
        UserError: no such model or file, no access, no connection, or no space.
    """
    repo = _renamed().get(repo_id, repo_id)
    if found := cached_files(repo, names):
        return found
    with _explaining(repo):
        name, info = _present(repo, emit)
        if name != repo and (found := cached_files(name, names)):
            return found
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        if missing := [path for path in names if path not in siblings]:
            raise UserError("models.hub_lacks", repo=name, host=host(), files=joined(missing, "models.and_no"))
        target = _target(name, str(info.sha))
        _download_all(name, [_remote(name, siblings[path], target) for path in names], target, emit)
        _set_main(target)
    return target.snapshot


def cached_files(repo_id: str, names: Sequence[str]) -> Path | None:
    """The folder of a model in the cache when all files `names` are in it, else None. No network."""
    folder = cached_folder(_renamed().get(repo_id, repo_id))
    return folder if folder and all((folder / name).is_file() for name in names) else None


def cached_folder(repo_id: str) -> Path | None:
    """The folder of what the cache holds of a model, be it only its settings; None when it holds nothing. No network."""
    try:
        commit = (_target(repo_id, "main").repo / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = _target(repo_id, commit).snapshot
    return snapshot if snapshot.is_dir() else None


def _good_enough(order: Sequence[Variant]) -> Sequence[Variant]:
    """What of the cache spares asking the hub: full weights do for half precision, half ones not for full."""
    return order[:1] if order[0] is None else order


def _download(repo: str, order: Sequence[Variant], emit: Emit) -> Fetched:
    """What of the model is not in the cache. Raises UserError, whatever happens on the line and on the disk."""
    with _explaining(repo):
        name, info = _present(repo, emit)
        if name != repo and (found := _cached(name, _good_enough(order))):
            return found
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        target = _target(name, str(info.sha))
        choice = choose(name, siblings.keys(), _index(name, siblings, target, emit), order)
        _download_all(name, [_remote(name, siblings[path], target) for path in choice.files], target, emit)
        return _complete(choice, target)


@contextlib.contextmanager
def _explaining(repo: str) -> Iterator[None]:
    """Whatever goes wrong on the line and on the disk within the block becomes a UserError."""
    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, NotAHub, OSError) as error:
        raise explain(error, repo) from error


def _present(repo: str, emit: Emit) -> tuple[str, ModelInfo]:
    """The name that a model has on the hub now, told and remembered where it is another, and what the hub says of it."""
    emit(Phase("download", detail=Message("models.hub_asking", host=host(), repo=repo)))
    info = _ask(repo)
    name = info.id if is_repo_id(info.id or "") else repo
    if name != repo:
        emit(Warned(Message("models.hub_renamed", repo=repo, name=name, host=host())))
        _remember(repo, name)
    return name, info


def _download_all(repo: str, wanted: Sequence[RemoteFile], target: Target, emit: Emit) -> None:
    """Bring the wanted files into the snapshot. Raises UserError when the disk is too small, see `_explaining` too."""
    missing = [file for file in wanted if not (target.snapshot / file.path).is_file()]
    _announce(repo, wanted, target, emit)
    here = sum(target.bytes_there(file) for file in missing)
    meter = Meter(emit, here, sum(file.size for file in missing))
    for file in missing:
        download.download(file, _url(repo, file.path, target), target, meter)


def _ask(repo: str) -> ModelInfo:
    """What the hub says about a model: its present name, commit and files."""
    session()
    api = HfApi(endpoint=constants.ENDPOINT)
    for pause_s in (*download.WAITS_S[:2], None):
        try:
            info = api.model_info(repo, files_metadata=True, timeout=ASKING_TIMEOUT_S)
            break
        except (httpx2.ConnectError, httpx2.TimeoutException):
            raise  # nobody is there: say so at once
        except httpx2.HTTPError as error:
            if pause_s is None or not download.may_pass(error):
                raise
            time.sleep(download.wait_s(error, pause_s))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise NotAHub(str(error)) from error
    if not SHA.fullmatch(info.sha or ""):
        raise NotAHub(f"no commit in the answer about {repo}")
    return info


def _index(repo: str, siblings: dict[str, RepoSibling], target: Target, emit: Emit) -> dict[str, Any]:
    """model_index.json of the model, fetched first: it names the components."""
    if INDEX not in siblings:
        single = single_files(siblings)
        if single:
            raise UserError("models.hub_only_files", repo=repo, file=single[0])
        raise UserError("models.hub_no_index", repo=repo)
    file = _remote(repo, siblings[INDEX], target)
    download.download(file, _url(repo, INDEX, target), target, Meter(emit, 0, 0))
    try:
        return _read_index(target.snapshot)
    except ValueError as error:
        raise UserError("models.hub_index_damaged", repo=repo, file=INDEX, cause=error) from error


def _remote(repo: str, sibling: RepoSibling, target: Target) -> RemoteFile:
    """Size and checksum of a file, as the list of files has them, or else (mirrors) from a request for the file."""
    size, checksum, algorithm = sibling.size, sibling.blob_id, "git-sha1"
    if sibling.lfs is not None:
        size, checksum, algorithm = sibling.lfs.size, sibling.lfs.sha256, "sha256"
    if size is None or checksum is None:
        found = get_hf_file_metadata(_url(repo, sibling.rfilename, target), timeout=ASKING_TIMEOUT_S)
        size, checksum = found.size, found.etag
        algorithm = "sha256" if checksum and re.fullmatch(r"[0-9a-f]{64}", checksum) else ""
    if size is None or checksum is None or not CHECKSUM.fullmatch(checksum):
        raise NotAHub(f"no size or checksum of {sibling.rfilename}")
    return RemoteFile(sibling.rfilename, size, checksum, algorithm)


def _announce(repo: str, wanted: Sequence[RemoteFile], target: Target, emit: Emit) -> None:
    """Tell what is to come before it comes.

    Raises:
        UserError: it does not fit on the disk.
    """
    total = sum(file.size for file in wanted)
    to_come = total - sum(target.bytes_there(file) for file in wanted)
    free = files.free_bytes(target.cache)
    if to_come + SPARE_BYTES > free:
        raise UserError(
            "models.hub_no_space", repo=repo, needed=disk_size(to_come), folder=target.cache, free=disk_size(free)
        )
    kept = Message("models.hub_kept", size=disk_size(total - to_come)) if to_come < total else ""
    detail = Message(
        "models.hub_to_download", repo=repo, size=disk_size(to_come), count=len(wanted), kept=kept, free=disk_size(free)
    )
    emit(Phase("download", 0, to_come, detail))


def _complete(choice: Choice, target: Target) -> Fetched:
    """Everything is there: make the aliases, and the commit the one that tools find as "main"."""
    for file, name in choice.aliases:
        download.alias(target.snapshot, file, name)
    _set_main(target)
    return Fetched(target.snapshot, choice.variant)


def _set_main(target: Target) -> None:
    """Make the commit the one that tools find as "main"."""
    ref = target.repo / "refs" / "main"
    if not ref.is_file() or ref.read_text(encoding="utf-8") != target.snapshot.name:
        ref.parent.mkdir(parents=True, exist_ok=True)
        files.write_text_whole(ref, target.snapshot.name)


def _cached(repo: str, order: Sequence[Variant]) -> Fetched | None:
    """The model in the cache when every file it needs is there, else None. No network.

    Files get their name in a snapshot only when they are whole, here and in huggingface_hub, so that being there
    is enough; settings are fetched before weights, so that a model with all its weights has all its settings.
    """
    try:
        commit = (_target(repo, "main").repo / "refs" / "main").read_text(encoding="utf-8").strip()
        target = _target(repo, commit)
        there = [
            f"{part}/{path.name}" for part in PARTS for path in (target.snapshot / part).glob("*") if path.is_file()
        ]
        choice = choose(repo, there, _read_index(target.snapshot), order)
        return _complete(choice, target)
    except (OSError, ValueError):  # nothing there, incomplete (UserError) or damaged: the hub is asked
        return None


def _read_index(snapshot: Path) -> dict[str, Any]:
    index = json.loads((snapshot / INDEX).read_text(encoding="utf-8"))
    if isinstance(index, dict):
        return index
    raise ValueError("no object")


def _target(repo: str, commit: str) -> Target:
    cache = Path(long_path(os.path.abspath(constants.HF_HUB_CACHE), os.name == "nt"))
    folder = cache / repo_folder_name(repo_id=repo, repo_type="model")
    return Target(cache, folder, folder / "snapshots" / commit)


def long_path(cache: str, on_windows: bool) -> str:
    r"""An absolute cache path whose longest file (about 200 characters more) Windows can open.

    Windows refuses paths of 260 characters and more, unless they begin with \\?\ (or \\?\UNC\ for a network share).
    """
    if not on_windows or len(cache) < 60:
        return cache
    return windows.prefixed(cache)


def _url(repo: str, path: str, target: Target) -> str:
    return hf_hub_url(repo, path, revision=target.snapshot.name, endpoint=constants.ENDPOINT)


def _plain_id(name: str) -> tuple[str, Message | None]:
    """The id in an address of the hub (or an hf:// one), and what of the address is passed over."""
    try:
        uri = parse_hf_uri(name.strip(), endpoint=endpoint())
    except HfUriError:
        return name, None
    if uri.type != "model":
        return name, None
    if uri.path_in_repo:
        return uri.id, Message("models.hub_whole_model", part=quote(uri.path_in_repo), repo=uri.id)
    if uri.revision not in (None, "main"):
        return uri.id, Message("models.hub_main_revision", revision=uri.revision, repo=uri.id)
    return uri.id, None


def _renamed() -> dict[str, str]:
    """Names that the hub redirected before, so that a model in the cache is found without asking again."""
    return {old: new for old, new in _renamed_file().read(dict).items() if is_repo_id(str(new))}


def _remember(old: str, new: str) -> None:
    _renamed_file().write({**_renamed(), old: new})  # without the note the hub is asked again, no more than that


def _renamed_file() -> files.JsonMemo:
    return files.JsonMemo(Path(constants.HF_HOME) / "treino_renamed.json")

"""The bodies of what the Dataset tab's script asks for; FastAPI refuses others."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from lora_core.captioners import CAPTIONERS
from lora_core.dataset import fixes
from lora_core.ui.tabs.dataset import uploads

PathText = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # no file system takes a NUL


def _known(captioner: str) -> str:
    if captioner not in CAPTIONERS:
        raise ValueError("there is no such captioner")
    return captioner


class Seen(BaseModel):
    """What a page has been told: version and edits of the dataset, job and rows of proposed captions."""

    version: int
    edits: int
    job: int = -1
    rows: int = 0


class Folder(BaseModel):
    folder: PathText


class Name(BaseModel):
    name: PathText  # of a picture, relative to the folder


class Resolution(BaseModel):
    resolution: int


class CaptionEdit(BaseModel):
    """A caption as it was and as it shall be. join: part of the last edit of it; force: whatever it is by now."""

    name: PathText
    text: str
    was: str
    force: bool = False
    join: bool = False


class ManyEdit(BaseModel):
    """An edit of many captions; of all without `names`. find: also the text, word or tag of the other edits."""

    edit: Literal["replace", "prefix", "suffix", "trigger", "remove_tag"]
    find: str = ""
    replace: str = ""
    regex: bool = False
    case: bool = False  # ignored
    names: list[PathText] | None = None


class Description(BaseModel):
    """Pictures for a captioner to look at. threshold: how sure a tag must be; trigger: put in front, "" for nothing."""

    captioner: Annotated[str, AfterValidator(_known)]
    names: list[PathText]
    threshold: Annotated[float, Field(ge=0, le=1)]
    trigger: str


class Cancel(BaseModel):
    forget: bool = False  # also what was proposed


class Names(BaseModel):
    names: list[PathText]


class Turn(BaseModel):
    name: PathText
    quarters: int  # clockwise


class Fix(BaseModel):
    """kind: of the problem to mend, for all fixes but "leave_out"."""

    fix: fixes.Fix
    kind: str = ""
    names: Annotated[list[PathText], Field(min_length=1)]


class Drop(BaseModel):
    batch: Annotated[str, Field(pattern=uploads.BATCH)]
    place: PathText = ""  # the name of a new dataset; "": the open folder

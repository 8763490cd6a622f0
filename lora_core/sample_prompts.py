"""A sample prompt with kohya's flags: `a red zebu --w 768 --h 512 --s 30 --l 6 --d 7 --n blurred`.

As `line_to_prompt_dict` of sd-scripts' library/train_util.py reads them, but for a wrong one, which it passes over.
"""

from __future__ import annotations

import difflib
import re

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.settings import Setting, Value, typed

_BEGIN = re.compile(r"(?:^|\s+)--(?=[a-z])", re.IGNORECASE)  # a dash of two signs stands before a space
_SIDE = 8  # sizes are multiples of it, rounded down as kohya does
FLAGS = {
    "w": Setting("width", int, 0, "", "", low=64, high=2048, unit="pixels"),
    "h": Setting("height", int, 0, "", "", low=64, high=2048, unit="pixels"),
    "s": Setting("steps", int, 0, "", "", low=1, high=1000, unit="steps"),
    "l": Setting("guidance", float, 0.0, "", "", low=0, high=50),
    "d": Setting("seed", int, 0, "", "", low=0, high=2**31 - 1),
    "n": Setting("negative_prompt", str, "", "", ""),
}
_LONG = {setting.name: flag for flag, setting in FLAGS.items()} | {"scale": "l", "cfg": "l", "negative": "n"}


def read_sample_prompt(text: str) -> tuple[str, dict[str, Value]]:
    """The prompt without its flags, and what they set, by the names of `GenerationParams`; of two alike the last counts.

    Raises:
        UserError: a flag is unknown, or its value impossible; names prompt and flag.
    """
    prompt, *flags = _BEGIN.split(text)
    found: dict[str, Value] = {}
    for part in flags:
        name, *value = part.split(maxsplit=1)
        try:
            setting = FLAGS[name.lower()]
            read = typed(setting, "".join(value).rstrip())
        except KeyError:
            raise _wrong(text, name, _unknown(name)) from None
        except UserError as cause:
            raise _wrong(text, name, cause.message) from None
        found[setting.name] = read // _SIDE * _SIDE if isinstance(read, int) and setting.unit == "pixels" else read
    return (prompt.rstrip() if flags else prompt), found


def _wrong(text: str, name: str, what: Message) -> UserError:
    return UserError("settings.prompt_flag", prompt=text, flag=f"--{name}", what=what)


def _unknown(name: str) -> Message:
    near = difflib.get_close_matches(name.lower(), _LONG, n=1, cutoff=0.6)
    suggestion = Message("settings.did_you_mean", word=f"--{_LONG[near[0]]}") if near else ""
    return Message("settings.prompt_flag_unknown", known=[f"--{flag}" for flag in FLAGS], suggestion=suggestion)

"""Pictures and captions of a folder: read, checked, edited, sorted into buckets. Knows nothing of models or of torch.

listing         which files of a folder are pictures
scan            folder in, dataset out
items           pictures with captions, and what is wrong with them
pictures        a picture as it should look: upright, 8 bits, sRGB
inspection      what one decode of a picture tells
quality         what is worth knowing of a dataset before it is trained on
tokens          how long a caption is to CLIP
buckets         sizes to train at, crops and batches
captions        caption files of any encoding, and edits of many as pure functions
caption_editor  edits on disk, each of which can be undone
edit_log        the edits of a folder, kept in a file
fixes           what can be done about a problem with one click
"""

from lora_core.dataset.buckets import batches, bucket_size, crop_box, fit
from lora_core.dataset.caption_editor import CaptionEditor
from lora_core.dataset.captions import (
    add_prefix,
    add_suffix,
    add_trigger,
    caption_path,
    find_replace,
    remove_tag,
    tag_counts,
)
from lora_core.dataset.items import Dataset, Item, Problem
from lora_core.dataset.pictures import PictureError, load_picture, thumbnail
from lora_core.dataset.quality import report
from lora_core.dataset.scan import scan
from lora_core.dataset.tokens import count_tokens

__all__ = [
    "CaptionEditor",
    "Dataset",
    "Item",
    "PictureError",
    "Problem",
    "add_prefix",
    "add_suffix",
    "add_trigger",
    "batches",
    "bucket_size",
    "caption_path",
    "count_tokens",
    "crop_box",
    "find_replace",
    "fit",
    "load_picture",
    "remove_tag",
    "report",
    "scan",
    "tag_counts",
    "thumbnail",
]

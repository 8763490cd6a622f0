"""Pictures and captions: scanned, checked, edited, sorted into buckets. Knows nothing of models or of torch."""

from lora_core.dataset.buckets import batches, bucket_size, crop_box, fit
from lora_core.dataset.caption_editor import CaptionBook
from lora_core.dataset.captions import (
    add_prefix,
    add_suffix,
    add_trigger,
    caption_path,
    find_replace,
    read_caption,
    remove_tag,
    tag_counts,
    write_caption,
)
from lora_core.dataset.items import Dataset, Item, Problem, level
from lora_core.dataset.pictures import PictureError, load_picture, thumbnail
from lora_core.dataset.quality import report
from lora_core.dataset.scan import scan, survey
from lora_core.dataset.tokens import count_tokens

__all__ = [
    "CaptionBook",
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
    "level",
    "load_picture",
    "read_caption",
    "remove_tag",
    "report",
    "scan",
    "survey",
    "tag_counts",
    "thumbnail",
    "write_caption",
]

"""What a user can ask of ``annotate``, checked before anything is read."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from ..files import printable

FORMATS = ("rle", "polygon", "rle-uncompressed")
PARTS = ("all", "largest", "external")
ON_EMPTY = ("box", "empty", "drop")

DEFAULT_CONFIG = "photos/box_to_mask.yaml"
"""What is trained where no trained model is given."""

_FOR_MASKS = ("overwrite", "crowd_rle_is_mask", "holdout")
_FOR_FILE = ("format", "parts", "min_score", "on_empty", "tighten_boxes", "reindex_categories")


@dataclasses.dataclass(frozen=True)
class Options:
    """What and how.

    Attributes:
        annotations: COCO file with the boxes (.json, or a .zip with one).
        image_root: folder of its images.
        output: the same with masks.  Beside it appear ``OUTPUT_report.json``, with a plot of how
            reliable scores are, and ``OUTPUT_model/`` where a model is trained.
        config_file: of the model, a path or a name of the model zoo.  With ``MODEL.WEIGHTS`` in
            ``opts`` it is used as it is; otherwise it is trained on the data first.
        opts: KEY, VALUE, ... on top of the config.
        model: folder of a trained or an exported model, as :func:`seg_every_thing.load_predictor`
            takes it, in the place of ``config_file`` and ``opts``.
        allow_partial: use weights of another model, too, with what fits.
        minutes: for all of it: training takes what making the masks leaves, by a short trial, and
            ends in time; None = as long as the config says.
        rounds: of self-training, each with the masks of the model before it.
        holdout: share of the masks of each class that are not trained on, and measure quality.
        format: of the masks: "rle", "polygon" or "rle-uncompressed".
        parts: of a mask that are kept: "all", the "largest", or "external" (all, holes filled).
        overwrite: replace masks that are there, too.
        min_score: objects whose mask has a lower score stay boxes.
        on_empty: where nothing of a box is mask: "box" (the whole box), "empty" (no mask), "drop".
        tighten_boxes: boxes become those of the masks that are made.
        crowd_rle_is_mask: ``iscrowd`` 1 with an RLE is a mask, as in exports of CVAT.
        reindex_categories: category ids become 1, 2, ... in their order.
        report: folder of a page to review the masks; None = no page.
        num_gpus: processes, one a GPU where there are any.
        shard: (i, n): make only the masks of every n-th image, the i-th first; a run without it
            joins all.
        force: go on although another program uses the output, or the images are in another folder
            than when the run began.
    """

    annotations: Path
    image_root: Path
    output: Path
    config_file: Optional[str] = None
    opts: Tuple[Any, ...] = ()
    model: Optional[Path] = None
    allow_partial: bool = False
    minutes: Optional[float] = None
    rounds: int = 0
    holdout: float = 0.1
    format: str = "rle"
    parts: str = "all"
    overwrite: bool = False
    min_score: float = 0.0
    on_empty: str = "box"
    tighten_boxes: bool = False
    crowd_rle_is_mask: bool = False
    reindex_categories: bool = False
    report: Optional[Path] = None
    num_gpus: int = 1
    shard: Optional[Tuple[int, int]] = None
    force: bool = False

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: for a value that is out of range, or options that exclude each other.
        """
        for name, known in (
            ("format", FORMATS),
            ("parts", PARTS),
            ("on_empty", ON_EMPTY),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"--{name.replace('_', '-')} '{value}' is not {', '.join(known)}")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"--holdout must be from 0 to below 1, not {self.holdout:g}")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"--min-score must be from 0 to 1, not {self.min_score:g}")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise ValueError(f"--minutes must be above 0, not {self.minutes:g}")
        if self.rounds < 0:
            raise ValueError(f"--rounds must be at least 0, not {self.rounds}")
        if self.num_gpus < 1:
            raise ValueError(f"--num-gpus must be at least 1, not {self.num_gpus}")
        if self.opts and len(self.opts) % 2:
            raise ValueError(f"--opts needs pairs KEY VALUE, got {len(self.opts)} words")
        if self.model is not None and (self.config_file is not None or self.opts):
            raise ValueError(
                "--model is a folder with its own config: leave out --config-file and --opts"
            )
        if self.is_trained and self.model is None and self.config_file is None:
            raise ValueError("MODEL.WEIGHTS needs --config-file: the config of that model")
        if self.is_trained and (self.minutes is not None or self.rounds):
            raise ValueError(
                "--minutes and --rounds are about training, and MODEL.WEIGHTS or --model gives a "
                "model that is trained: leave one of them out"
            )
        if self.shard is not None and not self.is_trained:
            raise ValueError(
                "--shard needs a trained model, the same for all machines: --config-file F --opts "
                "MODEL.WEIGHTS W. A run without both trains one and keeps it in OUTPUT_model/"
            )

    @property
    def is_trained(self) -> bool:
        """Whether the model is trained already."""
        return self.model is not None or "MODEL.WEIGHTS" in self.opts[::2]

    @property
    def model_dir(self) -> Path:
        """Where a model that is trained is kept."""
        return self._beside("_model")

    @property
    def report_file(self) -> Path:
        """Where the report goes."""
        return self._beside("_report.json")

    @property
    def work_dir(self) -> Path:
        """What has been done of a run that is not finished."""
        return self.output.with_name(self.output.name + ".part")

    @property
    def image_folder(self) -> str:
        """Of the images: the same by any name."""
        return str(self.image_root.resolve())

    def check_images(self, begun_with: str, work: Path) -> None:
        """Mix nothing of the images in two folders, unless ``force`` says that one has moved.

        Args:
            begun_with: :attr:`image_folder` of the run that began.
            work: what there is of it.

        Raises:
            ValueError: naming both folders.
        """
        old, new = printable(begun_with), printable(self.image_folder)
        if not self.force and self.image_folder != str(Path(begun_with).resolve()):
            raise ValueError(
                f"'{printable(work)}' was begun with the images in '{old}', not in '{new}': give "
                f"that --image-root, or --force if it has moved; for other images remove "
                f"'{printable(work)}'"
            )

    @property
    def group(self) -> str:
        """Names the processes that do the same share of the images."""
        return "all" if self.shard is None else f"{self.shard[0]}of{self.shard[1]}"

    def for_masks(self) -> Dict[str, Any]:
        """What decides which masks are made, and how."""
        return {name: getattr(self, name) for name in _FOR_MASKS}

    def for_file(self) -> Dict[str, Any]:
        """What decides how masks that were made are written."""
        return {name: getattr(self, name) for name in _FOR_FILE}

    def _beside(self, ending: str) -> Path:
        return self.output.with_name(self.output.stem + ending)


def read_shard(text: str) -> Tuple[int, int]:
    """Read "2/8": the second of eight.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--shard must be I/N with I from 1 to N, as 2/8, not '{text}'")
    return int(found[1]), int(found[2])

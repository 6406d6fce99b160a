"""The keys of a config: sections, types, limits, defaults, and what each key is for.

To add a key, add a field to its section: ``description`` is what is expected, as error messages and ``mmcl-fast init``
say it; ``title`` is what the key is for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

DEVICE = r"^(auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?)$"  # torch takes no leading zeros
MOST_PIXELS = 178_956_970  # Pillow opens no larger picture
LARGEST_SEED = 2**63 - 1  # what a generator of torch takes
SEED = f"a whole number from 0 to {LARGEST_SEED}"


def _none(value: Any) -> Any:
    """TOML has no null: the string "none" stands for it."""
    return None if value == "none" else value


Nullable = BeforeValidator(_none)
# A column may be given by its number.
Column = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class DatasetSection(Section):
    """[stream.datasets.<modality>]: a known dataset, where its folder is, which of its splits or folds is tested on."""

    name: Annotated[str | None, Nullable] = Field(
        None, title="The dataset", description='the name of a known dataset, or "none"'
    )
    path: Annotated[str | None, Nullable] = Field(
        None, title="Where it lies", description="the folder that the dataset was unpacked to"
    )
    split: int = Field(
        1, ge=1, title="Which official split, or which fold, is tested on", description="a whole number from 1"
    )
    classes: Annotated[str | None, Nullable] = Field(
        None, title="Which classes, and their order", description='a file that lists the classes, or "none"'
    )


class DatasetsSection(Section):
    """[stream.datasets]: what ``source = "known"`` reads."""

    image: DatasetSection = Field(default_factory=DatasetSection, description="a table")
    video: DatasetSection = Field(default_factory=DatasetSection, description="a table")
    audio: DatasetSection = Field(default_factory=DatasetSection, description="a table")
    depth: DatasetSection = Field(default_factory=DatasetSection, description="a table")
    text: DatasetSection = Field(default_factory=DatasetSection, description="a table")


class StreamSection(Section):
    """[stream]: where the samples are and in which order their tasks arrive."""

    source: Literal["demo", "folder", "manifest", "table", "tar", "known"] = Field(
        "demo",
        title="What describes the samples",
        description='"demo", "folder", "manifest", "table", "tar" or "known"',
    )
    path: Annotated[str | dict[str, str] | None, Nullable] = Field(
        None,
        title="Where the folder, manifest, table or tars lie; a relative path starts from this file",
        description="a path (of tars: a pattern too, or a table of one for each split)",
    )
    text: Column | list[Column] = Field(
        "text", title="Tables: what is read", description="the column of the text, or a list of columns"
    )
    label: Column = Field(
        "label", title="Tables and tars: what is learned", description="the column, or the field, of the class"
    )
    split: Column = Field(
        "split", title="Tables: which row is for training and which for testing", description="the column of the split"
    )
    datasets: DatasetsSection = Field(default_factory=DatasetsSection, description="a table of one for each modality")
    header: bool = Field(
        True,
        title="Tables: a line of names",
        description="true or false (whether CSV and TSV begin with their columns' names)",
    )
    classes_per_task: Annotated[int | None, Nullable] = Field(
        None,
        ge=1,
        title="Classes of one modality that arrive together",
        description='a whole number from 1, or "none" for one task per modality',
    )
    order: Literal["blocks", "random", "interleaved"] | list[str] = Field(
        "blocks",
        title="The order of the tasks",
        description='"blocks", "random", "interleaved" or a list such as ["image:0", "audio:0"]',
    )
    modalities: Annotated[list[str] | None, Nullable] = Field(
        None, title="Only these, in this order", description='a list of modalities, or "none"'
    )
    late: Annotated[str | None, Nullable] = Field(
        None, title="Held back to the end", description='the modality that comes last, or "none"'
    )
    share: dict[str, float] = Field(
        default_factory=dict,
        title="The part of each class's training samples that is used, by modality",
        description="a table such as {image = 1.0, audio = 0.1}",
    )
    seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        title="Of the random order, the shuffle, the shares and the validation split",
        description=SEED,
    )
    shuffle_classes: bool = Field(
        False, title="Draw from the seed which classes go into which task", description="true or false"
    )
    shared_classes: bool = Field(
        False, title="A name means the same class in every modality", description="true or false"
    )
    validation: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="The part of each class's training samples that becomes validation where the class has none",
        description="a number from 0 up to, not with, 1",
    )
    test_on: Literal["test", "val"] = Field(
        "test",
        title="Which samples accuracies are of; with val no test sample is read, to choose settings by",
        description='"test" or "val"',
    )
    check: bool = Field(
        True, title="Look at the data first", description="true or false (decode every file before learning)"
    )
    on_broken: Literal["error", "skip"] = Field(
        "error",
        title="What a broken file does",
        description='"error" (a file that does not decode stops the run before it learns) or "skip"',
    )


class MediaSection(Section):
    """[media]: what the files hold, and what of them is refused; "none" leaves it to the encoder."""

    max_pixels: Annotated[int | None, Nullable] = Field(
        None,
        ge=1,
        le=MOST_PIXELS,
        title="A picture or frame with more is refused",
        description=f'a whole number from 1 to {MOST_PIXELS}, or "none"',
    )
    max_seconds: Annotated[float | None, Nullable] = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        title="A recording or video that lasts longer is refused",
        description='a number above 0, or "none"',
    )
    max_bytes: Annotated[int | None, Nullable] = Field(
        None, ge=1, title="A larger file is refused", description='a whole number from 1, or "none"'
    )
    max_chars: Annotated[int | None, Nullable] = Field(
        None, ge=1, title="A text is cut there", description='a whole number from 1, or "none"'
    )
    depth_kind: Annotated[Literal["depth", "disparity", "sun_rgbd"] | None, Nullable] = Field(
        None, title="What depth maps hold", description='"depth", "disparity", "sun_rgbd" or "none"'
    )
    depth_scale: Annotated[float | None, Nullable] = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        title="The unit of depth maps",
        description='a number above 0 (units per metre of whole numbers in depth maps), or "none"',
    )
    depth_invalid: Annotated[float | None, Nullable] = Field(
        None,
        title="Holes in depth maps",
        description='a number (the value in depth maps that means no measurement), or "none"',
    )
    isolate: bool = Field(
        True,
        title="Decode in processes that a file may crash or hang: the check before learning, predict and serve",
        description="true or false",
    )
    max_decode_mb: float = Field(
        4000.0,
        gt=0,
        allow_inf_nan=False,
        title="A file whose decoding needs more memory is refused (with isolate, on Linux)",
        description="a number above 0 (10^6 bytes)",
    )
    max_decode_seconds: float = Field(
        600.0,
        gt=0,
        allow_inf_nan=False,
        title="A file whose decoding takes more processor time is refused (with isolate)",
        description="a number above 0",
    )
    max_decode_wait: float = Field(
        1200.0,
        gt=0,
        allow_inf_nan=False,
        title="A file whose decoding takes longer by the clock is refused (with isolate)",
        description="a number above 0 (seconds)",
    )


class EncoderSection(Section):
    """[encoder]: the frozen model."""

    name: str = Field(
        "embedded",
        min_length=1,
        title="The model",
        description='"embedded", the hub name of a CLIP or SigLIP, or a folder',
    )
    prompt_blocks: Annotated[int | Literal["all"] | None, Nullable] = Field(
        None,
        title="How many of the last blocks take prompts (CLIP and SigLIP)",
        description='a whole number from 0, "all" or "none" (the encoder\'s default)',
    )
    views: int = Field(
        1,
        ge=1,
        title="Views of each training sample: the plain one, the others random",
        description="a whole number from 1",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        title="Of matrix products above the cut",
        description='"auto" (bf16 where the hardware multiplies it), "fp32" or "bf16"',
    )


class MethodSection(Section):
    """[method]: what learns, and the table of its own options."""

    name: str = Field("comm", title="What learns", description="the name of a method")
    options: dict[str, Any] = Field(default_factory=dict, description="a table of the method's options")


class TrainSection(Section):
    """[train]: the run itself."""

    device: str = Field("auto", pattern=DEVICE, title="Where it runs", description='"auto", "cpu", "cuda" or "cuda:N"')
    seed: int = Field(0, ge=0, le=LARGEST_SEED, title="Of everything random in training", description=SEED)
    cache: Annotated[str | None, Nullable] = Field(
        "auto",
        title="What the frozen trunk says of each sample is kept in",
        description='a folder for trunk tokens, "auto" for the user\'s cache folder, or "none" for a temporary folder '
        "on disk, removed when the process ends",
    )
    cache_gb: float = Field(
        20.0,
        gt=0,
        allow_inf_nan=False,
        title="The most that the cache may take",
        description="a number above 0 (10^9 bytes on disk)",
    )
    workers: int = Field(2, ge=0, title="Decoding threads", description="a whole number from 0")
    evaluate: Literal["both", "given", "agnostic"] = Field(
        "both",
        title="Whether the model is told the modality of what it is tested on",
        description='"both", "given" or "agnostic"',
    )
    evaluate_unseen: bool = Field(
        True, title="Also test on the next task before it is learned, for forward transfer", description="true or false"
    )
    checkpoint_every: int = Field(
        200,
        ge=1,
        title="How much a crash may cost",
        description="a whole number from 1: steps between checkpoints inside a task",
    )
    keep_checkpoints: int | Literal["all"] = Field(
        "all",
        title="How many checkpoints stay",
        description='"all" or a whole number from 2: of those at the ends of tasks, the newest',
    )
    deterministic: bool = Field(
        False,
        title="Bit for bit the same on a GPU",
        description="true or false (on a GPU: the same numbers again, slower; a CPU needs none)",
    )
    track: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=list,
        title="Where metrics.jsonl is shown besides the report",
        description='a list of "tensorboard" and "wandb", or []',
    )

    @field_validator("keep_checkpoints")
    @classmethod
    def _two(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 2:  # one to read where the newest is broken
            raise ValueError("at least 2")
        return value


class Config(Section):
    """Everything that decides what a run does; ``model_dump(mode="json")`` is what config.json holds."""

    stream: StreamSection = Field(default_factory=StreamSection, description="a table")
    media: MediaSection = Field(default_factory=MediaSection, description="a table")
    encoder: EncoderSection = Field(default_factory=EncoderSection, description="a table")
    method: MethodSection = Field(default_factory=MethodSection, description="a table")
    train: TrainSection = Field(default_factory=TrainSection, description="a table")

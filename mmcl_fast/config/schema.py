"""The keys of a config: sections, types, limits and defaults, and what each key is for.

To add a key, add a field to its section. Its ``description`` says what the key is for. The accepted values follow from
type and limits, or stand in an ``Expected`` (``mmcl_fast.option_fields``). Error messages, ``mmcl-fast init`` and the
reference page of the documentation are made from the fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from mmcl_fast.option_fields import Expected

DEVICE = r"^(auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?)$"  # torch takes no leading zeros
MOST_PIXELS = 178_956_970  # Pillow opens no larger picture
LARGEST_SEED = 2**63 - 1  # the largest one that torch.Generator takes

# TOML has no null: the string "none" stands for it.
Nullable = BeforeValidator(lambda value: None if value == "none" else value)
Column = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]  # by name or number
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Base of a config's tables: unknown keys are refused, values are not converted."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class DatasetSection(Section):
    """[stream.datasets.<modality>]: a known dataset, its folder, and the split or fold that is tested on."""

    name: Annotated[str | None, Nullable, Expected('the name of a known dataset, or "none"')] = Field(
        None, description="The dataset"
    )
    path: Annotated[str | None, Nullable, Expected("the folder that the dataset was unpacked to")] = Field(
        None, description="The dataset's folder"
    )
    split: int = Field(1, ge=1, description="The number of the official split, or of the fold, that is tested on")
    classes: Annotated[str | None, Nullable, Expected('a file that lists the classes, or "none"')] = Field(
        None, description="The classes to learn, in their order"
    )


class DatasetsSection(Section):
    """[stream.datasets]: the datasets that ``source = "known"`` reads, one table for each modality."""

    image: DatasetSection = Field(default_factory=DatasetSection)
    video: DatasetSection = Field(default_factory=DatasetSection)
    audio: DatasetSection = Field(default_factory=DatasetSection)
    depth: DatasetSection = Field(default_factory=DatasetSection)
    text: DatasetSection = Field(default_factory=DatasetSection)


class StreamSection(Section):
    """[stream]: where the samples are and in which order their tasks arrive."""

    source: Literal["demo", "folder", "manifest", "table", "tar", "known"] = Field(
        "demo", description="What describes the samples"
    )
    path: Annotated[
        str | dict[str, str] | None,
        Nullable,
        Expected('a path, or "none"; for tars also a pattern, or a table with one pattern for each split'),
    ] = Field(None, description="The folder, manifest, table or tars; a relative path starts from this file")
    text: Annotated[Column | list[Column], Expected("the column of the text, or a list of columns")] = Field(
        "text", description="Tables: the columns that hold the text of a sample"
    )
    label: Annotated[Column, Expected("the column, or the field, of the class")] = Field(
        "label", description="Tables and tars: the class of a sample"
    )
    split: Annotated[Column, Expected("the column of the split")] = Field(
        "split", description="Tables: whether a row is for training, validation or testing"
    )
    datasets: DatasetsSection = Field(default_factory=DatasetsSection)
    header: bool = Field(True, description="Tables: the first line of CSV and TSV files holds the columns' names")
    classes_per_task: Annotated[
        int | None, Nullable, Expected('a whole number from 1, or "none" for one task per modality')
    ] = Field(None, ge=1, description="Classes of one modality that arrive together as a task")
    order: Annotated[
        Literal["blocks", "random", "interleaved"] | list[str],
        Expected('"blocks", "random", "interleaved" or a list such as ["image:0", "audio:0"]'),
    ] = Field("blocks", description="The order of the tasks")
    modalities: Annotated[list[str] | None, Nullable, Expected('a list of modalities, or "none"')] = Field(
        None, description="Learn these modalities alone, in this order"
    )
    late: Annotated[str | None, Nullable, Expected('a modality, or "none"')] = Field(
        None, description="The modality whose tasks all come last"
    )
    share: Annotated[dict[str, float], Expected("a table such as {image = 1.0, audio = 0.1}")] = Field(
        default_factory=dict, description="The share of each class's training samples that is used, by modality"
    )
    max_train_per_class: Annotated[
        dict[str, Annotated[int, Field(ge=1)]], Expected("a table of whole numbers from 1, such as {audio = 2}")
    ] = Field(default_factory=dict, description="The most training samples of a class that are used, by modality")
    seed: Seed = Field(
        0,
        description="Seed of the random order, the shuffled classes, the training samples that are used, and the "
        "validation split",
    )
    shuffle_classes: bool = Field(False, description="Draw from the seed which classes go into which task")
    classes_together: int = Field(
        1,
        ge=1,
        description="With shuffle_classes, so many consecutive classes stay in one task; it divides classes_per_task",
    )
    shared_classes: bool = Field(False, description="A class name means the same class in every modality")
    validation: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=0, lt=1)],
        Expected('a share from 0 to less than 1, or "auto" for a tenth, rounded down'),
    ] = Field(
        0.0,
        description="The share of each class's training samples that becomes validation where the class has none; "
        "probabilities are calibrated on validation samples",
    )
    group: Annotated[
        str, Expected('"", "column:NAME", "regex:PATTERN" over the paths of files, or "duplicates" for similar content')
    ] = Field(
        "",
        description="Samples of one group, such as takes of one recording, stay on one side of a split; empty: a "
        "manifest's groups and equal content",
    )
    group_similarity: float = Field(
        0.95,
        ge=0,
        le=1,
        description="For duplicates: the least cosine similarity of two samples of a group, by the frozen trunk's "
        "pooled features",
    )
    test_on: Literal["test", "val"] = Field(
        "test",
        description="The split that accuracies are measured on; with val no test sample is read, so that settings can "
        "be chosen",
    )
    check: bool = Field(True, description="Decode every file before learning, to find broken ones")
    on_broken: Literal["error", "skip"] = Field(
        "error",
        description="What a file that does not decode causes: error stops the run before it learns, skip leaves the "
        "file out",
    )


class MediaSection(Section):
    """[media]: what the files hold, and which of them are refused; "none" leaves it to the encoder."""

    max_pixels: Annotated[int | None, Nullable] = Field(
        None, ge=1, le=MOST_PIXELS, description="Largest picture or video frame; a larger one is refused"
    )
    max_seconds: Annotated[float | None, Nullable] = Field(
        None, gt=0, allow_inf_nan=False, description="Longest recording or video, in seconds; a longer one is refused"
    )
    max_bytes: Annotated[int | None, Nullable] = Field(
        None, ge=1, description="Largest file, in bytes; a larger one is refused"
    )
    max_chars: Annotated[int | None, Nullable] = Field(
        None, ge=1, description="Longest text, in characters; a longer one is cut"
    )
    depth_kind: Annotated[Literal["depth", "disparity", "sun_rgbd"] | None, Nullable] = Field(
        None, description="What depth maps hold"
    )
    depth_scale: Annotated[float | None, Nullable] = Field(
        None, gt=0, allow_inf_nan=False, description="Units per metre of depth maps that hold whole numbers"
    )
    depth_invalid: Annotated[float | None, Nullable] = Field(
        None, description="The value in depth maps that means no measurement"
    )
    isolate: bool = Field(
        True,
        description="Decode in separate processes, which a file may crash or hang: in the check before learning, in "
        "predict and in serve",
    )
    max_decode_mb: Limit = Field(
        4000.0,
        description="Most memory that decoding one file may take, in 10^6 bytes (with isolate, on Linux); a file that "
        "needs more is refused",
    )
    max_decode_seconds: Limit = Field(
        600.0,
        description="Most processor time that decoding one file may take, in seconds (with isolate); a file that needs "
        "more is refused",
    )
    max_decode_wait: Limit = Field(
        1200.0,
        description="Most time by the clock that decoding one file may take, in seconds (with isolate); a file that "
        "needs more is refused",
    )


class EncoderSection(Section):
    """[encoder]: the frozen model."""

    name: Annotated[str, Expected('"embedded", the hub name of a CLIP or SigLIP, or a folder')] = Field(
        "embedded", min_length=1, description="The model"
    )
    prompt_blocks: Annotated[
        int | Literal["all"] | None,
        Nullable,
        Expected('a whole number from 1, "all", or "none" for the encoder\'s default'),
    ] = Field(None, description="How many of the last blocks take prompts; for CLIP and SigLIP")
    views: int = Field(1, ge=1, description="Views of each training sample: the first is plain, the others are random")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Precision of matrix products above the cut; auto takes bf16 where the hardware multiplies it",
    )


class MethodSection(Section):
    """[method]: what learns, and the table of its options."""

    name: Annotated[str, Expected("the name of a method")] = Field("comm", description="The method that learns")
    options: dict[str, Any] = Field(default_factory=dict)


class TrainSection(Section):
    """[train]: the run itself."""

    device: Annotated[str, Expected('"auto", "cpu", "cuda" or "cuda:N"')] = Field(
        "auto", pattern=DEVICE, description="The device that learns; auto takes a CUDA GPU where there is one"
    )
    seed: Seed = Field(0, description="Seed of everything random in training")
    cache: Annotated[
        str | None,
        Nullable,
        Expected(
            'a folder for trunk tokens, "auto" for the user\'s cache folder, or "none" for a temporary folder '
            "on disk, removed when the process ends"
        ),
    ] = Field("auto", description="Where the frozen trunk's output for each sample is kept")
    cache_gb: Limit = Field(20.0, description="Largest size of the cache on disk, in 10^9 bytes")
    workers: int = Field(2, ge=0, description="Decoding threads")
    evaluate: Literal["both", "given", "agnostic"] = Field(
        "both", description="Whether the model is given the modality of the samples that it is tested on"
    )
    evaluate_unseen: bool = Field(
        True, description="Also test on the next task before it is learned, for forward transfer"
    )
    checkpoint_every: int = Field(200, ge=1, description="Training steps between checkpoints inside a task")
    keep_checkpoints: Annotated[
        int | Literal["all"], Expected('"all" or a whole number from 2: how many of the newest stay')
    ] = Field("all", description="Which checkpoints at the ends of tasks stay")
    keep_test_gb: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Most trunk tokens of test and validation samples that a run keeps, in 10^9 bytes, to test later "
        "versions without the files; 0: none",
    )
    private: bool = Field(
        False,
        description="Keep no pictures, texts or trunk tokens of samples in the run folder; paths and class names stay",
    )
    deterministic: bool = Field(
        False, description="Give the same bits again on a GPU, more slowly; on a CPU this changes nothing"
    )
    track: Annotated[list[Literal["tensorboard", "wandb"]], Expected('a list of "tensorboard" and "wandb", or []')] = (
        Field(default_factory=list, description="Trackers that show metrics.jsonl besides the report")
    )

    @field_validator("keep_checkpoints")
    @classmethod
    def _keep_two(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 2:  # the second newest is read where the newest is broken
            raise ValueError("at least 2")
        return value


class Config(Section):
    """Everything that decides what a run does. ``model_dump(mode="json")`` is what config.json holds."""

    stream: StreamSection = Field(default_factory=StreamSection)
    media: MediaSection = Field(default_factory=MediaSection)
    encoder: EncoderSection = Field(default_factory=EncoderSection)
    method: MethodSection = Field(default_factory=MethodSection)
    train: TrainSection = Field(default_factory=TrainSection)

"""Scenarios: selected modalities, orders and shares, and that a seed fixes them."""

from collections import Counter
from pathlib import Path

import pytest

from mmcl_fast.config import build_config
from mmcl_fast.errors import ConfigError, StreamError
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.streams import Stream
from tests.toy import write_folder

ENDING = {"image": "png", "audio": "wav", "text": "txt", "depth": "png"}


def write(root: Path, classes: dict[str, int], train: int = 10) -> Path:
    """Write files whose content is their own path. They do not decode."""
    for modality, count in classes.items():
        for c in range(count):
            for split, files in (("train", train), ("test", 2)):
                folder = root / modality / split / f"c{c:02}"
                folder.mkdir(parents=True)
                for i in range(files):
                    path = folder / f"{i}.{ENDING[modality]}"
                    path.write_text(str(path))
    return root


@pytest.fixture
def folder(tmp_path):
    """Three tasks of images, two of audio, one of text, two classes each."""
    return write(tmp_path / "data", {"image": 6, "audio": 4, "text": 2})


def names(folder, **options):
    return [task.name for task in Stream.from_folder(folder, classes_per_task=2, **options).tasks]


def counts(stream: Stream, split: str = "train") -> Counter:
    return Counter((s.modality, s.label) for task in stream.tasks for s in task.split(split))


def test_blocks_and_interleaved(folder):
    assert names(folder) == ["image-0", "image-1", "image-2", "audio-0", "audio-1", "text-0"]
    assert names(folder, order="interleaved") == ["image-0", "audio-0", "text-0", "image-1", "audio-1", "image-2"]
    chosen = names(folder, order="interleaved", modalities=["text", "image"])
    assert chosen == ["text-0", "image-0", "image-1", "image-2"]


def test_a_seed_fixes_the_random_order(folder):
    drawn = [names(folder, order="random", seed=seed) for seed in range(20)]
    assert drawn == [names(folder, order="random", seed=seed) for seed in range(20)]
    assert len(set(map(tuple, drawn))) > 10 and all(sorted(d) == sorted(drawn[0]) for d in drawn)
    assert all([n for n in d if n.startswith("image")] == ["image-0", "image-1", "image-2"] for d in drawn)


def test_selected_modalities_come_in_the_given_order(folder):
    alone = Stream.from_folder(folder, classes_per_task=2, modalities=["audio"])
    assert alone.modalities == ["audio"] and len(alone) == 2 and len(alone.classes) == 4
    assert names(folder, modalities=["text", "audio"]) == ["text-0", "audio-0", "audio-1"]
    (folder / "image" / "train" / "c00" / "0.png").write_bytes(b"")  # files that are left out are not checked
    assert names(folder, modalities=["text"]) == ["text-0"]


def test_a_new_modality_after_many_tasks(folder):
    for order in ("blocks", "interleaved", "random"):
        for seed in range(5):
            found = names(folder, order=order, late="audio", seed=seed)
            assert found[-2:] == ["audio-0", "audio-1"] and len(found) == 6
    assert names(folder, order="interleaved", late="image")[:3] == ["audio-0", "text-0", "audio-1"]
    assert names(folder, modalities=["image", "text"], late="image")[0] == "text-0"
    assert len({tuple(names(folder, order="random", late="text", seed=seed)) for seed in range(12)}) > 3


def test_unbalanced_modalities(folder):
    full = Stream.from_folder(folder, classes_per_task=2)
    less = {
        part: Stream.from_folder(folder, classes_per_task=2, share={"audio": part, "image": 1.0}, seed=4)
        for part in (0.5, 0.2, 0.001)
    }
    train_keys = {
        part: {s.key for task in stream.tasks for s in task.train if s.modality == "audio"}
        for part, stream in less.items()
    }
    for part, per_class in ((0.5, 5), (0.2, 2), (0.001, 1)):
        found = counts(less[part])
        assert {n for (m, _), n in found.items() if m == "audio"} == {per_class}
        assert {n for (m, _), n in found.items() if m != "audio"} == {10}
        assert counts(less[part], "test") == counts(full, "test")
    assert train_keys[0.001] < train_keys[0.2] < train_keys[0.5]
    again = Stream.from_folder(folder, classes_per_task=2, share={"audio": 0.5, "image": 1.0}, seed=4)
    other = Stream.from_folder(folder, classes_per_task=2, share={"audio": 0.5}, seed=5)
    assert again.fingerprint == less[0.5].fingerprint != other.fingerprint
    assert counts(other) == counts(again)
    held = Stream.from_folder(folder, classes_per_task=2, share={"audio": 0.5}, seed=4, validation=0.2)
    assert counts(held, "val")["audio", "c00"] == 1 and counts(held)["audio", "c00"] == 4
    assert {s.key for t in held.tasks for s in t._samples if s.modality == "audio" and s.split != "test"} == train_keys[
        0.5
    ]


def test_at_most_so_many_training_samples_of_a_class(folder):
    def make(limit, seed=4, **options):
        stream = Stream.from_folder(folder, classes_per_task=2, max_train_per_class=limit, seed=seed, **options)
        assert counts(stream, "test") == counts(Stream.from_folder(folder, classes_per_task=2), "test")
        kept = {sample.key for task in stream.tasks for sample in task.train if sample.modality == "audio"}
        return kept, {n for (modality, _), n in counts(stream).items() if modality == "audio"}, stream

    two, of_two, stream = make({"audio": 2})
    four, of_four, _ = make({"audio": 4})
    assert (of_two, of_four) == ({2}, {4}) and two < four
    assert {n for (modality, _), n in counts(stream).items() if modality != "audio"} == {10}
    assert make({"audio": 2}, seed=5)[0] != two == make({"audio": 2})[0]
    assert make({"audio": 10})[1] == make({"audio": 99})[1] == {10}
    assert make({"audio": 4}, share={"audio": 0.2})[0] == two == make({"audio": 2}, share={"audio": 0.9})[0]


def test_classes_that_stay_together(folder):
    def tasks(seed, **options):
        options = {"classes_per_task": 2, "classes_together": 2, "shuffle_classes": True} | options
        return [task.classes for task in Stream.from_folder(folder, seed=seed, **options).tasks]

    pairs = {("c00", "c01"), ("c02", "c03"), ("c04", "c05")}
    drawn = [tasks(seed, modalities=["image"]) for seed in range(12)]
    assert all(set(found) == pairs for found in drawn) and len(set(map(tuple, drawn))) > 3
    apart = [tasks(seed, modalities=["image"], classes_together=1) for seed in range(12)]
    assert any(set(found) != pairs for found in apart)
    four = [tasks(seed, modalities=["image"], classes_per_task=4) for seed in range(12)]
    assert all(set(zip(found[0][::2], found[0][1::2])) | {found[1]} == pairs for found in four)
    # Four and two of six classes: the smaller group comes last, so that all tasks but the last one are whole.
    assert {
        tuple(tasks(seed, modalities=["image"], classes_together=4, classes_per_task=4)[1]) for seed in range(9)
    } == {("c04", "c05")}
    assert tasks(0, shuffle_classes=False) == [task.classes for task in Stream.from_folder(folder, classes_per_task=2)]
    one_task = tasks(1, modalities=["image"], classes_per_task=None)[0]
    assert set(zip(one_task[::2], one_task[1::2])) == pairs


def test_classes_shared_between_modalities(folder):
    apart, shared = (
        Stream.from_folder(folder, classes_per_task=2, order="interleaved", shared_classes=x) for x in (False, True)
    )
    assert len(apart.classes) == 12 and len(shared.classes) == 6
    assert shared[1].class_ids == shared[0].class_ids == (("image", "c00"), ("image", "c01"))


def test_a_hundred_tasks(tmp_path):
    folder = write(tmp_path / "long", {"image": 40, "audio": 25, "text": 35}, train=1)
    for order in ("blocks", "random", "interleaved"):
        stream = Stream.from_folder(folder, classes_per_task=1, order=order, seed=1)
        assert len(stream) == 100 == len(stream.classes) and all(len(task.classes) == 1 for task in stream.tasks)
    assert [task.modality for task in stream.tasks[-5:]] == ["image"] * 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"modalities": ["imge"]}, "modalities: no 'imge' in this stream .did you mean 'image'"),
        ({"modalities": []}, "name each modality"),
        ({"modalities": ["text", "text"]}, "name each modality"),
        ({"late": "video"}, "late: no 'video' in this stream"),
        ({"late": "text", "order": ["text:0"]}, "leave late out"),
        ({"modalities": ["image"], "late": "audio"}, "late: no 'audio'"),
        ({"share": {"depth": 0.5}}, "share: no 'depth'"),
        ({"share": {"image": 0.0}}, "share of image = 0.0"),
        ({"share": {"image": 1.5}}, "share of image = 1.5"),
        ({"max_train_per_class": {"depth": 2}}, "max_train_per_class: no 'depth'"),
        ({"max_train_per_class": {"image": 0}}, "max_train_per_class of image = 0: give 1 or more"),
        ({"classes_together": 0}, "classes_together = 0: give 1 or more"),
        ({"classes_together": 3}, "classes_together = 3: does not divide classes_per_task = 2"),
        ({"order": "interleave"}, "'interleaved' or a list"),
    ],
)
def test_unknown_modalities_and_orders_are_named(folder, options, reason):
    with pytest.raises(StreamError, match=reason):
        Stream.from_folder(folder, classes_per_task=2, **options)


def test_the_config_has_the_same_options(tmp_path):
    write_folder(tmp_path / "data", classes=2, train=4, test=1)
    stream = {
        "source": "folder",
        "path": str(tmp_path / "data"),
        "classes_per_task": 1,
        "order": "interleaved",
        "modalities": ["text", "depth"],
        "late": "text",
        "share": {"depth": 0.5, "text": 1},
        "max_train_per_class": {"text": 3},
    }
    made = make_stream(build_config({"stream": stream}))
    assert [task.name for task in made.tasks] == ["depth-0", "depth-1", "text-0", "text-1"]
    assert [len(task.train) for task in made.tasks] == [2, 2, 3, 3]
    assert build_config({"stream": {"modalities": "none", "late": "none"}}).stream == build_config({}).stream
    together = {"classes_per_task": 2, "classes_together": 2, "shuffle_classes": True, "late": "none"}
    assert all(len(task.classes) == 2 for task in make_stream(build_config({"stream": stream | together})).tasks)
    with pytest.raises(StreamError, match="classes_together = 2"):
        make_stream(build_config({"stream": stream | {"classes_together": 2}}))
    for wrong in ({"max_train_per_class": {"image": 0}}, {"max_train_per_class": 2}, {"classes_together": 0}):
        with pytest.raises(ConfigError, match=f"stream.{next(iter(wrong))}"):
            build_config({"stream": wrong})
    for wrong in ({"share": {"image": "half"}}, {"order": "interleave"}, {"modalities": "image"}, {"late": 3}):
        with pytest.raises(ConfigError, match=f"stream.{next(iter(wrong))}: expected"):
            build_config({"stream": wrong})

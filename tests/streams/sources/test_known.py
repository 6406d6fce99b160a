"""Known datasets, on tiny copies of their layouts."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmcl_fast import media
from mmcl_fast.config import Config, build_config, load_config
from mmcl_fast.errors import ConfigError, MediaError
from mmcl_fast.learning import Learner
from mmcl_fast.media.source import Slice, head, read_bytes, size_of
from mmcl_fast.media.spec import adjust, default_spec
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.streams import Stream
from mmcl_fast.streams.file_check import skip_broken_samples
from mmcl_fast.streams.sources.known import LAYOUTS
from tests.media.files import plain
from tests.streams.helpers import assert_refused
from tests.streams.sources.known_files import COPIES, photo, plane, put
from tests.toy import ToyEncoder


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> dict[str, Path]:
    """Return dataset -> a tiny copy, which tests must not change."""
    root = tmp_path_factory.mktemp("known")
    out = {}
    for name, (write, *_) in COPIES.items():
        if name == "sun_rgbd":
            pytest.importorskip("scipy")
        out[name] = root / name
        out[name].mkdir()
        write(out[name])
    return out


@pytest.fixture
def copy(copies, tmp_path):
    """Return a function that makes a copy of one dataset, which a test may change."""
    return lambda name: Path(shutil.copytree(copies[name], tmp_path / name))


def kinds(name: str) -> dict:
    return {"depth_kind": LAYOUTS[name].depth_kind} if LAYOUTS[name].modality == "depth" else {}


@pytest.mark.parametrize("name", LAYOUTS)
def test_official_classes_and_splits(copies, name):
    _, labels, texts, train, test = COPIES[name]
    stream = Stream.from_known({name: copies[name]}, check=True)
    (task,) = stream.tasks
    assert task.modality == LAYOUTS[name].modality and stream.root == copies[name]
    assert list(task.classes) == labels and list(task.texts) == (texts or labels)
    assert (len(task.train), len(task.test), len(task.val)) == (train, test, 0)
    assert all(sample.key.startswith(f"{name}/") for sample in stream.samples)
    assert {sample.label for sample in task.train} == {sample.label for sample in task.test} == set(labels)
    # Every file decodes, and equal files in two splits are allowed.
    assert not skip_broken_samples(stream, settings=kinds(name)).skipped


def test_each_file_has_its_class(copies):
    """The class of a sample comes from its folder, name, row or bytes, whichever the dataset uses."""

    def of(name, **options):
        stream = Stream.from_known({name: {"path": copies[name], **options}})
        return {sample.key.removeprefix(f"{name}/"): sample for sample in stream.samples}

    assert of("imagenet_r")["n01484850/art_0.jpg"].label == "great white shark"
    assert of("imagenet_100")["val/n03126707/ILSVRC2012_val_00000001.JPEG"].label == "crane (n03126707)"
    cifar = of("cifar_100")
    assert cifar["train.bin/00004"].label == "aquarium_fish" and cifar["test.bin/00002"].label == "baby"
    assert of("ucf101", split=2)["UCF-101/HandstandPushups/v_HandStandPushups_g02_c01.avi"].split == "test"
    assert of("hmdb51")["hmdb51_org/shoot_ball/#20 (x)_shoot_ball_2.avi"].split == "test"
    something = of("something_something_v2")["20bn-something-something-v2/5.webm"]
    assert (something.label, something.split) == ("Moving something and something closer", "test")
    assert of("esc_50", split=5)["audio/5-100-A-1.wav"].split == "test"
    assert of("esc_50")["audio/5-100-A-1.wav"].split == "train"
    assert of("urbansound8k", split=10)["audio/fold10/10-1-0-0.wav"].split == "test"
    assert of("vggsound")["video/--13g-f_I2y_000090.wav"].label == "child speech, kid speaking"
    strong = of("audioset_strong")
    assert strong["train/Ya1-2nhu_JCQ.wav"].label == "Bark" and strong["eval/b2-2nhu_JCQ.wav"].label == "Cheering"
    nyu = of("nyu_depth_v2")
    assert nyu["test/cafe/sync_depth_00020.png"].label == "others" and not any("rgb" in key for key in nyu)
    assert of("ag_news")["test.csv:4"].text == 'Title, "3" Words 3 of test\\more'
    assert of("ag_news")["test.csv:4"].label == "Sci/Tech"
    news = of("newsgroups_20")["20news-bydate-train/comp.sys.ibm.pc.hardware/50001"]
    assert news.text == "Re: About comp.sys.ibm.pc.hardware 1\nIt is café.\n\nAnd more."


def test_imagenet_r_is_split_the_same_everywhere(copies, copy):
    stream = Stream.from_known({"imagenet_r": copies["imagenet_r"]})
    test = {sample.key for sample in stream[0].test}
    again = copy("imagenet_r")
    assert {sample.key for sample in Stream.from_known({"imagenet_r": again})[0].test} == test
    for key in (sample.key for sample in stream.samples):
        _, wnid, name = key.split("/")
        put(again, f"{'test' if key in test else 'train'}/{wnid}/{name}", (again / wnid / name).read_bytes())
    split = Stream.from_known({"imagenet_r": again})
    assert {sample.key.replace("/test/", "/") for sample in split[0].test} == test
    assert split[0].classes == stream[0].classes and len(split[0].train) == 16


def test_places_of_imagenets_names_and_lists(copies, copy):
    """Kaggle has other folders and JSON. An index may be above the folder, and the list of classes may be given."""
    root = copy("imagenet_100")
    kaggle = root.parent / "kaggle"
    for i, wnid in enumerate(("n01443537", "n01484850")):
        put(kaggle, f"train.X{i + 1}/{wnid}/a.JPEG", photo())
        put(kaggle, f"val.X/{wnid}/b.JPEG", photo(1))
    put(kaggle, "Labels.json", '{"n01484850": "great white shark, white shark", "n01443537": "goldfish, Carassius"}')
    assert Stream.from_known({"imagenet_100": kaggle})[0].classes == ("great white shark", "goldfish")
    put(root.parent, "mine.txt", "n01440764 a fish\nn01484850\n")
    mine = Stream.from_known({"imagenet_100": {"path": root, "classes": root.parent / "mine.txt"}})
    assert mine[0].classes == ("a fish", "great white shark")
    (root / "LOC_synset_mapping.txt").unlink()
    put(
        root.parent,
        "imagenet_class_index.json",
        '{"1": ["n01443537", "goldfish"], "134": ["n02012849", "crane"], "517": ["n03126707", "crane"]}',
    )
    assert Stream.from_known({"imagenet_100": root})[0].classes == tuple(COPIES["imagenet_100"][1])
    (root.parent / "imagenet_class_index.json").unlink()
    assert_refused(lambda: Stream.from_known({"imagenet_100": root}), "no name for n03126707", "LOC_synset_mapping.txt")
    (root / "imagenet100.txt").unlink()
    assert_refused(lambda: Stream.from_known({"imagenet_100": root}), "5 class folders", "imagenet100.txt")


def test_cifar_records_are_images(copies):
    stream = Stream.from_known({"cifar_100": copies["cifar_100"]})
    sample = next(s for s in stream[0].test if s.key.endswith("00001"))
    row = np.frombuffer((copies["cifar_100"] / "test.bin").read_bytes(), np.uint8).reshape(3, 3074)[1]
    assert isinstance(sample.path, Slice) and sample.path.planes == (32, 32)
    picture = media.decode(sample.path, "image", plain(size=32))
    assert np.array_equal((picture[0] * 255).round().numpy().astype(np.uint8).reshape(-1), row[2:])
    assert media.sniff(sample.path) == "image" and head(sample.path, 3) == b"P6 "
    assert read_bytes(sample.path).startswith(b"P6 32 32 255\n") and size_of(sample.path) == 3072
    short = Slice(sample.path.path, sample.path.offset + 4000, 3072, "x", (32, 32))
    with pytest.raises(MediaError, match="ends inside it"):
        read_bytes(short)


def test_the_rotated_bits_of_sun_rgbd(tmp_path):
    """The metres are the same as in a plain map, also beyond 8.191 m, where a bit is rotated to the other end."""
    put(tmp_path, "plain.png", plane(3))
    put(tmp_path, "turned.png", plane(3, turned=True))
    spec = default_spec("depth")
    turned = adjust(spec, {"depth_kind": "sun_rgbd"})
    want = media.decode(tmp_path / "plain.png", "depth", spec)
    assert (media.decode(tmp_path / "turned.png", "depth", turned) == want).all()
    assert (media.decode(tmp_path / "turned.png", "depth", spec) - want).abs().max() > 0.1
    np.save(tmp_path / "a.npy", np.ones((4, 4), np.float32))
    with pytest.raises(MediaError, match="16 bits, this is float32: set depth_kind"):
        media.decode(tmp_path / "a.npy", "depth", turned)


FIVE = {"image": "imagenet_r", "video": "ucf101", "audio": "esc_50", "depth": "nyu_depth_v2", "text": "ag_news"}


def five(name: str, copies: dict[str, Path], *overrides: str) -> Config:
    loaded = load_config(name)
    tables = loaded.stream.datasets.model_dump()
    return load_config(name, [*(f"stream.datasets.{m}.path={copies[tables[m]['name']]}" for m in tables), *overrides])


@pytest.mark.parametrize(
    "name, encoder",
    [
        ("five_clip", "openai/clip-vit-base-patch16"),
        ("five_siglip", "google/siglip-base-patch16-224"),
        ("five_sun_clip", "openai/clip-vit-base-patch16"),
        ("five_sun_siglip", "google/siglip-base-patch16-224"),
    ],
)
def test_the_five_modality_configs_need_only_paths(copies, name, encoder):
    loaded = five(name, copies)
    stream = make_stream(loaded)
    assert loaded.encoder.name == encoder and set(stream.modalities) == set(FIVE) and len(stream) == 5
    assert loaded.media.depth_kind == ("sun_rgbd" if "sun" in name else None)
    assert build_config(loaded.model_dump(mode="json")) == loaded


def test_five_datasets_are_learned(copies):
    loaded = five(
        "five_sun_clip",
        copies,
        "stream.classes_per_task=2",
        "stream.datasets.text.name=none",
        "stream.datasets.text.path=none",
    )
    stream = make_stream(loaded)
    learner = Learner(ToyEncoder(), "ridge", media=loaded.media.model_dump())
    for task in stream:
        learner.learn(task)
    assert sum(learner.evaluate(stream.tasks).counts) == sum(len(task.test) for task in stream) == 9
    assert learner.settings["media"]["depth_kind"] == "sun_rgbd"


@pytest.mark.parametrize(
    "overrides, parts",
    [
        ([], ["stream.datasets.image.path: missing", "the folder of imagenet_r", "README.txt"]),
        (["stream.datasets.image.name=imagnet_r"], ["stream.datasets.image.name", "did you mean 'imagenet_r'?"]),
        (["stream.datasets.image.name=esc_50"], ["no known dataset of image", "imagenet_r, imagenet_100, cifar_100"]),
        (["stream.datasets.image.pth=a"], ["[stream.datasets.image] has no such key", "'path'"]),
        (["stream.datasets.image.split=0"], ["stream.datasets.image.split: expected a whole number from 1"]),
        (["stream.datasets.images.name=a"], ["[stream.datasets] has no such key", "'image'"]),
        (["stream.path=a"], ["stream.path: not read where", "stream.datasets"]),
        (["stream.header=false"], ["stream.header: not read where"]),
        (["stream.source=folder", "stream.path=a"], ['stream.datasets: for source = "known"']),
    ],
)
def test_config_errors(overrides, parts):
    with pytest.raises(ConfigError) as caught:
        make_stream(load_config("five_clip", overrides))
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value), str(caught.value)


def test_more_config_errors(copies):
    def refused(*overrides, name="five_clip"):
        with pytest.raises(ConfigError) as caught:
            make_stream(five(name, copies, *overrides))
        return str(caught.value)

    assert 'media.depth_kind: set it to "sun_rgbd"' in refused("media.depth_kind=none", name="five_sun_clip")
    assert 'media.depth_kind: set it to "depth"' in refused("media.depth_kind=disparity")
    assert "stream.datasets.video.name: missing; use one of ucf101" in refused("stream.datasets.video.name=none")
    with pytest.raises(ConfigError, match="stream.datasets: missing"):
        make_stream(load_config("folder", ["stream.source=known"]))


def test_paths_are_relative_to_the_config_file(tmp_path):
    put(
        tmp_path,
        "sub/mine.toml",
        '[stream]\nsource = "known"\n[stream.datasets]\n'
        'image = { name = "imagenet_100", path = "in", classes = "list.txt" }\n',
    )
    image = load_config(tmp_path / "sub" / "mine.toml").stream.datasets.image
    assert (image.path, image.classes) == (str(tmp_path / "sub" / "in"), str(tmp_path / "sub" / "list.txt"))


# Dataset -> the file or folder to remove, and the path that the message then begins with.
MISSING_FILES = {
    "imagenet_100": ("val", "val"),
    "cifar_100": ("test.bin", "test.bin"),
    "ucf101": ("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi",) * 2,
    "hmdb51": ("hmdb51_org/shoot_ball", "hmdb51_org/shoot_ball"),
    "something_something_v2": ("labels/validation.json",) * 2,
    "esc_50": ("audio/3-100-A-1.wav",) * 2,
    "urbansound8k": ("metadata/UrbanSound8K.csv",) * 2,
    "vggsound": ("video", "audio/---g-f_I2yQ_000001.wav"),
    "audioset_strong": ("mid_to_display_name.tsv",) * 2,
    "nyu_depth_v2": ("train", "train"),
    "sun_rgbd": ("SUNRGBDtoolbox", "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"),
    "ag_news": ("classes.txt",) * 2,
    "dbpedia": ("test.csv", "test.csv"),
    "newsgroups_20": ("20news-bydate-test/alt.atheism",) * 2,
}


@pytest.mark.parametrize("name", MISSING_FILES)
def test_a_missing_file_is_named_with_the_expected_files(copy, name):
    root = copy(name)
    gone, named = MISSING_FILES[name]
    (shutil.rmtree if (root / gone).is_dir() else os.unlink)(root / gone)
    assert_refused(
        lambda: Stream.from_known({name: root}),
        f"{root / named}: not there: {name} is read from a folder that holds",
        LAYOUTS[name].tree,
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_folder_is_refused_with_the_expected_files(tmp_path, name):
    assert_refused(lambda: Stream.from_known({name: tmp_path}), str(tmp_path), "not there", LAYOUTS[name].tree)
    assert_refused(
        lambda: Stream.from_known({name: tmp_path / "gone"}), f"{tmp_path / 'gone'}: not there", LAYOUTS[name].tree
    )


# Case -> the file to overwrite, its new content, and a part of the message.
DAMAGED = {
    "cifar_100": ("train.bin", b"\1" * 3000, "3000 bytes, no multiple of 3074"),
    "cifar_100 labels": ("train.bin", b"\7" * 3074, "a label 7, with 3 names"),
    "ucf101": ("ucfTrainTestlist/classInd.txt", b"1 ApplyEyeMakeup\n", "'HandstandPushups' is not in classInd.txt"),
    "hmdb51": ("testTrainMulti_7030_splits/brush_hair_test_split1.txt", b"a.avi 7\n", "the line 'a.avi 7'"),
    "something_something_v2": ("labels/train.json", b"[1", "not JSON"),
    "something_something_v2 kind": ("labels/train.json", b"{}", "not a list"),
    "something_something_v2 row": ("labels/train.json", b"[{}]", "no id and template in {}"),
    "something_something_v2 name": ("labels/labels.json", b"{}", "is not in labels.json"),
    "esc_50": ("meta/esc50.csv", b"file,fold\n", "no column 'filename'"),
    "vggsound": ("vggsound.csv", b"a,b,c,train\n", "line 1"),
    "audioset_strong": ("mid_to_display_name.tsv", b"/m/1\tA\n", "'/m/053hz1' is not in mid_to_display_name.tsv"),
    "sun_rgbd": ("SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat", b"MATLAB" * 99, "not readable"),
    "ucf101 text": ("ucfTrainTestlist/trainlist01.txt", b"caf\xe9", "trainlist01.txt line 1: not UTF-8"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named(copy, case):
    name = case.split()[0]
    root, (place, content, part) = copy(name), DAMAGED[case]
    put(root, place, content)
    assert_refused(lambda: Stream.from_known({name: root}), str(root), part, f"not as in {name}")


def test_nothing_is_unpickled(tmp_path):
    for name in ("train", "test", "meta"):
        put(tmp_path, name, pickle.dumps({b"data": []}))
    assert_refused(lambda: Stream.from_known({"cifar_100": tmp_path}), "pickled", "cifar-100-binary.tar.gz")


def test_folders_of_cifar(tmp_path):
    for split in ("train", "test"):
        for label in ("apple", "maple_tree"):
            put(tmp_path, f"{split}/{label}/1.jpg", photo())
    stream = Stream.from_known({"cifar_100": tmp_path})
    assert stream[0].classes == ("apple", "maple_tree") and stream[0].texts == ("apple", "maple tree")


def test_argument_errors(copies):
    assert_refused(lambda: Stream.from_known({}), "no dataset given", "imagenet_r")
    assert_refused(lambda: Stream.from_known({"esc50": "a"}), "unknown dataset 'esc50' (did you mean 'esc_50'?)")
    assert_refused(lambda: Stream.from_known({"esc_50": "a", "vggsound": "b"}), "esc_50 and vggsound are both audio")
    assert_refused(lambda: Stream.from_known({"esc_50": {"path": copies["esc_50"], "split": 6}}), "split = 6: it has 5")
    assert_refused(lambda: Stream.from_known({"ag_news": {"path": "a", "split": 2}}), "split = 2: it has 1")
    assert_refused(lambda: Stream.from_known({"ucf101": {"path": "a", "classes": "b"}}), "for imagenet_100 only")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_in_other_encodings_and_with_other_line_ends(copy, encoding, end):
    """An editor on another system may save the lists like this."""
    for name, place in (("ucf101", "ucfTrainTestlist/classInd.txt"), ("esc_50", "meta/esc50.csv")):
        root = copy(name)
        expected = Stream.from_known({name: root}).fingerprint
        text = (root / place).read_text()
        (root / place).write_bytes("".join(line + end for line in text.splitlines()).encode(encoding))
        assert Stream.from_known({name: root}).fingerprint == expected


def test_a_line_of_a_list_ends_with_a_line_end_only(copy):
    root = copy("cifar_100")
    names = root / "fine_label_names.txt"
    listed = names.read_text().splitlines()
    names.write_text("\n".join([f"{listed[0]}\u2028{listed[0]}", *listed[1:]]))
    assert Stream.from_known({"cifar_100": root})[0].classes[0] == f"{listed[0]}\u2028{listed[0]}"


def test_further_columns_of_a_known_table(copy):
    root = copy("vggsound")
    expected = Stream.from_known({"vggsound": root}).fingerprint
    lines = (root / "vggsound.csv").read_text().splitlines()
    (root / "vggsound.csv").write_text("".join(f"{line},more\n" for line in lines))
    assert Stream.from_known({"vggsound": root}).fingerprint == expected


def test_a_link_to_a_folder_above_itself_ends(copy):
    root = copy("vggsound")
    expected = Stream.from_known({"vggsound": root}).fingerprint
    (root / "video" / "loop").symlink_to(root)
    assert Stream.from_known({"vggsound": root}).fingerprint == expected

"""Tiny copies of the known datasets' layouts."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.media.files import counting_video, jpeg, tone

WNIDS = {"n01443537": "goldfish", "n01484850": "great_white_shark", "n02012849": "crane", "n03126707": "crane"}


def put(root: Path, place: str, content: bytes | str) -> None:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def photo(seed: int = 0) -> bytes:
    return jpeg(Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 16, 3)).astype(np.uint8)))


def plane(seed: int = 0, turned: bool = False) -> bytes:
    """A depth map in millimetres up to 9 m; ``turned``: as SUN RGB-D stores it."""
    values = np.random.default_rng(seed).integers(500, 9000, (12, 16)).astype(np.uint16)
    data = io.BytesIO()
    Image.fromarray(values << 3 | values >> 13 if turned else values).save(data, "PNG")
    return data.getvalue()


def wav(seed: int = 0) -> bytes:
    import soundfile

    data = io.BytesIO()
    soundfile.write(data, tone(300 + 10 * seed, 8000, 0.2), 8000, format="WAV")
    return data.getvalue()


@cache
def clip(folder: Path, ending: str) -> bytes:
    return counting_video(folder / f"clip.{ending}", 6, "mjpeg" if ending == "avi" else "libvpx", size=32).read_bytes()


def table(*rows: tuple, tabs: bool = False, **options) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter="\t" if tabs else ",", lineterminator="\n", **options).writerows(rows)
    return out.getvalue()


def imagenet_r(root: Path) -> None:
    put(root, "README.txt", "ImageNet-R(endition)\n\n" + "".join(f"{w} {n}\n" for w, n in list(WNIDS.items())[:2]))
    for number, wnid in enumerate(("n01484850", "n01443537")):
        for i in range(10):
            put(root, f"{wnid}/art_{i}.jpg", photo(10 * number + i))


def imagenet_100(root: Path) -> None:
    put(
        root,
        "LOC_synset_mapping.txt",
        "n01443537 goldfish, Carassius auratus\nn01484850 great white shark, white "
        "shark\nn02012849 crane\nn03126707 crane\nn01440764 tench, Tinca tinca\n",
    )
    put(root, "imagenet100.txt", "n03126707\nn01443537\nn02012849\n")
    for wnid in (*WNIDS, "n01440764"):
        for i in range(2):
            put(root, f"train/{wnid}/{wnid}_{i}.JPEG", photo(i))
        put(root, f"val/{wnid}/ILSVRC2012_val_00000001.JPEG", photo(9))


def cifar_100(root: Path) -> None:
    put(root, "fine_label_names.txt", "apple\naquarium_fish\nbaby\n\n")
    put(root, "coarse_label_names.txt", "fish\nfruit_and_vegetables\npeople\n")
    for split, count in (("train", 9), ("test", 3)):
        rows = np.random.default_rng(count).integers(0, 255, (count, 3074)).astype(np.uint8)
        rows[:, 0], rows[:, 1] = 0, np.arange(count) % 3
        put(root, f"{split}.bin", rows.tobytes())


def ucf101(root: Path) -> None:
    video = clip(root, "avi")
    put(root, "ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    for split in (1, 2, 3):
        lists = {"train": "", "test": ""}
        for number, (label, name) in enumerate((("ApplyEyeMakeup",) * 2, ("HandstandPushups", "HandStandPushups")), 1):
            for group in (1, 2, 3):
                place = f"{label}/v_{name}_g0{group}_c01.avi"
                put(root, f"UCF-101/{place}", video)
                test = group == split
                lists["test" if test else "train"] += place + ("\n" if test else f" {number}\n")
        for word, lines in lists.items():
            put(root, f"ucfTrainTestlist/{word}list0{split}.txt", lines)


def hmdb51(root: Path) -> None:
    video = clip(root, "avi")
    for label in ("brush_hair", "shoot_ball"):
        for i in range(4):
            put(root, f"hmdb51_org/{label}/#20 (x)_{label}_{i}.avi", video)
        for split in (1, 2, 3):
            tags = "".join(f"#20 (x)_{label}_{i}.avi {tag} \n" for i, tag in enumerate((1, 1, 2, 0)))
            put(root, f"testTrainMulti_7030_splits/{label}_test_split{split}.txt", tags)


def something_something_v2(root: Path) -> None:
    video = clip(root, "webm")
    templates = {"0": "Approaching [something] with your camera", "1": "Moving [something] and [something] closer"}
    put(root, "labels/labels.json", json.dumps({t.translate({91: None, 93: None}): k for k, t in templates.items()}))
    for word, ids in (("train", range(4)), ("validation", range(4, 6))):
        records = [{"id": str(i), "label": "x", "template": templates[str(i % 2)], "placeholders": ["x"]} for i in ids]
        put(root, f"labels/{word}.json", json.dumps(records))
    for i in range(6):
        put(root, f"20bn-something-something-v2/{i}.webm", video)


def esc_50(root: Path) -> None:
    rows: list[tuple] = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
    for fold in range(1, 6):
        for target, label in enumerate(("dog", "chirping_birds")):
            rows.append((f"{fold}-100-A-{target}.wav", fold, target, label, True, 100, "A"))
            put(root, f"audio/{rows[-1][0]}", wav(fold))
    put(root, "meta/esc50.csv", table(*rows))


def urbansound8k(root: Path) -> None:
    rows: list[tuple] = [("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")]
    for fold in range(1, 11):
        for number, label in enumerate(("air_conditioner", "car_horn")):
            rows.append((f"{fold}-{number}-0-0.wav", fold, 0.0, 0.2, 1, fold, number, label))
            put(root, f"audio/fold{fold}/{rows[-1][0]}", wav(fold))
    put(root, "metadata/UrbanSound8K.csv", table(*rows))


def vggsound(root: Path) -> None:
    rows = []
    for number, label in enumerate(("people marching", "child speech, kid speaking", "one without a test clip")):
        for i in range(4):
            rows.append((f"--{number}{i}g-f_I2y", 30 * i, label, "test" if i == 3 else "train"))
            if i != 1 and (number, i) != (2, 3):  # gone from where it came from
                put(root, f"video/--{number}{i}g-f_I2y_{30 * i:06d}.wav", wav(i))
    put(root, "vggsound.csv", table(*rows))


def audioset_strong(root: Path) -> None:
    put(
        root, "mid_to_display_name.tsv", "/m/053hz1\tCheering\n/m/05tny_\tBark\n/m/07rkbfh\tChatter\n/m/09x0r\tSpeech\n"
    )
    for word, folder in (("train", "a"), ("eval", "b")):
        rows: list[tuple] = [("segment_id", "start_time_seconds", "end_time_seconds", "label")]
        for i, label in enumerate(("/m/053hz1", "/m/05tny_", "/m/053hz1")):
            clip = f"{folder}{i}-2nhu_JCQ"
            rows += [(f"{clip}_30000", *event) for event in ((0, 4, label), (4, 9, "/m/07rkbfh"), (6, 9, label))]
            put(root, f"{word}/" + (f"{clip}_30000.wav", f"Y{clip}.wav", f"{clip}.wav")[i], wav(i))
        rows += [(f"{folder}9-2nhuJCQ_0", 0, 9, "/m/09x0r")]  # gone
        put(root, f"audioset_{word}_strong.tsv", table(*rows, tabs=True))


def nyu_depth_v2(root: Path) -> None:
    for number, scene in enumerate(("bedroom", "foyer", "cafe", "home_office")):
        for split, count in (("train", 2), ("test", 1)):
            if (scene, split) != ("cafe", "train"):
                for i in range(count):
                    put(root, f"{split}/{scene}/sync_depth_{10 * number + i:05d}.png", plane(i))
                    put(root, f"{split}/{scene}/rgb_{10 * number + i:05d}.jpg", photo(i))


def sun_rgbd(root: Path) -> None:
    from scipy.io import savemat

    splits: dict[str, list[str]] = {"alltrain": [], "alltest": []}
    for number, scene in enumerate(("bathroom", "rest_space", "idk")):
        for i, split in enumerate(("alltrain", "alltrain", "alltest")):
            place = f"kv2/kinect2data/00{number}{i}_rgbf000103-resize"
            splits[split].append(f"/n/fs/sun3d/data/SUNRGBD/{place}" + "/" * (i % 2))
            put(root, f"SUNRGBD/{place}/scene.txt", scene)
            for folder in ("depth", "depth_bfx"):
                put(root, f"SUNRGBD/{place}/{folder}/0000103.png", plane(i, turned=True))
    path = root / "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
    path.parent.mkdir(parents=True)
    savemat(path, {name: np.array([places], object) for name, places in splits.items()}, do_compression=True)


def ag_news(root: Path) -> None:
    put(root, "classes.txt", "World\nSports\nBusiness\nSci/Tech\n")
    for split, count in (("train", 8), ("test", 4)):
        rows = [(1 + i % 4, f'Title, "{i}"', f"Words {i} of {split}\\more") for i in range(count)]
        put(root, f"{split}.csv", table(*rows, quoting=csv.QUOTE_ALL))


def dbpedia(root: Path) -> None:
    put(root, "classes.txt", "Company\nEducationalInstitution\nMeanOfTransportation\n")
    for split, count in (("train", 6), ("test", 3)):
        put(root, f"{split}.csv", "".join(f'{1 + i % 3},"Name {i}"," Words {i} of {split}."\n' for i in range(count)))


def newsgroups_20(root: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for group in ("alt.atheism", "comp.sys.ibm.pc.hardware"):
            for i in range(count):
                text = f"From: a@b.c\nSubject: Re: About {group} {i}\nLines: 2\n\nIt is caf\xe9.\n\nAnd more.\n"
                put(root, f"20news-bydate-{split}/{group}/{50000 + i}", text.encode("latin-1"))


# Name -> (what writes it, classes in order, their texts, samples to train and to test on).
COPIES = {
    "imagenet_r": (imagenet_r, ["goldfish", "great white shark"], None, 16, 4),
    "imagenet_100": (imagenet_100, ["crane (n03126707)", "goldfish", "crane (n02012849)"], None, 6, 3),
    "cifar_100": (cifar_100, ["apple", "aquarium_fish", "baby"], ["apple", "aquarium fish", "baby"], 9, 3),
    "ucf101": (ucf101, ["ApplyEyeMakeup", "HandstandPushups"], ["apply eye makeup", "handstand pushups"], 4, 2),
    "hmdb51": (hmdb51, ["brush_hair", "shoot_ball"], ["brush hair", "shoot ball"], 4, 2),
    "something_something_v2": (
        something_something_v2,
        ["Approaching something with your camera", "Moving something and something closer"],
        None,
        4,
        2,
    ),
    "esc_50": (esc_50, ["dog", "chirping_birds"], ["dog", "chirping birds"], 8, 2),
    "urbansound8k": (urbansound8k, ["air_conditioner", "car_horn"], ["air conditioner", "car horn"], 18, 2),
    "vggsound": (vggsound, ["people marching", "child speech, kid speaking"], None, 4, 2),
    "audioset_strong": (audioset_strong, ["Cheering", "Bark"], None, 3, 3),
    "nyu_depth_v2": (
        nyu_depth_v2,
        ["bedroom", "home_office", "others"],
        ["bedroom", "home office", "another indoor place"],
        6,
        4,
    ),
    "sun_rgbd": (sun_rgbd, ["bathroom", "rest_space"], ["bathroom", "rest space"], 4, 2),
    "ag_news": (
        ag_news,
        ["World", "Sports", "Business", "Sci/Tech"],
        ["World", "Sports", "Business", "science and technology"],
        8,
        4,
    ),
    "dbpedia": (
        dbpedia,
        ["Company", "EducationalInstitution", "MeanOfTransportation"],
        ["company", "educational institution", "mean of transportation"],
        6,
        3,
    ),
    "newsgroups_20": (newsgroups_20, ["alt.atheism", "comp.sys.ibm.pc.hardware"], ["atheism", "PC hardware"], 6, 4),
}

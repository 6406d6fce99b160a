"""NYU Depth V2 and SUN RGB-D: depth maps of scenes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmcl_fast.streams.sources.known.layout import DatasetFolder, KnownSample, Layout, underscores_to_spaces

# Gupta et al. (2013): the nine most frequent of the 27 scene types are classes, all others together are one class.
NYU_SCENES = (
    "bedroom",
    "kitchen",
    "living_room",
    "bathroom",
    "dining_room",
    "office",
    "home_office",
    "classroom",
    "bookstore",
)
OTHER_SCENES = "others"
# Song et al. (2015): the scene types with more than 80 pictures.
SUN_SCENES = (
    "bathroom",
    "bedroom",
    "classroom",
    "computer_room",
    "conference_room",
    "corridor",
    "dining_area",
    "dining_room",
    "discussion_area",
    "furniture_store",
    "home_office",
    "kitchen",
    "lab",
    "lecture_theatre",
    "library",
    "living_room",
    "office",
    "rest_space",
    "study_space",
)
SPLIT_FILE = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"


def _read_nyu(folder: DatasetFolder) -> Iterator[KnownSample]:
    prefix = folder.first("train", "official_splits/train").removesuffix("train")
    scenes = sorted(
        {
            (NYU_SCENES.index(scene) if scene in NYU_SCENES else len(NYU_SCENES), scene, split)
            for split in ("train", "test")
            for scene in folder.folders(prefix + split)
        }
    )
    for _, scene, split in scenes:
        place = f"{prefix}{split}/{scene}"
        for name in folder.files(place):
            if name.startswith("sync_depth_") and name.endswith(".png"):
                yield KnownSample(scene if scene in NYU_SCENES else OTHER_SCENES, split, f"{place}/{name}")


def _read_sun_rgbd(folder: DatasetFolder) -> list[KnownSample]:
    """Read the refined depth maps (depth_bfx) of the 19 classes."""
    samples = []
    for split, places in _read_split_folders(folder).items():
        for place in places:
            scene = folder.text(f"{place}/scene.txt").strip()
            if scene in SUN_SCENES:
                name = next((name for name in folder.files(f"{place}/depth_bfx") if name.endswith(".png")), None)
                if name is None:
                    raise folder.missing_error(f"{place}/depth_bfx/*.png")
                samples.append(KnownSample(scene, split, f"{place}/depth_bfx/{name}"))
    return samples


def _read_split_folders(folder: DatasetFolder) -> dict[str, list[str]]:
    """Return split -> folders of its images. The file has them with the authors' own prefix, /n/fs/sun3d/data/."""
    place = folder.first(SPLIT_FILE)
    from scipy.io import loadmat  # here, because importing scipy takes longer than starting a command

    try:
        content = loadmat(folder.root / place, simplify_cells=True, variable_names=["alltrain", "alltest"])
        return {
            split: [
                "SUNRGBD/" + str(path).partition("/SUNRGBD/")[2].strip("/")
                for path in np.atleast_1d(content[f"all{split}"])
            ]
            for split in ("train", "test")
        }
    except Exception as error:  # broken bytes make loadmat raise any exception
        raise folder.format_error(place, f"not readable ({type(error).__name__}: {error})") from None


LAYOUTS = {
    "nyu_depth_v2": Layout(
        "depth",
        "train/<scene type>/sync_depth_00000.png and so on, test/<scene type>/"
        "sync_depth_00001.png and so on (16-bit millimetres), made of nyu_depth_v2_labeled.mat and "
        "splits.mat by extract_official_train_test_set_from_mat.py of the BTS repository",
        _read_nyu,
        text=lambda label: "another indoor place" if label == OTHER_SCENES else underscores_to_spaces(label),
    ),
    "sun_rgbd": Layout(
        "depth",
        "SUNRGBD/kv1/NYUdata/NYU0001/scene.txt, SUNRGBD/kv1/NYUdata/NYU0001/depth_bfx/*.png "
        f"and so on (kv1, kv2, realsense, xtion), {SPLIT_FILE}",
        _read_sun_rgbd,
        depth_kind="sun_rgbd",
    ),
}

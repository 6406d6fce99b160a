"""NYU Depth V2 and SUN RGB-D: depth maps of scenes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sources.known.layout import DatasetFolder, KnownSample, Layout, underscores_to_spaces

# Gupta et al. (2013): of the 27 scene types the nine most frequent ones, and all others as one.
NYU = (
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
OTHERS = "others"
# Song et al. (2015): the scene types with more than 80 pictures.
SUN = (
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
SPLIT = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"


def _nyu(folder: DatasetFolder) -> Iterator[KnownSample]:
    above = folder.first("train", "official_splits/train").removesuffix("train")
    scenes = sorted(
        {
            (NYU.index(scene) if scene in NYU else len(NYU), scene, split)
            for split in ("train", "test")
            for scene in folder.folders(above + split)
        }
    )
    for _, scene, split in scenes:
        place = f"{above}{split}/{scene}"
        for name in folder.files(place):
            if name.startswith("sync_depth_") and name.endswith(".png"):
                yield KnownSample(scene if scene in NYU else OTHERS, split, f"{place}/{name}")


def _sun_rgbd(folder: DatasetFolder) -> list[KnownSample]:
    """The refined maps (depth_bfx) of the 19 classes."""
    found = []
    for split, places in _allsplit(folder).items():
        for place in places:
            scene = folder.text(f"{place}/scene.txt").strip()
            if scene in SUN:
                name = next((name for name in folder.files(f"{place}/depth_bfx") if name.endswith(".png")), None)
                if name is None:
                    raise folder.lacks(f"{place}/depth_bfx/*.png")
                found.append(KnownSample(scene, split, f"{place}/depth_bfx/{name}"))
    return found


def _allsplit(folder: DatasetFolder) -> dict[str, list[str]]:
    """Places of the pictures' folders; the file holds them with the authors' own beginning, /n/fs/sun3d/data/."""
    place = folder.first(SPLIT)
    try:
        from scipy.io import loadmat
    except ImportError:
        raise StreamError(
            f"{folder.root / place}: MATLAB's files need the package scipy: pip install 'mmcl-fast[matlab]'"
        ) from None
    try:
        content = loadmat(folder.root / place, simplify_cells=True, variable_names=["alltrain", "alltest"])
        return {
            split: [
                "SUNRGBD/" + str(path).partition("/SUNRGBD/")[2].strip("/")
                for path in np.atleast_1d(content[f"all{split}"])
            ]
            for split in ("train", "test")
        }
    except Exception as error:  # broken bytes make it raise anything
        raise folder.fault(place, f"not readable ({type(error).__name__}: {error})") from None


LAYOUTS = {
    "nyu_depth_v2": Layout(
        "depth",
        "train/<scene type>/sync_depth_00000.png and so on, test/<scene type>/"
        "sync_depth_00001.png and so on (16-bit millimetres), made of nyu_depth_v2_labeled.mat and "
        "splits.mat by extract_official_train_test_set_from_mat.py of the BTS repository",
        _nyu,
        text=lambda label: "another indoor place" if label == OTHERS else underscores_to_spaces(label),
    ),
    "sun_rgbd": Layout(
        "depth",
        "SUNRGBD/kv1/NYUdata/NYU0001/scene.txt, SUNRGBD/kv1/NYUdata/NYU0001/depth_bfx/*.png "
        f"and so on (kv1, kv2, realsense, xtion), {SPLIT}",
        _sun_rgbd,
        depth_kind="sun_rgbd",
    ),
}

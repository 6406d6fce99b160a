"""Exported graphs give the learner's outputs without the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import mmcl_fast as mf
from mmcl_fast.encoders.base import Tokens
from mmcl_fast.errors import EncoderError, RunError
from mmcl_fast.export import export, folder
from mmcl_fast.export.graph import trace
from mmcl_fast.export.verify import largest_differences, synthetic_inputs
from mmcl_fast.learning.unknown import UnknownScores
from mmcl_fast.media import decode, spec_from_dict
from mmcl_fast.methods import METHODS
from mmcl_fast.methods.baselines.zero_shot import ZeroShot
from tests.cli.calls import call, error_of
from tests.toy import QUERY, ToyEncoder, write_folder

pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
MODALITIES = ("image", "depth", "text")
WITHOUT = "import sys; sys.modules['mmcl_fast'] = None\n"  # a program after this line can't import it
NEAR: dict[str, Any] = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a stream, a finished run that computed in bfloat16, and its exports in both formats."""
    from tests.tiny_models import write_clip

    root = tmp_path_factory.mktemp("export")
    write_folder(root / "data", classes=2, train=8, test=5, modalities=MODALITIES)
    write_clip(root / "model")
    (root / "mine.toml").write_text(
        '[stream]\nsource = "folder"\npath = "data"\n[encoder]\nname = "./model"\nprompt_blocks = 2\n'
        'precision = "bf16"\n'
        '[method.options]\nepochs = 1\nrealignment = "trained"\nsteps = 5\nsampled_features = 32\n'
        "batch_size = 8\ntext_scale_shift = true\n"
        '[train]\ndevice = "cpu"\n'
    )
    call("train", root / "mine.toml", "--out", root / "run", "--quiet")
    call("export", root / "run", "--out", root / "onnx")
    call("export", root / "run", "--out", root / "torch", "--format", "torch")
    return root


def prepared(place: Path, format: str, modality: str) -> tuple[list[Path], dict[str, np.ndarray]]:
    """Return test files of one class, and the graph's inputs, prepared as preprocess.json says."""
    from tokenizers import Tokenizer

    files = sorted((place / "data" / modality / "test" / "class_1").iterdir())
    assert len(files) == 5
    preparation = json.loads((place / format / "preprocess.json").read_text())[modality]
    items: list[Any] = [decode(file, modality, spec_from_dict(preparation["spec"])) for file in files]
    if modality != "text":
        return files, {"pixels": torch.stack(items).numpy()}
    found = Tokenizer.from_file(str(place / format / preparation["tokenizer"])).encode_batch(items)
    return files, {"ids": np.array([f.ids for f in found]), "mask": np.array([f.attention_mask for f in found])}


def learner_outputs(place: Path, files: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities ``[n, C]`` in the order of the classes, contributions ``[n, M]``, and ``[n]`` unknown."""
    learner = mf.Learner.load(place / "run", device="cpu", precision="fp32")
    found = learner.predict(files, top_k=len(learner.classes))
    rows = [[dict(zip(p.labels, p.probabilities))[key] for key in learner.classes.keys] for p in found]
    return (
        np.array(rows),
        np.array([list(p.contributions.values()) for p in found]),
        np.array([p.unknown for p in found]),
    )


@pytest.mark.parametrize("modality", MODALITIES)
def test_onnx_gives_the_learners_predictions(place: Path, modality: str) -> None:
    files, inputs = prepared(place, "onnx", modality)
    probabilities, contributions, unknown = learner_outputs(place, files)
    session = onnxruntime.InferenceSession(place / "onnx" / f"{modality}.onnx")
    for rows in (slice(0, 5), slice(0, 1), slice(3, 4)):
        names = ["probabilities", "contributions", "unknown"]
        got = session.run(names, {k: v[rows] for k, v in inputs.items()})
        np.testing.assert_allclose(got[0], probabilities[rows], **NEAR)
        np.testing.assert_allclose(got[1], contributions[rows], **NEAR)
        assert got[2].tolist() == unknown[rows].tolist()
    assert len(set(unknown)) > 1  # not all of them are as strange as can be
    assert {v.name: v.shape[0] for v in session.get_inputs()} == dict.fromkeys(inputs, "batch")
    assert {v.name: v.shape[0] for v in session.get_outputs()} == dict.fromkeys(
        ("probabilities", "logits", "embedding", "contributions", "unknown"), "batch"
    )


def test_torch_programs_run_without_the_package(place: Path, tmp_path: Path) -> None:
    program = WITHOUT + (
        "import numpy as np, torch\n"
        "for name in sys.argv[2:]:\n"
        "    module = torch.export.load(f'{sys.argv[1]}/{name}.pt2').module()\n"
        "    x = [torch.from_numpy(v) for v in np.load(f'{name}.npz').values()]\n"
        "    found = module(*x)\n"
        "    whole, unknown = found['probabilities'], found['unknown']\n"
        "    one = module(*(v[3:4] for v in x))['probabilities']\n"
        "    np.savez(f'{name}-out.npz', whole=whole.detach(), one=one.detach(), unknown=unknown)\n"
    )
    wanted = {}
    for modality in MODALITIES:
        files, inputs = prepared(place, "torch", modality)
        np.savez(tmp_path / f"{modality}.npz", allow_pickle=False, **inputs)
        wanted[modality] = learner_outputs(place, files)
    done = subprocess.run(
        [sys.executable, "-c", program, place / "torch", *MODALITIES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for modality, (values, _, unknown) in wanted.items():
        got = np.load(tmp_path / f"{modality}-out.npz")
        np.testing.assert_allclose(got["whole"], values, **NEAR)
        np.testing.assert_allclose(got["one"], values[3:4], **NEAR)
        assert got["unknown"].tolist() == unknown.tolist()


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_the_card_says_what_it_is_and_its_program_runs(place: Path, format: str, tmp_path: Path) -> None:
    card = (place / format / "README.md").read_text()
    for part in (
        "image-0",
        "class_0, class_1",
        "`comm`",
        "| agnostic |",
        "## Licence",
        "## Limits",
        "Probabilities are calibrated: ",
        "Flag an input where `unknown` is at least 0.95",
        "columns: image, depth, text",
        "opset 18" if format == "onnx" else "torch.export",
        torch.__version__.split("+")[0],
    ):
        assert part in card, part
    program = re.search(r"```python\n(.*?)```", card, re.S)[1]
    for file in (place / format).iterdir():
        (tmp_path / file.name).symlink_to(file)
    photo = place / "data" / "image" / "test" / "class_0" / "0.png"
    Image.open(photo).save(tmp_path / "photo.jpg", "PNG")
    if format == "onnx":  # onnxruntime reads no weights through a link that leads out of the folder
        for name in ("weights.bin", "image.onnx"):
            (tmp_path / name).unlink()
            (tmp_path / name).write_bytes((place / format / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    probabilities = learner_outputs(place, [photo])[0][0]
    keys = json.loads((place / format / "classes.json").read_text())
    name, value = done.stdout.split()
    assert name == keys[int(probabilities.argmax())]["class"]
    assert float(value) == pytest.approx(probabilities.max(), abs=0.02)  # two passes of rounding in the resize


def test_weights_are_kept_once_and_no_path_of_this_machine(place: Path) -> None:
    onnx = place / "onnx"
    once = (onnx / "weights.bin").stat().st_size
    assert all((onnx / f"{m}.onnx").stat().st_size < once / 2 for m in MODALITIES)
    vision = (place / "model" / "model.safetensors").stat().st_size
    learned = max(file.stat().st_size for file in (place / "run" / "checkpoints").rglob("*.safetensors"))
    assert once < 2 * vision + learned  # image and depth share the tower
    for file in [*onnx.iterdir(), *(place / "torch").iterdir()]:
        data = file.read_bytes()
        for path in (str(place), str(Path(mf.__file__).parent)):
            assert path.encode() not in data, f"{file.name} holds {path}"


def test_a_run_is_exported_into_its_own_folder_by_default(toy_data: Path, tmp_path: Path, monkeypatch) -> None:
    learner = toy_learner(toy_data, "zero_shot", {})
    monkeypatch.setattr(folder.Learner, "load", lambda *args, **options: learner)
    exported = folder.export_run(str(tmp_path), format="torch")
    assert exported.folder == tmp_path / "export-torch" and "README.md" in exported.files


def test_without_a_score_there_is_no_output_for_it(toy_data: Path, tmp_path: Path) -> None:
    """Four samples of each of two classes are too few."""
    learner = toy_learner(toy_data, "zero_shot", {})
    done = export(learner, tmp_path / "out", format="torch")
    card = (done.folder / "README.md").read_text()
    assert "The graph of image has no output `unknown`: 8 samples of it were held out, fewer than 10." in card
    assert "not calibrated" in card and not any("unknown" in values for values in done.differences.values())
    graph = torch.export.load(done.folder / "depth.pt2").module()
    assert "unknown" not in graph(*synthetic_inputs(learner, "depth"))


def test_a_wrong_score_of_strangers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "data", classes=2, train=6, test=2, modalities=("image",))
    learner, right = toy_learner(tmp_path / "data", "zero_shot", {}), UnknownScores.shares
    inputs = synthetic_inputs(learner, "image")
    assert float(right(learner.unknown, learner.encoder.trunk(inputs[0], "image"), "image").max()) == 1.0
    for wrong, difference in ((0.3, 0.3 - 1 / 12), (float("nan"), float("nan"))):

        def shares(self: UnknownScores, tokens: Tokens, modality: str, wrong: float = wrong) -> torch.Tensor:
            return right(self, tokens, modality) - (wrong if torch.compiler.is_exporting() else 0)

        monkeypatch.setattr(UnknownScores, "shares", shares)
        with pytest.raises(RunError, match=f"output unknown of the graph differs from .* by {difference:.2g}"):
            export(learner, tmp_path / "out", format="torch")


def test_nothing_is_replaced_without_force(place: Path, tmp_path: Path) -> None:
    before = (place / "torch" / "model.json").read_bytes()
    result = call("export", place / "run", "--out", place / "torch", "--format", "torch", code=2)
    assert "exists already; give another folder, or --force" in error_of(result)
    assert (place / "torch" / "model.json").read_bytes() == before
    (tmp_path / "mine.txt").write_text("kept")
    result = call("export", place / "run", "--out", tmp_path, "--force", code=2)
    assert "no export" in error_of(result) and (tmp_path / "mine.txt").read_text() == "kept"


class Traceable(ToyEncoder):
    def trunk(self, batch, modality):
        tokens = F.unfold(batch[:, 0], 8, stride=8).transpose(1, 2) @ self.patch
        return Tokens(tokens, F.pad((tokens @ self.query["vision"]).relu().mean(1), (0, QUERY)))


def toy_learner(root: Path, method: str, options: dict) -> mf.Learner:
    if not root.exists():
        write_folder(root, classes=2, train=4, test=2, modalities=("image", "depth"))
    learner = mf.Learner(Traceable(), method, options=options, device="cpu", precision="fp32")
    for task in mf.Stream.from_folder(root):
        learner.learn(task)
    learner.finish()
    return learner


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy") / "data"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_can_be_traced(method: str, toy_data: Path) -> None:
    options: dict[str, dict] = {
        "comm": {"realignment": "trained", "steps": 5, "sampled_features": 32},
        "klda": {"random_features": 50},
        "ranpac": {"projections": 50},
        "slca": {"align_epochs": 1},
        "slda": {"adaptation": "scale_shift", "epochs": 1, "reading_prompts": 2},
    }
    learner = toy_learner(toy_data, method, options.get(method, {}))
    inputs = synthetic_inputs(learner, "image")
    module = trace(learner, "image", inputs).program.module()
    found = largest_differences(learner, "image", inputs, lambda x: module(*x))
    assert "probabilities" in found and all(value < 1e-4 for value in found.values()), found


def test_comms_mlp_relevance_without_blending(toy_data: Path) -> None:
    learner = toy_learner(
        toy_data,
        "comm",
        {"realignment": "trained", "steps": 5, "sampled_features": 32, "relevance": "mlp", "blending": False},
    )
    inputs = synthetic_inputs(learner, "depth")
    module = trace(learner, "depth", inputs).program.module()
    assert max(largest_differences(learner, "depth", inputs, lambda x: module(*x)).values()) < 1e-4


class Branching(ZeroShot):
    def scores(self, tokens, modality, classes, *, given):
        out = super().scores(tokens, modality, classes, given=given)
        return out if float(out.sum()) > 0 else -out


class Wrong(ZeroShot):
    def scores(self, tokens, modality, classes, *, given):
        out = super().scores(tokens, modality, classes, given=given)
        return out * 1.01 if torch.compiler.is_exporting() else out


class NotFinite(ZeroShot):
    def scores(self, tokens, modality, classes, *, given):
        out = super().scores(tokens, modality, classes, given=given)
        return out * float("nan") if torch.compiler.is_exporting() else out


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Branching, "zero_shot: its prediction for image is not tensor code alone"),
        (Wrong, "differs from the learner's by 0.0"),
        (NotFinite, "differs from the learner's by nan"),
    ],
)
def test_what_cannot_be_exported_is_named_and_leaves_nothing(
    kind: type, message: str, toy_data: Path, tmp_path: Path
) -> None:
    learner = toy_learner(toy_data, "zero_shot", {})
    learner.method = kind(learner.encoder, learner.method.options)
    with pytest.raises(RunError, match=message):
        export(learner, tmp_path / "out", format="torch")
    assert not list(tmp_path.iterdir())


def test_bad_requests(toy_data: Path, place: Path, tmp_path: Path) -> None:
    assert "--format tensorrt" in call("export", place / "run", "--format", "tensorrt", code=2).stderr
    with pytest.raises(RunError, match="nothing has been learned"):
        export(mf.Learner(Traceable(), "zero_shot", device="cpu"), tmp_path / "out")
    learner = toy_learner(toy_data, "zero_shot", {})
    learner.encoder.set_precision(torch.bfloat16)
    with pytest.raises(RunError, match='precision="fp32"'):
        export(learner, tmp_path / "out")
    learner.encoder.set_precision(torch.float32)
    learner.tasks.append({**learner.tasks[0], "modality": "text"})
    with pytest.raises(EncoderError, match="toy: its texts have no token ids"):
        export(learner, tmp_path / "out", format="torch")
    assert not list(tmp_path.iterdir())


def test_siglips_texts_have_one_length_and_lower_case(tmp_path: Path) -> None:
    from tests.tiny_models import write_siglip

    write_folder(tmp_path / "data", classes=2, train=2, test=2, modalities=("text",))
    learner = mf.Learner(
        str(write_siglip(tmp_path / "model")),
        "ridge",
        options={"features": "zq"},
        device="cpu",
        precision="fp32",
        prompt_blocks=1,
    )
    for task in mf.Stream.from_folder(tmp_path / "data"):
        learner.learn(task)
    done = export(learner, tmp_path / "out")
    assert max(done.differences["text"].values()) < 1e-4
    preparation = json.loads((done.folder / "preprocess.json").read_text())["text"]
    assert preparation["lowercase"] and preparation["inputs"]["ids"] == ["batch", 16]
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(done.folder / "tokenizer.json")).encode("a WORD here".lower())
    ids, mask = learner.encoder.encode(["a WORD here"])
    assert found.ids == ids[0].tolist() and found.attention_mask == mask[0].int().tolist()


def test_a_place_that_cannot_be_written_is_named(toy_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file/out: can't be written .*; make room or give another folder"):
        export(toy_learner(toy_data, "zero_shot", {}), tmp_path / "file" / "out", format="torch")

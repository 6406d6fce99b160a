"""The variants and seeds of a sweep as the command line names them, and the tables of their results."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path

import pytest

from mmcl_fast.cli import compare as compare_command
from mmcl_fast.compare import variants
from mmcl_fast.config import load_config
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import METHODS, option_values
from mmcl_fast.methods.baselines.ridge import RidgeOptions
from mmcl_fast.methods.baselines.zero_shot import ZeroShot
from mmcl_fast.option_fields import FormerNameWarning
from mmcl_fast.report import results, tables

# ---- variants and seeds ---------------------------------------------------------------------------------------------


def test_methods_and_switches_with_options() -> None:
    base = load_config("demo", ["method.options.epochs=2"])
    comm, ridge, both = variants.parse_methods("comm, ridge:features=q, comm:rank=8:drift=false", base)
    assert comm.make_config(base, 5).method.options["epochs"] == 2 and comm.make_config(base, 5).train.seed == 5
    assert ridge.make_config(base, 5).method.options == option_values(RidgeOptions(features="q"))
    assert both.make_config(base, 0).stream.seed == 0 and both.options == {"rank": 8, "drift": False}
    assert both.folder == "comm-rank-8-drift-false"
    chosen, left_out = variants.parse_switches("prompt_blocks,rank=8", base)
    assert [row.title for row in chosen] == ["COMM (ours)", "rank = 8"] and "own two blocks" in left_out[0]


def test_every_switch_changes_what_it_names() -> None:
    base = load_config("demo", ["encoder.name=openai/clip-vit-base-patch32", "method.options.rank=32"])
    rows, left_out = variants.parse_switches(None, base)
    assert left_out == []
    assert {row.title: row.options | row.encoder for row in rows} == {
        "COMM (ours)": {},
        "no prompts": {"prompts": False},
        "prompts always": {"prompts": True},
        "no training on later tasks": {"prompt_updates": False},
        "no scales and shifts of tokens": {"token_scale_shift": False},
        "class texts as targets": {"class_targets": "texts"},
        "learned class targets": {"class_targets": "learned"},
        "no reading prompts": {"reading_prompts": 0},
        "no intra-modal aggregation": {"aggregation": False},
        "no self-regularisation": {"self_regularisation": 0.0},
        "no intra-modal assimilation": {"aggregation": False, "self_regularisation": 0.0},
        "no mean tokens": {"token_means": False},
        "no inter-modal blending": {"blending": False},
        "relevance mlp": {"relevance": "mlp"},
        "re-alignment trained": {"realignment": "trained"},
        "no re-alignment": {"realignment": "off"},
        "no drift correction": {"drift": False},
        "re-alignment trained, no weights w": {"realignment": "trained", "weighted": False},
        "prompt_blocks 1": {"prompt_blocks": 1},
        "prompt_blocks all": {"prompt_blocks": "all"},
        "prompt length 4": {"prompt_length": 4},
        "prompt length 16": {"prompt_length": 16},
        "rank 16": {"rank": 16},
        "rank 64": {"rank": 64},
    }
    help = " ".join(inspect.getsource(compare_command.ablate).split()).replace('" "', "")
    assert f"{', '.join(variants.SWITCHES)}. Changes of options" in help


def test_a_row_with_one_task_per_modality() -> None:
    base = load_config("demo", ["stream.order=interleaved"])
    comm, one, blocks, ridge = variants.parse_methods(
        "comm,comm:stream.classes_per_task=none,comm:stream.order=blocks,ridge:stream.classes_per_task=none", base
    )
    assert [row.title for row in (comm, one, ridge)] == [
        "COMM (ours)",
        "COMM (ours), one task per modality",
        "ridge, one task per modality",
    ]
    streams = [row.make_config(base, 1).stream for row in (comm, one, blocks)]
    assert [stream.classes_per_task for stream in streams] == [4, None, 4]
    assert [stream.order for stream in streams] == ["interleaved", "interleaved", "blocks"]
    assert one.method == "comm" and one.options == {} and one.folder == "comm-stream.classes_per_task-none"


def test_seeds_draw_the_classes_of_tasks_unless_the_config_decides() -> None:
    def shuffled(*overrides: str, row: str = "comm") -> bool:
        base = load_config("demo", overrides)
        return variants.parse_methods(row, base)[0].make_config(base, 3).stream.shuffle_classes

    assert shuffled() and not shuffled("stream.shuffle_classes=false") and shuffled("stream.shuffle_classes=true")
    # One task per modality, or tasks that the manifest names: there is nothing to draw.
    assert not shuffled("stream.classes_per_task=none") and not shuffled(row="comm:stream.classes_per_task=none")
    assert shuffled("stream.classes_per_task=none", row="comm:stream.classes_per_task=2")


def test_the_title_and_the_features_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_config("demo")
    comm, embedding = variants.parse_methods("comm,comm:reads_query=false", base)
    assert (comm.features(base), embedding.features(base)) == ("zq+4", "z+4")
    rows = variants.parse_methods("comm:prompts=false,comm:reading_prompts=0,slda,slda:reading_prompts=2", base)
    assert [row.features(base) for row in rows] == ["zq", "zq", "zq", "zq+2"]
    (zero_shot,) = variants.parse_methods("zero_shot", base)
    assert zero_shot.features(base) == "z" and zero_shot.title == "zero_shot"
    monkeypatch.setitem(METHODS, "custom", type("Custom", (ZeroShot,), {"name": "custom"}))
    assert variants.parse_methods("custom", base)[0].features(base) == ""
    assert variants.MethodVariant("comm_abstract", "x", "comm_abstract").title == "COMM, abstract only"
    assert variants.MethodVariant("comm", "x", "comm", tuned={"chosen": {}}).title == "COMM (ours), tuned"


@pytest.mark.parametrize(
    ("make", "text", "message"),
    [
        (variants.parse_methods, "com", "--methods com: no such method; did you mean 'comm'"),
        (variants.parse_methods, "ridge:feature=q", "ridge has no such option; did you mean 'features'"),
        (
            variants.parse_methods,
            "comm:rank=0",
            "comm:rank=0: method.options.rank: expected a whole number from 1, got 0",
        ),
        (variants.parse_methods, "ridge,ridge:features=zq", "--methods ridge:features=zq: the same as ridge"),
        (variants.parse_methods, "ridge:q", "expected key=value"),
        (variants.parse_methods, "ridge:stream.seed=1", "only stream.classes_per_task and stream.order can differ"),
        (variants.parse_methods, "ridge:stream.order=x:stream.classes_per_task=0", "stream.classes_per_task: expected"),
        (variants.parse_methods, "ridge,ridge:stream.order=random", "the same as ridge"),
        (variants.parse_methods, "comm:prompt_blocks=1", "own two blocks"),
        (variants.parse_methods, "comm,", "an empty name"),
        (variants.parse_switches, "promts", "--switches promts: no such switch; did you mean 'prompts'"),
        (variants.parse_switches, "drift=true", "the same as comm"),
        (variants.parse_switches, "realignment=of", 'expected "off", "closed" or "trained", got "of"'),
    ],
)
def test_wrong_names_and_values_are_named(make, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(text, load_config("demo"))
    assert message in str(caught.value)


def test_an_option_by_its_former_name_changes_the_base_configs() -> None:
    base = load_config("demo", ["method.options.sampled_features=9"])
    with pytest.warns(FormerNameWarning, match="option draws is called sampled_features now"):
        same, changed = variants.parse_methods("comm,comm:draws=5", base)
        options = [variant.make_config(base, 0).method.options for variant in (same, changed)]
    assert [values["sampled_features"] for values in options] == [9, 5] and "draws" not in options[1]
    with pytest.warns(FormerNameWarning), pytest.raises(ConfigError, match="the same as"):
        variants.parse_methods("comm:sampled_features=5,comm:draws=5", base)


def test_seeds() -> None:
    assert variants.parse_seeds("0..4") == [0, 1, 2, 3, 4] and variants.parse_seeds("7,0..1, 0") == [7, 0, 1]
    for wrong in ("4..1", "x", "", "1,,2", "-1", "0..1000", str(2**63)):
        with pytest.raises(ConfigError, match="--seeds"):
            variants.parse_seeds(wrong)


# ---- tables -----------------------------------------------------------------------------------------------------


@pytest.fixture
def collected(write_run):
    """Return results: a has last 70, 74, 78; b has 1, 2 and 6 points less; c has the first and third seed, both 74."""
    from mmcl_fast.learning.metrics import summarize

    def finished(name: str, last: float) -> Path:
        folder = write_run(name)
        summary = json.loads((folder / "summary.json").read_text())
        T = len(summary["tasks"])
        R = [[0.0] * T] + [[80.0 if i < t else 0.0 for i in range(T)] for t in range(1, T)] + [[last] * T]
        metrics = summarize(R, [50] * T, [task["modality"] for task in summary["tasks"]])
        summary["settings"] = {"agnostic": {"R": R, "metrics": metrics}}
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    a = {n: finished(f"a{n}", value) for n, value in enumerate((70.0, 74.0, 78.0))}
    b = {n: finished(f"b{n}", value) for n, value in enumerate((69.0, 72.0, 72.0))}
    c = {n: finished(f"c{n}", 74.0) for n in (0, 2)}
    return results.collect(
        [({"title": "a"}, a), ({"title": "x_1 & 50 % |"}, b), ({"title": "c"}, c), ({"title": "none"}, {})],
        "a",
        {"none, seed 0": "lost"},
    )


def test_numbers_by_hand(collected) -> None:
    a, b, c, none = collected["rows"]
    last = a["statistics"]["agnostic"]["last"]
    assert (last["n"], last["mean"], last["sd"]) == (3, 74.0, 4.0) and "difference" not in last
    assert last["high"] - 74 == pytest.approx(4.302653 * 4 / 3**0.5, rel=1e-6)  # Student's t, 2 degrees of freedom
    gap = b["statistics"]["agnostic"]["last"]["difference"]
    assert gap["difference"]["mean"] == pytest.approx(-3) and gap["difference"]["sd"] == pytest.approx(7**0.5)
    t = 3 / (7 / 3) ** 0.5  # 1.964
    assert gap["t_p"] == pytest.approx(1 - t / (2 + t**2) ** 0.5)  # closed form for 2 degrees of freedom
    assert gap["permutation_p"] == pytest.approx(2 / 8)
    gap = c["statistics"]["agnostic"]["last"]["difference"]["difference"]
    assert (gap["n"], gap["mean"]) == (2, 0.0)  # 74 - 70 and 74 - 78
    assert a["statistics"]["agnostic"]["forgetting"]["mean"] == pytest.approx(80 - 74)
    assert none["statistics"] == {} and none["cells"] == []


def test_markdown(collected) -> None:
    text = tables.write_markdown(collected)
    assert "| a | 3 | 74.0 ± 9.9 |" in text and "| none | 0 | – | – |" in text
    assert "| x_1 & 50 % \\| | 3 | seeds alone | -3.0 ± 6.6 | 0.188 / 0.377 | no |" in text
    assert "- none, seed 0: lost" in text and "last: mean over i of R[T,i]" in text
    assert "difference to a" in text and "| a | 3 | +0.0" not in text


def test_latex_is_escaped(collected) -> None:
    text = tables.write_latex(collected)
    row = next(line for line in text.splitlines() if r"x\_1" in line)
    assert row.strip().startswith(r"x\_1 \& 50 \% \textbar{} & $3$ & $71.0 \pm 4.3$ & ") and row.endswith(r"\\")
    assert r"agnostic, in \%" in text and "$-3.0 \\pm 6.6$ & 0.188 / 0.377 & no &" in text
    for line in text.splitlines():
        if line.endswith(r"\\"):  # every other special character is escaped
            bare = line.replace(r"\&", "").replace(r"\%", "").replace(r"\_", "")
            assert "_" not in bare and "%" not in bare and bare.count("&") in (8, 9, 10), line


def test_csv_has_every_number(collected) -> None:
    lines = list(csv.DictReader(tables.write_csv(collected).splitlines()))
    line = next(x for x in lines if x["row"].startswith("x_1") and x["metric"] == "last" and not x["modality"])
    assert float(line["difference"]) == pytest.approx(-3) and float(line["permutation_p"]) == 0.25
    assert {x["modality"] for x in lines} == {"", "image", "audio", "text", "video", "depth"}
    assert not any(x["row"] == "none" for x in lines)

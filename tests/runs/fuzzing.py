"""Load damaged checkpoints, and print the outcomes as one JSON object.

Run it as ``python -m tests.runs.fuzzing FOLDER COUNT SEED``. In most cases bytes are damaged and the checksums stay. In
one case of five tensors and values are changed with checksums that fit, as a program could that writes nonsense.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from mmcl_fast.errors import UserError
from mmcl_fast.learning import Learner, checkpoint
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder

EXECUTES = (
    "pickle.find_class",
    "exec",
    "compile",
    "marshal.loads",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
)
NONSENSE: list[Any] = [None, True, -1, 10**30, 1e308, "", "x" * 1000, "__reduce__", [], [[]], {}, {"a": 1}, [None] * 9]


def damage(folder: Path, rng: random.Random) -> str:
    """Change bytes, lengths or names of the files; returns what was done."""
    file = folder / rng.choice([checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST])
    data = bytearray(file.read_bytes())
    kind = rng.choice(
        ["bits", "bits", "bits", "cut", "cut", "zeros", "noise", "append", "gone", "swap", "folder", "insert"]
    )
    at = rng.randrange(len(data))
    if kind == "bits":
        for _ in range(rng.choice([1, 1, 1, 8, 200])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[rng.choice([0, 1, 8, at, len(data) - 1]) :]
    elif kind in ("zeros", "noise"):
        length = rng.randrange(1, 200)
        data[at : at + length] = bytes(length) if kind == "zeros" else rng.randbytes(length)
    elif kind == "append":
        data += rng.randbytes(rng.randrange(1, 99))
    elif kind == "insert":
        data[at:at] = rng.choice([b"\0", b"\n", b" ", b"{", b"\xff", b'"'])
    file.unlink()
    if kind == "swap":
        other = folder / rng.choice([checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST])
        file.write_bytes(other.read_bytes() if other != file else b"[" * 5000)
    elif kind == "folder":
        file.mkdir()
    elif kind != "gone":
        file.write_bytes(data)
    return f"{kind} in {file.name}"


def change(folder: Path, tensors: dict, values: dict, rng: random.Random) -> str:
    """Write a checkpoint whose checksums fit what should not be in it; returns what was done."""
    tensors, values = dict(tensors), copy.deepcopy(values)
    if rng.random() < 0.5:
        key = rng.choice(sorted(tensors))
        kind = rng.choice(["gone", "renamed", "short", "type", "scalar", "empty"])
        old = tensors.pop(key)
        new = {
            "short": old[:-1],
            "type": old.to(torch.int32),
            "scalar": torch.zeros(()),
            "empty": old[:0],
            "renamed": old,
        }
        if kind != "gone":
            tensors[key + "/x" if kind == "renamed" else key] = new[kind]
        done = f"{kind} tensor {key}"
    else:
        place: Any = values
        path: list[Any] = []
        while isinstance(place, (dict, list)) and place and (not path or rng.random() < 0.5):
            holder = place
            path.append(rng.choice(sorted(place) if isinstance(place, dict) else range(len(place))))
            place = place[path[-1]]
        if rng.random() < 0.3:
            del holder[path[-1]]
        else:
            holder[path[-1]] = rng.choice(NONSENSE)
        done = f"values at {path}"
    shutil.rmtree(folder)
    checkpoint.write(folder, tensors, values)
    return done


def method_part(tensors: dict) -> dict:
    """Return the tensors of a checkpoint that the method's state has, under the state's names."""
    return {k.removeprefix("method/"): v for k, v in tensors.items() if k.startswith("method/")}


def main(root: Path, count: int, seed: int) -> dict[str, Any]:
    encoder, rng = ToyEncoder(), random.Random(seed)
    stream = Stream.from_folder(write_folder(root / "data", modalities=("image", "text")), classes_per_task=2)
    learner = Learner(
        encoder,
        "comm",
        options={"epochs": 1, "realignment": "trained", "steps": 5, "sampled_features": 16},
        device="cpu",
    )
    for task in stream.tasks[:3]:
        learner.learn(task)
    learner.save(root / "good")
    tensors, values = checkpoint.read(root / "good")
    case = root / "case"
    report: dict[str, Any] = {"cases": 0, "refused": 0, "right": 0, "wrong": [], "executed": []}
    armed = False

    def watch(event: str, arguments: Any) -> None:
        if armed and event in EXECUTES and sys._getframe(1).f_globals["__name__"] != "typing":  # our own annotations
            report["executed"].append(f"{event} {getattr(arguments[0], 'co_filename', '')}".strip())

    sys.addaudithook(watch)

    def load() -> Learner:
        return Learner.load(case, encoder=encoder, device="cpu", cache_dir=root / "cache")

    shutil.copytree(root / "good", case)
    load()  # imports what is imported lazily
    for number in range(count):
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(root / "good", case)
        meant = number % 5 == 4
        done = change(case, tensors, values, rng) if meant else damage(case, rng)
        wanted = checkpoint.read(case, {}) if meant else (tensors, values)
        armed = True
        try:
            loaded = load().contents()
        except UserError as error:
            report["refused"] += 1
            if "\n" in str(error) or (not meant and str(case) not in str(error)):
                report["wrong"].append(f"{done}: {error}")
        except BaseException as error:
            report["wrong"].append(f"{done}: {type(error).__name__}: {error}")
        else:
            report["right"] += 1
            # A state without these parts is an older one. Loading adds what Comm.migrate_state says, and no more.
            migrated, state = learner.method.migrate_state(method_part(wanted[0]), wanted[1]["state"])
            want = wanted[0] | {f"method/{k}": v for k, v in migrated.items()}
            same = all(torch.equal(v, want[k]) for k, v in loaded[0].items() if not k.startswith("generator/"))
            same &= loaded[1]["state"] == state and all(
                loaded[1][k] == wanted[1][k] for k in ("tasks", "keys", "texts")
            )
            if not same or not wanted[1]["options"].items() <= loaded[1]["options"].items():  # a default may be added
                report["wrong"].append(f"{done}: loaded as something else")
        armed = False
        report["cases"] += 1
    return report


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))

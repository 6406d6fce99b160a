"""A saved COMM: it goes on to the same bits, takes older states, and refuses damaged ones."""

import pytest
import torch

from mmcl_fast.errors import RunError
from mmcl_fast.learning import Learner, checkpoint
from mmcl_fast.methods.comm import prompt_learning
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder


def test_a_learner_that_learned_no_prompt_is_saved_and_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "data", classes=4, train=10, modalities=("image", "depth"))
    stream = Stream.from_folder(root, classes_per_task=2)
    options = {"epochs": 2, "realignment": "trained", "steps": 5, "sampled_features": 32}
    learner = Learner(ToyEncoder(), "comm", options=options, device="cpu", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(prompt_learning, "LEAST_HELD_OUT", 5)
    monkeypatch.setattr(prompt_learning, "LEAST_GAIN", 2.0)
    learner.learn(stream[0])
    first = stream[0].modality
    assert [t["pays"] for t in learner.method.prompts_pay[first]] == [False] and not learner.method.bank.prompts
    learner.save(tmp_path / "saved")
    again = Learner.load(tmp_path / "saved", encoder=ToyEncoder(), device="cpu", cache_dir=tmp_path / "cache")
    assert again.method.prompts_pay == learner.method.prompts_pay
    assert again.evaluate(stream.tasks).correct == learner.evaluate(stream.tasks).correct
    monkeypatch.setattr(prompt_learning, "LEAST_GAIN", -2.0)
    for number in range(1, 4):
        learner.learn(stream[number])
        again.learn(stream[number])
    one, other = learner.method.state(), again.method.state()
    assert one[1] == other[1] and one[0].keys() == other[0].keys() and learner.method.bank.prompts
    assert all(torch.equal(one[0][key], other[0][key]) for key in one[0])


def test_a_state_of_an_older_version_loads_predicts_and_goes_on(tmp_path):
    """It has no mean tokens and no tests of prompts, and its record has options that are gone."""
    encoder = ToyEncoder()
    root = write_folder(tmp_path / "data", classes=4, train=4, modalities=("image", "depth"))
    stream = Stream.from_folder(root, classes_per_task=2)
    options = {
        "epochs": 1,
        "least_steps": 2,
        "realignment": "trained",
        "steps": 5,
        "sampled_features": 32,
        "token_means": False,
    }
    learner = Learner(encoder, "comm", options=options, device="cpu", cache_dir=tmp_path / "cache")
    for number in range(2):
        learner.learn(stream[number])
    tensors, values = learner.contents()
    for name in ("token_means", "prompts_pay", "token_widths", "prompt_sizes"):
        del values["state"][name]
    del tensors[next(name for name in tensors if name.endswith("penalty_share"))]
    kept = {k: v for k, v in values["options"].items() if k in options}
    values["options"] = kept | {"lambda_max": 1.0, "sigma": 0.5, "token_means": True}
    checkpoint.write(tmp_path / "old", tensors, values)
    old = Learner.load(tmp_path / "old", encoder=encoder, device="cpu", cache_dir=tmp_path / "cache")
    assert old.method.options.token_means and "sigma" not in old.settings["options"]
    assert old.evaluate(stream.tasks).correct == learner.evaluate(stream.tasks).correct
    for number in (2, 3):
        old.learn(stream[number])
    assert sum(map(len, old.method.token_means.classes.values())) == 4  # of the classes learned since then
    old.save(tmp_path / "new")
    again = Learner.load(tmp_path / "new", encoder=encoder, device="cpu", cache_dir=tmp_path / "cache")
    assert again.evaluate(stream.tasks).correct == old.evaluate(stream.tasks).correct


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("method/tokens/mean/{m}", lambda x: x[:1]),
        ("method/tokens/mean/{m}", lambda x: x[0]),
        ("method/tokens/count/{m}", lambda x: x[:, :1]),
        ("method/tokens/count/{m}", None),
    ],
)
def test_a_checkpoint_with_damaged_mean_tokens_is_refused(tmp_path, key, change):
    root = write_folder(tmp_path / "data", classes=2, train=4, modalities=("image",))
    stream = Stream.from_folder(root)
    options = {"epochs": 1, "least_steps": 2, "realignment": "trained", "steps": 5, "sampled_features": 32}
    learner = Learner(ToyEncoder(), "comm", options=options, device="cpu")
    learner.learn(stream[0])
    tensors, values = learner.contents()
    key = key.format(m="image")
    damaged = tensors.pop(key)
    if change is not None:
        tensors[key] = change(damaged)
    checkpoint.write(tmp_path / "damaged", tensors, values)
    with pytest.raises(RunError, match="does not fit method comm .*; use an older checkpoint") as caught:
        Learner.load(tmp_path / "damaged", encoder=ToyEncoder(), device="cpu")
    assert "\n" not in str(caught.value)

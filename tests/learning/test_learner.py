import builtins
import json

import pytest
import torch

from mmcl_fast.errors import MediaError, RunError
from mmcl_fast.learning import Learner
from mmcl_fast.methods import METHODS
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder

FAST = {"comm": {"epochs": 2, "steps": 20, "draws": 64, "batch_size": 8}, "finetune": {"epochs": 2, "batch_size": 8},
        "joint": {"epochs": 2, "batch_size": 8}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("stream"))


def make(root, method="comm", **more):
    stream = Stream.from_folder(root, classes_per_task=2, order="random", seed=1)
    options = {**FAST.get(method, {}), **more.pop("options", {})}
    return stream, Learner(ToyEncoder(), method, options=options, device="cpu", **more)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_learns_saves_loads_and_does_not_depend_on_the_batch(root, tmp_path, method):
    stream, learner = make(root, method)
    for task in stream:
        learner.learn(task)
    before = learner.evaluate(stream.seen)
    assert all(0 <= a <= 100 for a in before.accuracy("agnostic")) and "mean" in before.table()
    learner.save(tmp_path / "run")
    again = Learner.load(tmp_path / "run", encoder=ToyEncoder(), device="cpu")
    assert again.evaluate(stream.tasks).correct == before.correct
    for task in (stream[0], stream[-1]):
        tokens = learner.cache.tokens(learner.encoder, task.test)
        for given in (True, False):
            whole = learner.method.scores(tokens, task.modality, learner.classes, given=given)
            alone = torch.cat([learner.method.scores(tokens[i:i + 1], task.modality, learner.classes, given=given)
                               for i in range(len(tokens))])
            assert torch.equal(whole.argmax(1), alone.argmax(1))
            torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)


def test_comm_learns_what_zero_shot_does_not(root):
    scores = {}
    for method in ("comm", "zero_shot", "finetune"):
        stream, learner = make(root, method)
        for task in stream:
            learner.learn(task)
        scores[method] = learner.evaluate(stream.tasks).mean("agnostic")
    assert scores["comm"] > scores["zero_shot"] + 30 and scores["comm"] > scores["finetune"] + 30


def test_same_seed_same_numbers(root):
    states = []
    for _ in range(2):
        stream, learner = make(root, seed=3)
        for task in stream.tasks[:3]:
            learner.learn(task)
        states.append(learner.method.state()[0])
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_finished_tasks_data_is_never_read_again_and_no_test_file_before_evaluation(root, monkeypatch):
    stream, learner = make(root)
    opened = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda f, *a, **k: (opened.append(str(f)), real(f, *a, **k))[1])
    import mmcl_fast.media.cpu as cpu
    asked = []
    for name in ("read", "decode"):
        if hasattr(cpu, name):
            original = getattr(cpu, name)
            monkeypatch.setattr(cpu, name, lambda p, *a, _f=original, **k: (asked.append(str(p)), _f(p, *a, **k))[1])
    tokens_of = []
    real_tokens = learner.cache.tokens
    monkeypatch.setattr(learner.cache, "tokens",
                        lambda e, samples, **k: (tokens_of.append({s.key for s in samples}), real_tokens(e, samples, **k))[1])
    for task in stream:
        before = len(tokens_of)
        learner.learn(task)
        used = set().union(*tokens_of[before:])
        assert used == {s.key for s in task.train}
    assert not any("/test/" in p or "/val/" in p for p in opened + asked)
    count = len(learner.encoder.trunk_calls)
    learner.evaluate(stream.tasks)
    assert len(learner.encoder.trunk_calls) - count == sum(len(t.test) for t in stream.tasks)


def test_trunk_runs_once_a_sample_over_processes(root, tmp_path):
    stream, learner = make(root, cache_dir=tmp_path / "cache")
    learner.learn(stream[0])
    assert len(learner.encoder.trunk_calls) == len(stream[0].train)
    stream, second = make(root, cache_dir=tmp_path / "cache")
    second.learn(stream[0])
    assert second.encoder.trunk_calls == []
    assert all(torch.equal(a, b) for a, b in zip(learner.method.state()[0].values(), second.method.state()[0].values()))


def test_a_broken_file_names_itself_and_leaves_the_learner_as_it_was(root, tmp_path):
    folder = write_folder(tmp_path / "broken")
    stream, learner = make(folder)
    learner.learn(stream[0])
    before = learner.evaluate(stream.tasks[:1]).correct
    victim = next(t for t in stream.tasks[1:] if t.modality != "text").train[3].path
    victim.write_bytes(b"\x89PNG not a picture")
    with pytest.raises(MediaError, match=victim.name):
        for task in stream.tasks[1:]:
            learner.learn(task)
    done = len(learner.tasks)
    assert done >= 1 and learner.evaluate(stream.tasks[:1]).counts == [8]
    if done == 1:
        assert learner.evaluate(stream.tasks[:1]).correct == before


def test_an_interrupt_in_the_middle_restores_the_state(root, monkeypatch):
    stream, learner = make(root)
    learner.learn(stream[0])
    learner.learn(stream[1])
    before = {k: v.clone() for k, v in learner.method.state()[0].items()}
    monkeypatch.setattr(type(learner.method), "_realign", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        learner.learn(stream[2])
    after = learner.method.state()[0]
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert len(learner.tasks) == 2
    monkeypatch.undo()
    learner.learn(stream[2])
    assert len(learner.tasks) == 3


def test_predict_finds_the_modality_and_ranks_classes(root):
    stream, learner = make(root)
    with pytest.raises(RunError, match="nothing has been learned"):
        learner.predict([root])
    for task in stream:
        learner.learn(task)
    samples = [t.test[0] for t in stream.tasks]
    found = learner.predict([s.path for s in samples], top_k=3)
    assert [p.modality for p in found] == [s.modality for s in samples]
    for p in found:
        assert len(p.labels) == 3 and p.probabilities == sorted(p.probabilities, reverse=True)
        assert sum(p.contributions.values()) == pytest.approx(1, abs=1e-4)
    assert sum(p.labels[0] == (s.modality, s.label) for p, s in zip(found, samples)) >= len(samples) - 2


def test_load_refuses_what_is_not_ours(root, tmp_path):
    stream, learner = make(root)
    learner.learn(stream[0])
    learner.save(tmp_path / "run")
    with pytest.raises(RunError, match="other weights"):
        Learner.load(tmp_path / "run", encoder=ToyEncoder(seed=5))
    with pytest.raises(RunError, match="no model.safetensors"):
        Learner.load(tmp_path)
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    (tmp_path / "run" / "state.json").write_text(json.dumps({**state, "sha256": "0"}))
    with pytest.raises(RunError, match="checksum"):
        Learner.load(tmp_path / "run", encoder=ToyEncoder())


def test_views_add_training_tokens(root):
    stream, learner = make(root, views=2)
    learner.learn(stream[0])
    assert len(learner.encoder.trunk_calls) == 2 * len(stream[0].train)
    assert learner.evaluate(stream.tasks[:1]).counts == [len(stream[0].test)]

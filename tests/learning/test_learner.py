import builtins
import copy
import gc
import json
import shutil
import weakref

import pytest
import torch

from mmcl_fast.errors import MediaError, RunError
from mmcl_fast.feature_cache.cache import FeatureCache
from mmcl_fast.learning import Learner
from mmcl_fast.learning.classes import add_classes
from mmcl_fast.methods import METHODS
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder

FAST = {
    "comm": {"epochs": 2, "realignment": "trained", "steps": 20, "sampled_features": 64, "batch_size": 8},
    "finetune": {"epochs": 2, "batch_size": 8},
    "joint": {"epochs": 2, "batch_size": 8},
    "ranpac": {"projections": 200},
}


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
            together = learner.method.scores(tokens, task.modality, learner.classes, given=given)
            alone = torch.cat(
                [
                    learner.method.scores(tokens[i : i + 1], task.modality, learner.classes, given=given)
                    for i in range(len(tokens))
                ]
            )
            assert torch.equal(together.argmax(1), alone.argmax(1))
            torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


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


def test_a_finished_tasks_data_is_never_read_again_and_no_test_file_before_evaluation(root, tmp_path, monkeypatch):
    stream, learner = make(shutil.copytree(root, tmp_path / "copy"))
    opened = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda f, *a, **k: (opened.append(str(f)), real(f, *a, **k))[1])
    tokens_of, alive = [], []
    real_tokens = learner.cache.tokens

    def watch(encoder, samples, **more):
        tokens = real_tokens(encoder, samples, **more)
        tokens_of.append({s.key for s in samples})
        alive.append(weakref.ref(tokens))
        return tokens

    monkeypatch.setattr(learner.cache, "tokens", watch)
    for task in stream:
        before = len(tokens_of)
        learner.learn(task)
        assert set().union(*tokens_of[before:]) == {s.key for s in task.train}
        gc.collect()
        assert not any(ref() is not None for ref in alive), "a finished task's tokens are kept"
        for sample in task.train:
            sample.path.unlink()
    assert not any("/test/" in p or "/val/" in p for p in opened)
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
    assert [t["name"] for t in learner.tasks] == [stream[0].name]
    assert learner.evaluate(stream.tasks[:1]).correct == before


def test_an_interrupt_in_the_middle_restores_the_state(root, monkeypatch):
    stream, unstopped = make(root)
    for task in stream.tasks:
        unstopped.learn(task)
    stream, learner = make(root)
    modalities = set()
    for n, task in enumerate(stream.tasks):  # some bring a new modality, some do not; the first has nothing before
        before, values = learner.method.state()
        before, values = {k: v.clone() for k, v in before.items()}, copy.deepcopy(values)
        with monkeypatch.context() as patch:
            patch.setattr(
                type(learner.method), "update_class_texts", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            with pytest.raises(KeyboardInterrupt):
                learner.learn(task)
        after = learner.method.state()
        assert after[1] == values and before.keys() == after[0].keys()
        assert all(torch.equal(before[k], after[0][k]) for k in before)
        assert len(learner.tasks) == n and learner.evaluate([task]).counts == [8]
        learner.learn(task)
        modalities.add(task.modality)
    assert len(modalities) < len(stream)
    ends = [x.method.state()[0] for x in (unstopped, learner)]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


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


@pytest.mark.parametrize("method", sorted(METHODS))
def test_agnostic_scores_do_not_depend_on_the_name_of_the_modality_and_class_state_names_tensors(root, method):
    stream, learner = make(root, method)
    for task in stream:
        learner.learn(task)
    task = next(t for t in stream.tasks if t.modality == "image")
    tokens = learner.cache.tokens(learner.encoder, task.test)
    scores = [learner.method.scores(tokens, name, learner.classes, given=False) for name in ("image", "depth")]
    assert torch.equal(*scores)
    names = learner.method.state()[0]
    for prefix in learner.method.class_state:
        if prefix == "tokens/" and not learner.method.options.token_means:
            continue
        assert any(name.startswith(prefix) for name in names), f"{prefix}: no such tensor among {list(names)}"


@pytest.mark.parametrize("method", ["comm", "ridge"])
def test_classes_shared_between_modalities(root, tmp_path, method):
    stream = Stream.from_folder(root, classes_per_task=2, order="random", seed=1, shared_classes=True)
    learner = Learner(ToyEncoder(), method, options=FAST.get(method, {}), device="cpu")
    for task in stream:
        learner.learn(task)
    assert len(learner.classes) == 4
    result = learner.evaluate(stream.tasks)
    assert result.mean("agnostic") > 60 and result.correct["given"] == result.correct["given_masked"]
    learner.save(tmp_path / "shared")
    assert Learner.load(tmp_path / "shared", encoder=ToyEncoder()).evaluate(stream.tasks).correct == result.correct


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_class_with_test_samples_alone_is_known_and_not_learned(root, method):
    stream, learner = make(root, method)
    for number in range(2):
        task = stream[number]
        task.train[:] = [s for s in task.train if number == 0 or s.label != task.classes[-1]]
        learner.learn(task)
    learner.finish()
    assert len(learner.classes) == 4
    evaluated = learner.evaluate(stream.tasks[:2])
    assert all(len(predicted) == count for predicted, count in zip(evaluated.predicted["agnostic"], evaluated.counts))


def test_who_competes_for_a_sample(root):
    """Masked: the classes learned of its modality and, for a task to come, its own; else all learned, or all."""
    stream, learner = make(root)
    for task in stream.tasks[:3]:
        learner.learn(task)
    known, result, classes = len(learner.classes), learner.evaluate(stream.tasks), learner.classes
    for task in stream.tasks:
        classes = add_classes(classes, task, learner.encoder)
    for i, task in enumerate(stream.tasks):
        competing = {
            classes.ids[k]
            for t in stream.tasks
            if t.modality == task.modality and (t.index < 3 or t is task)
            for k in t.class_ids
        }
        masked = torch.tensor([c in competing for c in range(len(classes))])
        seen = torch.arange(len(classes)) < (known if i < 3 else len(classes))
        tokens = learner.cache.tokens(learner.encoder, task.test)
        scores = learner.method.scores(tokens, task.modality, classes, given=True)
        labels = torch.tensor([classes.ids[task.modality, s.label] for s in task.test])
        for setting, allowed in (("given", seen), ("given_masked", seen & masked)):
            best = scores.masked_fill(~allowed, -torch.inf).argmax(1)
            assert result.correct[setting][i] == int((best == labels).sum())


def test_the_batch_of_the_trunk_does_not_matter_and_predict_agrees_with_evaluation(root):
    stream, learner = make(root)
    for task in stream:
        learner.learn(task)
    for task in stream:
        one, many = (FeatureCache(None, batch=b).tokens(learner.encoder, task.test) for b in (1, 32))
        scores = [learner.method.scores(t, task.modality, learner.classes, given=False) for t in (one, many)]
        assert torch.equal(scores[0].argmax(1), scores[1].argmax(1))
        found = learner.predict([s.path for s in task.test], top_k=1)
        assert [learner.classes.keys.index(p.labels[0]) for p in found] == scores[1].argmax(1).tolist()


def test_save_replaces_a_saved_learner_and_nothing_else(root, tmp_path):
    stream, learner = make(root, "zero_shot")
    learner.learn(stream[0])
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="holds other things"):
        learner.save(folder)
    assert (folder / "thesis.txt").read_text() == "years of work"
    learner.save(tmp_path / "run")
    learner.learn(stream[1])
    learner.save(tmp_path / "run")
    assert len(Learner.load(tmp_path / "run", encoder=ToyEncoder()).tasks) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "run"]
    (tmp_path / "run" / "state.json").write_text("[]")
    with pytest.raises(RunError, match="state.json: its size or checksum"):
        Learner.load(tmp_path / "run", encoder=ToyEncoder())


def test_joint_stopped_before_the_end_says_so(root, tmp_path):
    stream, learner = make(root, "joint")
    learner.learn(stream[0])
    learner.save(tmp_path / "run")
    with pytest.raises(RunError, match="start the run anew"):
        Learner.load(tmp_path / "run", encoder=ToyEncoder())


def test_former_attributes_say_what_they_are_now():
    learner = Learner(ToyEncoder(), "ridge", device="cpu")
    with pytest.raises(AttributeError, match=r"no attribute 'classes_with': it is now mmcl_fast\.learning\.classes"):
        _ = learner.classes_with
    with pytest.raises(AttributeError, match="no attribute 'never'$"):
        _ = learner.never
    assert not hasattr(learner, "own_tokens")

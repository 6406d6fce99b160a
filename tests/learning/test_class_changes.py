"""Renaming a class and taking one out of a learner."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import mmcl_fast as mf
from mmcl_fast.errors import RunError, StreamError
from tests.toy import ToyEncoder, write_folder

CLOSED = {"comm": {"prompts": False}, "ncm": {}, "slda": {}, "ridge": {}, "zero_shot": {}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"), classes=3, modalities=("image", "depth"), train=6)


def learn(root, method, skip=(), **options):
    """Learn the folder with a toy encoder, without the classes of ``skip``."""
    stream = mf.Stream.from_folder(root, classes_per_task=2)
    learner = mf.Learner(ToyEncoder(), method, options={**CLOSED.get(method, {}), **options})
    for task in stream:
        task = without(task, skip)
        if task.classes:
            learner.learn(task)
    return learner, [task for task in (without(t, skip) for t in stream) if task.classes]


def without(task, skip):
    kept = [k for k, key in enumerate(task.class_ids) if key not in skip]
    labels = [task.classes[k] for k in kept]
    return dataclasses.replace(
        task,
        classes=tuple(labels),
        class_ids=tuple(task.class_ids[k] for k in kept),
        texts=tuple(f"{task.modality} of {task.texts[k]}" for k in kept),  # two classes never share a text
        _samples=tuple(s for s in task.samples if s.label in labels),
    )


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a.float(), b.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", CLOSED)
def test_a_removed_class_is_gone_and_the_others_answer(root, method):
    learner, _ = learn(root, method)
    gone = learner.classes.keys[1]
    remains = learner.remove("/".join(gone))
    fresh, other_tasks = learn(root, method, skip={gone})
    assert learner.classes.keys == fresh.classes.keys and learner.classes.texts == fresh.classes.texts
    assert learner.tasks == fresh.tasks
    close(learner.classes.embedding, fresh.classes.embedding)
    assert bool(remains) == (method not in ("ncm", "zero_shot"))
    found, expected = learner.evaluate(other_tasks), fresh.evaluate(other_tasks)
    assert abs(found.mean("agnostic") - expected.mean("agnostic")) <= 20
    assert found.counts == expected.counts


def test_exact_parts_equal_those_of_a_learner_that_never_saw_the_class(root):
    for method, exact in (("ncm", ("count", "mean")), ("slda", ("count", "mean")), ("ridge", ("cross",))):
        learner, _ = learn(root, method)
        gone = learner.classes.keys[1]
        learner.remove("/".join(gone))
        fresh, _ = learn(root, method, skip={gone})
        found, expected = learner.method.state()[0], fresh.method.state()[0]
        assert found.keys() == expected.keys()
        for key in exact:
            close(found[key], expected[key], 1e-9)
        for key in set(found) - set(exact):  # the scatter that the classes share
            assert float(found[key].trace()) == pytest.approx(float(expected[key].trace()), rel=0.3)


@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_comm_keeps_only_the_directions_of_the_pooled_covariance(root, number):
    """With prompts off, everything equals a learner that never saw the class but the sums that hold no class apart."""
    learner, _ = learn(root, "comm", penalty=0.1)
    gone = learner.classes.keys[number]
    remains = learner.remove("/".join(gone))
    assert remains == ["the correlations in the covariance that the classes share"]
    fresh, _ = learn(root, "comm", skip={gone}, penalty=0.1)
    (found, values), (expected, others) = learner.method.state(), fresh.method.state()
    assert values == others and found.keys() == expected.keys()
    for key in expected:
        if key.startswith("memory/class/") or key == "relevance/cross":
            close(found[key], expected[key])
        if key.startswith("memory/pooled/") and key.endswith("/diagonal"):
            m = key.split("/")[2]
            total, wanted = (t[f"memory/pooled/{m}/factor"].square().sum(0) + t[key] for t in (found, expected))
            close(total, wanted)
    gram, wanted = found["relevance/gram"], expected["relevance/gram"]
    assert float(gram[-1, -1]) == float(wanted[-1, -1]) and torch.linalg.eigvalsh(gram).min() > -1e-8
    assert float((gram - wanted).norm() / wanted.norm()) < 0.1


def test_the_last_class_of_a_modality_takes_the_modality_with_it(root):
    learner, tasks = learn(root, "comm", prompts=True, steps=4, epochs=1, least_steps=0)
    depth = [key for key in learner.classes.keys if key[0] == "depth"]
    for key in depth:
        learner.remove("/".join(key))
    assert learner.method.relevance.modalities == ["image"] and not [k for k in learner.classes.keys if k[0] == "depth"]
    learner.evaluate([task for task in tasks if task.modality == "image"])
    learner.learn(next(task for task in tasks if task.modality == "depth"))  # and it can be learned again
    assert learner.method.relevance.modalities == ["image", "depth"]


def test_a_method_that_cannot_says_so_and_stays_as_it_was(root):
    learner, tasks = learn(root, "finetune", epochs=1)
    before = learner.evaluate(tasks).mean("agnostic")
    with pytest.raises(RunError, match="finetune: can't take a class out.*--retrain"):
        learner.remove("/".join(learner.classes.keys[0]))
    assert learner.evaluate(tasks).mean("agnostic") == before


def test_names_are_checked(root):
    learner, _ = learn(root, "ncm")
    keys = ["/".join(key) for key in learner.classes.keys]
    with pytest.raises(RunError, match="did you mean"):
        learner.remove(keys[0] + "x")
    with pytest.raises(RunError, match="is known already"):
        learner.rename(keys[0], keys[1].split("/")[1])
    with pytest.raises(RunError, match="at least one letter"):
        learner.rename(keys[0], " ")
    for key in keys[1:]:
        learner.remove(key)
    with pytest.raises(RunError, match="is the only one"):
        learner.remove(keys[0])


def test_a_renamed_class_has_the_text_of_its_name_and_answers_to_its_former_one(root, tmp_path):
    learner, tasks = learn(root, "comm")
    key = learner.classes.keys[1]
    text = learner.classes.embedding.clone()
    assert learner.rename("/".join(key), "green_thing") == (key[0], "green_thing")
    assert learner.classes.texts[1] == "green thing" and learner.classes.keys[1] == (key[0], "green_thing")
    assert not torch.equal(learner.classes.embedding[1], text[1]) and torch.equal(learner.classes.embedding[0], text[0])
    close(learner.classes.embedding[1], learner.encoder.text(["green thing"])[0])
    found = learner.evaluate(tasks)  # the tasks still have the former name
    assert (key[0], "green_thing") in [c for some in found.classes for c in some]
    fresh, _ = learn(root, "comm")
    assert found.counts == fresh.evaluate(tasks).counts
    learner.save(tmp_path / "model")
    again = mf.Learner.load(tmp_path / "model", encoder=learner.encoder)
    assert again.aliases == {key: (key[0], "green_thing")}
    assert again.evaluate(tasks).mean("agnostic") == found.mean("agnostic")
    again.learn(tasks[0])  # more samples under the former name
    assert len(again.classes) == len(learner.classes)
    again.rename("green_thing", key[1])
    assert again.aliases == {(key[0], "green_thing"): key}


def test_a_renamed_class_is_solved_for_its_new_text(root):
    """A learner that had the new text from the start gives the same answers."""
    learner, _ = learn(root, "comm")
    key = learner.classes.keys[2]
    learner.rename("/".join(key), "another")
    fresh, _ = learn(root, "comm")
    fresh.classes.texts[2], fresh.classes.embedding[2] = "another", learner.encoder.text(["another"])[0]
    fresh.method.update_class_texts(fresh.classes, len(fresh.tasks) - 1)
    assert torch.equal(learner.method.realigner.down, fresh.method.realigner.down)
    assert torch.equal(learner.method.realigner.up, fresh.method.realigner.up)


def test_two_learners_are_compared_on_the_same_samples(root):
    learner, tasks = learn(root, "ncm")
    before, _ = learn(root, "ncm")
    same = learner.compare(before, tasks)
    assert not same.changed and same.differences[0].fall == 0 and same.differences[0].samples == 24
    key = learner.classes.keys[0]
    learner.rename("/".join(key), "other name")
    assert not learner.compare(before, tasks).changed  # the same class
    learner.method.statistics.mean[[0, 1]] = learner.method.statistics.mean[[1, 0]]  # it takes one for the other
    worse = learner.compare(before, tasks, setting="agnostic")
    rows = {(d.scope, d.name): d for d in worse.differences}
    assert rows["class", f"{key[0]}/other name"].fall == 100.0 and len([c for c in worse.changed if c.lost]) == 8


def test_a_former_name_stays_with_its_class_until_this_is_renamed_back_or_removed(root):
    learner, tasks = learn(root, "ncm")
    (first, second), modality = learner.classes.keys[:2], learner.classes.keys[0][0]
    learner.rename("/".join(first), "new name")
    before = list(learner.classes.keys), list(learner.classes.texts), dict(learner.aliases)
    with pytest.raises(RunError, match=f"{'/'.join(first)}: is a former name of {modality}/new name, .*choose another"):
        learner.rename("/".join(second), first[1])
    assert (learner.classes.keys, learner.classes.texts, learner.aliases) == before
    learner.rename("new name", "newer")
    learner.rename("newer", "new name")  # a former name of its own
    assert learner.aliases == {first: (modality, "new name"), (modality, "newer"): (modality, "new name")}
    learner.rename("new name", first[1])
    learner.rename("/".join(second), "newer again")
    learner.rename("/".join(first), "other")
    learner.remove("other")  # and with it all of its names
    assert learner.aliases == {second: (modality, "newer again")}
    count = len(learner.classes)
    learner.learn(tasks[0])
    assert learner.classes.keys[count:] == [first] and learner.evaluate(tasks[:1]).counts == [8]
    again, _ = learn(root, "ncm")
    again.rename("/".join(first), "other")
    again.remove("other")
    again.rename("/".join(second), first[1])  # the name is free


def test_a_task_with_a_former_name_and_the_name_of_today_is_refused(root):
    learner, tasks = learn(root, "ncm")
    first, second = tasks[0].class_ids
    learner.rename("/".join(first), "new name")
    both = dataclasses.replace(
        tasks[0],
        classes=(tasks[0].classes[0], "new name"),
        class_ids=(first, (first[0], "new name")),
        _samples=tuple(
            dataclasses.replace(s, label=s.label if s.label == first[1] else "new name") for s in tasks[0].samples
        ),
    )
    before, records = dict(learner.unknown.memory.counts[first[0]]), list(learner.tasks)
    with pytest.raises(
        StreamError, match=f"{first[1]!r} is a former name of 'new name', so both would be learned as one"
    ):
        learner.learn(both)
    assert learner.unknown.memory.counts[first[0]] == before and learner.tasks == records
    learner.learn(tasks[0])  # under the former name alone: the renamed class
    assert learner.unknown.memory.counts[first[0]][0] == 2 * before[0] and second in learner.classes.ids
    learner.rename("new name", "newest")
    with pytest.raises(StreamError, match="would be learned as one"):
        learner.learn(both)  # two former names of one class

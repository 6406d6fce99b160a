import torch
import torch.nn.functional as F

from mmcl_fast.methods import Classes, make_options, method_class
from mmcl_fast.methods.baselines.ewc import classifier_fisher, fisher_penalty, prompt_fisher
from mmcl_fast.methods.baselines.lwf import distillation_loss
from mmcl_fast.methods.shared.classifier import GrowingClassifier
from mmcl_fast.methods.shared.tower_prompts import join_parts
from tests.methods.comm.test_method import task
from tests.toy import ToyEncoder

QUICK = {"batch_size": 8, "epochs": 4}
TASKS = [("image", [0, 1]), ("depth", [2, 3])]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_tasks(name, **options):
    """Learn two tasks. Return the method, the second task's data, and the state before that task.

    The state holds the prompt, the classifier's rows, and the old classes' logits of the second task's data.
    """
    encoder = ToyEncoder()
    keys = [(m, str(c)) for m, ids in TASKS for c in ids]
    texts = [str(k) for k in keys]
    first, second = (task(encoder, i, m, ids, i) for i, (m, ids) in enumerate(TASKS))
    method = method_class(name)(encoder, make_options(name, {**QUICK, "epochs": 8, **options}))
    method.learn(first, Classes(keys[:2], texts[:2], encoder.text(texts[:2])))
    classes = Classes(keys, texts, encoder.text(texts))
    old = {
        "prompt": method.prompts.prompt(first.tokens, "image"),
        "weight": method.classifier.weight,
        "logits": method.scores(second.tokens, "depth", classes, given=False)[:, :2],
    }
    method.learn(second, classes)
    old["logits now"] = method.scores(second.tokens, "depth", classes, given=False)[:, :2]
    return method, second, old


# ---- EWC --------------------------------------------------------------------------------------------------------


def test_the_penalty_is_half_the_fisher_weighted_square_and_new_rows_are_free():
    fisher = {
        "weight": torch.tensor([[2.0, 0.0], [1.0, 4.0]]),
        "vision": torch.tensor([3.0]),
        "text": torch.tensor([9.0]),
    }
    now = {"weight": torch.tensor([[1.0, 5.0], [0.0, 1.0], [7.0, 7.0]]), "vision": torch.tensor([2.0])}
    anchor = {"weight": torch.tensor([[0.0, 0.0], [0.0, 0.5]]), "vision": torch.tensor([0.0])}
    assert float(fisher_penalty(fisher, now, anchor)) == 0.5 * (2 * 1 + 4 * 0.25 + 3 * 4)
    assert fisher_penalty({}, now, anchor) == 0


def test_the_fisher_is_the_mean_square_of_each_samples_own_gradient():
    encoder = ToyEncoder()
    data = task(encoder, 0, "image", [1, 3], 0)
    head, prompt = GrowingClassifier(encoder.dim, encoder.device), randn(2, 2, 3, 16) * 0.3
    head.grow(4)
    head.weight += randn(4, encoder.dim, seed=1) * 0.1
    drawn = torch.randint(2, (16,), generator=torch.Generator().manual_seed(2))
    expected = [torch.zeros_like(p) for p in (prompt, *head.parameters)]
    for i in range(16):
        leaves = [p.clone().requires_grad_(True) for p in (prompt, *head.parameters)]
        head.weight, head.bias = leaves[1:]
        logits = head(encoder.head(data.tokens[i : i + 1], leaves[0], "image"))[:, [1, 3]]
        logits.log_softmax(1)[0, drawn[i]].backward()
        for total, leaf in zip(expected, leaves):
            total += leaf.grad.square()
        head.weight, head.bias = (p.detach() for p in leaves[1:])
    prompts = prompt.flatten().repeat(16, 1).requires_grad_(True)
    z = encoder.head(data.tokens, prompts.unflatten(1, prompt.shape), "image")
    logits = head(z)[:, [1, 3]]
    weight, bias = classifier_fisher(head.features(z.detach()), logits.detach(), drawn)
    torch.testing.assert_close(prompt_fisher(logits, prompts, drawn), expected[0].flatten(), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(weight, expected[1][[1, 3]], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(bias, expected[2][[1, 3]], rtol=1e-4, atol=1e-8)


def test_fishers_add_up_over_tasks_and_labels_are_drawn_from_the_model():
    method, second, _ = two_tasks("ewc", strength=0.0)
    new = method._task_fisher(second, method.classifier)
    again = method._task_fisher(second, method.classifier)
    for name, value in method.fisher.items():
        assert torch.equal(new[name], again[name]) and (value >= new[name]).all() and (value >= 0).all()
    assert (method.fisher["vision"] > new["vision"]).any()
    rows = (method.fisher["bias"] > 0).tolist()
    assert rows == [True] * 4 and (new["bias"] > 0).tolist() == [False, False, True, True]
    # for y ~ p the expectation of r^2 is p (1 - p): far from 0 for an untrained head, whatever the true labels are
    head = GrowingClassifier(method.encoder.dim, method.encoder.device)
    head.grow(4)
    torch.testing.assert_close(method._task_fisher(second, head)["bias"][2:], torch.tensor([0.25, 0.25]))


def test_a_strong_penalty_keeps_the_prompt_where_its_fisher_is():
    moved = {}
    for strength in (0.0, 1e4, 1e8):
        method, _, old = two_tasks("ewc", strength=strength)
        moved[strength] = float((join_parts(method.prompts.stored) - old["prompt"]).norm())
        assert torch.equal(method.classifier.weight[:2], old["weight"])  # other classes' rows have no gradient
    assert moved[1e8] < moved[1e4] < moved[0.0]


# ---- LwF --------------------------------------------------------------------------------------------------------


def test_distillation_by_hand():
    recorded, logits = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    high, low = torch.tensor(1.0).sigmoid(), torch.tensor(-1.0).sigmoid()  # softmax of (2, 0) / 2
    expected = -(high * F.logsigmoid(torch.tensor(-2.0)) + low * F.logsigmoid(torch.tensor(2.0)))
    torch.testing.assert_close(distillation_loss(logits, recorded, 2.0), expected)
    # T = 2 is the paper's power 1/T of probabilities, normalised again
    p, q = recorded.softmax(1).sqrt(), logits.softmax(1).sqrt()
    torch.testing.assert_close(expected, -(p / p.sum() * (q / q.sum()).log()).sum())


def test_distillation_is_least_at_the_recorded_logits():
    recorded = randn(6, 5)
    logits = recorded.clone().requires_grad_(True)
    distillation_loss(logits, recorded, 2.0).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(6, 5), atol=1e-7, rtol=0)
    assert distillation_loss(randn(6, 5, seed=1), recorded, 2.0) > distillation_loss(recorded, recorded, 2.0)


def test_distillation_keeps_the_old_classes_logits_on_the_new_data():
    moved = {}
    for weight in (0.0, 100.0):
        *_, old = two_tasks("lwf", distillation=weight, classifier_lr=0.02, lr=0.05)
        least = distillation_loss(old["logits"], old["logits"], 2.0)
        moved[weight] = float(distillation_loss(old["logits now"], old["logits"], 2.0) - least)
    assert moved[100.0] < moved[0.0] / 2

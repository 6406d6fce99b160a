"""The closed form of re-alignment, and the targets that it regresses onto."""

import torch
import torch.nn.functional as F

from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.realignment import Realigner, class_targets
from tests.methods.comm.test_memory import randn


def test_dual_targets_make_cosines_one_hot_scores():
    texts = F.normalize(randn(6, 16), dim=1)
    torch.testing.assert_close(class_targets(texts, True) @ texts.T, torch.eye(6), atol=0.02, rtol=0)
    assert class_targets(texts, False) is texts


def test_closed_form_realignment_equals_ridge_regression():
    dim, extra = 6, 10
    texts = F.normalize(randn(4, dim), dim=1)
    memory, rows, labels = FeatureMemory(16, 16, 0.0), [], []
    for c in range(4):
        u = randn(200, dim + extra, seed=c) * 0.3 + randn(1, dim + extra, seed=50 + c)
        memory.add("image", [c], u, torch.full((200,), c))
        rows.append(u)
        labels += [c] * 200
    realigner = Realigner(dim, rank=dim, reads_query=True)
    realigner.solve(memory, texts, ["image"], 1e-3, True)
    u, y = torch.cat(rows).double(), class_targets(texts, True)[torch.tensor(labels)].double()
    gram = u.T @ u / 200
    lift = 1e-3 * gram.diagonal().mean() * torch.eye(dim + extra).double()
    weight = torch.linalg.solve(gram + lift, u.T @ (y - u[:, :dim]) / 200)
    direct = F.normalize(u[:, :dim] + u @ weight, dim=1).float()
    torch.testing.assert_close(realigner(u.float(), torch.ones(len(u), 1)), direct, rtol=0.02, atol=0.02)

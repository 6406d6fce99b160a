"""The relevance function R: which of the modalities seen so far a query resembles."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_fast import distributed
from mmcl_fast.methods.shared.ridge_regression import Ridge
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints, optimise

MLP_WIDTH, MLP_STEPS, MLP_BATCH = 128, 300, 128


class Relevance:
    """c(x) = softmax(R(q) / tau) over the modalities seen so far.

    Args:
        width: Dq, numbers of a query.
        kind: ``analytic``: a ridge classifier, whatever the order of tasks. ``mlp``: one hidden layer, trained on the
            task's queries and on queries sampled from the Gaussians of all classes learned before.
        tau: temperature.
        penalty: ridge penalty relative to the mean of the Gram matrix's diagonal.
    """

    def __init__(self, width: int, kind: str, tau: float, penalty: float):
        self.kind, self.tau = kind, tau
        self.modalities: list[str] = []
        self.ridge = Ridge(width, penalty)
        self.mlp: nn.Sequential | None = None

    def learn(
        self,
        query: Tensor,
        modality: str,
        sampled: dict[str, Tensor],
        generator: torch.Generator,
        checkpoints: StepCheckpoints = NoCheckpoints(),
    ) -> None:
        """Learn a task's queries.

        Args:
            query: ``[n, Dq]``, unit rows.
            modality: of the task.
            sampled: for mlp: modality -> unit queries that stand for earlier tasks, of this modality too.
            generator: for mlp: the source of random numbers.
            checkpoints: for mlp: where the training loop's state is kept.
        """
        if modality not in self.modalities:
            self.modalities.append(modality)
        if self.kind == "analytic":
            column = self.modalities.index(modality)
            self.ridge.add(query, torch.full((len(query),), column), len(self.modalities))
        else:
            earlier = [sampled[modality]] if modality in sampled else []
            self._train_mlp({**sampled, modality: torch.cat([query, *earlier])}, generator, checkpoints)

    def _train_mlp(self, queries: dict[str, Tensor], generator: torch.Generator, checkpoints: StepCheckpoints) -> None:
        x = torch.cat([queries[m] for m in self.modalities])
        y = torch.cat([torch.full((len(queries[m]),), i) for i, m in enumerate(self.modalities)]).to(x.device)
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from torch's global generator
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            mlp = self.mlp = self._network(x.shape[1]).to(x.device)
        weight = 1.0 / torch.bincount(y, minlength=len(self.modalities)).clamp(min=1).float()
        optimiser = torch.optim.AdamW(mlp.parameters(), 1e-3, weight_decay=1e-2)

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(x), (MLP_BATCH,), generator=generator).to(x.device)
            rows, share = distributed.shard_batch(rows, weight[y])
            return share * F.cross_entropy(mlp(x[rows]), y[rows], weight=weight)

        optimise(
            "relevance",
            optimiser,
            MLP_STEPS,
            loss,
            generator=generator,
            checkpoints=checkpoints,
            remedy='use method.options.relevance = "analytic"',
        )
        mlp.requires_grad_(False)

    def _network(self, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, MLP_WIDTH), nn.GELU(), nn.Linear(MLP_WIDTH, len(self.modalities)))

    def __call__(self, query: Tensor) -> Tensor:
        """Return contributions ``[n, M]`` of unit queries ``[n, Dq]``; each row sums to 1."""
        logits = self.ridge(query) if self.mlp is None else self.mlp(query)
        return (logits / self.tau).softmax(-1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = self.ridge.state() if self.kind == "analytic" else dict(self.mlp.state_dict()) if self.mlp else {}
        return tensors, {"modalities": list(self.modalities)}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.modalities = list(values["modalities"])
        if self.kind == "analytic":
            self.ridge.load_state(tensors)
        elif tensors:
            self.mlp = self._network(tensors["0.weight"].shape[1]).to(tensors["0.weight"].device)
            self.mlp.load_state_dict(tensors)
            self.mlp.requires_grad_(False)

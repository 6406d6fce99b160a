"""The relevance function R: which of the modalities seen so far a query resembles."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_fast import distributed
from mmcl_fast.methods.shared.gram import gram_matrix
from mmcl_fast.methods.shared.training_steps import NoCheckpoints, StepCheckpoints, optimise

BLOCK_ROWS = 2048  # samples whose moments are summed at once
MLP_WIDTH, MLP_STEPS, MLP_BATCH = 128, 300, 128


class Ridge:
    """Ridge regression from accumulated moments: W = (X'X + lambda tr(X'X)/(d + 1) I)^-1 X'Y.

    A row of X is x with a constant 1 at its end. Tasks may come in any order, or in batches: the solution is the joint
    one, without replay. The moments of a task are the same bits for any number of processes.

    Args:
        width: d, numbers of an x.
        penalty: lambda.
    """

    def __init__(self, width: int, penalty: float):
        self.penalty = penalty
        self.gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self.cross = torch.zeros(width + 1, 0, dtype=torch.float64)
        self._weight: Tensor | None = None

    def add(self, x: Tensor, target: Tensor, outputs: int) -> None:
        """Add samples to the moments.

        Args:
            x: ``[n, d]``.
            target: ``[n]`` int64, the column of each sample.
            outputs: the number of columns from now on.
        """
        self.cross = F.pad(self.cross, (0, outputs - self.cross.shape[1]))

        def block(number: int) -> Tensor:
            return F.pad(x[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS].double(), (0, 1), value=1.0).cpu()

        def gram(number: int) -> Tensor:
            return gram_matrix(block(number))

        def cross(number: int) -> Tensor:
            columns = target[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS].cpu()
            return block(number).T @ F.one_hot(columns, outputs).double()

        count = max(1, -(-len(x) // BLOCK_ROWS))
        # The order of a tree sum does not depend on how the blocks are divided among processes.
        self.gram += distributed.tree_sum(count, gram, self.gram)
        self.cross += distributed.tree_sum(count, cross, self.cross)
        self._weight = None

    def weight(self) -> Tensor:
        """Return the solution ``[d + 1, outputs]`` float32, with the constant's row last."""
        if self._weight is None:
            lift = self.penalty * self.gram.diagonal().mean()
            system = self.gram + lift * torch.eye(len(self.gram), dtype=torch.float64)
            self._weight = torch.linalg.solve(system, self.cross).float()
        return self._weight

    def __call__(self, x: Tensor) -> Tensor:
        """Return scores ``[n, outputs]`` float32 of x ``[n, d]``."""
        weight = self.weight().to(x.device)
        return x.float() @ weight[:-1] + weight[-1]

    def state(self) -> dict[str, Tensor]:
        return {"gram": self.gram, "cross": self.cross}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.gram, self.cross, self._weight = tensors["gram"], tensors["cross"], None


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

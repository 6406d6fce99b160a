"""Prompt learning of COMM: one rule for knowledge of the modality itself and of the other modalities.

    P0 = the modality's prompt

    P0 = sum_k b_k P_k, a blend of the other modalities' prompts, for its first task

    P  = argmin  loss(P) + beta (1 - cos(z(P), z(P0)))

    P <- P0 + n / (n + kappa) (P - P0)

with n samples of a class. The cosine is taken on the task's samples and on the mean tokens of old classes.

The shares b_k say whose knowledge helps: b = softmax(-E / T) with the leave-one-out error E_k of a ridge regression on
the task's features under P_k. Where no prompt has a smaller error than the bare head, nothing is borrowed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast import distributed, ops
from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.comm.closed_form import dual_basis
from mmcl_fast.methods.comm.held_out import held_out_error, leave_one_out_error
from mmcl_fast.methods.shared.classifier import GrowingClassifier
from mmcl_fast.methods.shared.embedding import embed_all, mix
from mmcl_fast.methods.shared.prompt_training import (
    PromptTraining,
    drop_random_channels,
    fresh_prompt,
    step_batches,
    step_count,
)
from mmcl_fast.methods.shared.prompts import subset, train_groups
from mmcl_fast.methods.shared.token_scale_shift import TokenScaleShiftBank

BORROWING_TEMPERATURE = 0.05  # T of the shares of borrowed prompts
MEANS_PER_STEP = 16  # mean tokens of old classes in a step
TEST_SHARE = 0.25  # share of the samples that is held out to test whether prompts pay
LEAST_HELD_OUT = 16  # with fewer held-out samples the test says nothing
LEAST_GAIN = 0.05  # by which a prompt has to lower an error to count as helpful


def describe_test(modality: str, test: dict[str, Any]) -> str:
    """Return a line such as "image: prompts pay (error 0.58 -> 0.07 on held-out samples): learned".

    Args:
        modality: of the samples.
        test: as ``Comm.prompts_pay`` has it.
    """
    if test["prompted"] is None:
        return f"{modality}: prompts can't pay (error {test['bare']:.2f} on held-out samples without): not learned"
    pay, learned = ("pay", "learned") if test["pays"] else ("do not pay", "not learned")
    errors = f"{test['bare']:.2f} -> {test['prompted']:.2f}"
    return f"{modality}: prompts {pay} (error {errors} on held-out samples): {learned}"


class PromptLearner:
    """Learns a modality's prompt from one task.

    Args:
        method: COMM, whose options, encoder and phases are used.
        bank: the prompts of all modalities.
        data: the task, with n samples.
        classes: all classes, the task's included.
        query: ``[n, Dq]``, unit queries of the samples.
        names: the modalities whose prompts the samples blend, this one among them.
        shares: ``[n, K]`` or ``[K]``, the share of each in a sample's blend.
        old_classes: mean tokens of the modality's other classes; None: there are none.
        first: the task is the modality's first one.
        prompts_pay: modality -> its tests of prompts so far, see ``Comm.prompts_pay``; a test is added.
    """

    def __init__(
        self,
        method: Method,
        bank: TokenScaleShiftBank,
        data: TaskData,
        classes: Classes,
        query: Tensor,
        names: list[str],
        shares: Tensor,
        old_classes: Tokens | None,
        first: bool,
        prompts_pay: dict[str, list[dict[str, Any]]],
    ):
        self.method, self.bank, self.data, self.query, self.names, self.shares = (
            method,
            bank,
            data,
            query,
            names,
            shares,
        )
        self.options, self.head, self.modality = method.options, bank.head, data.modality
        self.texts = classes.embedding[data.classes]
        self.old_classes, self.first, self.prompts_pay = old_classes, first, prompts_pay

    def learn(self) -> Tensor | None:
        """Return the modality's new prompt ``[P]``; None where it has none and prompts do not pay."""
        o, data, generator = self.options, self.data, self.method.generator(self.data.index, 3)
        start = self.bank.prompts.get(self.modality)
        if len(data.classes) < 2:
            return start  # there is nothing to tell apart: the loss is 0 whatever the prompt is
        # Earlier tasks that needed no prompt are knowledge too: a fresh prompt embeds nearly as the bare head did.
        informed = start is not None or not self.first
        if start is None:
            with self.method.phase("borrowing"):
                start = self._borrow() if o.blending else None
                borrowed, informed = start is not None, informed or start is not None
                if start is None:
                    start = fresh_prompt(self.bank, data.tokens, self.modality, generator)
            if o.prompts == "auto" and not self._pays(start, borrowed, informed):
                return None
        steps = step_count(len(data.labels), o)
        prompt = self._train(start, torch.arange(len(data.labels)), steps, informed, generator, "prompts")
        if o.aggregation and informed:
            seen = len(data.labels) / len(data.classes)
            prompt = torch.lerp(start, prompt, seen / (seen + o.prompt_prior))
        return prompt

    # ---- whose knowledge helps ------------------------------------------------------------------------------

    def _features(self, prompts: list[Tensor]) -> Tensor:
        """u under one prompt, or under none, ``[n, D_u]``."""
        z = embed_all(self.head, self.data.tokens, self.modality, prompts)
        return torch.cat([F.normalize(z, dim=1), self.query], dim=1)

    @cached_property
    def _bare_features(self) -> Tensor:
        """u under the bare head, ``[n, D_u]``."""
        return self._features([])

    @cached_property
    def _bare_error(self) -> float:
        """The leave-one-out error under the bare head."""
        return self._leave_one_out(self._bare_features)

    def _leave_one_out(self, features: Tensor) -> float:
        """The leave-one-out error of the features ``[n, D_u]``, by the plain views: other views give a sample away."""
        plain = len(features) // self.data.views
        return leave_one_out_error(features[:plain], self.data.targets[:plain], len(self.data.classes))

    def _borrow(self) -> Tensor | None:
        """Blend the prompts of the other modalities by how much each helps; None where none does."""
        tower = self.method.encoder.tower(self.modality)
        others = [m for m in self.bank.prompts if m != self.modality and self.method.encoder.tower(m) == tower]
        if not others:
            return None
        prompts = [self.bank.prompt_for(m, self.modality) for m in others]
        errors = [self._bare_error, *(self._leave_one_out(self._features([p])) for p in prompts)]
        errors = distributed.broadcast_object(errors)  # all processes decide alike, on unlike machines too
        if min(errors[1:]) > errors[0] - LEAST_GAIN:
            return None
        return mix(prompts, torch.softmax(-torch.tensor(errors[1:]) / BORROWING_TEMPERATURE, 0).to(self.query.device))

    def _pays(self, start: Tensor, borrowed: bool, informed: bool) -> bool:
        """Train a prompt on a part of the samples, and return whether it lowers the error on the others.

        It is compared with the bare head. Too few samples can't tell. Then prompts pay if they did in any test, or if
        there was none. A modality whose earlier tasks needed none is tested again only on a harder task. Its
        leave-one-out error under the bare head is larger than in all tested tasks.

        Nothing is trained where the bare head's error is too small to fall by ``LEAST_GAIN``. Training ends after half
        of the steps where the error has not fallen by half of that.
        """
        data, generator = self.data, self.method.generator(self.data.index, 7)
        count = len(data.labels) // data.views
        order = torch.randperm(count, generator=generator)
        held, fitted = order[: int(TEST_SHARE * count)], order[int(TEST_SHARE * count) :]
        rows = torch.cat([fitted + view * count for view in range(data.views)])  # no view of a held-out sample
        known = self.prompts_pay
        if len(held) < LEAST_HELD_OUT:
            return borrowed or not known or any(test["pays"] for tests in known.values() for test in tests)
        with self.method.phase("test of prompts"):
            error = distributed.broadcast_object(self._bare_error)
        if self.modality in known and error <= max(test["leave_one_out"] for test in known[self.modality]) + LEAST_GAIN:
            return False
        prompted: float | None = None
        with self.method.phase("test of prompts"):
            bare = distributed.broadcast_object(self._held_out_error(self._bare_features, rows, held))
        if bare > LEAST_GAIN:
            # As many steps as for learning: prompts of clips and texts change little at first, and then all at once.
            steps = step_count(len(rows), self.options)

            def error_under(prompt: Tensor) -> float:
                return distributed.broadcast_object(self._held_out_error(self._features([prompt]), rows, held))

            def promising(prompt: Tensor) -> bool:
                return error_under(prompt) < bare - LEAST_GAIN / 2

            prompt = self._train(start, rows, steps, informed, generator, "test of prompts", promising)
            with self.method.phase("test of prompts"):
                prompted = error_under(prompt)
        pays = prompted is not None and prompted < bare - LEAST_GAIN
        test = {"task": data.index, "leave_one_out": error, "bare": bare, "prompted": prompted, "pays": pays}
        known.setdefault(self.modality, []).append(test)
        if self.method.progress is not None and distributed.is_main_process():
            self.method.progress.log(describe_test(self.modality, test))
        return pays

    def _held_out_error(self, features: Tensor, rows: Tensor, held: Tensor) -> float:
        """The error of the features ``[n, D_u]`` on the samples ``held``, fitted on the samples ``rows``."""
        return held_out_error(features, self.data.targets, len(self.data.classes), rows, held)

    # ---- training -------------------------------------------------------------------------------------------

    def _train(
        self,
        start: Tensor,
        rows: Tensor,
        steps: int,
        informed: bool,
        generator: torch.Generator,
        loop: str,
        promising: Callable[[Tensor], bool] = lambda prompt: True,
    ) -> Tensor:
        """Train the prompt on some of the task's samples, from ``start``.

        Args:
            start: ``[P]``.
            rows: numbers of the samples.
            steps: number of steps.
            informed: ``start`` holds knowledge, so that embeddings under it are kept.
            generator: the source of all random numbers.
            loop: name of the training loop, and of its phase.
            promising: called with the prompt after half of the steps; training ends there if it returns False.

        Returns:
            The trained prompt ``[P]``.
        """
        with self.method.phase(loop, steps) as shown:
            o, data, head, modality = self.options, self.data, self.head, self.modality
            device = self.query.device
            trained = PromptTraining(head, start, data.tokens, modality, o, generator)
            class_loss, of_classes = self._class_loss()
            plan = [rows[batch] for batch in step_batches(len(rows), o.batch_size, steps, generator)]
            groups = [*trained.groups, (of_classes, o.class_targets_lr)]
            regularised = informed and o.self_regularisation > 0
            z_start = None
            if regularised:
                z_start = embed_all(head, data.tokens, modality, self._blended(start), self.shares)
            means, z_means = self.old_classes, None
            if regularised and means is not None:
                z_means = embed_all(head, means, modality, [start])

            def loss(step: int) -> Tensor:
                chosen, share = distributed.shard_batch(plan[step].to(device))
                prompt = trained()
                mixed = mix(self._blended(prompt), self.shares if self.shares.dim() == 1 else self.shares[chosen])
                tokens = drop_random_channels(
                    subset(data.tokens, chosen), len(plan[step]), o.channel_dropout, generator
                )
                z = head.head(tokens, mixed, modality)
                value = class_loss(z, data.targets[chosen])
                if z_start is not None:
                    value = value + o.self_regularisation * (1 - F.cosine_similarity(z, z_start[chosen])).mean()
                value = value * share
                if means is not None and z_means is not None:
                    drawn = torch.randperm(len(means), generator=generator)[:MEANS_PER_STEP]
                    drawn, share = distributed.shard_batch(drawn.to(device))
                    z = head.head(subset(means, drawn), prompt, modality)
                    kept_in_place = (1 - F.cosine_similarity(z, z_means[drawn])).mean()
                    value = value + share * o.self_regularisation * kept_in_place
                return value

            def go_on(done: int) -> bool:
                return done != (len(plan) + 1) // 2 or promising(trained().detach())

            train_groups(groups, len(plan), loss, None, shown.advance, generator, self.method.checkpoints, loop, go_on)
        return trained().detach()

    def _class_loss(self) -> tuple[Callable[[Tensor, Tensor], Tensor], list[Tensor]]:
        """Return the loss of z ``[B, D]`` and targets ``[B]``, and the tensors that are trained with the prompt."""
        encoder, targets = self.method.encoder, self.texts
        if self.options.class_targets == "classifier":
            classifier = GrowingClassifier(encoder.dim, encoder.device)
            classifier.grow(len(targets))
            classes = list(range(len(targets)))
            return lambda z, y: classifier.loss(z, y, classes), classifier.parameters
        learned = self.options.class_targets == "learned"
        if learned:
            weights = torch.ones(len(targets), dtype=torch.float64, device=targets.device)
            targets = F.normalize(dual_basis(targets.double(), weights), dim=1).to(targets.dtype)

        def loss(z: Tensor, y: Tensor) -> Tensor:
            return ops.alignment_loss(z, targets, y, logit_scale=encoder.logit_scale)

        return loss, [targets] if learned else []

    def _blended(self, prompt: Tensor) -> list[Tensor]:
        """The prompts of ``names``, with ``prompt`` as the modality's own."""
        return [prompt if m == self.modality else self.bank.prompt_for(m, self.modality) for m in self.names]

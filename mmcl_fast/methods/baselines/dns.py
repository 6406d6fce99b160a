"""DNS: dual-sided null space projection of continual multimodal contrastive learning (CMCL, Liu et al. 2025, arXiv
2503.14963; the equations as in the authors' public code, cmcl/dns.py of Xiaohao-Liu/CMCL).

Over frozen features, one linear layer per modality, the identity at first. A task of modality m is the pair of m and
the class texts, whose side has a layer too: the similarity of a sample and a class is s f' W_m' W_t t. What is learned
moves each layer by

    dW_m = D - P' D P     P: onto the features f of m's earlier samples, P': onto the layer's images W_t t of the
                          class texts that they were paired with

and the text side likewise (P: earlier class texts t, P': the images W_m f of all modalities' earlier samples). So
(W_t t)' dW_m f = 0 and (W_m f)' dW_t t = 0 for all earlier f and t: old similarities change by the second-order term
f' dW_m' dW_t t alone, and by nothing where another modality learned. P keeps the eigenvectors of the mean of f f' whose
eigenvalue is above ``lambda_min``; P' all but those of rounding.

Where we differ from that code: D is the trained parameter, so that the update itself is projected (the code projects
gradients before AdamW with weight decay, whose steps leave the space); P' is made of the layers of today, which the old
similarities are computed with, not summed up over those of the past; no bias (the code trains one without projection);
the contrastive loss runs over the task's class texts, because all samples of a class share their text. Modality not
given: the layer of the modality that the relevance function finds most likely, where the paper always knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.shared.classifier import require_one_process, train
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.gram import gram_matrix
from mmcl_fast.methods.shared.options import BatchSize, Epochs, LearningRate, MethodOptions, RelevancePenalty
from mmcl_fast.methods.shared.prompts import batches

ROUNDING = 1e-8  # eigenvalues below this part of the largest are none


class DnsOptions(MethodOptions):
    source: Literal["z", "zq"] = Field(
        "zq", description="Features f: z: the bare head's output, as in the paper; zq: z and the trunk's query q"
    )
    lambda_min: float = Field(
        0.001, ge=0, description="Directions of earlier features with a larger eigenvalue are kept"
    )
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: LearningRate = Field(0.001, description="Largest learning rate of the linear layers")
    relevance_penalty: RelevancePenalty = 0.01


@dataclass
class Moment:
    """Sum of x x' over ``count`` rows x, ``[d, d]`` float64."""

    total: Tensor
    count: int = 0

    def add(self, x: Tensor) -> None:
        rows = x.double().cpu()
        self.total = self.total + gram_matrix(rows)
        self.count += len(x)


def span(moment: Tensor, least: float) -> Tensor:
    """Unit eigenvectors ``[d, k]`` of a symmetric ``[d, d]`` whose eigenvalue is above ``least`` and above rounding."""
    values, vectors = torch.linalg.eigh(moment)
    return vectors[:, values > max(least, ROUNDING * float(values[-1]))]


def free(delta: Tensor, image: Tensor, source: Tensor) -> Tensor:
    """D - P' D P, ``[D, d]``, with P' = image image' and P = source source'.

    Args:
        delta: ``[D, d]``.
        image, source: ``[D, k']`` and ``[d, k]``, orthonormal columns; none (k = 0): nothing is taken away.
    """
    return delta - image @ (image.T @ delta @ source) @ source.T


class Dns(Method):
    """Before the first task the scores are zero-shot; classes never trained have the score that the layers give."""

    name = "dns"
    reads_texts = True
    Options = DnsOptions

    def __init__(self, encoder: Encoder, options: DnsOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.relevance = Relevance(encoder.query_dim, "analytic", 1.0, options.relevance_penalty)
        self.width = encoder.dim + (encoder.query_dim if options.source == "zq" else 0)
        self.layers: dict[str, Tensor] = {}  # W_m [D, d], by modality
        self.text_layer = torch.eye(encoder.dim, device=encoder.device)  # W_t [D, D]
        self.features: dict[str, Moment] = {}  # of f, by modality
        self.texts: dict[str, Moment] = {}  # of the class texts paired with a modality

    def learn(self, data: TaskData, classes: Classes) -> None:
        require_one_process(self)
        o, m, generator = self.options, data.modality, self.generator(data.index, 3)
        dim, device = self.encoder.dim, self.encoder.device
        f, target, texts = self._features(data.tokens, m), data.targets, classes.embedding[data.classes]
        with self.phase("relevance"):
            self.relevance.learn(unit_query(data.tokens), m, {}, self.generator(data.index, 1))
        self.layers.setdefault(m, torch.eye(dim, self.width, device=device))
        with self.phase("projection"):
            used, used_text = self._used(m), self._used_text()
        delta, delta_text = (torch.zeros_like(w) for w in (self.layers[m], self.text_layer))
        plan = batches(len(target), o.batch_size, o.epochs, generator)

        def moved() -> tuple[Tensor, Tensor]:
            return self.layers[m] + free(delta, *used), self.text_layer + free(delta_text, *used_text)

        def loss(step: int) -> Tensor:
            rows = plan[step].to(target.device)
            layer, text_layer = moved()
            logits = self.encoder.logit_scale * (f[rows] @ layer.T) @ (texts @ text_layer.T).T
            return F.cross_entropy(logits, target[rows])

        with self.phase("layers", len(plan)) as shown:
            train(
                self,
                [([delta, delta_text], o.lr)],
                len(plan),
                loss,
                advance=shown.advance,
                generator=generator,
                loop="layers",
            )
        self.layers[m], self.text_layer = moved()
        self.features.setdefault(m, _none(self.width)).add(f)
        self.texts.setdefault(m, _none(dim)).add(texts[target])

    def _used(self, modality: str) -> tuple[Tensor, Tensor]:
        """Bases ``[D, k']`` and ``[d, k]`` of what this modality's layer must keep."""
        if modality not in self.features:
            return self._bases(_none(self.encoder.dim).total, _none(self.width))
        layer = self.text_layer.double().cpu()
        return self._bases(layer @ self.texts[modality].total @ layer.T, self.features[modality])

    def _used_text(self) -> tuple[Tensor, Tensor]:
        """Bases ``[D, k']`` and ``[D, k]`` of what the text side's layer must keep."""
        image, source = _none(self.encoder.dim).total, _none(self.encoder.dim)
        for modality, moment in self.features.items():
            layer = self.layers[modality].double().cpu()
            image = image + layer @ moment.total @ layer.T
            source.total = source.total + self.texts[modality].total
            source.count += self.texts[modality].count
        return self._bases(image, source)

    def _bases(self, image: Tensor, source: Moment) -> tuple[Tensor, Tensor]:
        kept, used = span(image, 0.0), span(source.total / max(source.count, 1), self.options.lambda_min)
        return kept.float().to(self.encoder.device), used.float().to(self.encoder.device)

    def _features(self, tokens: Tokens, modality: str) -> Tensor:
        """f, ``[n, d]`` float32."""
        z = F.normalize(self.reuse.one(self.encoder, tokens, modality), dim=-1)
        return z if self.options.source == "z" else torch.cat([z, unit_query(tokens)], dim=1)

    @property
    def routes(self) -> bool:
        return bool(self.layers)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not self.layers:
            return self.reuse.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        names, f = self.relevance.modalities, self._features(tokens, modality)
        if given and modality in names:
            e = f @ self.layers[modality].T
        else:
            own = self.relevance(unit_query(tokens)).argmax(1)
            e = f @ self.layers[names[0]].T
            for k, m in enumerate(names[1:], 1):
                e = torch.where((own == k).unsqueeze(1), f @ self.layers[m].T, e)
        return self.encoder.logit_scale * e @ (classes.embedding @ self.text_layer.T).T

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        relevance, values = self.relevance.state()
        tensors = {"text_layer": self.text_layer} | {f"relevance/{k}": v for k, v in relevance.items()}
        for m, layer in self.layers.items():
            tensors |= {f"layer/{m}": layer, f"features/{m}": self.features[m].total, f"texts/{m}": self.texts[m].total}
        counts = {m: [self.features[m].count, self.texts[m].count] for m in self.layers}
        return tensors, {"relevance": values, "counts": counts}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.relevance.load_state(
            {k.removeprefix("relevance/"): v for k, v in tensors.items() if k.startswith("relevance/")},
            values["relevance"],
        )
        self.text_layer = tensors["text_layer"]
        names = self.relevance.modalities  # moments are summed in their order
        self.layers = {m: tensors[f"layer/{m}"] for m in names}
        self.features = {m: Moment(tensors[f"features/{m}"], values["counts"][m][0]) for m in names}
        self.texts = {m: Moment(tensors[f"texts/{m}"], values["counts"][m][1]) for m in names}


def _none(width: int) -> Moment:
    return Moment(torch.zeros(width, width, dtype=torch.float64))

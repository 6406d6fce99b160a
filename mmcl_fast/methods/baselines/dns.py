"""DNS: dual-sided null space projection of continual multimodal contrastive learning (CMCL).

Source: Liu et al. 2025, arXiv 2503.14963. The equations follow the authors' public code, cmcl/dns.py of
Xiaohao-Liu/CMCL.

Over frozen features f there is one linear layer W_m for each modality, the identity at first. A task pairs a modality m
with the class texts t, whose side has a layer W_t too: the similarity of a sample and a class is s f' W_m' W_t t.
Learning moves each layer by

    dW_m = D - P' D P     P: onto the features f of m's earlier samples, P': onto the layer's images W_t t of the
                          class texts that they were paired with

and the text side likewise, with P onto earlier class texts t and P' onto the images W_m f of all modalities' earlier
samples. So (W_t t)' dW_m f = 0 and (W_m f)' dW_t t = 0 for all earlier f and t. Old similarities then change by the
second-order term f' dW_m' dW_t t alone, and by nothing where another modality learned. P keeps the eigenvectors of the
mean of f f' whose eigenvalue is above ``lambda_min``; P' keeps every one above rounding.

Departures from that code:

- D is the trained parameter, so that the update itself is projected. The code projects gradients before AdamW with
  weight decay, whose steps leave the space.
- P' is made with the layers of today, which old similarities are computed with. The code sums it up over past layers.
- No bias. The code trains one without projection.
- The contrastive loss runs over the task's class texts, because all samples of a class share their text.
- The paper has f = z alone (``features``). It has no trained classifier: classes are scored by their texts.
- Without a given modality, the layer of the modality that the relevance function finds most likely is used. The paper
  always knows the modality.

Options: :class:`DnsOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmcl_fast.encoders.base import Encoder, Tokens
from mmcl_fast.methods.base import Classes, Method, TaskData
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.shared.classifier import require_one_process, train_in_one_process
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.gram import gram_matrix
from mmcl_fast.methods.shared.options import BatchSize, Epochs, LearningRate, MethodOptions, RelevancePenalty, Weight
from mmcl_fast.methods.shared.prompt_and_classifier import strip_prefix
from mmcl_fast.methods.shared.prompts import batches
from mmcl_fast.option_fields import FormerName, Tunable

ROUNDING = 1e-8  # an eigenvalue below this share of the largest one is rounding


class DnsOptions(MethodOptions):
    features: Annotated[Literal["z", "zq"], FormerName("source")] = Field(
        "zq",
        description="What the linear layers read. z: the bare head's output, as in the paper. zq: z and the trunk's "
        "query q",
    )
    lambda_min: Annotated[Weight, Tunable(1e-6, 0.1)] = Field(
        0.001, description="Directions of earlier features with a larger eigenvalue are kept"
    )
    epochs: Epochs = 20
    batch_size: BatchSize = 32
    lr: Annotated[LearningRate, Tunable(1e-5, 0.1)] = Field(
        0.001, description="Largest learning rate of the linear layers"
    )
    relevance_penalty: RelevancePenalty = 0.01


@dataclass
class SecondMoment:
    """Sum of x x' over ``count`` rows x, ``[d, d]`` float64."""

    total: Tensor
    count: int = 0

    @staticmethod
    def zero(width: int) -> SecondMoment:
        return SecondMoment(torch.zeros(width, width, dtype=torch.float64))

    def add(self, x: Tensor) -> None:
        rows = x.double().cpu()
        self.total = self.total + gram_matrix(rows)
        self.count += len(x)


def leading_eigenvectors(moment: Tensor, least: float) -> Tensor:
    """Return unit eigenvectors ``[d, k]`` of a symmetric ``[d, d]`` with an eigenvalue above ``least`` and rounding."""
    values, vectors = torch.linalg.eigh(moment)
    return vectors[:, values > max(least, ROUNDING * float(values[-1]))]


def project_update(delta: Tensor, image: Tensor, source: Tensor) -> Tensor:
    """Return D - P' D P, ``[D, d]``, with P' = image image' and P = source source'.

    Args:
        delta: D, ``[D, d]``.
        image: ``[D, k']``, orthonormal columns; none (k' = 0): nothing is taken away.
        source: ``[d, k]``, orthonormal columns; none (k = 0): nothing is taken away.
    """
    return delta - image @ (image.T @ delta @ source) @ source.T


class Dns(Method):
    """DNS. Before the first task the scores are zero-shot; a class never trained gets the score of the layers.

    Attributes:
        layers: modality -> W_m ``[D, d]``.
        text_layer: W_t ``[D, D]``.
        features: modality -> second moment of its features f.
        texts: modality -> second moment of the class texts that its samples were paired with.
    """

    name = "dns"
    scores_texts = True
    Options = DnsOptions

    def __init__(self, encoder: Encoder, options: DnsOptions, *, seed: int = 0, progress: Any = None):
        super().__init__(encoder, options, seed=seed, progress=progress)
        self.relevance = Relevance(encoder.query_dim, "analytic", 1.0, options.relevance_penalty)
        self.width = encoder.dim + (encoder.query_dim if options.features == "zq" else 0)
        self.layers: dict[str, Tensor] = {}
        self.text_layer = torch.eye(encoder.dim, device=encoder.device)
        self.features: dict[str, SecondMoment] = {}
        self.texts: dict[str, SecondMoment] = {}

    def learn(self, data: TaskData, classes: Classes) -> None:
        require_one_process(self)
        o, m, generator = self.options, data.modality, self.generator(data.index, 3)
        dim, device = self.encoder.dim, self.encoder.device
        f, target, texts = self._features(data.tokens, m), data.targets, classes.embedding[data.classes]
        with self.phase("relevance"):
            self.relevance.learn(unit_query(data.tokens), m, {}, self.generator(data.index, 1))
        self.layers.setdefault(m, torch.eye(dim, self.width, device=device))
        with self.phase("projection"):
            bases, text_bases = self._layer_bases(m), self._text_layer_bases()
        delta, text_delta = (torch.zeros_like(w) for w in (self.layers[m], self.text_layer))
        plan = batches(len(target), o.batch_size, o.epochs, generator)

        def updated_layers() -> tuple[Tensor, Tensor]:
            text_layer = self.text_layer + project_update(text_delta, *text_bases)
            return self.layers[m] + project_update(delta, *bases), text_layer

        def loss(step: int) -> Tensor:
            rows = plan[step].to(target.device)
            layer, text_layer = updated_layers()
            logits = self.encoder.logit_scale * (f[rows] @ layer.T) @ (texts @ text_layer.T).T
            return F.cross_entropy(logits, target[rows])

        with self.phase("layers", len(plan)) as shown:
            train_in_one_process(
                self,
                [([delta, text_delta], o.lr)],
                len(plan),
                loss,
                advance=shown.advance,
                generator=generator,
                loop="layers",
            )
        self.layers[m], self.text_layer = updated_layers()
        self.features.setdefault(m, SecondMoment.zero(self.width)).add(f)
        self.texts.setdefault(m, SecondMoment.zero(dim)).add(texts[target])

    def _layer_bases(self, modality: str) -> tuple[Tensor, Tensor]:
        """Bases ``[D, k']`` of P' and ``[d, k]`` of P for a modality's layer."""
        if modality not in self.features:
            return self._bases(SecondMoment.zero(self.encoder.dim).total, SecondMoment.zero(self.width))
        layer = self.text_layer.double().cpu()
        return self._bases(layer @ self.texts[modality].total @ layer.T, self.features[modality])

    def _text_layer_bases(self) -> tuple[Tensor, Tensor]:
        """Bases ``[D, k']`` of P' and ``[D, k]`` of P for the text side's layer."""
        image, source = SecondMoment.zero(self.encoder.dim).total, SecondMoment.zero(self.encoder.dim)
        for modality, moment in self.features.items():
            layer = self.layers[modality].double().cpu()
            image = image + layer @ moment.total @ layer.T
            source.total = source.total + self.texts[modality].total
            source.count += self.texts[modality].count
        return self._bases(image, source)

    def _bases(self, image: Tensor, source: SecondMoment) -> tuple[Tensor, Tensor]:
        image_basis = leading_eigenvectors(image, 0.0)
        source_basis = leading_eigenvectors(source.total / max(source.count, 1), self.options.lambda_min)
        return image_basis.float().to(self.encoder.device), source_basis.float().to(self.encoder.device)

    def _features(self, tokens: Tokens, modality: str) -> Tensor:
        """f, ``[n, d]`` float32."""
        z = F.normalize(self.embedding_cache.embed_with_prompt(self.encoder, tokens, modality), dim=-1)
        return z if self.options.features == "z" else torch.cat([z, unit_query(tokens)], dim=1)

    @property
    def uses_given_modality(self) -> bool:
        return bool(self.layers)

    def scores(self, tokens: Tokens, modality: str, classes: Classes, *, given: bool) -> Tensor:
        if not self.layers:
            return self.embedding_cache.cosine_scores(self.encoder, tokens, modality, classes.embedding)
        names, f = self.relevance.modalities, self._features(tokens, modality)
        if given and modality in names:
            e = f @ self.layers[modality].T
        else:
            likeliest = self.relevance(unit_query(tokens)).argmax(1)
            e = f @ self.layers[names[0]].T
            for k, m in enumerate(names[1:], 1):
                e = torch.where((likeliest == k).unsqueeze(1), f @ self.layers[m].T, e)
        return self.encoder.logit_scale * e @ (classes.embedding @ self.text_layer.T).T

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        relevance, values = self.relevance.state()
        tensors = {"text_layer": self.text_layer} | {f"relevance/{k}": v for k, v in relevance.items()}
        for m, layer in self.layers.items():
            tensors |= {f"layer/{m}": layer, f"features/{m}": self.features[m].total, f"texts/{m}": self.texts[m].total}
        counts = {m: [self.features[m].count, self.texts[m].count] for m in self.layers}
        return tensors, {"relevance": values, "counts": counts}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.relevance.load_state(strip_prefix("relevance/", tensors), values["relevance"])
        self.text_layer = tensors["text_layer"]
        names = self.relevance.modalities  # moments are summed in this order
        self.layers = {m: tensors[f"layer/{m}"] for m in names}
        self.features = {m: SecondMoment(tensors[f"features/{m}"], values["counts"][m][0]) for m in names}
        self.texts = {m: SecondMoment(tensors[f"texts/{m}"], values["counts"][m][1]) for m in names}

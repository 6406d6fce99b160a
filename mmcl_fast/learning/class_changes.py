"""Rename a class that a model knows, or take it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmcl_fast.encoders import Encoder
from mmcl_fast.errors import RunError, suggest
from mmcl_fast.learning.model import require_finite
from mmcl_fast.learning.unknown import UnknownScores
from mmcl_fast.methods import Classes, Method
from mmcl_fast.streams.sample import ClassId


def find_class(keys: Sequence[ClassId], name: str) -> ClassId:
    """Return the class that a user means by ``modality/name``, or by a name alone where only one modality has it.

    Raises:
        RunError: no class has this name, or several have.
    """
    spelled = {f"{modality}/{own}": (modality, own) for modality, own in keys}
    if name in spelled:
        return spelled[name]
    found = [key for key in keys if key[1] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunError(f"class {name!r}: give one of {', '.join('/'.join(key) for key in found)}")
    raise RunError(f"class {name!r}: {suggest(name, [*spelled, *(own for _, own in keys)])}")


class ClassChanges:
    """The part of a learner that changes classes it has learned.

    Attributes:
        aliases: the former key of a renamed class -> its key of today.
    """

    classes: Classes
    encoder: Encoder
    method: Method
    seed: int
    progress: Any
    tasks: list[dict[str, Any]]
    aliases: dict[ClassId, ClassId]
    unknown: UnknownScores

    def rename(self, old: str, new: str, *, text: str | None = None) -> ClassId:
        """Give a class another name and text. Its samples stay learned, and its former name becomes an alias.

        A method that reads class texts is solved anew for the new text.

        Example::

            learner.rename("image/hound", "dog")

        Args:
            old: the class, as ``modality/name``, or the name alone where only one modality has it.
            new: the new name, without the modality.
            text: the class text; None: the new name, with spaces for underscores.

        Returns:
            The class's key (modality, name).

        Raises:
            RunError: there is no such class, or the new name is empty, taken, or a former name of another class.
        """
        key = find_class(self.classes.keys, old)
        renamed = (key[0], new.strip())
        if not renamed[1] or "/" in renamed[1]:
            raise RunError(f"class {new!r}: a name has at least one letter and no slash")
        if renamed in self.classes.ids and renamed != key:
            raise RunError(f"class {'/'.join(renamed)}: is known already; choose another name")
        if (other := self.aliases.get(renamed, key)) != key:
            raise RunError(
                f"class {'/'.join(renamed)}: is a former name of {'/'.join(other)}, and data with this name count as "
                "that class; choose another name, or give that class its former name back first"
            )
        number, texts, keys = self.classes.ids[key], list(self.classes.texts), list(self.classes.keys)
        wanted = (text or renamed[1].replace("_", " ")).strip()
        taken = wanted in texts[:number] + texts[number + 1 :]  # as "dog", seen and then heard, is "dog (audio)"
        texts[number], keys[number] = f"{wanted} ({key[0]})" if taken else wanted, renamed
        embedding = self.classes.embedding.clone()
        embedding[number] = self.encoder.text([texts[number]])[0].to(embedding.device)
        tasks = [
            {
                **task,
                "classes": [renamed[1] if tuple(id) == key else n for n, id in zip(task["classes"], task["class_ids"])],
                "class_ids": [list(renamed) if tuple(id) == key else id for id in task["class_ids"]],
            }
            for task in self.tasks
        ]
        classes = Classes(keys, texts, embedding)
        self.method.update_class_texts(classes, max(len(tasks) - 1, 0))
        self.classes, self.tasks = classes, tasks
        self.aliases = {former: renamed if now == key else now for former, now in self.aliases.items()}
        if renamed != key:
            self.aliases[key] = renamed
        self.aliases.pop(renamed, None)  # a class that gets its former name back
        return renamed

    def remove(self, name: str) -> list[str]:
        """Take a class out of what was learned. It needs no sample.

        The calibration stays as it is; :meth:`calibrate` renews it.

        Example::

            learner.remove("audio/dog")  # ["the correlations in the covariance that the classes share", ...]

        Args:
            name: the class, as ``modality/name``, or the name alone where only one modality has it.

        Returns:
            What still holds a share of the class, each as a phrase.

        Raises:
            RunError: there is no such class, it is the last one, or the method cannot take a class out.
        """
        key = find_class(self.classes.keys, name)
        if len(self.classes) == 1:
            raise RunError(f"class {'/'.join(key)}: is the only one; delete the model instead")
        number = self.classes.ids[key]
        kept = [k for k in range(len(self.classes)) if k != number]
        classes = Classes(
            [self.classes.keys[k] for k in kept], [self.classes.texts[k] for k in kept], self.classes.embedding[kept]
        )
        tasks = [task for task in (_without(task, key) for task in self.tasks) if task["classes"]]
        tensors, values = self.method.state()
        before = {k: v.clone() for k, v in tensors.items()}, values
        try:
            remains = self.method.remove_class(number, classes, len(tasks) - 1)
            require_finite(self.method.state()[0])
        except NotImplementedError:
            raise RunError(
                f"method {self.method.name}: can't take a class out of what it has learned; "
                "learn again without the class (mmcl-fast remove --retrain)"
            ) from None
        except BaseException:
            self._reset(*before)
            raise
        self.unknown.remove(number)
        self.classes, self.tasks = classes, tasks
        self.forget_names(key)
        return remains

    def forget_names(self, key: ClassId) -> None:
        """Forget the former names of a class that is taken out. Data with these names are of a new class again."""
        self.aliases = {former: now for former, now in self.aliases.items() if now != key}

    def _reset(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Put the method back into an earlier state."""
        if self.method.needs_all_tasks:
            return  # its last act is to keep the task's data, so a task that failed left nothing
        fresh = type(self.method)(self.encoder, self.method.options, seed=self.seed, progress=self.progress)
        if tensors or self.tasks:
            fresh.load_state(tensors, values)
        self.method = fresh


def _without(task: dict[str, Any], key: ClassId) -> dict[str, Any]:
    """Return the record of a task without a class."""
    pairs = [(name, id) for name, id in zip(task["classes"], task["class_ids"]) if tuple(id) != key]
    return {**task, "classes": [name for name, _ in pairs], "class_ids": [id for _, id in pairs]}

"""The settings of an evaluation: what a model may know of a sample's modality. Reports read them without torch."""

from __future__ import annotations

SETTINGS = {
    "agnostic": "the modality is not given; all classes compete",
    "given": "the given modality chooses prompts and gates; all classes compete",
    "given_masked": "as given, but only the classes of the given modality compete",
}


def setting_label(name: str) -> str:
    """Return a setting's name for people; files name the setting ``given_masked``."""
    return "given, own classes" if name == "given_masked" else name

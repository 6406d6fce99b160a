"""ESC-50, UrbanSound8K, VGGSound and AudioSet's strong labels."""

from __future__ import annotations

from collections.abc import Iterator

from mmcl_fast.streams.sources.known.layout import DatasetFolder, KnownSample, Layout, keep_classes_in_both_splits


def _read_esc_50(folder: DatasetFolder) -> Iterator[KnownSample]:
    for row in folder.rows("meta/esc50.csv", "filename", "fold", "category"):
        name, fold, label = (row.values[column] for column in ("filename", "fold", "category"))
        yield KnownSample(label, _split_of_fold(folder, fold), folder.file("audio", name))


def _read_urbansound(folder: DatasetFolder) -> Iterator[KnownSample]:
    for row in folder.rows("metadata/UrbanSound8K.csv", "slice_file_name", "fold", "class"):
        name, fold, label = (row.values[column] for column in ("slice_file_name", "fold", "class"))
        yield KnownSample(label, _split_of_fold(folder, fold), folder.file(f"audio/fold{fold}", name))


def _split_of_fold(folder: DatasetFolder, fold: str) -> str:
    return "test" if fold == str(folder.split) else "train"


def _read_vggsound(folder: DatasetFolder) -> list[KnownSample]:
    """Read the clips that are on the disk. Then leave out classes without training or test clips.

    The clips are cut from videos on the web, and many videos are gone.
    """
    samples: list[KnownSample] = []
    places: dict[str, str] = {}
    for row in folder.rows("vggsound.csv", "1", "2", "3", "4", header=False):
        places = places or folder.places_by_stem()
        video, start, label, split = row.values.values()
        if not start.isdigit() or split not in ("train", "test"):
            raise folder.format_error("vggsound.csv", f"line {row.number}")
        if place := places.get(f"{video}_{int(start):06d}"):
            samples.append(KnownSample(label, split, place))
    return _require_samples(folder, samples, "audio/---g-f_I2yQ_000001.wav")


def _read_audioset(folder: DatasetFolder) -> list[KnownSample]:
    """Read the clips that are on the disk, and leave out classes as for VGGSound.

    A clip has many labelled events. Its class is the label with the longest total time; with equal times, the first.
    """
    names = {row.values["1"]: row.values["2"] for row in folder.rows("mid_to_display_name.tsv", "1", "2", header=False)}
    places = folder.places_by_stem()
    samples: list[KnownSample] = []
    for split, word in (("train", "train"), ("test", "eval")):
        place = f"audioset_{word}_strong.tsv"
        seconds: dict[str, dict[str, float]] = {}
        for row in folder.rows(place, "segment_id", "start_time_seconds", "end_time_seconds", "label"):
            clip, start, end, label = (
                row.values[column] for column in ("segment_id", "start_time_seconds", "end_time_seconds", "label")
            )
            if label not in names:
                raise folder.format_error(place, f"line {row.number}: {label!r} is not in mid_to_display_name.tsv")
            events = seconds.setdefault(clip, {})
            try:
                events[label] = events.get(label, 0.0) + float(end) - float(start)
            except ValueError:
                raise folder.format_error(place, f"line {row.number}: times {start!r} and {end!r}") from None
        for clip, events in seconds.items():
            video = clip.rpartition("_")[0]
            clip_place = next((places[s] for s in (clip, video, f"Y{video}", f"Y{clip}") if s in places), None)
            if clip_place:
                samples.append(KnownSample(names[max(events, key=events.__getitem__)], split, clip_place))
    return _require_samples(folder, samples, "audio/s9d-2nhuJCQ_30000.wav")


def _require_samples(folder: DatasetFolder, samples: list[KnownSample], example: str) -> list[KnownSample]:
    """Return the samples of classes with both splits. Without any, raise the error for the place ``example``."""
    complete = keep_classes_in_both_splits(samples)
    if not complete:
        raise folder.missing_error(example)
    return complete


LAYOUTS = {
    "esc_50": Layout("audio", "audio/1-100032-A-0.wav and so on, meta/esc50.csv", _read_esc_50, splits=5),
    "urbansound8k": Layout(
        "audio", "audio/fold1/*.wav and so on, metadata/UrbanSound8K.csv", _read_urbansound, splits=10
    ),
    "vggsound": Layout(
        "audio",
        "vggsound.csv and, in any folders, clips named by video and start: ---g-f_I2yQ_000001.wav (or .flac, .mp4)",
        _read_vggsound,
    ),
    "audioset_strong": Layout(
        "audio",
        "audioset_train_strong.tsv, audioset_eval_strong.tsv, mid_to_display_name.tsv "
        "and, in any folders, clips named by segment (s9d-2nhuJCQ_30000.wav) or video "
        "(s9d-2nhuJCQ.wav, Ys9d-2nhuJCQ.wav)",
        _read_audioset,
    ),
}

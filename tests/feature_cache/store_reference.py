"""Stores the fingerprints of the corpus for test_reference.py: ``python -m tests.feature_cache.store_reference``.

Raise the version of each modality whose numbers changed in mmcl_fast/feature_cache/versions.py first. This command
refuses to store other numbers under the same versions.
"""

from __future__ import annotations

import sys

from mmcl_fast.encoders import load_encoder
from tests.feature_cache import reference


def main() -> int:
    encoder = load_encoder("embedded")
    before = reference.read() if reference.STORED.exists() else {}
    content = {}
    for modality in reference.MODALITIES:
        versions = reference.current_versions(encoder, modality)
        if versions["kernels"] == "none":
            print("mmcl_fast._C is not there: install the package with a C++ compiler, then store again")
            return 1
        values = reference.fingerprints(encoder, modality)
        stored = before.get(modality, {"versions": {}, "values": {}})
        known = {name: numbers for name, numbers in stored["values"].items() if name in values}
        changed = reference.differences(known, {name: values[name] for name in known})
        if changed and versions == stored["versions"]:
            print(reference.advice(modality, changed))
            return 1
        content[modality] = {"versions": versions, "values": values}
        print(f"{modality}: {len(values)} fingerprints, {len(changed)} of {len(known)} stored ones changed")
    reference.write(content)
    print(f"{reference.STORED}: {reference.STORED.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

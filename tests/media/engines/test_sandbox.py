"""The files that workers may still open after they gave up the right to open files."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from mmcl_fast.media.engines import isolation
from tests.media.originals import originals

if isolation.unavailable():
    pytest.skip(f"isolation: {isolation.unavailable()}", allow_module_level=True)


def test_packages_that_a_pth_file_leads_to_may_be_opened(tmp_path: Path) -> None:
    """FFmpeg's libraries are opened with the first video, after the worker gave up its rights."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv" / "bin" / "python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    place = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    folders = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (Path(place) / "below.pth").write_text("\n".join(folders) + "\n")
    (tmp_path / "film").write_bytes(next(file.data for file in originals() if file.modality == "video"))
    script = (
        "from mmcl_fast.media.engines.isolation import DecodeLimits, Pool\n"
        "with Pool(1, DecodeLimits()) as pool:\n"
        f"    print(tuple(pool.decode({str(tmp_path / 'film')!r}, 'video').shape))\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.stdout == "(8, 3, 224, 224)\n", done.stderr

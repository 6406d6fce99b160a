"""Every former name of a module says its present name."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from mmcl_fast._renamed import RENAMED

OPTIONAL = ("nvidia.", "triton")  # packages without which a present module does not import


@pytest.mark.parametrize(("former", "present"), RENAMED.items())
def test_a_former_name_says_the_present_one(former: str, present: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=rf"^mmcl_fast\.{former} is now mmcl_fast\.{present}$"):
        importlib.import_module(f"mmcl_fast.{former}")
    try:
        importlib.import_module(f"mmcl_fast.{present}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(OPTIONAL):
            raise


def test_the_error_comes_in_every_form_of_import() -> None:
    for line in ("import mmcl_fast.parallel", "from mmcl_fast import parallel", "from mmcl_fast.parallel import first"):
        with pytest.raises(ModuleNotFoundError, match=r"^mmcl_fast\.parallel is now mmcl_fast\.distributed$"):
            exec(line, {})
    with pytest.raises(ModuleNotFoundError, match="No module named 'mmcl_fast.never'"):
        importlib.import_module("mmcl_fast.never")
    with pytest.raises(ImportError, match="cannot import name 'never'"):
        exec("from mmcl_fast import never", {})


def test_an_import_that_succeeds_does_not_read_the_table() -> None:
    program = "import sys, mmcl_fast, mmcl_fast.errors; print('mmcl_fast._renamed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr

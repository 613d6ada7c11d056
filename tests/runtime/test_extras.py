import sys

import pytest

from comosvc.runtime.extras import run_command


def test_a_missing_package_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("def main():\n    import nowhere_to_be_found\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        run_command("lacking", "comosvc-train", "train")
    assert exit_.value.code == (
        "error: comosvc-train needs the package nowhere_to_be_found, which is not installed\n"
        'hint: pip install "comosvc[train]"'
    )


def test_a_module_of_our_own_that_is_missing_is_no_matter_of_extras(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("def main():\n    import comosvc.nowhere\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"comosvc.nowhere"):
        run_command("broken", "comosvc-train", "train")
    assert "comosvc.nowhere" not in sys.modules

import json
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from comosvc.runtime import errors as extras
from comosvc.runtime.errors import install, run_command


def test_a_missing_package_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("def main():\n    import nowhere_to_be_found\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        run_command("lacking", "comosvc-train", "train")
    assert exit_.value.code == (
        f"error: comosvc-train needs the package nowhere_to_be_found, which is not installed\nhint: {install('train')}"
    )


def test_a_module_of_our_own_that_is_missing_is_no_matter_of_extras(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("def main():\n    import comosvc.nowhere\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"comosvc.nowhere"):
        run_command("broken", "comosvc-train", "train")
    assert "comosvc.nowhere" not in sys.modules


@pytest.mark.parametrize(
    ("noted", "wanted"),
    [
        ({"url": "file:///home/me/my%20clone", "dir_info": {"editable": True}}, "pip install '/home/me/my clone[cpu]'"),
        ({"url": "https://host/comosvc.whl", "archive_info": {}}, "pip install 'comosvc[cpu]'"),
        (None, "pip install 'comosvc[cpu]'"),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came_from(monkeypatch, noted, wanted):
    text = None if noted is None else json.dumps(noted)
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: text))
    assert install("cpu") == wanted


def test_outside_of_an_installation_the_name_has_to_do(monkeypatch):
    def none(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "distribution", none)
    assert extras.install("cpu") == "pip install 'comosvc[cpu]'"


@pytest.mark.parametrize("wanted", [install, lambda extra: extras.pip_install(f"--upgrade {extra}")])
def test_a_frozen_application_has_no_pip_and_no_folder_of_the_machine_that_built_it(monkeypatch, wanted):
    noted = json.dumps({"url": "file:///home/builder/clone", "dir_info": {}})
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: noted))
    assert "pip install" in wanted("cpu")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert "pip" not in wanted("cpu")
    assert "builder" not in wanted("cpu")
    assert "has to be built again" in wanted("cpu")

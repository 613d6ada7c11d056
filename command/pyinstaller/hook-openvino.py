"""Run by PyInstaller for applications with OpenVINO, which loads its plugins by name."""

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs

binaries = collect_dynamic_libs("openvino")
datas = collect_data_files("openvino", subdir="libs")

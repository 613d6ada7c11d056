"""Run by PyInstaller where OpenVINO is part of the application: its plugins are libraries that it loads by name."""

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs

binaries = collect_dynamic_libs("openvino")
datas = collect_data_files("openvino", subdir="libs")

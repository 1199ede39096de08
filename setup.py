"""The packages: the top-level folders are the pipeline, and installed they are one package, ``sbnn_tvm``."""

from setuptools import find_packages, setup

STAGES = ("frontends", "passes", "schedules")

setup(
    packages=[
        *find_packages(include=["sbnn_tvm", "sbnn_tvm.*"]),
        *(f"sbnn_tvm.{name}" for stage in STAGES for name in find_packages(include=[stage, f"{stage}.*"])),
    ],
    package_dir={f"sbnn_tvm.{stage}": stage for stage in STAGES},
)

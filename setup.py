"""Packaging: the four source folders of this repository become one import package, ``stvit``."""

from setuptools import find_packages, setup

# Import name -> folder. ``datasets`` as a top-level name would shadow the Hugging Face library of that name.
PACKAGES = {
    "stvit": "stvit",
    "stvit.models2d": "models2d",
    "stvit.models3d": "models3d",
    "stvit.datasets": "datasets",
}

setup(
    package_dir=PACKAGES,
    packages=[
        package
        for name, folder in PACKAGES.items()
        for package in [name, *(f"{name}.{sub}" for sub in find_packages(folder))]
    ],
    package_data={"stvit": ["py.typed"], "stvit.builtin": ["moving_mnist/*"]},
)

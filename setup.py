"""The part of the build that pyproject.toml cannot express: five folders of the repository form one import package."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

# Import name -> folder. Git does not track empty folders, so a folder without files may be missing.
FOLDERS = {
    "harness_ext": "harness_ext",
    "harness_ext.models": "models",
    "harness_ext.tasks": "tasks",
    "harness_ext.enhance": "enhance",
    "harness_ext.finetune": "finetune",
}
PRESENT = {package: folder for package, folder in FOLDERS.items() if Path(folder).is_dir()}


def packages() -> list[str]:
    """Return all packages: the five folders and every folder below them, whether it contains code or only data."""
    found = []
    for package, folder in PRESENT.items():
        below = find_namespace_packages(folder, exclude=["*__pycache__*"])
        found += [package, *(f"{package}.{name}" for name in below)]
    return found


setup(
    packages=packages(),
    package_dir=PRESENT,
    # Everything in these folders is installed: YAML with and without suffix, prompts, weights, configurations, scripts.
    package_data={"": ["*"]},
    exclude_package_data={"": ["*.pyc"]},
)

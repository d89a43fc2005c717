"""What pyproject.toml cannot say: five folders of the repository are one import package."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

# Import name -> folder. Git knows no empty folders: one that has no file yet is left out.
FOLDERS = {
    "harness_ext": "harness_ext",
    "harness_ext.models": "models",
    "harness_ext.tasks": "tasks",
    "harness_ext.enhance": "enhance",
    "harness_ext.finetune": "finetune",
}
PRESENT = {package: folder for package, folder in FOLDERS.items() if Path(folder).is_dir()}


def packages() -> list[str]:
    """Return every package: the five folders, and each folder below one of them, whether it holds code or only data."""
    found = []
    for package, folder in PRESENT.items():
        below = find_namespace_packages(folder, exclude=["*__pycache__*"])
        found += [package, *(f"{package}.{name}" for name in below)]
    return found


setup(
    packages=packages(),
    package_dir=PRESENT,
    # Everything in these folders is wanted: YAML with and without suffix, prompts, model weights, configs, scripts.
    package_data={"": ["*"]},
    exclude_package_data={"": ["*.pyc"]},
)

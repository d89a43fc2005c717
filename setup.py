"""What pyproject.toml cannot say: five folders of the repository are one import package."""

from setuptools import find_namespace_packages, setup

FOLDERS = {
    "harness_ext": "harness_ext",
    "harness_ext.models": "models",
    "harness_ext.tasks": "tasks",
    "harness_ext.enhance": "enhance",
    "harness_ext.finetune": "finetune",
}


def packages() -> list[str]:
    """Return every package: the five, and each folder below one of them, whether it holds code or only data."""
    found = []
    for package, folder in FOLDERS.items():
        below = find_namespace_packages(folder, exclude=["*__pycache__*"])
        found += [package, *(f"{package}.{name}" for name in below)]
    return found


setup(
    packages=packages(),
    package_dir=FOLDERS,
    # Everything in these folders is wanted: YAML with and without suffix, prompts, model weights, configs, scripts.
    package_data={"": ["*"]},
    exclude_package_data={"": ["*.pyc"]},
)

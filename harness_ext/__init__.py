"""Multi-agent protocols as lm-eval models."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout, `models/`, `tasks/`, `enhance/` and `finetune/` are siblings of this folder instead of subfolders. A
# Python started there imports this folder before any installed copy, so subpackages must be found next to it as well.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "models").is_dir():
    __path__.append(str(_checkout))

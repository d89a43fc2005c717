"""Multi-agent protocols as lm-eval models."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `models/`, `tasks/`, `enhance/` and `finetune/` lie beside this folder, not in it; Python finds this
# folder first when it is started there, whatever was installed, so the sub-packages are looked up beside it too.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "models").is_dir():
    __path__.append(str(_checkout))

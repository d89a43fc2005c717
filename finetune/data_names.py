"""How the settings name rows: files, folders, and data sets on the hub."""

from __future__ import annotations

import re
from pathlib import Path

JSON_ARRAY = ".json"
TABLES = (".csv", ".tsv")
PARQUET = ".parquet"
FILES = (".jsonl", JSON_ARRAY, *TABLES, PARQUET)
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_name(name: str) -> bool:
    """Return whether a name that is neither a file nor a folder can be that of a data set on the hub, `owner/name`.

    The name of a file in a missing folder, such as `data/rows.jsonl`, cannot.

    name: the value of a setting.
    """
    return bool(_HUB_NAME.fullmatch(name)) and not name.endswith(FILES) and not Path(name).exists()

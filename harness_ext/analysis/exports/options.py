"""The options of `harness-ext export` that only some formats take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportOptions:
    """What only some formats take.

    repo: the data set on the hub that `hf` pushes to, as `owner/name`. Default none: only local files.
    public: whether a new data set is public. Default false: private.
    project: the project, or the experiment, of a tracker. Default `harness-ext`.
    upload: whether a tracker may send the run to the server that its environment variables name. Default false.
    model_id: the model's name in shared results, as `developer/model`. Default `harness-ext/<label>`.
    organization: who publishes shared results. Default `unknown`.
    """

    repo: str | None = None
    public: bool = False
    project: str = "harness-ext"
    upload: bool = False
    model_id: str | None = None
    organization: str = "unknown"

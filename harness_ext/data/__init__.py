"""Loads the rows of data sets from the hub or from local files, in every supported format."""

from harness_ext.data.sources import (
    DATA_VARIABLE,
    DataError,
    DataSource,
    data_folder,
    load_files,
    load_rows,
    make_documents,
)

__all__ = ["DATA_VARIABLE", "DataError", "DataSource", "data_folder", "load_files", "load_rows", "make_documents"]

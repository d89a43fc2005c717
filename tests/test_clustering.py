"""Clusters of questions, as `--cluster` defines them."""

from __future__ import annotations

import pytest

from harness_ext.analysis.clustering import ClusterError, cluster_of

DOCUMENT = {"story": 7, "passage": "Mary went home.\nJohn left."}


def test_questions_with_the_same_value_are_one_cluster_within_their_task() -> None:
    assert cluster_of("story", "a", DOCUMENT) == cluster_of("story", "a", {"story": "7"})
    assert cluster_of("story", "a", DOCUMENT) != cluster_of("story", "b", DOCUMENT)
    assert cluster_of("story", "a", DOCUMENT) != cluster_of("story", "a", {"story": 8})


def test_templates_and_tasks_define_clusters() -> None:
    first_line = "{{passage.split('\\n')[0]}}"
    assert cluster_of(first_line, "a", DOCUMENT) == cluster_of(first_line, "a", {"passage": "Mary went home."})
    assert cluster_of("task", "a", DOCUMENT) == cluster_of("task", "a", "no fields at all")
    assert cluster_of("task", "a", DOCUMENT) != cluster_of("task", "b", DOCUMENT)


@pytest.mark.parametrize("field", ["tale", "{{tale}}", "{{passage.nothing()}}", "{% if %}"])
def test_what_a_document_lacks_is_an_error_that_names_its_fields(field: str) -> None:
    with pytest.raises(ClusterError, match=r"of a.*their fields are: story, passage"):
        cluster_of(field, "a", DOCUMENT)
    with pytest.raises(ClusterError, match="they have none"):
        cluster_of(field, "a", "a text")

"""Which embedded model takes which seat of a run."""

from __future__ import annotations

STUDENTS = ("student", "small_student")


def embedded_seats(model: str, student: str) -> dict[str, str]:
    """Return the model arguments that seat an embedded student and the teacher.

    model: the name of the protocol's lm-eval model.
    student: the name of the student. For `student` nothing is named, because it is what runs then.

    Raises ValueError for protocols with teams, which have no seat for a student.
    """
    from lm_eval.api.registry import get_model

    from harness_ext.embedded import model_path

    if student == STUDENTS[0]:
        return {}
    protocol = get_model(model).protocol
    if protocol.team is not None:
        raise ValueError(f"`{model}` seats a team: choose other runs, or `--student {STUDENTS[0]}`")
    models = {"student": student, "teacher": "teacher"}
    return {seat: str(model_path(models[seat])) for seat in protocol.roles if seat in models}

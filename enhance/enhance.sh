#!/usr/bin/env bash
# bash enhance/enhance.sh {teacher} {input.jsonl} {output.jsonl} {task_type} [options of `harness-ext enhance annotate`]
#
# The four positional arguments are those of TeacherLM. PYTHON overrides the interpreter.
set -euo pipefail

if [ "$#" -lt 4 ]; then
    echo "usage: bash enhance.sh {teacher} {input.jsonl} {output.jsonl} {task_type} [options]" >&2
    exit 2
fi
exec "${PYTHON:-python}" -m harness_ext enhance annotate "$@"

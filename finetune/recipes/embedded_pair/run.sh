#!/bin/sh
# Train the embedded models and copy them into the package: the pair, the small student, or both.
# usage: run.sh [pair|small_student]…
# The pair takes about 90 minutes on two idle CPU cores, the small student 5.
set -eu
cd "$(dirname "$0")/../../.."
python=${PYTHON:-python}
recipe=harness_ext.finetune.recipes.embedded_pair
pair=scratch/pair
export OMP_NUM_THREADS=1
"$python" -m "$recipe.prepare"
for part in ${@:-pair small_student}; do
    case $part in
    pair)
        "$python" -m harness_ext.finetune --config finetune/recipes/embedded_pair/teacher.yaml
        "$python" -m harness_ext.finetune --config finetune/recipes/embedded_pair/student.yaml
        "$python" -m "$recipe.install" student "$pair/student/s1/final"
        "$python" -m "$recipe.install" teacher "$pair/teacher/s3/final"
        ;;
    small_student)
        "$python" -m harness_ext.finetune --config finetune/recipes/embedded_pair/small_student.yaml
        "$python" -m "$recipe.install" small_student "$pair/small_student/s2/final"
        ;;
    *)
        echo "run.sh: unknown part '$part': choose pair or small_student" >&2
        exit 2
        ;;
    esac
done

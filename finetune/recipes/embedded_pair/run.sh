#!/bin/sh
# Train the embedded pair again and copy it into the package. Two hours on two idle CPU cores.
set -eu
cd "$(dirname "$0")/../../.."
python=${PYTHON:-python}
recipe=harness_ext.finetune.recipes.embedded_pair
export OMP_NUM_THREADS=1
"$python" -m "$recipe.prepare"
"$python" -m harness_ext.finetune --config finetune/recipes/embedded_pair/student.yaml &
student=$!
"$python" -m harness_ext.finetune --config finetune/recipes/embedded_pair/teacher.yaml
wait "$student"
for seat in student teacher; do
    "$python" -m "$recipe.export" "$seat" "scratch/pair/$seat/s3/final"
done

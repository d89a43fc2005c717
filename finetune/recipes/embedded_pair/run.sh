#!/bin/sh
# Train the embedded pair and copy it into the package. This takes about 90 minutes on two idle CPU cores.
set -eu
cd "$(dirname "$0")/../../.."
python=${PYTHON:-python}
recipe=harness_ext.finetune.recipes.embedded_pair
pair=scratch/pair
export OMP_NUM_THREADS=1
"$python" -m "$recipe.prepare"
"$python" -m harness_ext.finetune --config finetune/recipes/embedded_pair/teacher.yaml
"$python" -m harness_ext.finetune --config finetune/recipes/embedded_pair/student.yaml
"$python" -m "$recipe.install" student "$pair/student/s1/final"
"$python" -m "$recipe.install" teacher "$pair/teacher/s3/final"

#!/usr/bin/env bash
# bash finetune/finetune.sh {model_path} {dataset_path} {per_device_batch_size} {accumulation} {learning_rate} \
#     {num_train_epochs} {task_type} {wandb_run_name} {store_dir} {wandb_project_name} [--setting value …]
# bash finetune/finetune.sh --config run.yaml [--setting value …]
#
# The ten positional arguments are those of TeacherLM. The script starts one process per GPU; NPROC overrides their
# number and PYTHON the interpreter. On several nodes, run the same command on each, with NNODES, NODE_RANK, MASTER_ADDR
# and, if port 29500 is in use, MASTER_PORT. If a launcher has already started this script in every process (RANK is
# set), it only runs the training.
set -euo pipefail

if [ "$#" -eq 0 ]; then
    sed -n '2,4p' "$0" | cut -c 3- >&2
    exit 2
fi

python=${PYTHON:-python}
if [ -n "${NPROC:-}" ]; then
    processes=$NPROC
elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    processes=$(awk -F, '{print NF}' <<<"$CUDA_VISIBLE_DEVICES")
elif command -v nvidia-smi >/dev/null; then
    processes=$(nvidia-smi --list-gpus | wc -l)
else
    processes=1
fi

if [ -n "${RANK:-}" ] || { [ "$processes" -le 1 ] && [ "${NNODES:-1}" -eq 1 ]; }; then
    # Without a launcher in between, signals reach the training itself.
    exec "$python" -m harness_ext.finetune "$@"
fi
if [ "$processes" -gt 1 ]; then
    # torchrun's own default, which it would announce in five lines.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi
launch=("$python" -m torch.distributed.run --nproc_per_node "$processes")
if [ "${NNODES:-1}" -gt 1 ]; then
    launch+=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?must be set to the number of this node, from 0}")
    launch+=(--master_addr "${MASTER_ADDR:?must be set to the host name of node 0}" --master_port "${MASTER_PORT:-29500}")
else
    launch+=(--standalone)
fi
exec "${launch[@]}" -m harness_ext.finetune "$@"

#!/bin/bash
# Runs the settings that a list of configuration files describes, here or as a job of Slurm.
#
#     bash setting.sh [OPTIONS] [CONFIG …]        --server local (the default) runs them here
#     sbatch setting.sh [CONFIG …]                the lines below say what the job gets
#
# A CONFIG is a YAML file, or its folder and its name in one argument. With `--server NAME` this script submits itself,
# and the job first reads `setting_NAME.env` in the working directory: modules to load, an environment to activate. With
# `--server slurm` it reads none. Options: --job-name, --output, --error, --cpus, --mem, --partition, --time, --gres,
# --account, --qos, --mail ADDRESS, --mail-type.
#
#SBATCH --job-name=setting
#SBATCH --output=setting_out.txt
#SBATCH --open-mode=append
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --gres=gpu:2
#SBATCH --time=12:00:00
set -euo pipefail

# The configurations to run if no arguments name any.
CONFIGS=(
    # "$HOME/research-project/settings/baseline/config baseline_config"
)

server=local
options=()
configs=()
while [ "$#" -gt 0 ]; do
    case $1 in
        --server | --job-name | --output | --error | --cpus | --mem | --partition | --time | --gres | --account | --qos | \
            --mail | --mail-type)
            if [ -z "${2:-}" ]; then
                echo "setting.sh: $1 needs a value" >&2
                exit 2
            fi
            case $1 in
                --server) server=$2 ;;
                --cpus) options+=("--cpus-per-task=$2") ;;
                --mail) options+=("--mail-user=$2" "--mail-type=END,FAIL") ;;
                *) options+=("$1=$2") ;;
            esac
            shift 2
            ;;
        -*)
            echo "setting.sh: there is no option $1: see the first lines of $0" >&2
            exit 2
            ;;
        *)
            configs+=("$1")
            shift
            ;;
    esac
done
if [ "${#configs[@]}" -eq 0 ]; then
    configs=(${CONFIGS[@]+"${CONFIGS[@]}"})
fi
if [ "${#configs[@]}" -eq 0 ]; then
    echo "setting.sh: no configuration: name some as arguments, or in CONFIGS in $0" >&2
    exit 2
fi

profile=
if [ "$server" != local ] && [ "$server" != slurm ]; then
    profile=setting_$server.env
    if [ ! -f "$profile" ]; then
        echo "setting.sh: --server $server needs a file $profile in $PWD; without one, use --server slurm" >&2
        exit 2
    fi
fi
if [ "$server" != local ] && [ -z "${SLURM_JOB_ID:-}" ]; then
    exec sbatch ${options[@]+"${options[@]}"} "$0" --server "$server" "${configs[@]}"
fi
if [ "${#options[@]}" -gt 0 ]; then
    echo "setting.sh: not used, because nothing is submitted: ${options[*]} (--server slurm submits)" >&2
fi
if [ -n "$profile" ]; then
    # shellcheck source=/dev/null
    . "./$profile"
fi
exec "${PYTHON:-python}" -m harness_ext.tasks.babi_conversation.settings "${configs[@]}"

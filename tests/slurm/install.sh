#!/usr/bin/env bash
# Installs Debian's Slurm and Munge, on which tests run real jobs. Where that is not possible, it says why and ends with
# status 1; the tests are skipped then.
set -euo pipefail

missing=()
for program in munged slurmctld slurmd sbatch squeue; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing+=("$program")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0
if ! command -v apt-get >/dev/null || [[ "$(id -u)" -ne 0 ]]; then
    echo "Slurm is not installed (${missing[*]}), and installing it needs apt-get and root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends slurmctld slurmd slurm-client munge

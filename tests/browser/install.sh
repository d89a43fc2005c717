#!/usr/bin/env bash
# Installs Debian's Chromium, in which the report is tested. Where that is not possible, it says why and ends with status
# 1; the tests are skipped then.
set -euo pipefail

for program in chromium chromium-browser google-chrome; do
    if command -v "$program" >/dev/null; then exit 0; fi
done
if ! command -v apt-get >/dev/null || [[ "$(id -u)" -ne 0 ]]; then
    echo "Chromium is not installed, and installing it needs apt-get and root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends chromium

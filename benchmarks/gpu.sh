#!/usr/bin/env bash
# All that only a GPU can show, in one call of less than eight minutes; see gpu.py.
# Runs from a checkout that is not installed, without a network:
#   benchmarks/gpu.sh [--json FILE]
#   benchmarks/gpu.sh --rehearse        # on the CPU, tiny: does the script itself run?
# PYTHON names another interpreter; packages it lacks may lie in a folder on PYTHONPATH.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD:$PWD/training${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1

"$python" - <<'PY'
import sys
from importlib.util import find_spec

needed = "msgspec numpy platformdirs pytest rich safetensors scipy skimage"
needed += " tifffile torch xxhash yaml zmq"
if missing := [name for name in needed.split() if find_spec(name) is None]:
    sys.exit(
        f"{sys.executable} lacks {', '.join(missing)}: install them, or unpack their wheels into a "
        "folder and put that on PYTHONPATH"
    )
PY
exec timeout 480 "$python" -m benchmarks.gpu "$@"

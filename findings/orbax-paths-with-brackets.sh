#!/bin/sh
# Orbax 0.12.8 (etils 1.15.0, TensorStore 0.1.86): checkpoints in a folder with `[1]` or a backslash in its name are saved
# without an error and can't be restored.
#
# Guessed: any name that the file system takes will do, and a save that returns can be read.
# Seen: two causes. etils' `epath.Path.glob` puts the path itself, unescaped, before the pattern that it gives to `glob`, so
# that `run[1]` looks in `run1`; Orbax finds its parts of the checkpoint in this way when it merges them, finds none, logs
# "Skipping merge of OCDBT checkpoints" and commits a checkpoint without arrays. TensorStore's file driver takes a
# backslash for a slash: the arrays of `back\slash` are written to `back/slash`, outside of the folder.
# `*` and `?` match themselves, and so work as long as no other folder matches too.
# Workaround: give Orbax a path without these letters, such as a link; read a checkpoint back after saving it.
#
# Exits 0 while this is so, and 1 once the checkpoints can be restored (or the plain one can't).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    orbax-checkpoint==0.12.8 etils==1.15.0 tensorstore==0.1.86 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/seen.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

root = Path(sys.argv[1])


def restored(name):
    """What becomes of a checkpoint of three numbers in a folder of this name."""
    folder = root / name
    folder.mkdir()
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False)) as manager:
        saved = manager.save(0, args=ocp.args.StandardSave({"a": np.arange(3.0)}))
        try:
            read = manager.restore(0, args=ocp.args.StandardRestore({"a": np.zeros(3)}))
        except Exception as error:
            return f"saved: {saved}; restoring raised {type(error).__name__}: {str(error)[:90]}"
    return f"saved: {saved}; restored {read['a'].tolist()}"


found = {name: restored(name) for name in ("plain", "run[1]", "back\\slash")}
for name, what in found.items():
    print(f"{name}: {what}")
print("beside them:", sorted(path.name for path in root.iterdir() if path.name not in found))
as_before = "restored [" in found["plain"] and all("raised" in found[name] for name in ("run[1]", "back\\slash"))
print("as before" if as_before else "this has changed")
sys.exit(0 if as_before else 1)
PY
mkdir "$folder/runs"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/seen.py" "$folder/runs" 2>"$folder/errors" || {
    cat "$folder/errors"
    exit 1
}

#!/bin/sh
# JAX 0.10.2: `jax.lax.custom_root(..., has_aux=True)` is to return "auxiliary data like solver diagnostics" beside a root.
#
# Guessed: a number of steps or a verdict, which are integers and booleans, may be such data.
# Seen: the value comes out, its derivative raises TypeError ("Custom JVP rule must produce primal and tangent outputs with
# corresponding shapes and dtypes"): tangents of the data get its dtype, and those of integers are float0. As floats it works.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cat > "$folder/seen.py" <<'PY'
import jax
import jax.numpy as jnp

print("jax", jax.__version__)


def root_of_two(a, dtype):
    """The square root of a by twenty steps of Newton's method, and their number."""
    f = lambda x: x**2 - a

    def solve(f, x):
        x = jax.lax.fori_loop(0, 20, lambda _, x: x - f(x) / (2 * x), x)
        return x, jnp.asarray(20, dtype)

    return jax.lax.custom_root(f, jnp.asarray(1.0), solve, lambda g, y: y / g(1.0), has_aux=True)


print("value", root_of_two(2.0, jnp.int32))
print("derivative, steps as float32:", jax.grad(root_of_two, has_aux=True)(2.0, jnp.float32))
try:
    print("derivative, steps as int32:", jax.grad(root_of_two, has_aux=True)(2.0, jnp.int32))
except TypeError as error:
    print("derivative, steps as int32: raised TypeError:", str(error).splitlines()[0])
else:
    raise SystemExit("integers are taken now")
PY
"$folder/venv/bin/python" "$folder/seen.py"

#!/bin/sh
# Optimistix 0.1.0 (JAX 0.10.2): three things that `fixed_point` does, each on valid input.
#
# 1. float32 under x64. Guessed: a float32 start gives a float32 answer. Seen: ValueError, "`body_fun` must have the same
#    input and output structure": FixedPointIteration starts its error in the default dtype.
# 2. throw=False. Guessed: failures are values, in gradients too. Seen: the gradient through a solve that met NaN raises
#    from inside a callback, as the linear solve of the gradient always throws; for the same reason `jax.export` refuses
#    the gradient of any solve.
# 3. The verdict. Guessed: "successful" means at the fixed point up to the tolerance. Seen: the last step is compared with
#    it, whatever the rate: y <- y + 1e-6 (1 - y) is "successful" at once at y = 0.5, and the fixed point is 1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 equinox==0.13.8 lineax==0.1.1 optimistix==0.1.0
cat > "$folder/seen.py" <<'PY'
import jax
jax.config.update("jax_enable_x64", True)
import jax.export
import jax.numpy as jnp
import optimistix as optx

print("optimistix", optx.__version__, "jax", jax.__version__)
solver = optx.FixedPointIteration(rtol=1e-6, atol=1e-6)
cosine = lambda y, a: jnp.cos(a * y)


def raised(f):
    try:
        f()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
    return "nothing"


one = raised(lambda: optx.fixed_point(cosine, solver, jnp.ones((), jnp.float32), jnp.ones((), jnp.float32)))
print("1. float32 under x64 raised", one)
value = lambda a: jnp.sum(optx.fixed_point(cosine, solver, jnp.ones(2), a, throw=False).value)
bad = jnp.asarray([0.5, jnp.nan])
two = raised(lambda: jax.grad(value)(bad))
print("2. the value is", value(bad), "and its gradient raised", two)
export = raised(lambda: jax.export.export(jax.jit(jax.grad(value)))(jax.ShapeDtypeStruct((2,), jnp.float64)))
print("   exporting a gradient raised", export)
short = optx.fixed_point(lambda y, _: y + 1e-6 * (1 - y), solver, jnp.full((), 0.5), throw=False)
successful = bool(short.result == optx.RESULTS.successful)
print("3. y <- y + 1e-6 (1 - y) from 0.5:", float(short.value), "successful:", successful)
assert "body_fun" in one, one
assert two != "nothing" and export != "nothing", (two, export)
assert successful and short.value < 0.51, short.value
PY
"$folder/venv/bin/python" "$folder/seen.py" 2>"$folder/errors" || { cat "$folder/errors"; exit 1; }

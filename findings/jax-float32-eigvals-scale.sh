#!/bin/sh
# jax.numpy.linalg.eigvals and eig of a float32 (or complex64) matrix are wrong by a constant factor where the entries are
# below about 1e-12 or above about 1e12: eigenvalues of 1e-16 A come out 3,900 times too large, those of 1e16 A 21,000
# times too small.
#
# Seen with jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, scipy 1.17.1 on Linux x86-64, Python 3.11, on a CPU: the norm of the
# eigenvalues no longer follows that of the matrix, but stays at that of a matrix scaled to about 1e-12 or 1e12, as if the
# scaling that LAPACK's GEEV begins with were not undone. scipy.linalg.eigvals and scipy.linalg.lapack.sgeev return the
# same wrong numbers (info = 0); numpy.linalg.eigvals of the same float32 array is right. jaxlib takes its LAPACK from
# SciPy on a CPU, so the routine at fault may be the one that SciPy's wheel holds; that was not looked into.
# float64 at 1e-150 and 1e150 is wrong in the same way. svd, eigh and qr of jax.numpy.linalg are right at all these scales;
# jax.numpy.linalg.norm squares without scaling and gives 0 or infinity at 1e-30 and 1e30 in float32.
#
# Expected: eigenvalues of c A are c times those of A, up to rounding, for every c that the dtype can hold.
# Workaround: divide the matrix by its largest entry, and multiply the eigenvalues by it.
#
# Exits 0 while this is so, and 1 once the eigenvalues follow the scale (or fail in another way).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 scipy==1.17.1
JAX_PLATFORMS=cpu JAX_ENABLE_X64=1 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import scipy
import scipy.linalg

print("jax", jax.__version__, "jaxlib", jaxlib.__version__, "numpy", np.__version__, "scipy", scipy.__version__)
A = np.random.default_rng(0).standard_normal((6, 6))
radius = lambda values: float(np.abs(np.asarray(values, np.complex128)).max())
right = radius(np.linalg.eigvals(A))


def factors(scale, dtype):
    """The spectral radius in units of the right one: 1 if it follows the scale."""
    a = (scale * A).astype(dtype)
    real, imaginary, _, _, info = scipy.linalg.lapack.get_lapack_funcs(("geev",), (a,))[0](a, 0, 0)
    assert info == 0
    found = {
        "jax eigvals": jnp.linalg.eigvals(jnp.asarray(a)),
        "jax eig": jnp.linalg.eig(jnp.asarray(a))[0],
        "jax eigvals, complex": jnp.linalg.eigvals(jnp.asarray(a) + 0j),
        "scipy eigvals": scipy.linalg.eigvals(a),
        "scipy geev": real + 1j * imaginary,
        "numpy eigvals": np.linalg.eigvals(a),
    }
    return {name: radius(values) / scale / right for name, values in found.items()}


as_before = True
for dtype, usual, outside in ((np.float32, (1e-11, 1, 1e11), (1e-30, 1e-16, 1e16, 1e30)), (np.float64, (1,), (1e-150, 1e150))):
    for scale in (*usual, *outside):
        found = factors(scale, dtype)
        print(dtype.__name__, scale, {name: float(f"{factor:.4g}") for name, factor in found.items()})
        for name, factor in found.items():
            is_right = abs(factor - 1) < 1e-4
            as_before &= is_right == (scale in usual or name.startswith("numpy"))
print("as before" if as_before else "this has changed")
sys.exit(0 if as_before else 1)
PYTHON

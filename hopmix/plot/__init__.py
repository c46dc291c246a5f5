"""Figures for papers: labelled arrays in, Matplotlib figures out, at any width, safe for
colour-blind readers.

    metrics = xarray.open_zarr("runs/digits/metrics.zarr", consolidated=False).load()
    figure = hopmix.plot.asymmetry_map(metrics.symmetry_score, width=3.4)
    figure.savefig("map.pdf")

Needs the extra `hopmix[lab]`, and is imported by name: `import hopmix.plot`.
"""

from hopmix._extras import needs_extra as _needs_extra

with _needs_extra("hopmix.plot", "lab"):
    from hopmix.plot.symmetry import accuracy_against_symmetry as accuracy_against_symmetry
    from hopmix.plot.symmetry import alignment as alignment
    from hopmix.plot.symmetry import fields as fields
    from hopmix.plot.symmetry import onset as onset
    from hopmix.plot.symmetry import rates_of_breaking as rates_of_breaking
    from hopmix.plot.symmetry import spectra as spectra
    from hopmix.plot.training import accuracy_against_strength as accuracy_against_strength
    from hopmix.plot.training import asymmetry_curves as asymmetry_curves
    from hopmix.plot.training import asymmetry_map as asymmetry_map
    from hopmix.plot.training import energy_descent as energy_descent
    from hopmix.plot.training import learning_curves as learning_curves
    from hopmix.plot.training import weight_pictures as weight_pictures
    from hopmix.plot.unrelated import null as null

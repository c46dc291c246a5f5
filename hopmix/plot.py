"""Figures for papers: labelled arrays in, Matplotlib figures out, at any width, safe for colour-blind readers.

    metrics = xarray.open_zarr("runs/digits/metrics.zarr", consolidated=False).load()
    figure = hopmix.plot.asymmetry_map(metrics.symmetry_score, width=3.4)
    figure.savefig("map.pdf")

Needs the extra `hopmix[lab]`, and is imported by name: `import hopmix.plot`.
"""

from hopmix._extras import needs_extra as _needs_extra

with _needs_extra("hopmix.plot", "lab"):
    from hopmix.lab.report.figures import accuracy_against_strength as accuracy_against_strength
    from hopmix.lab.report.figures import asymmetry_curves as asymmetry_curves
    from hopmix.lab.report.figures import asymmetry_map as asymmetry_map
    from hopmix.lab.report.figures import energy_descent as energy_descent
    from hopmix.lab.report.figures import learning_curves as learning_curves
    from hopmix.lab.report.figures import weight_pictures as weight_pictures
    from hopmix.lab.report.null import null as null
    from hopmix.lab.report.symmetry.figures import accuracy_against_symmetry as accuracy_against_symmetry
    from hopmix.lab.report.symmetry.figures import alignment as alignment
    from hopmix.lab.report.symmetry.figures import fields as fields
    from hopmix.lab.report.symmetry.figures import onset as onset
    from hopmix.lab.report.symmetry.figures import rates_of_breaking as rates_of_breaking
    from hopmix.lab.report.symmetry.figures import spectra as spectra

"""Symmetry of weights: what is measured of it, what each number means, and what its breaking
costs.
"""

# Weights
from hopmix.symmetry.weights import measure_asymmetry as measure_asymmetry
from hopmix.symmetry.weights import Asymmetry as Asymmetry
from hopmix.symmetry.weights import unit_cosines as unit_cosines
from hopmix.symmetry.weights import symmetry_score as symmetry_score
from hopmix.symmetry.weights import nearest_conservative as nearest_conservative

# Spectra
from hopmix.symmetry.spectrum import measure_spectrum as measure_spectrum
from hopmix.symmetry.spectrum import Spectrum as Spectrum
from hopmix.symmetry.spectrum import eigenvalues as eigenvalues
from hopmix.symmetry.spectrum import null_departure as null_departure

# Significance
from hopmix.symmetry.significance import measure_significance as measure_significance
from hopmix.symmetry.significance import Significance as Significance

# Fields
from hopmix.symmetry.fields import field_asymmetry as field_asymmetry
from hopmix.symmetry.fields import estimate_field_asymmetry as estimate_field_asymmetry
from hopmix.symmetry.fields import Estimate as Estimate
from hopmix.symmetry.fields import helmholtz_split as helmholtz_split
from hopmix.symmetry.fields import Split as Split
from hopmix.symmetry.fields import loop_integral as loop_integral
from hopmix.symmetry.fields import Loop as Loop
from hopmix.symmetry.fields import work_along as work_along

# How training breaks it
from hopmix.symmetry.breaking import breaking_velocity as breaking_velocity
from hopmix.symmetry.breaking import breaking_rate as breaking_rate
from hopmix.symmetry.breaking import product_gradient as product_gradient
from hopmix.symmetry.breaking import unit_balance as unit_balance

# What that costs: pseudo-energies of a block, and the breaking that a rest of it tolerates
from hopmix._pseudo_energy import power as power
from hopmix._pseudo_energy import energy_budget as energy_budget
from hopmix._pseudo_energy import EnergyBalance as EnergyBalance
from hopmix._pseudo_energy import residual_force as residual_force
from hopmix._pseudo_energy import radial_potential as radial_potential
from hopmix._pseudo_energy import radial_energy as radial_energy
from hopmix._pseudo_energy import descent_margin as descent_margin
from hopmix._pseudo_energy import with_tied_weights as with_tied_weights
from hopmix._certificate.small_breaking import breaking_bound as breaking_bound
from hopmix._certificate.small_breaking import BreakingBound as BreakingBound
from hopmix._certificate.small_breaking import breaking_size as breaking_size

# What the lab measures, as records
from hopmix.symmetry.quantities import Quantity as Quantity
from hopmix.symmetry.null import Sizes as Sizes

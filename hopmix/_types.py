"""Array aliases and the axis names that shape annotations use.

| axis       | meaning                                             |
|------------|-----------------------------------------------------|
| `visible`  | units of the layer that a coupling reads            |
| `hidden`   | units of the layer that a coupling feeds            |
| `tokens`   | patches of an image; always the first axis          |
| `channels` | features of a token; always the last axis           |
| `height`, `width`, `colours` | pixels of an image                |
| `classes`  | labels                                              |
"""

from collections.abc import Mapping
from typing import TypeAlias

from jaxtyping import Array, Float, Key

Scalar: TypeAlias = Float[Array, ""]
"""One real number, an energy for instance."""

Energy: TypeAlias = Float[Array, "*batch"]
"""The energy of one example, or of each example of a batch."""

ScalarLike: TypeAlias = float | int | Float[Array, ""]
"""A number that may be a learnable parameter."""

Layer: TypeAlias = Float[Array, "..."]
"""The state or the activation of one layer of neurons."""

State: TypeAlias = Mapping[str, Float[Array, "..."]]
"""The states (or activations, or forces) of all layers, by the layers' names."""

Image: TypeAlias = Float[Array, "height width colours"]
Tokens: TypeAlias = Float[Array, "tokens channels"]
PRNGKey: TypeAlias = Key[Array, ""]

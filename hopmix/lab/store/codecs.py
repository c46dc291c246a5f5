"""Codecs: what a run's arrays may be packed with, looked at before anything is unpacked.

The description of an array names the codecs that unpack it, and a library may know some that run
what they unpack.
"""

import json
from pathlib import Path
from typing import Any

COMPRESSORS = {"blosc", "zstd", "zlib", "gzip"}
"""Those that only unpack bytes."""

BLOSC = {"lz4", "lz4hc", "zstd", "zlib", "blosclz", "snappy"}
"""What Blosc unpacks with."""

CODECS = {"bytes", "zstd", "blosc", "gzip", "crc32c", "vlen-utf8"}
"""The same in Zarr's format 3, where entries are packed by a codec as well."""

NUMBERS = {f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)}
DATA_TYPES = NUMBERS | {"bool", "string", "fixed_length_utf32"}
"""Entries of Zarr's format 3."""

DTYPES = tuple("biufU")
"""Kinds of entries: booleans, numbers and text of fixed width; never objects."""


class NotAllowed(ValueError):
    """An array that hopmix did not write."""


def require_plain_arrays(folder: Path):
    """Raise `NotAllowed` for any array in a Zarr folder whose codecs or entries are not on the
    lists above.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise NotAllowed(f"{path.relative_to(folder)} is a link")
        check = DESCRIPTIONS.get(path.name)
        if check is not None:
            try:
                check(json.loads(path.read_text(encoding="utf-8")))
            except ValueError as error:
                raise NotAllowed(f"{path.relative_to(folder)}: {error}") from None


def _require_plain_of_format_2(about: Any):
    if not isinstance(about, dict) or about.get("zarr_format") != 2:
        raise NotAllowed("no array of Zarr's format 2")
    filters = about.get("filters")
    if filters:
        names = filters if isinstance(filters, list) else [filters]
        raise NotAllowed(
            f"the filter {', '.join(_name(one, 'id') for one in names)} is not allowed"
        )
    if about.get("compressor") is not None:
        _require_compressor(about["compressor"])
    kind = about.get("dtype")
    if not isinstance(kind, str) or kind.lstrip("<>|=")[:1] not in DTYPES:
        raise NotAllowed(f"entries of {kind!r:.40} are not allowed")


def _require_compressor(compressor: Any):
    name = _name(compressor, "id")
    if name not in COMPRESSORS:
        raise NotAllowed(f"the compressor {name} is not allowed")
    if isinstance(compressor, dict):
        inner = str(compressor.get("cname", "lz4"))
    else:
        inner = ""
    if name == "blosc" and inner not in BLOSC:
        raise NotAllowed(f"the compressor blosc with {inner:.40} is not allowed")


def _name(codec: Any, key: str) -> str:
    """What a codec is called, by the key that its format reads and no other."""
    found = codec.get(key) if isinstance(codec, dict) else codec
    return f"{found}"[:40]


def _require_plain_of_format_3(about: Any):
    if not isinstance(about, dict) or about.get("zarr_format") != 3:
        raise NotAllowed("nothing of Zarr's format 3")
    if about.get("node_type") == "group":
        return
    if about.get("storage_transformers"):
        raise NotAllowed("storage transformers are not allowed")
    codecs = about.get("codecs")
    for codec in codecs if isinstance(codecs, list) else [codecs]:
        name = _name(codec, "name")
        if name not in CODECS:
            raise NotAllowed(f"the codec {name} is not allowed")
    kind = _name(about.get("data_type"), "name")
    if kind not in DATA_TYPES:
        raise NotAllowed(f"entries of {kind} are not allowed")


DESCRIPTIONS = {".zarray": _require_plain_of_format_2, "zarr.json": _require_plain_of_format_3}
"""What describes an array in Zarr's two formats, and what is required of it; hopmix writes the
first.
"""

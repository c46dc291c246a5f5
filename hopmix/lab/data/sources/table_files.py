"""Parquet files and WebDataset archives, read with the builders of `datasets`: no script of a data
set ever runs.
"""

import glob
import itertools
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath

import datasets
import pyarrow.parquet as pq

from hopmix.lab.data.sources.loading import loading
from hopmix.lab.data.sources.source import Options, Source
from hopmix.lab.data.sources.splits import SHARD, WORDS, named_splits, note_on_names, split_of
from hopmix.lab.data.sources.tables import Found, Table, source_of_tables
from hopmix.lab.data.sources.words import list_names
from hopmix.lab.errors import UsageError

PICKLES = {"pth", "pt", "pkl", "pickle", "pyd"}
"""Suffixes of members of an archive that some library would unpickle."""


def open_parquet(
    data: str, path: Path, files: Sequence[PurePath], options: Options, notes: Sequence[str]
) -> Source:
    """The images and labels of parquet files.

    **Arguments:**

    - `path`: their folder, or the only one; `files`: their paths in its folder.

    **Raises:** `UsageError` for damaged files and for tables without images or labels.
    """
    root = path if path.is_dir() else path.parent
    found = {}
    for split, paths in _by_split(data, files).items():
        with loading(data):
            filled = [file for file in paths if pq.read_metadata(root / file).num_rows]
            # Files whose columns differ are loaded apart: the names of their classes may stand in
            # another order. So are those of different folders, which paths of images count from.
            groups = itertools.groupby(filled, lambda file: (file.parent, _columns(root / file)))
            tables = [
                Table(_load("parquet", [root / file for file in group]), root / folder)
                for (folder, _), group in groups
            ]
        found[split] = Found(tables, _where(paths))
    told = [*notes, *_pooled(files, found)]
    return source_of_tables(data, _name(path), _origin(data, path), found, options, told)


def open_archives(
    data: str, path: Path, files: Sequence[PurePath], options: Options, notes: Sequence[str]
) -> Source:
    """The images and labels of WebDataset archives; a label is `cls`, or a field of `json`.

    **Raises:** `UsageError` for damaged archives, those without images or labels, and those with
    pickles.
    """
    root = path if path.is_dir() else path.parent
    told = list(notes)
    found = {}
    for split, paths in _by_split(data, files).items():
        with loading(data):
            inside = [folder for file in paths for folder in _folders(data, root / file)]
            found[split] = Found(
                [Table(_load("webdataset", [root / file for file in paths]))], _where(paths)
            )
        if {split_of(folder) for folder in inside} - {None, split}:
            told += note_on_names(
                "folders in the archive", inside, "to use these, pack each into a file of its own"
            )
    told += _pooled(files, found)
    return source_of_tables(data, _name(path), _origin(data, path), found, options, told)


def _pooled(files: Sequence[PurePath], found: Collection[str]) -> list[str]:
    """A note on names of files and folders that name splits, of which none are made."""
    if len(found) > 1 or len(files) == 1:
        return []
    names = [str(path.with_suffix("")) for path in files]
    alike = {split_of(word) for name in names for word in WORDS.findall(name)} - {None}
    if alike <= {"train"}:
        return []
    return note_on_names(
        "files", names, "for splits, call them all 'train-0', 'train-1', 'test-0' and so on"
    )


def _columns(path: Path) -> tuple[str, bytes | None]:
    """The columns of a file, and what `datasets` wrote of them, which the names of classes stand
    in.
    """
    schema = pq.read_schema(path)
    return str(schema.remove_metadata()), (schema.metadata or {}).get(b"huggingface")


def _load(builder: str, paths: Sequence[Path]) -> datasets.Dataset:
    # `datasets` takes names for patterns.
    escaped = [glob.escape(str(path)) for path in paths]
    return datasets.load_dataset(builder, data_files={"train": escaped}, split="train")


def _by_split(data: str, files: Sequence[PurePath]) -> dict[str, list[PurePath]]:
    """Files by split: by their own names, or else by the first folder, where every one of them is a
    split's name.
    """
    named = {path: SHARD.sub("", path.stem) for path in files}
    for names in (named, {path: path.parts[0] for path in files if len(path.parts) > 1}):
        if len(names) == len(files):
            splits = named_splits(data, dict.fromkeys(names.values()))
        else:
            splits = None
        if splits is not None:
            return {
                split: [path for path in files if names[path] == name]
                for split, name in splits.items()
            }
    return {"train": list(files)}


def _folders(data: str, path: Path) -> list[str]:
    """The names of splits among the folders in an archive, which must hold something and no
    pickles.
    """
    folders: dict[str, None] = {}
    with tarfile.open(path, "r:") as archive:
        if archive.next() is None:
            raise UsageError(f"data = {data!r}: {path.name} holds nothing; leave it out")
        for member in archive:
            parts = PurePath(member.name).parts
            folders |= dict.fromkeys(part for part in parts[:-1] if split_of(part))
            if PICKLES & set(parts[-1].lower().split(".")[1:] if parts else []):
                raise UsageError(
                    f"data = {data!r}: {path.name} holds {member.name!r}, a pickle, which could "
                    f"run a program; take "
                    "it out"
                )
    return list(folders)


def _where(paths: Sequence[PurePath]) -> str:
    names = [str(path) for path in paths]
    if len(names) == 1:
        return f"file {names[0]}"
    return f"{len(names)} files {list_names(names, 2)}"


def _name(path: Path) -> str:
    if path.is_dir():
        return path.name
    return path.stem


def _origin(data: str, path: Path) -> str:
    return f"the local {'folder' if path.is_dir() else 'file'} {data}"

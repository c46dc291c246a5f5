"""Which kind of data a local path holds."""

from pathlib import Path, PurePath

from hopmix.lab.data.sources.array_file import open_array_file
from hopmix.lab.data.sources.declared import is_saved, open_saved
from hopmix.lab.data.sources.decode import suffixes
from hopmix.lab.data.sources.files import find_files
from hopmix.lab.data.sources.image_folder import LISTS, open_image_folder
from hopmix.lab.data.sources.left_over import kinds, left_over, refuse_empty_splits
from hopmix.lab.data.sources.path_list import open_path_list
from hopmix.lab.data.sources.source import Options, Source
from hopmix.lab.data.sources.table_files import open_archives, open_parquet
from hopmix.lab.data.sources.words import list_names, reason
from hopmix.lab.errors import UsageError

TABLES = {".parquet": open_parquet, ".tar": open_archives}


def open_local(data: str, options: Options) -> Source:
    """The images and labels of a file or of a folder, by what it is.

    **Arguments:**

    - `data`: an existing path.

    **Raises:** `UsageError` where it holds no images or labels, or nothing that is known.
    """
    path = Path(data).expanduser().resolve()
    try:
        if path.is_dir():
            return _open_folder(data, path, options)
        return _open_file(data, path, options)
    except OSError as error:
        raise UsageError(
            f"data = {data!r} cannot be read ({error.strerror or reason(error)}); check it"
        ) from error


def _open_file(data: str, path: Path, options: Options) -> Source:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UsageError(f"data = {data!r} is neither a file nor a folder; give one")
    if suffix in TABLES:
        return TABLES[suffix](data, path, [PurePath(path.name)], options, [])
    if suffix in LISTS:
        return open_path_list(data, path, options)
    if suffix == ".npz":
        return open_array_file(data, path, options)
    if suffix in (".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"):
        packed = "unpack it and give the folder"
    else:
        packed = ""
    known = "give a .parquet, .npz, .csv or .tar file or a folder"
    raise UsageError(f"data = {data!r} is a file of a kind that is not read; {packed or known}")


def _open_folder(data: str, folder: Path, options: Options) -> Source:
    if is_saved(folder):
        return open_saved(data, folder, options)
    found = find_files(folder)
    files = found.files
    images = [path for path in files if path.suffix.lower() in suffixes()]
    tables = {
        suffix: [path for path in files if path.suffix.lower() == suffix] for suffix in TABLES
    }
    held = {suffix: paths for suffix, paths in tables.items() if paths}
    if len(held) > 1 or (
        held and len({path.parts[0] for path in images if len(path.parts) > 1}) > 1
    ):
        raise UsageError(
            f"data = {data!r} holds {_both(images, held)}; give a folder with one kind of them, "
            f"or a single file"
        )
    if held:
        ((suffix, paths),) = held.items()
        refuse_empty_splits(data, found, paths)
        notes = [*_beside(images), *left_over(found, [*paths, *images])]
        return TABLES[suffix](data, folder, paths, options, notes)
    if images:
        return open_image_folder(data, folder, images, found, options)
    single = [str(path) for path in files if path.suffix.lower() in (*LISTS, ".npz")]
    if single:
        cure = f"; did you mean the file {single[0]!r} in it?"
    else:
        cure = "; give one that has some"
    held = f" (it holds {kinds(files)})" if files else ""
    raise UsageError(
        f"data = {data!r} is a folder without images, without parquet and without .tar "
        f"files{held}{cure}"
    )


def _both(images: list[PurePath], held: dict[str, list[PurePath]]) -> str:
    kinds = [f"{len(paths):,} {suffix} files" for suffix, paths in held.items()]
    return " and ".join([*kinds, *([f"{len(images):,} images"] if images else [])])


def _beside(images: list[PurePath]) -> list[str]:
    names = [str(path) for path in images]
    if names:
        return [f"left out: {len(names):,} images beside the tables: {list_names(names, 3)}"]
    return []

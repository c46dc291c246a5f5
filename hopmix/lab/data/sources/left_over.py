"""What lies in a folder of data and is not read, so that nothing is missed without a word."""

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import PurePath

from hopmix.lab.data.sources.files import Found
from hopmix.lab.data.sources.splits import split_of
from hopmix.lab.data.sources.words import list_names
from hopmix.lab.errors import UsageError

USUAL = {
    *(
        "authors",
        "changelog",
        "citation",
        "contributing",
        "copying",
        "copyright",
        "license",
        "licence",
        "notice",
    ),
    *("readme", "dataset_info", "dataset_infos", "desktop", "thumbs"),
}
"""Names, whatever their suffix, of files that tell of data and are none."""

NAMED = 3


def refuse_empty_splits(data: str, found: Found, read: Iterable[PurePath]):
    """Raise `UsageError` where the folders that are read are splits, and another one of such a name
    gives nothing.

    Without it, its images would be cut from those of the others.
    """
    first = {path.parts[0] for path in read if len(path.parts) > 1}
    empty = [
        path
        for path in found.folders
        if len(path.parts) == 1 and path.name not in first and split_of(path.name)
    ]
    if empty and first and all(split_of(name) for name in first):
        raise UsageError(
            f"data = {data!r}: folder {empty[0].name!r} has the name of a split, but nothing in "
            f"it is read "
            f"({_held(found, empty[0])}); put images there, or rename or remove it"
        )


def left_over(found: Found, read: Collection[PurePath]) -> list[str]:
    """Notes on folders in which nothing is read, on links, on studies and on other files.

    **Arguments:**

    - `read`: files that are read, or that another note tells of.
    """
    notes = []
    empty = _empty_folders(found, read)
    if empty:
        named = ", ".join(f"{str(path)!r} ({_held(found, path)})" for path in empty[:NAMED])
        if len(empty) > NAMED:
            more = f" and {len(empty) - NAMED} more"
        else:
            more = ""
        notes.append(f"nothing is read in {_number(empty, 'folder')}: {named}{more}")
    if found.again:
        notes.append(
            f"not entered: {list_names(map(str, found.again), NAMED)}, read already under "
            f"another name"
        )
    if found.studies:
        notes.append(
            f"left out: {list_names(map(str, found.studies), NAMED)}, where a study of hopmix lies"
        )
    known = set(read)
    others = [
        path for path in found.files if path not in known and path.stem.casefold() not in USUAL
    ]
    if others:
        notes.append(f"not read: {kinds(others)}: {list_names(map(str, others), NAMED)}")
    return notes


def kinds(files: Collection[PurePath]) -> str:
    """How many files of each suffix there are, as a phrase."""
    counts = Counter(path.suffix.lower() for path in files)
    return ", ".join(
        f"{count:,} {suffix or 'without suffix'}" for suffix, count in counts.most_common(5)
    )


def _number(things: Collection[object], name: str) -> str:
    return f"{len(things):,} {name}" + ("s" if len(things) > 1 else "")


def _empty_folders(found: Found, read: Collection[PurePath]) -> list[PurePath]:
    """Folders of the first two levels under which nothing is read, unless the one above is named
    already.
    """
    filled = {parent for path in read for parent in path.parents}
    told = [
        *found.again,
        *found.studies,
        *(parent for path in found.studies for parent in path.parents),
    ]
    empty = [
        path
        for path in found.folders
        if len(path.parts) <= 2 and path not in filled and path not in told
    ]
    return [path for path in empty if path.parent not in empty]


def _held(found: Found, folder: PurePath) -> str:
    if folder in found.again:
        return "a link to what is read already"
    files = [path for path in found.files if folder in path.parents]
    return kinds(files) or "empty"

"""The command line: `hopmix ablate`, `hopmix resume`, `hopmix report`, `hopmix measure`, `hopmix
verify`, ...
"""

import collections
import contextlib
import io
import itertools
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from hopmix.lab import store
from hopmix.lab.config import (
    FORMER,
    Ablate,
    Bench,
    Compare,
    Measure,
    Report,
    Resume,
    StudyConfig,
    Verify,
)
from hopmix.lab.errors import UsageError
from hopmix.lab.runtime.interrupts import heard
from hopmix.lab.runtime.terminal import TrainingBar, printable, terminal
from hopmix.lab.store.files import reason

DONE = 0
FAILED = 1
BAD_INPUT = 2

Command = Ablate | Resume | Report | Compare | Measure | Verify | Bench
"""What can be done; a command is called as its class, in small letters."""

DESCRIPTION = """Symmetry ablations of associative-memory mixers.

Start with `hopmix ablate`: it trains every arm on embedded digits in a few minutes and writes a
report.
`hopmix ablate --dry-run` says what a study would cost; `hopmix ablate --help` lists all options.
`hopmix compare` shows two studies side by side.
`hopmix measure` tells how symmetric the weights of a run are, or those of anybody's checkpoint.
`hopmix verify` measures the claims of the theory again, or checks the blocks of a trained run.
`hopmix bench` measures how fast all this is on your machine.

On CPUs, what trains and measures is compiled with options of XLA that study.json names, and freed
memory is kept for the next call; HOPMIX_COMPILER_OPTIONS=off leaves the options out,
MALLOC_MMAP_MAX_=65536 gives memory back."""


def main(arguments: Sequence[str] | None = None):
    """Run the command line and exit: 0 done, 2 bad input, 1 anything else."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know no ± and no λ
            stream.reconfigure(errors="replace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    errors = terminal(stderr=True, soft_wrap=True)
    command = None
    try:
        command = _parse(arguments)
        with heard(lambda: _leave(command)):
            return _execute(command, shlex.join(["hopmix", *arguments]))
    except UsageError as error:
        told = str(error)
        code = BAD_INPUT
    except KeyboardInterrupt:
        told = f"stopped at once{_saved(command)}."
        code = FAILED
    except Exception as error:
        told, code = _told(error, command)
        if told is None:
            raise
    errors.print(Text(f"hopmix: {printable(told)}"))
    return code


def _leave(command: Any):
    """End the process, as a study is ended by a kill: what is on the disk is whole."""
    print(f"hopmix: stopped at once{_saved(command)}.", file=sys.stderr, flush=True)
    os._exit(FAILED)


def _told(error: Exception, command: Any) -> tuple[str | None, int]:
    """What a failure of the system is in one line, with the exit code; `None` for a mistake of
    ours.
    """
    if store.is_full_disk(error):
        return f"the disk is full; free some space{_saved(command)}.", FAILED
    if store.is_out_of_memory(error):
        return f"out of memory ({reason(error)}); {_less_memory(command)}{_saved(command)}.", FAILED
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{error.filename}: can't be read or written ({reason(error)}); mend that and try "
            f"again.",
            BAD_INPUT,
        )
    return None, FAILED


def _saved(command: Any) -> str:
    """That a study is there to go on with, where it is."""
    if isinstance(command, Ablate):
        folder = command.out
    else:
        folder = command.run if isinstance(command, Resume) else None
    if folder is None or not (folder / "study.json").exists():
        return ""
    return f"; finished intervals are saved, go on with: hopmix resume {shlex.quote(str(folder))}"


def _parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments name; `UsageError` in place of a box of many lines."""
    for before, word in zip(["argument", *arguments], arguments):
        if not word:  # as a path it would be the folder that one is in
            raise UsageError(
                f"{before.lstrip('-')}: got '', which is nothing; give it a value, or leave it out."
            )
    arguments = _of_today(arguments)
    _need_once(arguments)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(
                Command,  # pyright: ignore[reportArgumentType]
                prog="hopmix",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code != BAD_INPUT:
            raise
        raise _cause(stop) or UsageError(_one_line(told.getvalue(), arguments)) from None


def _of_today(arguments: Sequence[str]) -> list[str]:
    """The arguments with options by their names of today; old ones are said to go."""
    found = []
    for word in arguments:
        name, equals, value = word.partition("=")
        new = FORMER.get(name.removeprefix("--")) if name.startswith("--") else None
        if new is not None:
            today = f"--{new.replace('_', '-')}"
            print(f"hopmix: {name} is now {today}; the old name goes.", file=sys.stderr)
            word = f"{today}{equals}{value}"
        found.append(word)
    return found


def _need_once(arguments: Sequence[str]):
    """Raise `UsageError` for an option that is given twice, of which the last one would count in
    silence.
    """
    options = itertools.takewhile(lambda word: word != "--", arguments)
    names = [word.partition("=")[0].replace("_", "-") for word in options if word.startswith("--")]
    for name, times in collections.Counter(names).items():
        if times > 1 and name not in _repeatable():
            raise UsageError(
                f"{name.lstrip('-')}: given {times} times; give it once, with all its values."
            )


def _repeatable() -> set[str]:
    """The options that may be given several times."""
    (mark,) = get_args(tyro.conf.UseAppendAction[int])[1:]
    fields = itertools.chain(
        *(get_type_hints(kind, include_extras=True).items() for kind in get_args(Command))
    )
    return {f"--{name.replace('_', '-')}" for name, hint in fields if mark in get_args(hint)[1:]}


def _cause(error: BaseException | None) -> UsageError | None:
    """The mistake that a field's own check told, which `tyro` would break into lines of 80
    characters.
    """
    while error is not None and not isinstance(error, UsageError):
        error = error.__context__
    return error


def _one_line(box: str, arguments: Sequence[str]) -> str:
    """The sections of a box of `tyro` that say what is wrong and what helps, without those that
    repeat the help.
    """
    rows = [row.strip(" │╭╮╰╯+|") for row in box.splitlines()[1:]]
    sections = [" ".join(part.split()) for part in re.split(r"[─-]{9,}", "\n".join(rows))]
    helpful = [part for part in sections if part and not part.startswith("Argument helptext")]
    clear = [
        re.sub(r" Got errors:.*| in hopmix .*--help$", "", part).rstrip(".:") for part in helpful
    ]
    known = [command.__name__.lower() for command in get_args(Command)]
    command = [word for word in arguments[:1] if word in known]
    return (
        re.sub(
            r"(see|run) hopmix --help",
            shlex.join(["see", "hopmix", *command, "--help"]),
            "; ".join(clear),
        )
        + "."
    )


def _less_memory(command: Any) -> str:
    if isinstance(command, Ablate | Resume):
        return (
            "take fewer members side by side (--members-at-once), a smaller --batch, --dim or "
            "--depth, or free some"
        )
    return "free some, or measure less at a time"


def _execute(command: Command, line: str) -> int:
    from hopmix.lab.runtime.compilation_cache import use_compilation_cache
    from hopmix.lab.runtime.memory_allocator import keep_memory

    _need_targets(command)
    use_compilation_cache()
    keep_memory()
    # Orbax logs every file that it writes, and complains of each that is damaged, which is told
    # here in words of ours.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Without a home it takes a temporary folder, and says so in three lines.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    console = terminal()
    match command:
        case Ablate():
            if command.dry_run:
                return _dry_run(command.study, console)
            return _ablate(command, line, console)
        case Resume(run=out, data=data):
            own = {"arms": command.arms, "probes": command.probes}
            with store.only_writer(out, create=False):
                return _go_on(out, data, own, line, console)
        case Report(run=out, sections=sections):
            return _report(out, sections, console)
        case Compare():
            return _compare(command, console)
        case Measure():
            return _measure(command, console)
        case Verify(run=run):
            if run is None:
                return _verify_claims(command, console)
            return _verify_run(run, command, console)
        case Bench():
            return _bench(command, line, console)


def _need_targets(command: Any):
    """Try what the command will write, before it works."""
    out = getattr(command, "out", None)
    if out is not None and not getattr(command, "dry_run", False):
        store.require_folder("out", out)
    for name in ("json", "write"):
        file = getattr(command, name, None)
        if file is not None:
            store.require_target(name, file)
    if getattr(command, "json", None) is not None:
        store.require_json_target("json", command.json)


def _tell_overview(study: Any, console: Console):
    """What the data of a study are, and what is unusual of them and of its models."""
    from hopmix.lab.study.arms import few_tokens

    notes = few_tokens(study.config, study.dataset.image, study.dataset.classes)
    for line in (*study.data.overview, *(f"  note: {note}" for note in notes)):
        console.print(Text(line), soft_wrap=True)


def _dry_run(config: StudyConfig, console: Console) -> int:
    from hopmix.lab.study.dry_run import estimate
    from hopmix.lab.study.prepared import prepare

    study = prepare(config)
    _tell_overview(study, console)
    table = Table(
        "arm",
        "in the paper",
        "parameters",
        "members",
        title=f"{study.data.name}: what would be trained",
    )
    for arm in study.arms:
        table.add_row(arm.name, arm.title, f"{study.parameters(arm):,}", str(config.seeds))
    console.print(table)
    cost = estimate(study)
    console.print(
        f"{study.schedule.total} steps of {config.batch} images per member, "
        f"measured every {study.schedule.interval} steps\n"
        f"estimated time: {_duration(cost.compile_s + cost.train_s)} "
        f"(compilation {_duration(cost.compile_s)}, measured; training scaled from a short trial)\n"
        f"estimated memory: {cost.memory / 2**20:,.0f} MiB beside the libraries; "
        f"disk: {store.KEPT_CHECKPOINTS * study.state_bytes() / 2**20:,.0f} MiB"
    )
    return DONE


def _ablate(options: Ablate, line: str, console: Console) -> int:
    config = options.study
    out = options.out
    with store.only_writer(out):
        if not store.open_study(out, config, resume=options.resume):
            return _show(_train(config, out, False, line, console), out, console)
        # The same words may mean another place in another folder: those of the study were recorded.
        same = config.data == store.read_config(out).data
        own = {"arms": config.arms, "probes": config.probes}
        return _go_on(out, None if same else config.data, own, line, console)


def _go_on(
    out: Path, data: str | None, given: Mapping[str, Sequence[str]], line: str, console: Console
) -> int:
    """Continue a study, whose data may have moved; show the results of one that has ended."""
    record = store.read_record(out)
    record.require_study(out)
    results = store.finished_results(out, record, lambda sentence: console.print(Text(sentence)))
    if results is None or data is not None:
        from hopmix.lab.study.continued import located, own_of

        record.require_format_of_today(out)
        own = {}
        for field, entries in given.items():
            own |= own_of(record, field, entries)
        results = _train(located(record, data), out, True, line, console, own)
    return _show(results, out, console)


def _train(
    config: StudyConfig,
    out: Path,
    resume: bool,
    line: str,
    console: Console,
    own: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Train a study to its results, or until it is interrupted."""
    from hopmix.lab.study import study as lab_study

    study = lab_study.prepare(config, own)
    _tell_overview(study, console)
    store.require_space(out, (store.KEPT_CHECKPOINTS + 1) * study.state_bytes() + 50_000_000)
    size = (
        f"{len(study.arms)} arms x {config.seeds} seeds on {study.data.name}, "
        f"{study.schedule.total} steps each"
    )
    console.print(Text(f"{size}; results go to {out}"))
    log = lambda sentence: console.print(Text(sentence))
    try:
        with TrainingBar(console, study.schedule.total) as on_progress:
            return lab_study.run(
                study,
                out,
                resume=resume,
                command=line,
                on_progress=on_progress,
                log=log,
                compiled=_forget,
                leave=lambda: _leave_study(out, log),
            )
    except lab_study.Interrupted:
        log(
            f"Stopped; everything up to here is saved. Go on with: hopmix resume "
            f"{shlex.quote(str(out))}"
        )
        return None


def _leave_study(out: Path, log: Callable[[str], None]):
    # Neither Python nor a compiled program can be asked to end at once; what is on the disk is
    # whole.
    go_on = f"go on with: hopmix resume {shlex.quote(str(out))}"
    log(f"Stopped at once; what was saved is whole: {go_on}")
    sys.stdout.flush()
    os._exit(FAILED)


def _forget():
    """Give back what compiling left behind: a process of our own needs none of it again."""
    import jax

    from hopmix.lab.runtime.memory_allocator import release_memory

    # What was traced, and what made the first weights; compiled programs stay where a study keeps
    # them.
    jax.clear_caches()
    release_memory()


def _show(results: dict[str, Any] | None, out: Path, console: Console) -> int:
    """Print the results of a study, whose report is made unless it is there."""
    from hopmix.lab.runtime.memory_allocator import release_memory

    if results is None:
        return FAILED
    release_memory()  # of the study's data and programs
    console.print(_table(results))
    page = _report_of(out, console)
    console.print(Text(f"Report: {page}"))
    return DONE


def _report(out: Path, sections: Sequence[str], console: Console) -> int:
    own = _own_sections(sections)
    with store.only_writer(out, create=False):
        record = store.read_record(out)
        metrics = store.read_metrics(out, record)
        results = store.read_results(out, record)
        if results is None and int(metrics.step.values[-1]) == record.steps_total > 0:
            told = "results.json is not there, so test accuracies are left out;"
            console.print(Text(f"{told} `hopmix resume {out}` makes it."))
        console.print(Text(f"Report: {_report_of(out, console, own)}"))
    return DONE


def _own_sections(entries: Sequence[str]) -> list[Any]:
    """The sections of the user's own, whose files are run."""
    if not entries:
        return []
    from hopmix.lab.families.own import items_of, load
    from hopmix.lab.report.section import Section

    loaded = [load("sections", entry) for entry in entries]
    name = "hopmix.lab.report.section.Section"
    return [one for own in loaded for one in items_of("sections", own, Section, name)]


def _report_of(out: Path, console: Console, own: Sequence[Any] = ()) -> Path:
    """The page of a study; what draws is imported only where the page or a figure has to be
    made.
    """
    from hopmix.lab.report import seal

    if not own and seal.is_whole(out, seal.sources(out)):
        return out / "report.html"
    from hopmix.lab.report.page import write_report

    with console.status("writing the report"):
        return write_report(out, own)


def _compare(options: Compare, console: Console) -> int:
    from hopmix.lab.report import compare

    compared = compare.compare_runs(options.first, options.second)
    console.print(compare.terminal_table(compared))
    for sentence in compare.sentences(compared):
        console.print(Text(sentence))
    if options.out is not None:
        console.print(Text(f"Page: {compare.write_comparison(compared, options.out)}"))
    return DONE


def _measure(options: Measure, console: Console) -> int:
    from hopmix.lab.checkpoints import measure, page, tables
    from hopmix.lab.checkpoints.open import open_layers

    found = open_layers(options)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=len(found.layers))
        told = lambda done, layer: progress.update(
            task, completed=done, description=escape(printable(f"{layer.place} {layer.part}"))
        )
        report = measure.measure_found(
            found, pairings=options.pairings, full=options.full, on_progress=told
        )
    for sheet in tables.sheets(report):
        console.print(tables.rich_table(sheet))
    for sentence in tables.sentences(report, options.pairings):
        console.print(Text(sentence))
    if options.json is not None:
        store.write_json(
            options.json, measure.report_record(report, options.path, options.pairings)
        )
    if options.out is not None:
        console.print(Text(f"Page: {page.write_page(options.out, report, options)}"))
    return DONE


def _verify_claims(options: Verify, console: Console) -> int:
    from hopmix.lab.verify import checks, tables

    claims = checks.select_claims(options.claim)
    if options.write is not None:
        checks.require_markers(options.write)
    begin = time.perf_counter()
    with console.status("measuring") as status:
        told = lambda claim: status.update(
            Text(f"measuring {claim.id} on {options.examples} examples")
        )
        measured = checks.measure_claims(
            claims, examples=options.examples, seed=options.seed, on_progress=told
        )
    console.print(tables.claims_table(measured))
    console.print(tables.claims_sentence(measured, time.perf_counter() - begin))
    record = checks.claims_record(measured, options.seed)
    if options.json is not None:
        store.write_json(options.json, record)
    if options.write is not None:
        checks.write_table(options.write, measured)
    if record["passed"]:
        return DONE
    return FAILED


def _verify_run(path: Path, options: Verify, console: Console) -> int:
    from hopmix.lab.study.trained import progress
    from hopmix.lab.verify import checks, tables

    trained = checks.load_run(path, options.data, options.arms)
    step = progress(trained.step, trained.study.schedule.total)
    for sentence in (*trained.passed, f"Read: the checkpoint of step {step}."):
        console.print(Text(sentence))
    with console.status("checking") as status:
        told = lambda member: status.update(Text(f"checking {member}"))
        checked = checks.check_run(trained, examples=options.examples, on_progress=told)
    worst = checks.over_seeds(checked.blocks)
    console.print(tables.blocks_table(worst))
    for line in (*tables.legend(checked), *tables.reasons(checked.blocks)):
        console.print(Text(line))
    console.print(Text(tables.blocks_sentence(worst)))
    if options.json is not None:
        store.write_json(options.json, checks.run_record(checked))
    if checked.passed:
        return DONE
    return FAILED


def _bench(options: Bench, line: str, console: Console) -> int:
    if options.peer is not None:  # on the same GPU it needs memory too
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from hopmix.lab.bench import suite, tables

    if options.quick:
        console.print("[bold]Tiny sizes, to see that everything runs: the numbers mean nothing.[/]")

    def keep(benched: suite.Benched, complete: bool = False):
        if options.json is not None:
            store.write_json(options.json, benched.record(options, line, complete))

    with console.status("measuring") as status:
        told = lambda name: status.update(Text(f"measuring {name}"))
        show = lambda rows, benched: console.print(tables.rich_table(rows, benched.limits))
        benched = suite.run_bench(options, told, show, keep)
    keep(benched, complete=True)
    for sentence in tables.sentences(benched):
        console.print(Text(sentence))
    return DONE


def _table(results: dict[str, Any]) -> Table:
    names = [Column(name, overflow="fold") for name in ("arm", "in the paper", "parameters")]
    table = Table(*names, "n", "test accuracy", "against free, raw p", title="Results")
    for arm in results["arms"]:
        test = arm["test_accuracy"]
        paired = arm["paired"]
        table.add_row(
            arm["name"],
            arm["title"],
            f"{arm['parameters']:,}",
            str(arm["n"]) + (f" ({arm['diverged']} diverged)" if arm["diverged"] else ""),
            _percent(test["mean"], test["stderr"]),
            _difference(paired),
        )
    return table


def _percent(mean: float | None, error: float | None) -> str:
    if mean is None:
        return "-"
    if error is None:
        return f"{100 * mean:.2f} %"
    return f"{100 * mean:.2f} ± {100 * error:.2f} %"


def _difference(paired: dict[str, Any] | None) -> str:
    if paired is None or paired["difference"] is None:
        return "-"
    p = "" if paired["p"] is None else f" (p = {paired['p']:.2g})"
    return f"{100 * paired['difference']:+.2f}{p}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    main()

"""What every command-line program here shares: options from dataclasses, and plain errors."""

import contextlib
import dataclasses
import difflib
import errno
import inspect
import io
import os
import re
import select
import socket
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import jax
import tyro

from mbu_jax.errors import InputError

_BAD_INPUT, _INTERRUPTED, _NOBODY_READS = 2, 130, 141
_OUT_OF_REACH = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)

_IN_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    tuple[int, ...]: "whole numbers",
    tuple[float, ...]: "numbers",
    tuple[float, float]: "two numbers, such as 0.5 2",
    # Of our options, pairs of whole numbers are sizes of images.
    tuple[int, int]: "two whole numbers, height and width, such as 256 256",
    tuple[tuple[int, int], ...]: "heights and widths, such as 512 512 480 640",
}
_BAD_VALUE = re.compile(r"(--[\w-]+): |missing value for argument '(--[\w-]+)'. Expected 2 ")


def run(main: Callable[[], None]) -> None:
    """Run a program and turn what the user can mend into one line on standard error.

    An :class:`mbu_jax.errors.InputError`, a full disk, or a path that the system does not let the
    program look at prints ``error: ...`` and exits with code 2; Ctrl-C exits with code 130; where
    what reads the output has ended, as ``head`` does, the code is 141. Anything else is a fault of
    the program and keeps its traceback.

    Args:
      main: The program.

    Raises:
      SystemExit: With the codes above.

    Example:
      >>> run(lambda: print("done"))
      done
    """
    _keep_compiled_programs()
    try:
        try:
            main()
        except SystemExit:  # after --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except InputError as error:
        _exit(f"error: {error}", _BAD_INPUT)
    except KeyboardInterrupt:
        _exit("interrupted", _INTERRUPTED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise SystemExit(_NOBODY_READS) from None
        if isinstance(error, OSError) and error.errno in _OUT_OF_REACH and error.filename:
            _exit(f"error: {error.filename} cannot be used ({error.strerror})", _BAD_INPUT)
        full = disk_full(error)
        if full is None:
            raise
        where = f" while writing {full.filename}" if getattr(full, "filename", None) else ""
        _exit(
            f"error: the disk is full{where}; free some space and run the same command again",
            _BAD_INPUT,
        )


def _nobody_reads() -> bool:
    """Whether it is standard output that is broken; then what is left goes nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not any(state & select.POLLERR for _, state in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _keep_compiled_programs() -> None:
    """Let XLA reuse what an earlier run of the same program compiled, which takes up to a minute.

    ``JAX_COMPILATION_CACHE_DIR`` chooses another place.
    """
    if jax.config.jax_compilation_cache_dir is None:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(caches, "mbu_jax", "xla")))


def parse[T](
    config_type: type[T],
    presets: Mapping[str, T],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
) -> T:
    """Read the command line: ``--preset NAME`` chooses the defaults, other options change them.

    Fields of nested dataclasses are options under their own name (``--learning-rate``, not
    ``--optimizer.learning-rate``), shown in ``--help`` as a group with the nested class's
    docstring; a field's own help is the string below it.

    Args:
      config_type: A dataclass; dataclasses may nest in it.
      presets: An instance by name; the first is the default.
      argv: The arguments, by default those of this process.
      prog: How the user calls the program, by default as Python was called.

    Returns:
      The preset with the options of the command line in place.

    Raises:
      InputError: For an unknown preset or option, or a bad value, in one line.
      SystemExit: With code 0 after ``--help``.
      TypeError: If two fields would be the same option.

    Example:
      >>> Config = dataclasses.make_dataclass("Config", [("epochs", int, 1), ("seed", int, 0)])
      >>> parse(Config, {"quick": Config(epochs=3)}, ["--seed", "7"])
      Config(epochs=3, seed=7)
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    preset = _chosen_preset(presets, argv)
    options = list(_options(presets[preset]))
    counts = Counter(["--preset", *(name for name, _ in options)])
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise TypeError(f"{config_type.__name__} has two fields for the option {twice[0]}")

    def command(preset, config):
        return config

    # tyro reads the function's annotations, which depend on the arguments here.
    help_preset = "Named set of defaults for the options below."
    names = tyro.extras.literal_type_from_choices(presets)
    command.__annotations__ = {
        "preset": Annotated[names, tyro.conf.arg(help=help_preset)],
        "config": Annotated[config_type, tyro.conf.arg(name="")],
    }
    command.__defaults__ = (preset, presets[preset])
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            config, unknown = tyro.cli(
                command,
                prog=prog or _program(),
                description=(inspect.getdoc(config_type) or "").partition("\n\n")[0],
                args=argv,
                config=(tyro.conf.OmitArgPrefixes,),
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        message = _message(printed.getvalue(), dict(options))
        raise InputError(f"{message} (--help lists all)") from None
    if unknown:
        raise InputError(_unknown_option(unknown[0], dict(options)))
    return config


def make_folder(path: Path, option: str = "--out") -> Path:
    """Make a folder for what a program writes, before it begins to work.

    Args:
      path: of the folder; those above it are made too.
      option: by which the user has chosen it.

    Returns:
      The path.

    Raises:
      InputError: where it cannot be made, or nothing can be written in it.

    Example:
      >>> make_folder(Path("results/study"))
      PosixPath('results/study')
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be made ({error.strerror}); choose another {option}"
        ) from error
    _check_writable(path, option)
    return path


def check_file(path: Path, *, overwrite: bool, option: str = "--out") -> None:
    """Refuse a file to write before a program begins to work, not after it.

    Args:
      path: of the file.
      overwrite: whether it may replace one that exists.
      option: by which the user has chosen it.

    Raises:
      InputError: where it could not be written, or exists.

    Example:
      >>> check_file(Path("scores.json"), overwrite=False)
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; give {option} the name of a file in it")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent} is no folder; create it, or choose another {option}")
        there = path.exists(follow_symlinks=False)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); choose another {option}"
        ) from error
    if there and not overwrite:
        raise InputError(f"{path} exists; choose another {option}, or allow --overwrite")
    _check_writable(path.parent, option)


def check_port(port: int, *, address: str = "", option: str = "--port") -> None:
    """Refuse a port before a program begins to work, where it could not listen there.

    Args:
      port: its number, 1 to 65535.
      address: of this machine; all of them by default.
      option: by which the user has chosen it.

    Raises:
      InputError: where another program has it, or this one may not.

    Example:
      >>> with socket.create_server(("127.0.0.1", 0)) as another:
      ...     port = another.getsockname()[1]
      >>> check_port(port)  # that one has ended
    """
    with socket.socket() as probe:
        # As servers do; else a port would be refused for a minute after a program has ended.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror}); choose another {option}"
            ) from error


def check_report(folder: Path, results: str, others: Sequence[str]) -> None:
    """Refuse to replace files that are no earlier report's.

    Args:
      folder: of the report.
      results: name of the file that every report has.
      others: names of the files that are made from it.

    Raises:
      InputError: where one of these is there without the results.

    Example:
      >>> check_report(Path("."), "results.json", ("table.md",))
    """
    if (folder / results).exists():
        return
    for name in others:
        if (folder / name).exists(follow_symlinks=False):
            raise InputError(
                f"{folder} holds {name} but no {results}, so it is of something else; choose "
                "another --out, or move it away"
            )


def disk_full(error: BaseException) -> BaseException | None:
    """Find the full disk behind an error, in its causes and in groups of errors.

    Args:
      error: that was raised.

    Returns:
      The error that says so, None where none does.

    Example:
      >>> disk_full(OSError(errno.ENOSPC, "No space left on device")) is None
      False
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in (errno.ENOSPC, errno.EDQUOT):
            return current
        # TensorStore, below Orbax, raises other types and tells only in the text.
        if "No space left on device" in str(current):
            return current
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
        waiting += [current.__cause__, current.__context__]
    return None


def _check_writable(folder: Path, option: str) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"nothing can be written in {folder}; choose another {option}")


def _chosen_preset(presets: Mapping[str, Any], argv: Sequence[str]) -> str:
    chosen = next(iter(presets))
    for argument, following in pairwise([*argv, None]):
        if argument == "--preset" and following is not None:
            chosen = following
        elif argument is not None and argument.startswith("--preset="):
            chosen = argument.removeprefix("--preset=")
    if chosen not in presets:
        raise InputError(f"unknown preset {chosen!r}; choose one of {', '.join(presets)}")
    return chosen


def _options(config: Any) -> Iterator[tuple[str, Any]]:
    """Every option that a configuration gives rise to, nested ones too, and its type."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _options(value)
        else:
            yield "--" + field.name.replace("_", "-"), field.type


def _unknown_option(argument: str, options: Collection[str]) -> str:
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}; options start with -- (--help lists all)"
    name = argument.partition("=")[0]
    close = difflib.get_close_matches(name.replace("_", "-"), options, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"unknown option {name}{hint} (--help lists all)"


def _message(box: str, options: Mapping[str, Any]) -> str:
    """Take the message out of the framed text that tyro prints: a title, then it, then hints.

    Of a value that is none of its option's, tyro's says what Python's types made of it.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    paragraphs = [[]]
    for line in text.splitlines():
        if line.startswith("╭") or not line.strip("│╰╯─+- "):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line.strip("│| "))
    # The frame's top line holds the title; where frames cannot be printed, a paragraph does.
    filled = [" ".join(lines) for lines in paragraphs if lines]
    message = filled[0 if "╭" in text or len(filled) < 2 else 1]
    message = re.sub(r"^Error parsing (config[\w.]*: )?", "", message).rstrip(".")
    message = message[:1].lower() + message[1:]
    bad = _BAD_VALUE.match(message)
    if bad is None:
        return message
    option = bad[1] or bad[2]
    wanted = _wanted(options.get(option))
    return f"{option} takes {wanted}" if wanted else message


def _wanted(kind: Any) -> str:
    """What an option of this type takes, in words; empty where there are none for it."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    words = []
    for member in members:
        if get_origin(member) is Literal:
            words += map(str, get_args(member))
        elif member in _IN_WORDS:
            words.append(_IN_WORDS[member])
        elif member is not NoneType:
            return ""
    return ", or ".join(words)


def _program() -> str:
    """``python -m package.module`` where Python was called so, else the file's name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec is not None else sys.argv[0]


def _exit(line: str, code: int) -> None:
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(code)

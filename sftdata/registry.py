"""The steps that a recipe can name: ingestors, cleaners and formatters, each one function.

A step's keyword-only parameters are its options, checked from the signature; the first line of its docstring is its help.
Steps come from the modules of `sftdata.ingestors`, `sftdata.cleaners` and `sftdata.formatters`, from the entry point group
`sftdata.steps`, and, where the user allows code, from `package.module:function` in the recipe.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar, overload

from sftdata.errors import RecipeError, suggest

F = TypeVar("F", bound=Callable[..., Any])

KINDS = {"ingestor": "sftdata.ingestors", "cleaner": "sftdata.cleaners", "formatter": "sftdata.formatters"}
"""Kind of step → the package that holds the built-in ones."""


@dataclass(frozen=True)
class Step:
    """A registered step."""

    kind: str
    name: str
    function: Callable[..., Any]
    batched: bool = False
    suffixes: tuple[str, ...] = ()
    """Ingestors: the endings of the files that a folder yields (before .gz, .zst, .xz)."""
    libraries: tuple[str, ...] = ()
    """Distributions whose version changes the step's output; part of its fingerprint."""
    pieces: Callable[..., list[Any]] | None = None
    """Ingestors: from a file and the options to the `sources.Piece`s in which several workers can read it; none: in one go."""
    fetch: Callable[..., None] | None = None
    """Ingestors: copies what an address names into a file of an empty folder: `fetch(address, folder, *, options)`."""
    addresses: tuple[str, ...] = ()
    """Ingestors: how the addresses begin that `fetch` knows; without `suffixes` it takes every path."""
    sniff: Callable[..., dict[str, Any]] | None = None
    """Ingestors: from a file and the options to what the file looks like (encoding, delimiter …), as the manifest says it."""
    assets: Callable[..., tuple[str, ...]] | None = None
    """From the options to the paths of files that the step reads (rule packs): part of its fingerprint."""
    path_options: tuple[str, ...] = ()
    """Options that are a path or a list of paths: in a recipe they are relative to it."""

    @property
    def module(self) -> str:
        """The module that defines the step; its code is part of the fingerprint."""
        return self.function.__module__

    @property
    def help(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


_steps: dict[tuple[str, str], Step] = {}


def _register(step: Step) -> None:
    key = (step.kind, step.name)
    known = _steps.get(key)
    if known is not None and (known.module, known.function.__qualname__) != (step.module, step.function.__qualname__):
        raise RecipeError(f"{step.kind} {step.name!r} is defined twice: in {known.module} and in {step.module}")
    _steps[key] = step  # the same function again: its module was loaded anew


def _name_of(function: Callable[..., Any]) -> str:
    return function.__name__.rstrip("_")


@overload
def ingestor(function: F) -> F: ...
@overload
def ingestor(
    *,
    suffixes: tuple[str, ...] = ...,
    libraries: tuple[str, ...] = ...,
    pieces: Callable[..., list[Any]] | None = ...,
    sniff: Callable[..., dict[str, Any]] | None = ...,
    fetch: Callable[..., None] | None = ...,
    addresses: tuple[str, ...] = ...,
) -> Callable[[F], F]: ...
def ingestor(
    function: F | None = None,
    *,
    suffixes: tuple[str, ...] = (),
    libraries: tuple[str, ...] = (),
    pieces: Callable[..., list[Any]] | None = None,
    sniff: Callable[..., dict[str, Any]] | None = None,
    fetch: Callable[..., None] | None = None,
    addresses: tuple[str, ...] = (),
) -> F | Callable[[F], F]:
    """Register `f(file: InputFile, *, options) -> Iterator[Record | Bad]` as the ingestor of its name.

    `suffixes`: endings of the files that a folder yields, lower case, with the dot; none: all files. `pieces(file, *, options)`
    cuts a large file at record borders; the ingestor then heeds `file.piece` in its numbering, so that the cut shows nowhere.
    `sniff(file, *, options)` says what a file looks like: the manifest says it on, and the ingestor finds it in `file.layout`.
    `fetch(address, folder, *, options)` copies what an address that begins with one of `addresses` names.
    """

    def decorate(step: F) -> F:
        found = Step("ingestor", _name_of(step), step, suffixes=suffixes, libraries=libraries)
        _register(replace(found, pieces=pieces, sniff=sniff, fetch=fetch, addresses=addresses))
        return step

    return decorate if function is None else decorate(function)


@overload
def cleaner(function: F) -> F: ...
@overload
def cleaner(
    *,
    batched: bool = ...,
    libraries: tuple[str, ...] = ...,
    assets: Callable[..., tuple[str, ...]] | None = ...,
    path_options: tuple[str, ...] = ...,
) -> Callable[[F], F]: ...
def cleaner(
    function: F | None = None,
    *,
    batched: bool = False,
    libraries: tuple[str, ...] = (),
    assets: Callable[..., tuple[str, ...]] | None = None,
    path_options: tuple[str, ...] = (),
) -> F | Callable[[F], F]:
    """Register a cleaner: `f(text: str, *, options) -> str | None | Drop | Edit | Mark`.

    With `batched=True` the function takes a table of `schemas.SPANS` and returns a list of such answers, one a span.
    The returned text replaces the span; `None` and `Drop` drop the whole sample.
    """

    def decorate(step: F) -> F:
        found = Step("cleaner", _name_of(step), step, batched=batched, libraries=libraries)
        _register(replace(found, assets=assets, path_options=path_options))
        return step

    return decorate if function is None else decorate(function)


def formatter(function: F) -> F:
    """Register `f(record: dict, *, options) -> Example` as the formatter of its name.

    Every span of the example names the path of its text in the record, so that cleaners can write it back.
    """
    _register(Step("formatter", _name_of(function), function))
    return function


@cache
def _load_built_in() -> None:
    """Import every module that may define a step: once a process."""
    for package_name in KINDS.values():
        package = importlib.import_module(package_name)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package_name}.{module.name}")
    for entry in entry_points(group="sftdata.steps"):
        try:
            entry.load()
        except Exception as error:  # code from outside may raise anything
            owner = f" of {entry.dist.name}" if entry.dist else ""
            raise RecipeError(f"the steps {entry.value!r}{owner} cannot be imported: {_one_line(error)}") from error


def outside_modules() -> list[str]:
    """Return the modules from outside sftdata that registered steps: a worker process must import them as well.

    The main script is not among them; no other process can import it.
    """
    modules = {step.module for step in _steps.values()}
    return sorted(name for name in modules if name != "__main__" and name.partition(".")[0] != "sftdata")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def known_steps(kind: str) -> dict[str, Step]:
    """Return the steps of a kind by name."""
    _load_built_in()
    return {name: step for (step_kind, name), step in sorted(_steps.items()) if step_kind == kind}


def find_step(kind: str, name: str, *, allow_code: bool = False) -> Step:
    """Return the step `name`; `module:function` names one outside the project.

    Raises RecipeError with the nearest known name, or for outside code that was not allowed.
    """
    if ":" in name:
        return _outside_step(kind, name, allow_code)
    steps = known_steps(kind)
    if name not in steps:
        raise RecipeError(f"unknown {kind} {name!r}{suggest(name, steps)}")
    return steps[name]


def _outside_step(kind: str, name: str, allow_code: bool) -> Step:
    if not allow_code:
        raise RecipeError(f"{kind} {name!r} runs code from outside sftdata; pass --allow-code if you trust it")
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except RecipeError:
        raise
    except Exception as error:  # code from outside may raise anything
        raise RecipeError(f"{kind} {name!r} cannot be imported: {_one_line(error)}") from error
    if not inspect.isfunction(function):
        raise RecipeError(f"{kind} {name!r} is no function but {type(function).__name__}")
    registered = [step for step in _steps.values() if step.function is function]
    if not registered:
        return Step(kind, name, function)
    for step in registered:
        if step.kind == kind:
            return step
    raise RecipeError(f"{name!r} is a {registered[0].kind}, not a {kind}")


def check_options(step: Step, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, validated and converted by the types of the step's signature.

    Raises RecipeError that names the option, the value and what is wrong with it.
    """
    fields = option_fields(step)
    for option in options:
        if option not in fields:
            hint = suggest(option, fields) if fields else "; it has no options"
            raise RecipeError(f"unknown option {option!r} of {step.kind} {step.name!r}{hint}")
    for name, (_, default) in fields.items():
        if default is ... and name not in options:
            raise RecipeError(f"{step.kind} {step.name!r} needs the option {name!r}")
    return {name: _checked(step, name, fields[name][0], value) for name, value in options.items()}


def _checked(step: Step, name: str, kind: Any, value: Any) -> Any:
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except PydanticSchemaGenerationError as error:
        raise RecipeError(f"option {name!r} of {step.kind} {step.name!r}: a recipe can give no {kind!r}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (name, *first["loc"]))
        message = f"{first['msg'][:1].lower()}{first['msg'][1:]}, not {reprlib.repr(first['input'])}"
        raise RecipeError(f"option {where!r} of {step.kind} {step.name!r}: {message}") from error


def locate_options(step: Step, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a step's options with those that are paths, relative to `folder`, as paths of this machine."""
    located = dict(options)
    for name in step.path_options:
        if name in located:
            value = located[name]
            located[name] = [str(folder / path) for path in value] if isinstance(value, list) else str(folder / value)
    return located


def option_fields(step: Step) -> dict[str, tuple[Any, Any]]:
    """Return (type, default) of every option by name; the default of an option that must be given is `...`."""
    try:
        signature = inspect.signature(step.function, eval_str=True)
    except (NameError, SyntaxError) as error:
        raise RecipeError(f"{step.kind} {step.name!r}: its annotations cannot be read: {error}") from error
    return {
        name: (
            Any if parameter.annotation is parameter.empty else parameter.annotation,
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }

"""A Jinja environment that renders as transformers does, always the same, and within limits.

Chat templates are code from strangers. They run in Jinja's immutable sandbox with the settings, filters and tags that
`apply_chat_template` gives them, except that

- the clock stands still at `FROZEN_NOW`, and what is random (`random`, `lipsum`) is not there;
- texts of the record may be traced (`traced.py`): what is written says which of it they are;
- work is counted, not timed, so that the same row is refused on every machine: loop turns, calls, filters and the characters
  that they make cost steps, and a render may take `MAX_STEPS` of them and write `MAX_OUTPUT` characters.

What such a template raises is a subclass of Exception; a limit raises jinja2.exceptions.SecurityError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_environment
from jinja2.visitor import NodeTransformer

from sftdata.templates import traced

FROZEN_NOW = datetime(2024, 7, 26)
"""What `strftime_now` formats: the date that Llama 3's template falls back to where no clock is offered."""

MAX_OUTPUT = 10_000_000
"""Characters that a render may write, and that any text or list made on the way may hold."""
MAX_STEPS = 1_000_000
"""Steps that a render may take: about a second of work."""
CHARACTERS_PER_STEP = 1024
"""Making a text costs one step more for so many characters."""
MAX_NUMBER = 1 << 64

_WIDE_FORMAT = re.compile(r"\d{6}|\*")


class _GenerationTag(Extension):
    """Reads `{% generation %}` and renders what is inside; the masks do not need it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(Namespace):
    """A namespace that refuses names with a leading underscore."""

    def __init__(*args: Any, **attributes: Any) -> None:
        given = dict(*args[1:], **attributes)
        for name in given:
            _refuse_underscore(name)
        Namespace.__init__(args[0], given)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}: names must not begin with an underscore")


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    return FROZEN_NOW.strftime(format)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    options = {"ensure_ascii": ensure_ascii, "indent": indent, "separators": separators, "sort_keys": sort_keys}
    return traced.to_json(value, options)


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return traced.join(str(d), map(str, value))


FOLLOWED = frozenset({"d", "default", "first", "join", "last", "max", "min", "string", "sum", "tojson", "trim"})
"""Filters whose text is traced where their arguments are; what others make of a traced text counts as changed. None of these
makes more text than it is given, so that a large number does no harm in them."""


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with its counters."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(traced.concat)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self.steps = 0
        self.tracing = False
        self.filters |= {"tojson": _to_json, "join": _join}
        del self.filters["random"], self.globals["lipsum"]
        self.filters = {name: self._limited(name, function) for name, function in self.filters.items()}
        self.filters |= {"_counted": self._counted, "_joined": self._joined, "_sized": self.spend}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now, "namespace": _Namespace}

    def spend(self, made: Any = None) -> Any:
        """Count a step, and more for a long text or list just made, which is returned. Raises SecurityError past the limits."""
        steps = 1
        if isinstance(made, (str, list, tuple)):
            if len(made) > MAX_OUTPUT:
                raise SecurityError(f"the template makes a value of more than {MAX_OUTPUT:,} characters or items")
            steps += len(made) // CHARACTERS_PER_STEP
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise SecurityError(f"the template takes more than {MAX_STEPS:,} steps")
        return made

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        followed = name in FOLLOWED

        @wraps(function)
        def limited(*args: Any, **options: Any) -> Any:
            if not followed:
                _check_arguments(args, options)
            if name == "format":
                _check_format(args[0])
            made = self.spend(function(*args, **options))
            return traced.changed(made, args) if self.tracing and not followed and type(made) is str else made

        return limited

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend()
            yield item

    def _joined(self, values: list[Any]) -> Any:
        return self.spend(traced.concat(map(str, values)))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call from a template: count it and refuse arguments that make a giant of a small text."""
        __self.spend()
        if __obj.__class__ is Macro or __obj is _Namespace:
            return __self.spend(super().call(__context, __obj, *args, **kwargs))
        _check_arguments(args, kwargs)
        if getattr(__obj, "__name__", "") in ("format", "format_map"):
            _check_format(getattr(getattr(__obj, "__wrapped__", __obj), "__self__", ""))  # the sandbox wraps str.format
        if __self.tracing:
            return __self.spend(__self._call_traced(__context, __obj, *args, **kwargs))
        return __self.spend(super().call(__context, __obj, *args, **kwargs))

    def _call_traced(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call, with the methods of a plain text following what traced texts they are given."""
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # the sandbox wraps str.format
        if type(owner) is str and __obj.__name__ == "join":
            return traced.join(owner, *args)
        made = super().call(__context, __obj, *args, **kwargs)
        return traced.changed(made, (args, kwargs)) if type(owner) is str and type(made) is str else made

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate in a template: refuse what makes a giant of small operands."""
        if operator == "%":
            _check_format(left)
        elif operator in ("*", "**"):
            _check_product(operator, left, right)
        made = self.spend(super().call_binop(context, operator, left, right))
        return traced.changed(made, (left, right)) if self.tracing and operator == "%" and type(made) is str else made


def _check_arguments(args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    for value in (*args, *options.values()):
        if type(value) is int and not -MAX_OUTPUT <= value <= MAX_OUTPUT:
            raise SecurityError(f"the template calls a function with a number over {MAX_OUTPUT:,}")


def _check_format(text: Any) -> None:
    if isinstance(text, str) and ("%" in text or "{" in text) and _WIDE_FORMAT.search(text):
        raise SecurityError("the template formats with a width of more than five digits")


def _check_product(operator: str, left: Any, right: Any) -> None:
    if operator == "**":
        if not (isinstance(left, (int, float)) and isinstance(right, (int, float)) and abs(left) <= 1000 and abs(right) <= 64):
            raise SecurityError("the template raises to a power over 64")
        return
    for text, times in ((left, right), (right, left)):
        if isinstance(text, (str, list, tuple)) and isinstance(times, int) and len(text) * times > MAX_OUTPUT:
            raise SecurityError(f"the template repeats a value to more than {MAX_OUTPUT:,} characters or items")
        if isinstance(text, int) and abs(text) > MAX_NUMBER:
            raise SecurityError(f"the template multiplies numbers over {MAX_NUMBER:,}")


class _CountWork(NodeTransformer):
    """Puts the counting filters where Jinja offers no hook: around what is looped over, `~`, and set blocks."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.filter = nodes.Filter(node.filter, "_sized", [], [], None, None, lineno=node.lineno)
        return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def compile_template(source: str) -> Template:
    """Compile a chat template. Raises jinja2.exceptions.TemplateError with its line, or RecursionError."""
    environment = LimitedEnvironment()
    tree = _CountWork().visit(environment.parse(source)).set_environment(environment)
    return Template.from_code(environment, environment.compile(tree), environment.make_globals(None))


def render(template: Template, variables: Mapping[str, Any], *, tracing: bool = False) -> str:
    """Render within the limits; the steps are counted anew. Raises whatever the template raises.

    `tracing`: texts among the variables are traced, and so is what is returned.
    """
    environment: Environment = template.environment
    assert isinstance(environment, LimitedEnvironment)
    environment.steps = 0
    environment.tracing = tracing
    written: list[str] = []
    length = 0
    for text in template.generate(variables):
        written.append(text)
        length += len(text)
        if length > MAX_OUTPUT:
            raise SecurityError(f"the template writes more than {MAX_OUTPUT:,} characters")
    return traced.concat(written) if tracing else "".join(written)

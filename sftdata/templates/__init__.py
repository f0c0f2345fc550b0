"""Chat templates: from the turns of an example to its text and the characters that are trained.

`load_template` gives either kind: built-in templates are lists of segments (`built_in.py`, one YAML file each), all others are
Jinja text. Such a template is rendered in a sandbox (`sandbox.py`) from messages (`dialogue.py`) whose texts know where they
came from (`traced.py`); so it is proven where each of them stands (`proof.py`), and what of each turn the model writes
(`places.py`). What both kinds share, and plain examples that need no template, is in `render.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sftdata.errors import TemplateError, suggest
from sftdata.templates.built_in import FOLDER, built_in_names, load_segments
from sftdata.templates.render import Rendered, Template, TrainScope, render_plain

__all__ = ["TOKENIZER_DEFAULT", "Rendered", "Template", "TrainScope", "built_in_names", "load_template", "render_plain"]

TOKENIZER_DEFAULT = "tokenizer_default"
"""The recipe's name for the template that the tokenizer brings."""

MAX_FILE_BYTES = 1 << 20


def load_template(
    name_or_path: str,
    *,
    tokenizer_template: str | None,
    bos_token: str | None,
    eos_token: str | None,
    other_tokens: Mapping[str, str] | None = None,
    stop_tokens: Sequence[str] = (),
    added_tokens: Sequence[str] = (),
) -> Template:
    """Load `tokenizer_default`, a built-in template by its name, or a Jinja file by its path.

    `tokenizer_template` is the Jinja text of the tokenizer's own, `bos_token` and `eos_token` its tokens; `other_tokens` are
    further special tokens by name (`pad_token` …), `stop_tokens` further turn ends, and `added_tokens` all that the tokenizer
    has added, of which one may end a turn: all three for Jinja templates.
    Raises TemplateError.
    """
    if name_or_path in built_in_names():
        return load_segments(FOLDER / f"{name_or_path}.yaml", bos_token=bos_token, eos_token=eos_token)
    own = {"bos_token": bos_token, "eos_token": eos_token}
    tokens = {**(other_tokens or {}), **{name: token for name, token in own.items() if token is not None}}
    files: tuple[Path, ...] = ()
    if name_or_path == TOKENIZER_DEFAULT:
        source = tokenizer_template
        if not source:
            known = ", ".join(built_in_names())
            raise TemplateError(f"the tokenizer has no chat template; set tokenizer.chat_template to {known} or a .jinja file")
    else:
        files = (Path(name_or_path),)
        source = _read(files[0])
    from sftdata.templates.jinja import load_jinja

    return load_jinja(
        source, name_or_path, files=files, tokens=tokens, stop_tokens=stop_tokens, added_tokens=added_tokens
    )


def _read(path: Path) -> str:
    if path.suffix not in (".jinja", ".j2") and not path.is_file():
        hint = suggest(str(path), [TOKENIZER_DEFAULT, *built_in_names()])
        raise TemplateError(f"unknown chat template {str(path)!r}{hint}, or a .jinja file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TemplateError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise TemplateError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes; a chat template is not")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error

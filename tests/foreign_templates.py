"""Jinja templates with the traits of published ones, each with an oracle written by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence

from template_oracle import Chunks, Oracle

from sftdata.records import Turn

RAW = """{% for m in messages %}<|im_start|>{{ m.role }}
{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

HEADERS = """{{- bos_token }}
{%- if not date is defined %}{%- set date = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nDate: ' + date + '\\n\\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

MODEL_ROLE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

INSTRUCT = """{{ bos_token }}{% for message in messages %}
    {%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}
    {%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}
{%- endfor %}"""

SYSTEM_LAST = """{{ bos_token }}
{%- set system = '' %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if loop.index0 >= messages | length - 2 %}{{ '[INST]' + system + message.content + '[/INST]' }}
        {%- else %}{{ '[INST]' + message.content + '[/INST]' }}{% endif %}
    {%- else %}{{ message.content + eos_token }}{% endif %}
{%- endfor %}"""

THINKING = """{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{ content }}{% endif %}
    {%- else %}{{ content }}{% endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

ANSWER_ONLY = """{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}<bot><think>
{% if '</think>' in m.content %}{{ m.content.split('</think>')[0].split('<think>')[-1].strip() }}{% endif %}
</think>
{{ m.content.split('</think>')[-1].strip() }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}<bot><think>
{% endif %}"""


def raw(turns: Sequence[Turn]) -> Chunks:
    return framed(turns, "<|im_start|>{}\n", "<|im_end|>", "\n", strip=False)


def framed(turns: Sequence[Turn], before: str, stop: str, tail: str, *, strip: bool) -> Chunks:
    chunks: Chunks = []
    for one in turns:
        answer = one.role == "assistant"
        text = one.content.strip() if strip else one.content
        chunks += [(before.format(one.role), "."), (text, "t" if answer else "c"), (stop, "e" if answer else "."), (tail, ".")]
    return chunks


def headers(turns: Sequence[Turn]) -> Chunks:
    opening = "<s><|start_header_id|>system<|end_header_id|>\n\nDate: 26 Jul 2024\n\n"
    system = turns[0].content.strip() if turns[0].role == "system" else ""
    rest = turns[1:] if turns[0].role == "system" else turns
    frame = framed(rest, "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", "", strip=True)
    return [(opening, "."), (system, "c"), ("<|eot_id|>", "."), *frame]


def model_role(turns: Sequence[Turn]) -> Chunks:
    chunks = framed(turns, "<start_of_turn>{}\n", "<end_of_turn>", "\n", strip=True)
    return [("<s>", "."), *((text.replace("assistant", "model") if kind == "." else text, kind) for text, kind in chunks)]


def instruct(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = [("<s>", ".")]
    for one in turns:
        if one.role == "user":
            chunks += [("[INST] ", "."), (one.content, "c"), (" [/INST]", ".")]
        else:
            chunks += [(" ", "e"), (one.content, "t"), ("</s>", "e")]
    return chunks


def system_last(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = [("<s>", ".")]
    system = [turns[0].content] if turns[0].role == "system" else []
    rest = turns[len(system) :]
    for number, one in enumerate(rest):
        if one.role == "assistant":
            chunks += [(one.content, "t"), ("</s>", "e")]
            continue
        chunks.append(("[INST]", "."))
        if system and number >= len(rest) - 2:
            chunks += [(system[0], "c"), ("\n\n", ".")]
        chunks += [(one.content, "c"), ("[/INST]", ".")]
    return chunks


def thinking(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = []
    last_user = max((number for number, one in enumerate(turns) if one.role == "user"), default=-1)
    for number, one in enumerate(turns):
        chunks.append((f"<|im_start|>{one.role}\n", "."))
        if one.role != "assistant":
            chunks += [(one.content, "c"), ("<|im_end|>\n", ".")]
            continue
        content, thought = one.content, ""
        if "</think>" in content:
            thought = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n").strip("\n")
            content = content.split("</think>")[-1].lstrip("\n")
        if number > last_user and thought:
            chunks += [("<think>\n", "e"), (thought, "t"), ("\n</think>\n\n", "e"), (content, "t")]
        elif number > last_user and number == len(turns) - 1:
            block = "<think>\n\n</think>\n\n"
            own = re.match(r"\s*<think>\s*</think>", one.content)  # then the record itself says that there is no thought
            chunks += [(block, "e" if own else "."), (content.lstrip("\n"), "t")]
        else:
            chunks.append((content, "t"))
        chunks += [("<|im_end|>", "e"), ("\n", ".")]
    return chunks


CASES: dict[str, tuple[str, Oracle, bool]] = {
    "raw": (RAW, raw, True),
    "headers": (HEADERS, headers, True),
    "model_role": (MODEL_ROLE, model_role, False),
    "instruct": (INSTRUCT, instruct, False),
    "system_last": (SYSTEM_LAST, system_last, True),
    "thinking": (THINKING, thinking, True),
}

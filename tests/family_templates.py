"""Jinja templates with the traits of published families, each with an oracle written by hand (see `template_oracle.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from template_oracle import Chunks, Oracle

from sftdata.records import Turn

DEFAULT_SYSTEM = """{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are Q.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def default_system(turns: Sequence[Turn]) -> Chunks:
    own = turns[0].role == "system"
    default: Chunks = [] if own else [("<|im_start|>system\nYou are Q.<|im_end|>\n", ".")]
    return [*default, *_framed(turns, "<|im_start|>{}\n", "<|im_end|>", "\n")]


def _framed(turns: Sequence[Turn], before: str, stop: str, tail: str) -> Chunks:
    chunks: Chunks = []
    for one in turns:
        answer = one.role == "assistant"
        chunks += [(before.format(one.role), "."), (one.content, "t" if answer else "c")]
        chunks += [(stop, "e" if answer else "."), (tail, ".")]
    return chunks


FOLDED = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}
{%- else %}{% set rest = messages %}{% set system = false %}{% endif %}
{%- for message in rest %}
{%- if loop.index0 == 0 and system != false %}
{%- set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
{%- else %}{% set content = message['content'] %}{% endif %}
{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""


def folded(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = []
    system = [turns[0].content] if turns[0].role == "system" else []
    for number, one in enumerate(turns[len(system) :]):
        if one.role == "assistant":
            chunks += [(" ", "e"), (one.content.strip(), "t"), (" </s>", "e")]
        elif system and number == 0:
            joined = f"<<SYS>>\n{system[0]}\n<</SYS>>\n\n{one.content}".strip()
            head = f"<<SYS>>\n{system[0]}\n<</SYS>>\n\n"
            chunks += [("<s>[INST] <<SYS>>\n", "."), (system[0], "c")]
            closing, asked = "\n<</SYS>>\n\n", one.content.rstrip()
            chunks += [(closing if asked else closing.rstrip(), "."), (joined[len(head) :], "c"), (" [/INST]", ".")]
        else:
            chunks += [("<s>[INST] ", "."), (one.content.strip(), "c"), (" [/INST]", ".")]
    return chunks


GATHERED = """{%- set ns = namespace(system='', first=true) %}
{%- for message in messages %}{% if message.role == 'system' %}
{%- if ns.first %}{% set ns.system = ns.system + message.content %}{% set ns.first = false %}
{%- else %}{% set ns.system = ns.system ~ '\\n\\n' ~ message.content %}{% endif %}{% endif %}{% endfor %}
{{- bos_token }}{{ ns.system }}
{%- for message in messages %}
{%- if message.role == 'user' %}{{ '<｜User｜>' ~ message.content }}
{%- elif message.role == 'assistant' %}
{%- set content = message.content %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<｜Assistant｜>' ~ content ~ '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""


def gathered(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = [("<s>", ".")]
    chunks += [(one.content, "c") for one in turns if one.role == "system"]
    for one in turns:
        if one.role == "user":
            chunks += [("<｜User｜>", "."), (one.content, "c")]
        elif one.role == "assistant":
            chunks += [("<｜Assistant｜>", "."), (one.content.split("</think>")[-1], "t"), ("<｜end▁of▁sentence｜>", "e")]
    return chunks


EOS_AT_END = """{% for message in messages %}
{%- if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '<|end|>\\n' }}
{%- elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}
{%- elif message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""


def eos_at_end(turns: Sequence[Turn]) -> Chunks:
    return [*_framed(turns, "<|{}|>\n", "<|end|>", "\n"), ("</s>", ".")]


NEXT_SPEAKER = """[gMASK]<sop>{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>
{%- set text = m.content.split('</think>')[-1].strip() %}
{{ '\\n<think></think>' }}{% if text %}{{ '\\n' + text }}{% endif %}
{%- elif m.role == 'user' %}<|user|>{{ '\\n' + m.content }}{% endif %}{% endfor %}<|endoftext|>
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


def next_speaker(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = [("[gMASK]<sop>", ".")]
    for number, one in enumerate(turns):
        follows = number and turns[number - 1].role == "assistant"
        if one.role != "assistant":
            stops = one.role == "user" and follows
            chunks += [(f"<|{one.role}|>", "e" if stops else "."), ("\n", "."), (one.content, "c")]
            continue
        text = one.content.split("</think>")[-1].strip()
        chunks += [("<|assistant|>", "."), ("\n<think></think>\n" if text else "\n<think></think>", "."), (text, "t")]
    return [*chunks, ("<|endoftext|>", "e" if turns[-1].role == "assistant" else ".")]


CLOSED = """{{ bos_token }}{% for message in messages %}{% set role = message['role'] | lower %}<|START_OF_TURN_TOKEN|>
{%- if role == 'user' %}<|USER_TOKEN|>{{ message['content'] }}{% elif role == 'assistant' %}<|CHATBOT_TOKEN|><|START_RESPONSE|>
{{- message['content'] }}<|END_RESPONSE|>{% else %}<|SYSTEM_TOKEN|>{{ message['content'] }}{% endif %}<|END_OF_TURN_TOKEN|>
{%- endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"""


def closed(turns: Sequence[Turn]) -> Chunks:
    names = {"user": "<|USER_TOKEN|>", "system": "<|SYSTEM_TOKEN|>", "assistant": "<|CHATBOT_TOKEN|><|START_RESPONSE|>"}
    chunks: Chunks = [("<s>", ".")]
    for one in turns:
        answer = one.role == "assistant"
        chunks += [("<|START_OF_TURN_TOKEN|>" + names[one.role], "."), (one.content, "t" if answer else "c")]
        chunks += [("<|END_RESPONSE|>" if answer else "", "e"), ("<|END_OF_TURN_TOKEN|>", "e" if answer else ".")]
    return chunks


SPOKEN = """{{ bos_token }}{% if messages[0].role == 'system' %}
{{- messages[0].content + ' ' }}{% set messages = messages[1:] %}{% endif %}
{%- for message in messages %}{% if message.role == 'user' %}{{ 'USER: ' + message.content | trim + ' ' }}
{%- else %}{{ 'ASSISTANT: ' ~ message.content | trim ~ eos_token }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""


def spoken(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = [("<s>", ".")]
    for one in turns:
        if one.role == "system":
            chunks += [(one.content, "c"), (" ", ".")]
        elif one.role == "user":
            chunks += [("USER: ", "."), (one.content.strip(), "c"), (" ", ".")]
        else:
            chunks += [("ASSISTANT:", "."), (" ", "e"), (one.content.strip(), "t"), ("</s>", "e")]
    return chunks


ONLY_PARTS = """<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:
{%- for line in message['content'] %}{% if line['type'] == 'text' %}{{ ' ' + line['text'] }}{% endif %}{% endfor -%}
<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""


def only_parts(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = [("<|im_start|>", ".")]
    for one in turns:
        answer = one.role == "assistant"
        chunks += [(one.role.capitalize() + ":", "."), (" ", "e" if answer else "."), (one.content, "t" if answer else "c")]
        chunks += [("<end_of_utterance>", "e" if answer else "."), ("\n", ".")]
    return chunks


MACROS = """{%- macro say(role, text) -%}<|start_of_role|>{{ role }}<|end_of_role|>{{ text }}<|end_of_text|>
{% endmacro -%}
{%- macro plain(text) %}{% set ns = namespace(out='') %}{% for piece in text.splitlines(true) %}
{%- set ns.out = ns.out + piece %}{% endfor %}{{ ns.out }}{% endmacro -%}
{%- set today = strftime_now('%B %d, %Y') -%}
{{- 'Today: ' + today + '.\\n' }}
{%- for message in messages | reverse | list | reverse %}
{%- set shown %}{{ plain(message.content) }}{% endset %}
{{- say(message.role, [shown[:1], shown[1:]] | join) }}
{%- endfor %}
{%- if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"""


def macros(turns: Sequence[Turn]) -> Chunks:
    return [("Today: July 26, 2024.\n", "."), *_framed(turns, "<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>", "\n")]


OPENED = """{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant<|im_sep|>' }}
{%- set parts = m.content.partition('[/THINK]') %}
{%- if parts[1] and loop.last %}{{ '[THINK]' + parts[0].replace('[THINK]', '') + '[/THINK]' + parts[2] }}
{%- else %}{{ m.content.rpartition('[/THINK]')[2] }}{% endif %}{{ '<|im_end|>' }}
{%- else %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""


def opened(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = []
    for number, one in enumerate(turns):
        chunks.append((f"<|im_start|>{one.role}<|im_sep|>", "."))
        thought, found, rest = one.content.partition("[/THINK]")
        if one.role != "assistant":
            chunks += [(one.content, "c"), ("<|im_end|>", ".")]
            continue
        if found and number == len(turns) - 1:
            chunks += [("[THINK]", "e"), (thought.replace("[THINK]", ""), "t"), ("[/THINK]", "e"), (rest, "t")]
        else:
            chunks.append((one.content.rpartition("[/THINK]")[2], "t"))
        chunks.append(("<|im_end|>", "e"))
    return chunks


CHANNELS = """{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- if loop.last and message.thinking %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + ('<|return|>' if loop.last else '<|end|>') }}
{%- else %}{{ '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""


def channels(turns: Sequence[Turn]) -> Chunks:
    chunks: Chunks = []
    for number, one in enumerate(turns):
        last = number == len(turns) - 1
        if one.role != "assistant":
            chunks += [(f"<|start|>{one.role}<|message|>", "."), (one.content, "c"), ("<|end|>", ".")]
            continue
        chunks.append(("<|start|>assistant", "."))
        if last and one.reasoning is not None and one.reasoning.text:
            chunks += [("<|channel|>analysis<|message|>", "e"), (one.reasoning.text, "t"), ("<|end|><|start|>assistant", "e")]
        chunks += [("<|channel|>final<|message|>", "e"), (one.content, "t"), ("<|return|>" if last else "<|end|>", "e")]
    return chunks


def _simple(before: str, stop: str, tail: str, bos: str = "") -> tuple[str, Oracle]:
    header, end, prompt = before.replace("{}", "{{ m.role }}"), stop + tail, before.format("assistant")
    turn = f"{{% for m in messages %}}{header}{{{{ m.content }}}}{{{{ {end!r} }}}}{{% endfor %}}"
    source = f"{bos and '{{ bos_token }}'}{turn}{{% if add_generation_prompt %}}{{{{ {prompt!r} }}}}{{% endif %}}"
    return source, lambda turns: [(bos, "."), *_framed(turns, before, stop, tail)]


FAMILIES: dict[str, tuple[str, Oracle, bool]] = {
    "default_system": (DEFAULT_SYSTEM, default_system, True),
    "folded": (FOLDED, folded, True),
    "gathered": (GATHERED, gathered, True),
    "eos_at_end": (EOS_AT_END, eos_at_end, True),
    "next_speaker": (NEXT_SPEAKER, next_speaker, False),
    "closed": (CLOSED, closed, True),
    "spoken": (SPOKEN, spoken, True),
    "only_parts": (ONLY_PARTS, only_parts, True),
    "macros": (MACROS, macros, True),
    "opened": (OPENED, opened, True),
    "channels": (CHANNELS, channels, True),
    "zephyr": (*_simple("<|{}|>\n", "</s>", "\n"), True),
    "headings": (*_simple("### {}:\n", "</s>", "\n\n", "<s>"), True),
    "named": (*_simple("{}: ", "<|endoftext|>", "\n"), True),
    "turns": (*_simple("<|turn>{}\n", "<turn|>", "\n", "<s>"), True),
}
"""Name → template, oracle, whether it takes a system turn."""

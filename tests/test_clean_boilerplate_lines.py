"""The boilerplate_lines cleaner: which lines go, and which only look as if they should."""

from __future__ import annotations

import pytest
from cleaning_support import answer_to

from sftdata.cleaners.boilerplate_lines import RULES, boilerplate_lines
from sftdata.errors import RecipeError
from sftdata.records import Edit

LINES = {
    "javascript": "Please enable JavaScript to view this page.",
    "cookies": "This site uses cookies to give you a better experience.",
    "policy": "Privacy Policy | Terms of Use",
    "copyright": "© 2019 Garden News Ltd. All rights reserved.",
    "navigation": "Back to top ↑",
    "sharing": "Share this on Facebook",
    "zh_navigation": "【返回顶部】".strip("【】"),
    "zh_sharing": "扫一扫下方二维码，分享到朋友圈",
    "zh_copyright": "版权所有 未经许可不得转载",
    "zh_editorial": "（责任编辑：小林）",
}

PROSE = [
    "She asked him to enable the lamp, and he said that scripts were not his trade, JavaScript least of all, and went on.",
    "He shared the bread with his brother.",
    "Copyright law protects authors.",
    "上一章里我们说到，海棠开了。",
    "他说版权很重要。",
    "来源：这个词在古书里有三种解释，各家说法不一，我们慢慢地讲。",
    "I will search the house at home.",
]


def test_every_rule_fires_on_its_line_alone() -> None:
    assert sorted(LINES) == sorted(RULES)
    for rule, line in LINES.items():
        answer = answer_to(boilerplate_lines, f"The rain fell.\n{line}\nIt fell on.")
        assert answer == Edit("The rain fell.\nIt fell on.", "boilerplate", rule, line)


def test_prose_about_the_same_things_stays() -> None:
    text = "\n".join(PROSE)
    assert answer_to(boilerplate_lines, text) == text


def test_nothing_is_emptied_and_prompts_are_left_alone() -> None:
    for text in ("Back to top", "Back to top\nRead more", "首页\n登录"):
        assert answer_to(boilerplate_lines, text) == text
    both = "Home\nWhat does this line mean?"
    assert answer_to(boilerplate_lines, both, role="user") == both
    assert answer_to(boilerplate_lines, both, role="user", roles=["user"]) != both
    assert answer_to(boilerplate_lines, both, disable=["navigation"]) == both


def test_unknown_names_are_refused() -> None:
    for options in ({"roles": ["txt"]}, {"disable": ["navigations"]}):
        with pytest.raises(RecipeError, match="boilerplate_lines: unknown"):
            answer_to(boilerplate_lines, "x", **options)

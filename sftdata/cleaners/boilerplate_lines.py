"""Remove lines that belong to a web page and not to its text: navigation, sharing, consent, copyright, editorial notes."""

from __future__ import annotations

import re

import pyarrow as pa

from sftdata.cleaners._spans import Answer, answer_each, check_roles
from sftdata.errors import RecipeError
from sftdata.records import Edit
from sftdata.registry import cleaner

RULES = {
    # C4 (Raffel et al., "Exploring the Limits of Transfer Learning", 2020, 2.2): lines about scripts and about policies
    "javascript": r".{0,60}\b(?:enable|requires?|turn on|activate|disabled)\b.{0,40}\bjavascript\b.{0,80}",
    "cookies": r".{0,80}\b(?:uses? cookies|use of cookies|cookie policy|accept (?:all )?cookies)\b.{0,120}",
    "policy": r"(?:[^.!?]{0,40}\b(?:terms of (?:use|service)|privacy policy)\b[^.!?]{0,40})",
    "copyright": r"(?:©|\(c\)|copyright\b(?! (?:law|infring|protect|holder|owner|is|was)))"
    r".{0,60}(?:\d{4}|all rights reserved).{0,60}"
    r"|.{0,60}\ball rights reserved\b.{0,20}",
    "navigation": r"(?:home|menu|search|log ?in|sign (?:in|up)|register|subscribe|skip to (?:main )?content|back to top"
    r"|read more|load more|show more|previous (?:post|article)|next (?:post|article)|leave a (?:comment|reply)|print this page"
    r"|advertisement|related (?:posts|articles))\W*",
    "sharing": r"(?:share|tweet|pin it|follow us|share (?:this|on|via)|like us on)\b[^.!?]{0,40}",
    "zh_navigation": r"(?:首页|返回(?:首页|顶部|目录|上一页|列表)|回到顶部|上一[篇页章]|下一[篇页章]|阅读(?:全文|原文|更多)"
    r"|查看更多|点击(?:查看|阅读|加载)(?:更多|全文|原文|详情)?|加载更多|相关(?:阅读|推荐|文章|新闻)|热门(?:推荐|文章)|猜你喜欢"
    r"|登录|注册|搜索|收藏本站|设为首页|联系我们|关于我们|网站地图|免责声明|广告)[\W_]*"
    r"|(?:上一篇|下一篇)[:：].{0,60}",
    "zh_sharing": r"(?:分享(?:到|至|给)|转发(?:到|至)|扫(?:描|一扫).{0,10}二维码|关注(?:我们|.{0,12}公众号)"
    r"|长按.{0,10}二维码).{0,30}",
    "zh_copyright": r".{0,40}(?:版权所有|未经(?:授权|许可|允许).{0,10}(?:不得|禁止|严禁)(?:转载|复制)"
    r"|转载请注明(?:出处|来源)).{0,40}"
    r"|.{0,20}[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]ICP[备证]\s?\d+号.{0,20}"
    r"|.{0,10}公网安备\s?\d+号.{0,10}",
    "zh_editorial": r"[（(【\[]?(?:责任编辑|责编|编辑|校对|审核|来源|文章来源|稿源|原标题|本文来源)[:：]\s?\S{1,24}[）)】\]]?",
}
"""Rule → what the whole of a line looks like, blanks at its ends aside. Those not of C4 are this project's own."""

LONGEST_LINE = 200
"""A longer line is a paragraph of the text, whatever it mentions."""


def _compiled(disable: list[str] | tuple[str, ...]) -> dict[str, re.Pattern[str]]:
    return {name: _PATTERNS[name] for name in RULES if name not in disable}


_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in RULES.items()}


def _no_files(*, roles: list[str] | None = None, disable: list[str] | tuple[str, ...] = ()) -> tuple[str, ...]:
    """Refuse unknown roles and rules when the recipe is read; the step reads no files."""
    check_roles("boilerplate_lines", roles)
    for name in disable:
        if name not in RULES:
            raise RecipeError(f"boilerplate_lines: unknown rule {name!r}; known: {', '.join(RULES)}")
    return ()


@cleaner(batched=True, assets=_no_files)
def boilerplate_lines(spans: pa.Table, *, roles: list[str] | None = None, disable: list[str] = []) -> list[Answer]:  # noqa: B006
    """Remove lines of navigation, sharing, consent, copyright and editorial notes.

    A line goes when the whole of it fits a rule. `roles` are the roles whose texts are looked at, by default assistant, target
    and text; `disable` switches off rules by name. A text of one line, and one of which nothing would stay, is left as it is.
    Raises RecipeError for unknown names.
    """
    _no_files(roles=roles, disable=disable)
    patterns = _compiled(disable)
    return answer_each(spans, roles, lambda text: _without_boilerplate(text, patterns))


def _without_boilerplate(text: str, patterns: dict[str, re.Pattern[str]]) -> Answer:
    if "\n" not in text:
        return text
    kept: list[str] = []
    found: list[tuple[str, str]] = []
    for line in text.split("\n"):
        rule = _rule_of(line.strip(), patterns)
        if rule is None:
            kept.append(line)
        else:
            found.append((rule, line.strip()))
    if not found or not any(line.strip() for line in kept):
        return text
    rules = ", ".join(dict.fromkeys(rule for rule, _ in found))
    return Edit("\n".join(kept), "boilerplate", rules, found[0][1])


def _rule_of(line: str, patterns: dict[str, re.Pattern[str]]) -> str | None:
    if not line or len(line) > LONGEST_LINE:
        return None
    return next((name for name, pattern in patterns.items() if pattern.fullmatch(line)), None)

"""Makes the small data of the recipes that are not about the court of Yongning. All texts are this file's own; CC0.

    python recipes/data/make_small.py

writes the same bytes every time: `stories/`, `tasks/`, `notes/` and `garden/` beside this file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = ("Mara", "Tom", "Ilse", "Ben", "Noor", "Pip", "Suki", "Otto")
PETS = ("a small grey cat", "an old brown dog", "a green frog", "a snail with a striped shell", "a very round hen")
PLACES = ("the long garden", "the hill behind the mill", "the pond", "the quiet library", "the bakery by the bridge")
THINGS = ("a red kite", "a tin drum", "a paper boat", "a blue button", "a jar of honey", "a wooden spoon")
FEELINGS = ("happy", "sad", "curious", "sleepy", "brave", "a little afraid")
PLANTS = ("mint", "beans", "roses", "leeks", "ferns", "plums", "thyme", "pumpkins")
SEASONS = ("spring", "summer", "autumn", "winter")


def stories(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield 240 short tales, one in eight of them long."""
    for number in range(240):
        name, friend = rng.sample(NAMES, 2)
        thing, place, pet = rng.choice(THINGS), rng.choice(PLACES), rng.choice(PETS)
        middle = [
            f"{friend} asked, \"Have you seen {thing}?\"", f"{name} looked under a stone, but there was only a beetle.",
            f"They walked to {place} and saw {pet}.", f"{name} felt {rng.choice(FEELINGS)}.",
            f"\"Let us share,\" said {friend}.", "The wind was loud, and then it was not.",
            f"The sun went down behind {rng.choice(PLACES)}.", f"In the end {pet} had it all the time!",
        ]
        rng.shuffle(middle)
        body = middle[: rng.randint(3, 7)] * (4 if number % 8 == 0 else 1)
        first = f"One day {name} found {thing} near {place}."
        yield {"text": " ".join([first, *body, f"{name} and {friend} went home and were {rng.choice(FEELINGS)}."])}


def tasks(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield 360 instructions with answers of very different lengths, half of them without an input."""
    for number in range(360):
        kind = number % 4
        words = rng.sample([*PLANTS, *SEASONS, *(name.lower() for name in NAMES)], rng.randint(3, 9))
        if kind == 0:
            yield {"instruction": "Sort these words.", "input": ", ".join(words), "output": ", ".join(sorted(words))}
        elif kind == 1:
            left, right = rng.randint(2, 60), rng.randint(2, 60)
            yield {"instruction": f"What is {left} plus {right}?", "input": "", "output": f"{left + right}."}
        elif kind == 2:
            text = " ".join(words)
            yield {"instruction": "Write the words backwards.", "input": text, "output": " ".join(reversed(words))}
        else:
            plant, season = rng.choice(PLANTS), rng.choice(SEASONS)
            weeks = range(1, rng.randint(3, 16))
            steps = [f"{week}. {rng.choice(['Water', 'Weed', 'Watch', 'Feed'])} the {plant} in week {week}." for week in weeks]
            yield {"instruction": f"Give me a plan for {plant} in {season}.", "input": "", "output": "\n".join(steps)}


def notes(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield 240 pretraining records: a source, which may be empty, a target and a category."""
    for number in range(240):
        plant, season, place = rng.choice(PLANTS), rng.choice(SEASONS), rng.choice(PLACES)
        category = ("book", "web", "reference")[number % 3]
        needs = ("water", "shade", "rest", "a stake")
        target = " ".join(
            f"In {rng.choice(SEASONS)} the {rng.choice(PLANTS)} at {place} need {rng.choice(needs)}."
            for _ in range(rng.randint(2, 14))
        )
        source = "" if number % 2 else f"What do {plant} need in {season}? "
        yield {"source": source, "target": target, "category": category}


def talks(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield 160 dialogues of two to eight turns between `human` and `assistant`."""
    for _ in range(160):
        turns: list[dict[str, str]] = []
        for _ in range(rng.randint(1, 4)):
            plant, season = rng.choice(PLANTS), rng.choice(SEASONS)
            turns.append({"from": "human", "content": f"May I sow {plant} in {season}?"})
            answer = "Yes" if (len(plant) + len(season)) % 2 else "No"
            friends = "friends" if answer == "Yes" else "no friends"
            turns.append({"from": "assistant", "content": f"{answer}: {plant} and {season} are {friends}."})
        yield {"messages": turns, "category": "garden"}


def garden(rng: random.Random) -> dict[str, str]:
    """Return the files of a small website: pages, a table of questions, a database dump and chats, by name."""
    files: dict[str, str] = {}
    for number, plant in enumerate(PLANTS):
        lines = "".join(
            f"<p>{plant.title()} like {rng.choice(SEASONS)}. At {rng.choice(PLACES)} they grow beside {rng.choice(PLANTS)}, "
            f"and whoever waters them in the evening of a dry day will see them stand in the morning.</p>"
            for _ in range(6)
        )
        menu = "<nav><a href='/'>Home</a> <a href='/shop'>Shop</a></nav>"
        files[f"pages/{number:02d}-{plant}.html"] = (
            f"<html><head><title>{plant}</title><style>p{{margin:0}}</style></head><body>{menu}"
            f"<article><h1>About {plant}</h1>{lines}</article><footer>Subscribe now!</footer></body></html>\n"
        )
    rows = [f'When do I cut {plant} in {season}?,"Before noon, and never all of it."' for plant in PLANTS for season in SEASONS]
    files["faq.csv"] = "\n".join(["question,answer", *rows]) + "\n"
    values = ",\n".join(
        f"({number}, 'Why are my {plant} {colour}?', 'It''s the {season}; wait a week.')"
        for number, (plant, colour, season) in enumerate(
            (rng.choice(PLANTS), rng.choice(["yellow", "small", "wet"]), rng.choice(SEASONS)) for _ in range(40)
        )
    )
    files["letters.sql"] = (
        "CREATE TABLE letters (id INT, question TEXT, answer TEXT);\n"
        f"INSERT INTO letters (id, question, answer) VALUES\n{values};\n"
    )
    return files


def write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def main(folder: Path = HERE) -> None:
    """Write everything below `folder`."""
    write_lines(folder / "stories" / "stories.jsonl", stories(random.Random(1)))
    write_lines(folder / "tasks" / "tasks.jsonl", tasks(random.Random(2)))
    write_lines(folder / "notes" / "notes.jsonl", notes(random.Random(3)))
    write_lines(folder / "notes" / "talks.jsonl", talks(random.Random(4)))
    for name, text in garden(random.Random(5)).items():
        path = folder / "garden" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    write_lines(folder / "garden" / "chats.jsonl", talks(random.Random(6)))


if __name__ == "__main__":
    main()

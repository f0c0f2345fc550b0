"""Put the samples of the training split in order as the recipe's `mix` says, and report the share of every source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from sftdata import columns, mixing, weighting
from sftdata.mixing import Mix
from sftdata.shuffling import Int64, Integers, UInt64, keyed_order

Int32 = npt.NDArray[np.int32]
ReadColumn = Callable[[str], npt.NDArray[np.float64]]


class Contents(NamedTuple):
    """What mixing knows of the samples of one split, all (n,).

    row: the record of each, ascending; several samples of one record follow each other. identity: see
    `shuffling.row_identity`. part: the tokenized part, an index into `sources` and `categories`. length, trained: tokens.
    """

    row: Int32
    identity: UInt64
    part: Int32
    length: Int32
    trained: Int32


def arrange(contents: Contents, spec: dict[str, Any], read_column: ReadColumn) -> Mix:
    """Return the order of the samples under `spec["mix"]`, with repeats and without those that the mixture leaves out.

    `spec`: `mix` (options), `sources` and `categories` (names, one for each part), `weights` (what each source asks for),
    `seed`. read_column: name of a field of the records → its value for each sample, (n,). Raises DataError.
    """
    options, seed = spec["mix"], spec["seed"]
    strategy, bins, shuffle = options["strategy"], options["bins"], options["shuffle"]
    identity, length = contents.identity, contents.length
    if options["compat"] == "percent":
        rank = _ranks(spec["categories"])
        return mixing.percent(identity, rank[contents.part], length, bins=bins, seed=seed)
    if strategy == "weighted":
        num_copies = _copies(contents, spec)
        source = columns.take(_numbers(spec["sources"]), contents.part)
        mixed = mixing.weighted(identity, source, num_copies, seed=seed, shuffle=shuffle)
    elif strategy == "buckets":
        category = columns.take(_numbers(spec["categories"]), contents.part)
        mixed = mixing.buckets(identity, category, bins=bins, seed=seed, shuffle=shuffle)
    elif strategy == "curriculum":
        values = length if options["order_by"] == "length" else read_column(options["order_by"])
        mixed = mixing.curriculum(identity, values, bins=bins, seed=seed, shuffle=shuffle)
    else:
        mixed = mixing.concat(identity, seed=seed, shuffle=shuffle)
    if options["group_by_length"] is not None:
        mixed = mixing.group_by_length(mixed, length, group_rows=options["group_by_length"], seed=seed)
    return mixed


def report_mixture(contents: Contents, mixed: Mix, spec: dict[str, Any]) -> dict[str, Any]:
    """Return what the mixture takes of each source: samples, tokens, trained tokens, epochs, and its share, asked and realised.

    Shares and epochs count what `mix.by` says, tokens where it says nothing; `asked` is there under `weighted` alone.
    """
    unit = spec["mix"]["by"] or "tokens"
    names = [ask["name"] for ask in spec["weights"]]
    sizes = _sizes(contents, unit)
    sums = {"samples": None, "tokens": contents.length, "trained_tokens": contents.trained}
    before = _sums_by_source(contents, spec, sizes, None)
    after = _sums_by_source(contents, spec, sizes, mixed.order)
    taken = {name: _sums_by_source(contents, spec, values, mixed.order) for name, values in sums.items()}
    asked: list[float | None] = [None] * len(names)
    if spec["mix"]["strategy"] == "weighted":
        asked = [float(target.asked) for target in _targets(spec, before)]
    whole = sum(after)
    found = {
        name: {
            **({} if asked[number] is None else {"asked": asked[number]}),
            "realised": after[number] / whole if whole else 0.0,
            "epochs": after[number] / before[number] if before[number] else 0.0,
            **{column: values[number] for column, values in taken.items()},
        }
        for number, name in enumerate(names)
    }
    return {"by": unit, "sources": found}


def _sums_by_source(contents: Contents, spec: dict[str, Any], values: Integers | None, order: Integers | None) -> list[int]:
    """Return the sum of `values`, or the number of samples, over the samples of each source: those in `order`, or all."""
    source = _source_numbers(spec)
    totals = [0] * len(spec["weights"])
    for rows in columns.blocks(len(contents.part) if order is None else len(order)):
        chosen = rows if order is None else order[rows]
        mine = source[contents.part[chosen]]
        weights = None if values is None else values[chosen]
        found = np.bincount(mine, weights=weights, minlength=len(totals))  # exact: a block's sum is below 2 to the 53rd
        totals = [total + int(more) for total, more in zip(totals, found, strict=True)]
    return totals


def _copies(contents: Contents, spec: dict[str, Any]) -> npt.NDArray[np.int32]:
    """Return how often each sample is trained, (n,): the samples of one record equally often."""
    starts, numbers = columns.starts(contents.row), _source_numbers(spec)
    first = starts[:-1]
    source = columns.computed(len(first), np.int32, lambda rows: numbers[contents.part[first[rows]]])
    size = columns.sums(_sizes(contents, spec["mix"]["by"]), starts)
    found = _targets(spec, _sums(source, size, len(spec["weights"])))
    identity = columns.take(contents.identity, first)
    order: Integers = columns.computed(len(first), np.int64, lambda rows: np.arange(rows.start, rows.stop))
    if spec["mix"]["shuffle"]:
        order = keyed_order(identity, seed=spec["seed"], purpose="weights")
    num_copies = weighting.choose_copies([target.amount for target in found], source, size, order)
    copies = columns.empty(len(contents.row), np.int32)
    for records, samples in columns.spans(starts):
        copies[samples] = np.repeat(num_copies[records], np.diff(starts[records.start : records.stop + 1]))
    return copies


def _targets(spec: dict[str, Any], sizes: Sequence[int]) -> list[weighting.Target]:
    options = spec["mix"]
    asks = [weighting.Ask(**ask) for ask in spec["weights"]]
    unit = options["by"].replace("_", " ")
    return weighting.targets(asks, sizes, budget=options["budget"], stop=options["stop"], unit=unit)


def _sizes(contents: Contents, unit: str) -> Integers:
    """Return what each sample counts for; of a record that was split only the first sample counts as a row."""
    if unit == "rows":
        begins = np.ones(len(contents.row), dtype=np.int8)
        begins[1:] = contents.row[1:] != contents.row[:-1]
        return begins
    return contents.length if unit == "tokens" else contents.trained


def _sums(source: Integers, values: Integers, num_sources: int) -> list[int]:
    totals = [0] * num_sources
    for rows in columns.blocks(len(source)):
        mine, here = source[rows], values[rows]
        totals = [total + int(here[mine == number].sum()) for number, total in enumerate(totals)]
    return totals


def _source_numbers(spec: dict[str, Any]) -> Int64:
    """Return the place of each part's source in `weights`."""
    places = {ask["name"]: place for place, ask in enumerate(spec["weights"])}
    return np.array([places[name] for name in spec["sources"]], dtype=np.int64)


def _numbers(names: Sequence[str]) -> npt.NDArray[np.int32]:
    """Return a number for each name that depends on it alone, so that another category moves none of its rows."""
    return np.array([xxhash.xxh32_intdigest(name.encode("utf-8")) for name in names], dtype=np.uint32).view(np.int32)


def _ranks(names: Sequence[str]) -> Int64:
    """Return the rank of each name among all, by the bytes of its UTF-8."""
    known = sorted(set(names), key=lambda name: name.encode("utf-8"))
    return np.array([known.index(name) for name in names], dtype=np.int64)

"""One reading of an input part by its ingestor: whatever goes wrong names the step and the file, and damage costs no build."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sftdata.errors import DamagedInputError, SftdataError
from sftdata.records import Bad, Record
from sftdata.registry import Step
from sftdata.sources import InputFile


class Reading:
    """One reading of a file, or a piece of one. `file` knows its layout once the first record is read."""

    def __init__(self, step: Step, file: InputFile, options: dict[str, Any]) -> None:
        self.file = file
        self._step, self._options = step, options

    def records(self) -> Iterator[Record | Bad]:
        """Yield what the ingestor makes of the file; where the file is damaged, one Bad stands for all that follows.

        Raises SftdataError for whatever the step itself does wrong.
        """
        number = self.file.piece.first_record if self.file.piece else 0
        try:
            if self._step.sniff is not None and self.file.piece is None:
                self.file = replace(self.file, layout=self._sniffed())
            for record in self._read():
                yield record
                number += 1
        except DamagedInputError as error:
            why = str(error).removeprefix(f"{self.file.place}: ")
            yield Bad(str(number), error.reason, f"from record {number} on: {why}", b"")

    def _sniffed(self) -> dict[str, Any]:
        assert self._step.sniff is not None
        try:
            return self._step.sniff(self.file, **self._options)
        except (SftdataError, OSError, MemoryError):
            raise
        except Exception as error:
            raise SftdataError(f"{self._where} raised {type(error).__name__}: {error}") from error

    def _read(self) -> Iterator[Record | Bad]:
        try:
            for record in self._step.function(self.file, **self._options):
                if not isinstance(record, Record | Bad):
                    raise SftdataError(f"{self._where} gave {reprlib.repr(record)}; it may give Record or Bad")
                yield record
        except (SftdataError, OSError, MemoryError):
            raise
        except Exception as error:
            raise SftdataError(f"{self._where} raised {type(error).__name__}: {error}") from error

    @property
    def _where(self) -> str:
        return f"{self.file.path}: ingestor {self._step.name!r}"

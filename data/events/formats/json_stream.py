"""Cuts JSON that is not one record a line: documents spread over lines, and objects without newlines between them.

The splitter finds where records begin and end without parsing them, in bounded memory, and finds its way again after damage:
a JSON string holds no newline, two objects never touch, and in indented JSON all items of a list begin in the same column.
"""

from __future__ import annotations

import re
from operator import add

import msgspec
import numpy as np
import numpy.typing as npt

from data.events.audit_event import API_VERSIONS, MAX_EVENT_BYTES, UNREADABLE
from data.events.formats.event_list import UNWRAPPED

#: Text and whole strings up to the next bracket or newline; or up to a quote that opens a string without an end on its line.
_STEP = re.compile(rb'(?:[^"{}\[\]\n]++|"(?:[^"\\\n]++|\\[^\n])*+")*+([{}\[\]\n"])')
#: Blank lines up to the last, and marks that do no more than the same one before them.
_BLANK_LINES = re.compile(rb"(?:[ \t\r]*+\n(?=[ \t\r]*+\n))*+")
_BRACES, _END_BRACES, _STRAY_ENDS = map(re.compile, (rb"\{*+", rb"\}*+", rb"[} \t\r]*+"))
_LISTS, _LIST_ENDS = map(re.compile, (rb"[\[, \t\r]*+", rb"[\], \t\r]*+"))
#: Text without strings, and in it a brace behind another one or at the beginning of a line, where a record may begin.
_STRINGLESS, _STRINGLESS_LINE = map(re.compile, (rb'[^"]*+', rb'[^"\n]*+'))
_MAY_BEGIN = re.compile(rb"[{}\n][ \t\r\v\f]*+\{")
_NEWLINE, _BRACE, _END_BRACE = b"\n{}"
#: What may stand between the items of a list, and what may stand around the brace that begins one.
_SEPARATORS, _BLANKS = b", \t\r\n", b" \t\r\n"
_SEPARATED = re.compile(rb"[, \t\r\n]*+")
#: Bytes without a string in which no record of a list can begin: it would have its first key.
_VOID_BYTES, _NEVER = 4096, 1 << 62
#: What each byte adds to the lists that are open.
_MORE_LISTS = np.zeros(256, np.int8)
_MORE_LISTS[ord("[")], _MORE_LISTS[ord("]")] = 1, -1
#: In which the items of a list may begin, to be taken many at once.
_MOST_COLUMNS = 64
#: What each byte adds to the depth.
_DEEPER = np.zeros(256, np.int8)
_DEEPER[[*b"{["]], _DEEPER[[*b"}]"]] = 1, -1
#: Marks that are looked at one by one before it is tried to pass many at once, and bytes in which they are looked for.
_FEW_MARKS, _LEAST_BYTES, _MOST_BYTES = 64, 256, 64 << 10
#: Objects that are far too small for a record of any format; those that touch are the damage of one.
_TINY_OBJECT = rb'\{(?:[^"{}\[\]\n\\]|"[^"\n\\]{0,16}+"){0,16}+\}'
_TOUCHING_TINY = re.compile(rb"(?:" + _TINY_OBJECT + rb")++")
_TINY = re.compile(rb"(?:[ \t\r]*+" + _TINY_OBJECT + rb")++")
_TINY_BYTES = 32
#: Bytes that are kept of them.
_TINY_KEPT = 1024
_KEYS = "|".join(UNWRAPPED).encode()
_LIST_KEY = re.compile(rb'"(' + _KEYS + rb')"\s*:\s*$')
_OPENER = re.compile(rb'\s*(?:[\[{]|\[\s*\{|\{.{0,4096}"(?:' + _KEYS + rb')"\s*:\s*\[)\s*', re.DOTALL)
_CLOSED_BY = {b"{": b"}", b"[": b"]", b"[{": b"}]"}
_ANY_JSON = msgspec.json.Decoder(msgspec.Raw)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
#: What a record has, and the beginning of a list of records has not.
_RECORD_KEYS = (b'"auditID"', b'"AuditId"', b'"protoPayload"')
_VERSION = re.compile(rb'"apiVersion"\s*:\s*"([^"\\]*)"')
_SIGNATURE = re.compile(rb'\{\s*"[^"\\\n]{1,64}"\s*:')
#: Bytes; what is shorter is cheap to look at again, and may be a live log that waits.
_LONG_WAIT = 256 << 10
_OUTSIDE = 0
_ITEMS_DONE = -1


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where what matches at a place ends; the place if nothing does."""
    found = pattern.match(data, at)
    return at if found is None else found.end()


def end_of_tiny(data: bytes, at: int) -> int | None:
    """Where objects that are too small for records end, of which the first begins at a place; None if none does."""
    found = _TINY.match(data, at)
    return None if found is None else found.end()


def opens_document(line: bytes) -> bool:
    """Whether a line that is no record by itself is the first of a document spread over several lines.

    A record that was cut off behind the name of a list in its body is none: what is left of it is to be read.
    """
    if line.rstrip()[-1:] not in (b"{", b"[") or _OPENER.fullmatch(line) is None:
        return False
    if any(key in line for key in _RECORD_KEYS):
        return False
    opened = line.strip()
    try:  # what was cut inside a record, or is damaged, is no JSON when its list is closed
        _ANY_JSON.decode(opened + _CLOSED_BY.get(b"".join(opened.split()), b"]}"))
    except UNREADABLE:
        return False
    return True


class Documents:
    """Cuts such JSON into records; fed with bytes as they come.

    Lists of records (`[...]`, `items`, `records`, `events`) are cut into their items, so a list may be larger than memory.
    """

    def __init__(self, line: int, one_line: bool = False) -> None:
        """`line` is the number of the first line; with `one_line` a newline ends the document whatever its state."""
        self.line = line  # up to which it has read
        self.finished = False  # what follows is one record a line again; `rest` holds what was fed of it
        self.rest = b""
        self.damage: list[tuple[int, str]] = []  # (line, reason) of losses that leave no record behind
        self._one_line = one_line
        self._buffer = b""
        self._at = 0  # scanned so far
        self._wanted = 0  # bytes in the buffer from which on it is scanned again
        self._start: int | None = None  # where the current record begins
        self._start_line = line
        self._dropping = False  # the current record was too long and is only walked through
        self._skipping = False  # to the end of the line
        self._depth = 0
        self._base = _OUTSIDE  # depth of the list whose items are the records; 0: whole documents are
        self._header: tuple[bytes, bytes] | None = None  # what is put around an item that depends on its list
        self._signature = b""
        self._indent: bytes | None = None
        self._after_brace = False  # only white space since the last brace: an object cannot follow
        self._previous = b"\n"  # the bracket or newline before
        self._found: list[tuple[int, bytes]] = []
        self._may_take = True  # items of what is in the buffer, many at once
        self._marks = 0  # looked at one by one since many were passed at once
        self._ahead = _LEAST_BYTES  # in which such are looked for
        self._looked = 0  # up to where no text is that holds no record
        self._void: int | None = None  # lists that are open in text that holds no record, inside of such text
        self._tiny = b""  # objects that are no records, on one line
        self._tiny_line = line

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Read more bytes; returns the (line, record) pairs that are complete."""
        self._buffer += data
        self._may_take = True
        if len(self._buffer) >= self._wanted:
            self._scan(final=False)
            waiting = len(self._buffer) - self._at
            # What waits for its end is looked at again only when it has grown by half, or its square would be looked at.
            grown = min(waiting * 3 // 2, MAX_EVENT_BYTES + 1)
            self._wanted = self._at + grown if waiting > _LONG_WAIT else 0
        return self._pop_found()

    def end(self) -> list[tuple[int, bytes]]:
        """Say that no more comes; returns what is left, as a record that will be found unreadable."""
        self._scan(final=True)
        if not self.finished:
            is_stray = self._start is None
            piece = self._buffer[self._at if is_stray else self._start :]
            piece = piece.strip(_SEPARATORS) if is_stray else piece  # as `_stray` has it
            if piece.strip() and not self._dropping:
                self._emit(piece)
            elif self._depth > 0 and not self._dropping:
                self.damage.append((self.line, "document ends early: a list or object is not closed"))
            self._finish(len(self._buffer))
        return self._pop_found()

    def _pop_found(self) -> list[tuple[int, bytes]]:
        found, self._found = self._found, []
        return found

    def _add(self, line: int, piece: bytes) -> None:
        self._flush_tiny()
        self._found.append((line, piece))

    def _flush_tiny(self) -> None:
        if self._tiny:
            self._found.append((self._tiny_line, self._tiny))
            self._tiny = b""

    def _add_tiny(self, piece: bytes) -> None:
        if not self._tiny:
            self._tiny_line = self._start_line
        self._tiny = (self._tiny + piece[:_TINY_KEPT])[:_TINY_KEPT]

    def _emit(self, piece: bytes) -> None:
        if self._base == _OUTSIDE and len(piece) <= _TINY_BYTES and _TOUCHING_TINY.fullmatch(piece):
            self._add_tiny(piece)
            return
        if self._header is not None and len(piece) <= MAX_EVENT_BYTES:
            piece = self._header[0] + piece + self._header[1]
        self._add(self._start_line, piece)

    def _finish(self, at: int) -> None:
        self._flush_tiny()
        self.finished = True
        self.rest = self._buffer[at:]
        self._buffer = b""

    def _begin(self, at: int) -> None:
        self._start, self._start_line, self._dropping = at, self.line, False
        self._depth = self._base + 1
        if not self._signature:
            match = _SIGNATURE.match(self._buffer, at, at + 80)
            self._signature = match[0] if match else b""

    def _close_record(self, end: int) -> None:
        if self._start is not None and not self._dropping:
            self._emit(self._buffer[self._start : end])
        self._start, self._dropping = None, False

    def _scan(self, final: bool) -> None:
        step, took = _STEP.match, False
        while not self.finished:
            if self._void is None and self._at >= self._looked and self._may_be_void():
                begin = _end(_SEPARATED, self._buffer, self._at)
                looked = self._begin_void(begin, final)
                if looked < 0:
                    break  # more has to come to say what this is
                self._looked = looked
            if self._void is not None:
                if not self._pass_void(final):
                    break
                continue
            if self._skipping:
                end = self._buffer.find(b"\n", self._at)
                if end < 0:
                    self._at = len(self._buffer)
                    break
                self._at, self._skipping = end, False
            match = step(self._buffer, self._at)
            if match is None:
                break
            token, at, end = match[1], match.start(1), match.end()
            if token == b'"':
                stop = self._buffer.find(b"\n", at)
                if stop < 0 and not final:
                    break  # the string goes on in what is not here yet
                self._stray(self._buffer[self._at : stop if stop >= 0 else len(self._buffer)])
                self._at, self._skipping = end, True  # damaged: go on at the next line
                self._after_brace, self._previous = False, token
                continue
            touches = token == b"{" and self._buffer[end : end + 1] in (b"{", b"")
            if not final and (touches or token == b"\n") and self._waits(token, end):
                break
            before = self._buffer[self._at : at]
            blank = not before or before.isspace()
            if not blank:
                self._stray(before)
            self._after_brace = self._after_brace and blank
            if token == b"\n":
                self._newline(at, end)
            elif token == b"{" and self._begins_item(before) and self._take_items(at):
                took = True
                continue
            elif token == b"{" and took and not final and self._goes_on(before, at):
                break  # its end comes with more of them
            elif token == b"{":
                self._open_object(before, blank, at)
            elif token == b"[":
                self._open_list(before, at)
            elif token == b"}":
                self._close_object(end)
            else:
                self._close_list()
            if self.finished:
                return
            if touches or token == self._previous:
                end = self._end_of_run(token, blank, end)
            elif self._tiny and token == b"}" and self._start is None and self._depth == 0:
                run = _TOUCHING_TINY.match(self._buffer, end)
                if run is not None:
                    self._add_tiny(run[0])
                    end = run.end()
            self._previous = token
            self._at = end
            self._marks += 1
            if self._marks >= _FEW_MARKS:
                self._pass_many()
        self._keep_bounded()

    def _may_be_void(self) -> bool:
        """Whether a record has just begun here, or an item of a list may begin."""
        if self._start is None:
            return self._depth == self._base > _OUTSIDE and not self._skipping
        return self._depth == self._base + 1 and self._previous == b"{" and not self._dropping

    def _begin_void(self, begin: int, final: bool) -> int:
        """Begin to pass over text that holds no record, if it begins here: all of it is one dead letter.

        Returns:
            Up to where there is no such text; -1 if that takes more bytes.
        """
        buffer, stop = self._buffer, begin + _VOID_BYTES
        ends = [buffer.find(b'"', begin, stop), buffer.find(b"\n", begin, stop) if self._one_line else -1]
        if max(ends) >= 0:
            return min(end for end in ends if end >= 0)
        if len(buffer) < stop:
            return len(buffer) if final else -1
        self._close_record(self._at)
        self.line += buffer.count(b"\n", self._at, begin)
        self._add(self.line, buffer[begin : begin + _TINY_KEPT])
        self._at, self._depth, self._void = begin, self._base, 0
        return begin

    def _pass_void(self, final: bool) -> bool:
        """Pass over text that holds no record, up to a string, or the end of the list; False if neither is here yet."""
        assert self._void is not None
        buffer, at = self._buffer, self._at
        pattern, limit = _STRINGLESS_LINE if self._one_line else _STRINGLESS, at + _MOST_BYTES
        text = pattern.match(buffer, at, limit)
        assert text is not None
        is_here, is_over = text.end() in (len(buffer), limit), text.end() < min(limit, len(buffer))
        passed = text[0].rstrip(_BLANKS)  # what follows may begin an item, and its line
        if passed.endswith(b"{"):
            passed = passed[:-1].rstrip(_BLANKS)
        if is_here and (final or (not passed and limit < len(buffer))):
            passed = text[0]
        size = len(passed)
        if size and self._base > _OUTSIDE:
            lists = np.cumsum(_MORE_LISTS[np.frombuffer(passed, np.uint8)], dtype=np.int32) + self._void
            self._void = int(lists[-1])
            if lists.min() < 0:
                size, is_over = int((lists < 0).argmax()), True
                self._looked = _NEVER  # lists may end all the time, and to look each time would take long
        self.line += passed.count(b"\n", 0, size)
        self._at = at + size
        if is_over or (final and self._at == len(buffer)):
            self._void, self._after_brace, self._previous = None, False, b","
            return True
        return limit < len(buffer)

    def _begins_item(self, before: bytes) -> bool:
        """Whether an object behind this text is an item of a list, and begins where another has begun."""
        return (
            self._previous == b"\n"
            and before == self._indent
            and self._start is None
            and self._depth == self._base > _OUTSIDE
        )

    def _take_items(self, at: int) -> bool:
        """Take all items from here to the last that is whole, as far as they are here, if nothing is wrong with them.

        Their marks one by one take ten times as long.
        """
        if not self._may_take:
            return False
        self._may_take = False  # if anything is wrong, not all of it is to be looked at again for each item
        assert self._indent is not None
        column = 1 + len(self._indent)
        if column > _MOST_COLUMNS:
            return False
        letters = np.frombuffer(self._buffer, np.uint8, offset=at)
        lines = np.flatnonzero(letters[:-column] == _NEWLINE)

        def beginning_with(mark: int) -> npt.NDArray[np.intp]:
            found: npt.NDArray[np.intp] = lines[letters[lines + column] == mark]
            for number, blank in enumerate(self._indent or b"", 1):
                found = found[letters[found + number] == blank]
            return found

        begins, closes = beginning_with(_BRACE), beginning_with(_END_BRACE)
        stop = max([*begins[-1:].tolist(), *(closes[-1:] + column + 1).tolist()], default=0)
        text = self._buffer[at : at + stop].rstrip(_SEPARATORS)
        starts = [0, *(begins[begins < stop] + column).tolist()]
        try:
            items = list(map(bytes, _ITEMS.decode(b"[%b]" % text)))
        except UNREADABLE:
            return False
        if len(items) != len(starts):
            return False
        ends = list(map(add, starts, map(len, items)))
        between = {text[end:start] for end, start in zip(ends, starts[1:], strict=False)}
        if not all(gap and not gap.strip(_SEPARATORS) for gap in between):
            return False  # another object begins in the column of the items
        numbers = (np.searchsorted(lines, starts) + self.line).tolist()
        if self._header is None:
            self._flush_tiny()
            self._found += zip(numbers, items, strict=True)
        else:
            for self._start_line, item in zip(numbers, items, strict=True):
                self._emit(item)
        self.line += int(np.searchsorted(lines, ends[-1]))
        self._at, self._previous, self._after_brace = at + ends[-1], b"}", True
        return True

    def _goes_on(self, before: bytes, at: int) -> bool:
        """Whether an item is not whole yet, behind those that were taken at once."""
        return (
            self._begins_item(before)
            and self._buffer[at + 1 : at + 2] in (b"\n", b"\r", b"")
            and len(self._buffer) - at < _LONG_WAIT
        )

    def _pass_many(self) -> None:
        """Pass over marks between which no strings stand, as far as they lead deeper or back and neither end nor begin anything.

        Of text that is made of nothing else, each mark would take as long as 50 bytes of a log.
        """
        buffer, at, least = self._buffer, self._at, max(self._base, 0) + 1
        ahead, self._ahead, self._marks = self._ahead, _LEAST_BYTES, 0
        if self._depth < least or self._tiny:
            return
        text = (_STRINGLESS_LINE if self._one_line else _STRINGLESS).match(buffer, at, at + ahead)
        assert text is not None
        stop = min(text.end(), len(buffer) - 1)  # what comes behind a mark is to be seen
        begins = _MAY_BEGIN.search(buffer, at, stop + 1)
        if begins is not None:
            stop = begins.start()
        follows = buffer[at : at + _LEAST_BYTES].lstrip()[:1]
        may_begin = follows in (b"{", b"") and (self._after_brace or self._previous == b"\n")
        if stop - at < _LEAST_BYTES // 2 or may_begin:
            return
        change = _DEEPER[np.frombuffer(buffer, np.uint8, stop - at, at)]
        is_above = np.cumsum(change, dtype=np.int32) + self._depth >= least
        passed = len(change) if is_above.all() else int(is_above.argmin())
        marks = np.flatnonzero(change[:passed])
        if not len(marks):
            return
        end = at + int(marks[-1]) + 1
        self.line += buffer.count(b"\n", at, end)
        self._depth += int(change[:passed].sum(dtype=np.int32))
        self._previous = buffer[end - 1 : end]
        self._after_brace = self._previous in (b"{", b"}")
        self._at = end
        if passed == len(change):
            self._ahead, self._marks = min(2 * ahead, _MOST_BYTES), _FEW_MARKS

    def _end_of_run(self, token: bytes, blank: bool, end: int) -> int:
        """Pass over marks that only repeat the one that ends here, so that a run of them costs no more than two."""
        buffer, is_inside = self._buffer, self._start is not None
        if token == b"{":  # braces that touch: all but the last are damage, of one record
            run = _end(_BRACES, buffer, end)
            if run > end:
                self._open_object(b"", True, run - 1)
            return run
        if token == b"\n":
            lines = None if self._one_line or not blank else _BLANK_LINES.match(buffer, end)
            run = end if lines is None else lines.end()
            self.line += buffer.count(b"\n", end, run)
        elif token == b"[" and self._depth > 1:
            run = _end(_LISTS, buffer, end)
            self._depth += buffer.count(b"[", end, run)
        elif token == b"]" and (is_inside or self._base == _ITEMS_DONE):
            run = _end(_LIST_ENDS, buffer, end)
            least = self._base + 1 if is_inside else 1
            self._depth = max(self._depth - buffer.count(b"]", end, run), least)
        elif token == b"}" and is_inside:
            run = min(_end(_END_BRACES, buffer, end), end + self._depth - self._base - 1)
            self._depth -= run - end
        elif token == b"}" and self._base != _ITEMS_DONE and self._depth <= max(self._base, 0):
            run = _end(_STRAY_ENDS, buffer, end)
        else:
            run = end
        return run

    def _stray(self, text: bytes) -> None:
        """What stands where only records may: neither an object nor a list."""
        text = text.strip(_SEPARATORS)
        if text and self._start is None and self._depth == self._base:
            self._add(self.line, text)

    def _is_between(self) -> bool:
        return self._depth == 0 and self._base == _OUTSIDE and not self._one_line

    def _waits(self, token: bytes, end: int) -> bool:
        """Whether it takes more bytes to say what the line after a document is, or where braces that touch end."""
        if token == b"{":
            return _end(_BRACES, self._buffer, end) == len(self._buffer)
        if token != b"\n" or not self._is_between() or self._buffer.find(b"\n", end) >= 0:
            return False
        return len(self._buffer[end:].strip()) <= 1

    def _newline(self, at: int, end: int) -> None:
        """A line ends; between documents, one that does not open another is left to the reader of lines."""
        self._flush_tiny()
        self.line += 1
        if self._one_line:
            self._close_record(at)
            self._finish(end)
        elif self._is_between():
            stop = self._buffer.find(b"\n", end)
            following = self._buffer[end : stop if stop >= 0 else len(self._buffer)].strip()
            if following and following not in (b"{", b"["):
                self._finish(end)

    def _open_object(self, before: bytes, blank: bool, at: int) -> None:
        begins_line = blank and self._previous == b"\n"
        if self._base == _ITEMS_DONE:
            if begins_line and before == self._indent:  # the list was not at its end after all
                self._base = 2
                self._begin(at)
            elif self._after_brace:  # the end of the document before is missing
                self._depth, self._base, self._header = 0, _OUTSIDE, None
                self._begin(at)
            else:
                self._depth += 1
        elif self._start is None and self._depth == self._base:
            if begins_line and self._base > 0 and self._indent is None:
                self._indent = before
            self._begin(at)
        elif self._after_brace and begins_line and self._is_stray_opener(at):
            # A line that holds no more than a brace was damage, not the beginning of a document.
            self._close_record(at - len(before))
            self._finish(at - len(before))
            return
        elif self._after_brace or (
            begins_line and self._base > 0 and self._start is not None and before == self._indent
        ):
            # Two braces touch, or an item begins where items do: the record before has lost its end.
            self._close_record(at - len(before))
            self._begin(at)
        else:
            self._depth += 1
        self._after_brace = True

    def _is_stray_opener(self, at: int) -> bool:
        """Whether what was taken for the beginning of a document is nothing, and a record of one line begins at a place."""
        return (
            self._base == _OUTSIDE
            and not self._one_line
            and self._depth == 1
            and self._start is not None
            and self._buffer[at + 1 : at + 2] == b'"'
            and self._buffer[self._start : at].strip() == b"{"
        )

    def _open_list(self, before: bytes, at: int) -> None:
        self._after_brace = False
        if self._depth == 0:
            self._base, self._header, self._indent = 1, None, None
        elif self._depth == 1 and self._base == _OUTSIDE and self._start is not None:
            key = _LIST_KEY.search(before)
            if key is not None:
                self._base, self._indent = 2, None
                self._signature = b""
                if key[1] == b"items":
                    named = _VERSION.search(self._buffer, self._start, at)
                    known = named is not None and named[1].decode("utf-8", "replace") in API_VERSIONS
                    version = named[1] if known and named is not None else API_VERSIONS[0].encode()
                    self._header = b'{"kind":"EventList","apiVersion":"' + version + b'","items":[', b"]}"
                self._start = None
        self._depth += 1

    def _close_object(self, end: int) -> None:
        self._after_brace = True
        if self._base == _ITEMS_DONE:
            self._depth -= 1
            if self._depth == 0:
                self._base, self._header = _OUTSIDE, None
        elif self._start is not None:
            self._depth -= 1
            if self._depth == self._base:
                self._close_record(end)
        elif self._depth > max(self._base, 0):  # rest of a damaged record
            self._depth -= 1

    def _close_list(self) -> None:
        self._after_brace = False
        if self._base == _ITEMS_DONE or self._start is not None:
            self._depth = max(self._depth - 1, self._base + 1 if self._start is not None else 1)
        elif self._base > 0 and self._depth == self._base:
            self._depth -= 1
            self._base = _ITEMS_DONE if self._base == 2 else _OUTSIDE
        elif self._depth > max(self._base, 0):
            self._depth -= 1

    def _keep_bounded(self) -> None:
        """Forget what is done with; give up a record that is longer than any event."""
        if (
            self._start is not None
            and not self._dropping
            and len(self._buffer) - self._start > MAX_EVENT_BYTES
        ):
            # In a list, go on at the last place that looks like the beginning of an item.
            next_one = (
                self._buffer.rfind(self._signature, self._start + 1, self._at) if self._signature else -1
            )
            if self._base > 0 and next_one > 0:
                self._emit(self._buffer[self._start : next_one].rstrip(_SEPARATORS))
                self.line -= self._buffer.count(b"\n", next_one, self._at)
                self._at = next_one
                self._start, self._depth, self._after_brace = None, self._base, False
                self._scan(final=False)
                return
            self._emit(self._buffer[self._start : self._start + MAX_EVENT_BYTES + 1])
            self._dropping = True
        if len(self._buffer) - self._at > MAX_EVENT_BYTES:
            if self._start is None and not self._skipping:  # neither object nor list, and no end in sight
                self._add(self.line, self._buffer[self._at : self._at + MAX_EVENT_BYTES + 1])
            self._skipping = True
            self._at = len(self._buffer)
        keep = self._at if self._start is None or self._dropping else self._start
        if self._start is not None:
            self._start = 0
        self._buffer = self._buffer[keep:]
        self._at -= keep
        self._looked -= keep

"""Finds secrets in a text: tokens of known providers, values assigned to names such as `password`, logins in URLs, private keys.

A text is also read with its percent-encoding decoded (three times at most) and a query's arguments apart from each other, so that
`command=--token%3Dabc` and `command=--password&command=abc` are seen as the program sees them; base64 is decoded where it
holds text. Patterns are RE2's or literals followed by runs of one class: time is linear in the length of the text.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from data.encoded_text import Span, decoded, positions
from data.patterns import Pattern, SearchSet, compile_bytes

#: Secrets in one text; with more, or with more that looks like the begin of one, all of it is one.
MAX_SPANS, _MAX_TRIED = 1_000, 4_000
#: How often a text may be percent-encoded, and what base64 decodes to may hold base64.
_LEVELS, _NESTED = 3, 2


# Names of values that are secrets, or the ends of such names.
_PASSWORD = r"passw(?:or)?d|passwd|passphrase|passcode|requirepass|storepass|keypass|(?:^|[^a-z])pass(?:in|out)?|(?:^|[^a-z])pwd"
_KEY = (
    r"(?:api|app|application|access|account|private|secret|encryption|signing|shared|license|master|auth|storage|subscription|"
    r"sharedaccess|privatekey|secretkey|consumer|deploy|ssh|write|routing|integration)[-_. ]?key(?:[-_]?data|[-_]?base64)?"
)
_NAMED = (
    rf"{_PASSWORD}|{_KEY}|client-key-data|secret(?:[-_]?(?:value|access[-_]?key|key[-_]?base|id))?|token|credentials?|authorization|bearer|"
    r"(?:^|[^a-z])(?:sig|jwt|dsn|otp|auth)|signature|sharedaccesssignature|connection[-_ ]?string|conn[-_]?str|webhook[-_]?url"
)
_QUOTE = r"""\\*["'`]?"""
# `name=value`, `name: value`, `"name":"value"`, with quotes that may be escaped.
_ASSIGNED = compile_bytes(
    rf"(?i)({_NAMED}){_QUOTE}(?:\s*=>?\s?|\s*:\s*){_QUOTE}(?:(?:basic|bearer|token|apikey|digest|splunk|geniekey|key)\s+)?"
    r"""([^\s"'`\\&;,{\[])"""
)
_VALUE_END = re.compile(rb"""[^\t\n\f\r "'`\\&;,]*+""")
_QUOTED_SPACES = compile_bytes(rf"""(?i)({_NAMED}){_QUOTE}\s*[:=]\s*(?:\\*"((?:[^"\\]| )+)|'([^']+))""")
# Two arguments: `--password value`, `-token value`.
_FLAGGED = compile_bytes(
    rf"(?i)(?:^|[\s\"'`=/])--?[a-z0-9_.-]*?(?:{_NAMED})(?:\\*[\"']\s*,\s*|[\"']?\s+)\\*[\"']?"
    r"""([^\s"'`\\-][^\s"'`\\]*)"""
)
#: The second half of a bootstrap token; the name of an Event looks alike, but is hexadecimal there.
_BOOTSTRAP = "|".join(f"[0-9a-f]{{{at}}}[g-z][a-z0-9]{{{15 - at}}}" for at in range(16))
# In words: SQL, .netrc, redis, cookies, and what follows `user:`.
_WORDED = (
    compile_bytes(r"(?i)(?:identified\s+(?:with\s+\S+\s+)?by|password)\s+(?:as\s+)?'([^']+)'"),
    compile_bytes(r"(?i)login\s+\S+\s+password\s+(\S+)"),
    compile_bytes(r"(?i)(?:requirepass|masterauth)(?:\\*[\"'],)?\s+\\*[\"']?(\S+)"),
    compile_bytes(r"""(?i)(?:set-)?cookie\\*["']?\s*[:=]\s*\\*["']?([^"'\\\n]+)"""),
    compile_bytes(r"(?i)[^a-z]pass:([^\s\"']+)"),
    compile_bytes(r"(?:^|[\s\"'])(?:-u|-U|--user|--proxy-user)(?:\\*[\"']\s*,)?[\s=]*\\*[\"']?[A-Za-z_][^\s:\"']*[:%]([^\s\"'/][^\s\"']*)"),
    compile_bytes(r"[\"'\s][A-Za-z0-9_.-]+:([^\s\"':]+)[\"']?\s*\|\s*(?:sudo\s+)?chpasswd"),
    compile_bytes(r"(?:^|[^A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}[^A-Za-z0-9/+]{1,16}([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+]|$)"),
    compile_bytes(r"(?i)hooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9/_-]+)"),
    compile_bytes(r"(?i)discord(?:app)?\.com/api/webhooks/([A-Za-z0-9/_-]+)"),
    compile_bytes(r"webhook\.office\.com/webhookb2/([A-Za-z0-9/@_-]+)"),
    compile_bytes(r"(?:^|[^0-9])(\d{8,10}:AA[A-Za-z0-9_-]{33})"),
    compile_bytes(r"(?:^|[\s=:\"'&/])([a-z0-9]{6}\.(?:" + _BOOTSTRAP + r"))(?:$|[\s\"'&,;])"),
    compile_bytes(r"(?:^|[^A-Za-z0-9])([A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{40,})"),
)  # fmt: skip
_WORDED_SET = SearchSet(_WORDED)
_URL = compile_bytes(r"""(?i)[a-z][a-z0-9+.-]*:\\?/\\?/([^\s"'`<>\\]*)@""")

# What tokens of providers begin with, and the least characters that follow, of letters and digits, or of these and `-_`.
_PLAIN_PREFIXES = {
    "ghp_": 30, "gho_": 30, "ghu_": 30, "ghs_": 30, "ghr_": 30, "npm_": 30, "hf_": 30, "api_org_": 30, "sk_live_": 16,
    "sk_test_": 16, "rk_live_": 16, "rk_test_": 16, "dapi": 32, "r8_": 30, "gsk_": 40, "shpat_": 32, "shpca_": 32, "shppa_": 32,
    "shpss_": 32, "rubygems_": 40, "lin_api_": 30, "sqp_": 40, "squ_": 40, "dop_v1_": 60, "doo_v1_": 60, "dor_v1_": 60,
    "AGE-SECRET-KEY-1": 50, "pul-": 40, "sbp_": 40, "ntn_": 40, "NRAK-": 27, "NRII-": 30, "AKCp": 60, "cmVmdGtu": 40,
    "CLOJARS_": 50, "EZAK": 50, "EZTK": 50, "key-": 32, "SK": 32, "secret_": 40, "whsec_": 24, "phc_": 40, "phx_": 40,
    "FLWSECK-": 30, "FLWSECK_TEST-": 30, "xkeysib-": 60, "ntfysub_": 20, "prefect_": 30, "nvapi-": 50, "xai-": 60, "pplx-": 40,
    "sqa_": 40,
}  # fmt: skip
_DASHED_PREFIXES = {
    "PMAK-": 24,
    "github_pat_": 22, "glpat-": 20, "gldt-": 20, "glrt-": 20, "glcbt-": 20, "glptt-": 20, "glft-": 20, "glimt-": 20,
    "glagent-": 20, "glsoat-": 20, "gloas-": 20, "glffct-": 20, "xoxb-": 20, "xoxp-": 20, "xoxa-": 20, "xoxr-": 20, "xoxs-": 20,
    "xoxe-": 20, "xoxe.xoxp-": 20, "xoxc-": 20, "xoxd-": 20, "xapp-": 20, "AIza": 35, "ya29.": 20, "GOCSPX-": 20,
    "1//0": 30, "pypi-AgE": 50, "dckr_pat_": 20, "dckr_oat_": 20, "hvs.": 20, "hvb.": 20, "hvr.": 20, "SG.": 30, "sk-ant-": 20,
    "sk-proj-": 20, "sk-svcacct-": 20, "sk-admin-": 20, "sk-or-": 20, "sk-": 32, "glsa_": 30, "glc_": 30, "sntrys_": 30,
    "sntryu_": 30, "figd_": 30, "pscale_tkn_": 30, "pscale_pw_": 30, "pscale_oauth_": 30, "sq0atp-": 22, "sq0csp-": 40,
    "ATATT3": 60, "ATCTT3": 60, "ATBB": 24, "BBDC-": 40, "ops_eyJ": 40, "tskey-": 16, "v1.0-": 100, "EAAG": 40, "lsv2_": 30,
    "tfp_": 30, "CCIPAT_": 30, "bkua_": 30, "bkat_": 30, "FwoGZXIvYXdz": 40, "IQoJb3JpZ2lu": 40, "patNT": 40, "xoxe.xoxb-": 20,
}  # fmt: skip
_LEAST = {key.encode(): least for key, least in (_PLAIN_PREFIXES | _DASHED_PREFIXES).items()}


def _any(prefixes: Iterator[str] | list[str]) -> str:
    return "|".join(re.escape(prefix) for prefix in sorted(prefixes, key=len, reverse=True))


_PROVIDERS = (
    (compile_bytes(rf"(?:^|[^A-Za-z0-9])({_any(list(_PLAIN_PREFIXES))})[A-Za-z0-9]"), re.compile(rb"[A-Za-z0-9]*+")),
    (compile_bytes(rf"(?:^|[^A-Za-z0-9])({_any(list(_DASHED_PREFIXES))})[A-Za-z0-9_.-]"), re.compile(rb"[A-Za-z0-9_.-]*+")),
)  # fmt: skip

# Programs whose short options hold a password: option -> whether the value may stand apart from it.
_PROGRAMS: dict[bytes, dict[bytes, bool]] = {
    b"mysql": {b"-p": False},
    b"mariadb": {b"-p": False},
    b"mongo": {b"-p": True},
    b"sshpass": {b"-p": True},
    b"login": {b"-p": True},  # docker, helm, az, oc and the like
    b"redis-cli": {b"-a": True},
    b"sqlcmd": {b"-P": True},
    b"bcp": {b"-P": True},
    b"ldap": {b"-w": True},
    b"7z": {b"-p": False},
    b"zip": {b"-P": True},
    b"ipmitool": {b"-P": True},
    b"snowsql": {b"-p": True},
}  # fmt: skip
_PROGRAM = rf"(?:{'|'.join(name.decode() for name in _PROGRAMS)})[a-z-]*"
_COMMAND = compile_bytes(
    rf"(?:^|[\s/;|&(\"'`=])({_PROGRAM})\b|"
    r"[\s\"'](-[pPaw])((?:\\*[\"']\s*,)?[\s=]*)\\*[\"']?([^\s\"'`]+)"
)

_KEY_BEGIN = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(rb"-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----")
_BASE64 = compile_bytes(r"(?:[CI-Za-f][A-Za-z0-9+/_-]{3}){6}[A-Za-z0-9+/_-]*")
_JWT = compile_bytes(r"eyJ[A-Za-z0-9_-]{5,}\.eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?")
#: The same with any middle, or encrypted; without a group, which would cost much more.
_COMPACT = compile_bytes(
    r"(?:^|[^A-Za-z0-9])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)*"
)
_BEARER = compile_bytes(r"(?i:bearer|basic)(?:[ +]|%20)[A-Za-z0-9._~+/=-]{8,}")
_SCHEME = re.compile(rb"[A-Za-z]++(?:[ +]|%20)")


def _signs() -> tuple[str, ...]:
    """What every text holds, however encoded, in which a secret is found; escapes of Go's JSON (`&`, `<`, `>`) are none.

    Two patterns, as one of all would have too many states to be fast. The two parts of the second never want the same characters:
    the one takes runs of at least 24, the other a run of 16.
    """
    named = _NAMED.replace("(?:^|[^a-z])", "(?:[^a-z]|%[0-9a-f][0-9a-f])")
    # A name with what follows it: in a text or a query, as one of two arguments, and as a member of an object.
    assigned = (
        r"""\\*["'`]?(?:=|%3d|%3a|%2[27]|%5c|\s*:\s*\[?\\+["']?[^\s{\["]|:\s*[^\s{\["]|["'`]\s*:\s*'|\s+=)"""
    )
    apart = r"""\\*["'`]?(?:[\s+]|%20|%0a|%2b|\\[nrt]|(?:&|\\u0026)command=|\s*[,\]])"""
    member = rf"""\"(?:[a-z0-9_.-]*(?:{named})|pass|pwd|auth|sig|jwt|dsn|otp)\"\s*:\s*\[?\"[^\"]"""
    words = (
        r"(?:bearer|basic)(?:[\s+]|%20|%2b)|private(?:[\s+]|%20)key|identified(?:[\s+]|%20)|password(?:\s|\+|%20)|chpasswd|cookie|"
        r"%3a(?:%2f|/)|%40|%2f%2f0|hooks\.slack|api/webhooks/|webhookb2/|(?:requirepass|masterauth)\b|pass:|pass%3a"
    )
    escapes = (
        r"\\u00(?:[01]|2[0-57-9a-f]|3[0-9abdf]|[4-7])|%(?:2[de5]|3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a])"
    )
    end = r"(?:[\s+&]|%20|%2b|\\u0026|\\*\"\s*[,\]])"
    options = rf"(?:[=+\s\"']|%20|%2b|\\n)-(?:[uU]|-(?:proxy-)?user)(?:=|{end})"
    known = f"{_any(list(_PLAIN_PREFIXES))}|{_any(list(_DASHED_PREFIXES))}"
    return (
        rf"(?i:(?:{named})(?:{assigned}|{apart})|{member}|{words}|{escapes}|{options})"
        rf"|(?:[^A-Za-z0-9]|%[0-9A-Fa-f]{{2}})(?:{known}|eyJ|AKIA|ASIA)|\.atlasv1\.|\d:AA",
        rf"(?:[CI-Za-f][A-Za-z0-9+/_-]{{3}}){{6}}|\.(?:{_BOOTSTRAP})[\s\"'&,;\\]",
    )


_OPTION_SIGN = compile_bytes(r"""(?:[=+\s"']|%2[0bB]|\\n)-[pPaw]""")
_PROGRAM_SIGN = compile_bytes(_PROGRAM)
_WORD_SIGN, _CODE_SIGN = map(compile_bytes, _signs())
_URL_SIGN = compile_bytes(r"""(?i):\\?/\\?/[^\s"/@]*:[^\s"]*@|:\\?/\\?/[^\s"/@:]{16,}@""")
#: Nearly all records hold nothing of either set, which two passes settle.
_TEXT_SIGNS, _CODE_SIGNS = SearchSet((_WORD_SIGN, _OPTION_SIGN, _URL_SIGN)), SearchSet((_CODE_SIGN,))
_WORD, _OPTION, _LOGIN = range(3)
#: More signs than that in one record: all of its strings are examined.
_MAX_SIGNS = 2_000


def signs(raw: bytes) -> list[int] | None:
    """Where in JSON a secret may stand; empty if nowhere, None if anywhere. Much faster than `secret_spans`."""
    found: list[int] = []
    if _CODE_SIGNS.found(raw):
        found += [sign.end() - 1 for sign in islice(_CODE_SIGN.finditer(raw), _MAX_SIGNS + 1)]
    here = _TEXT_SIGNS.found(raw)
    if _WORD in here:
        found += [sign.end() - 1 for sign in islice(_WORD_SIGN.finditer(raw), _MAX_SIGNS + 1)]
    if _OPTION in here and _PROGRAM_SIGN.search(raw) is not None:
        found += [sign.end() - 1 for sign in islice(_OPTION_SIGN.finditer(raw), _MAX_SIGNS + 1)]
    if _LOGIN in here:
        found += _places(raw, b"@")
    return sorted(found) if len(found) <= _MAX_SIGNS else None


def _signs_of_text(text: bytes) -> list[int] | None:
    """The signs of a text as it would stand in JSON; of use only for whether there are any."""
    return signs(b'"%b"' % text.replace(b'"', b'\\"'))


def _places(raw: bytes, sign: bytes) -> list[int]:
    found, at = [], raw.find(sign)
    while at >= 0:
        found.append(at)
        at = raw.find(sign, at + 1)
    return found


def secret_spans(text: bytes, nested: int = 0) -> list[Span]:
    """Where a text holds secrets, in order and apart from each other; all of it if they are more than MAX_SPANS.

    Args:
        text: one byte a character.
        nested: how many layers of base64 it was taken out of.
    """
    found = _found_in(text, nested)
    views = [text]
    plus = b"?" in text
    for level in range(_LEVELS):
        if len(found) > MAX_SPANS:
            break
        view = decoded(views[-1], plus and level > 0)
        if view in (views[-1], views[-1].replace(b"?", b"\n", 1)):
            break
        inner = _found_in(view, nested)
        for above, outer in reversed([*enumerate(views)]):
            inner = positions(outer, inner, plus and above > 0)
        found += inner
        views.append(view)
    if len(found) > MAX_SPANS:
        return [(0, len(text))]
    apart: list[Span] = []
    for begin, until in sorted(found):
        if apart and begin < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(until, apart[-1][1]))
        else:
            apart.append((begin, until))
    return apart


def without_secrets(text: str, mark: str) -> str:
    """A text with a mark in the place of each secret."""
    if _signs_of_text(text.encode("utf-8", "replace")) == []:
        return text
    spans = secret_spans(text.encode("ascii", "replace"))  # one byte a character
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    return mark.join([text[end:start] for end, start in zip(ends, starts, strict=True)])


# -- finders ----------------------------------------------------------------------------------------------------

#: Where a secret stands; None for what only looked like one.
Found = Span | None
Finder = Callable[[bytes], Iterator[Found]]

_REFERENCE = compile_bytes(r"\$(?:\([A-Z][A-Z0-9_]*\)|\{[A-Z][A-Z0-9_]*\}|[A-Z][A-Z0-9_]*)")
_NO_SECRETS = frozenset((b"", b"true", b"false", b"null", b"nil", b"none", b"redacted", b"\xe2\x80\xa6"))
_NEXT = re.compile(rb"[;,&] ?[A-Za-z_][\w.-]{0,40}[=:]")
_MORE = re.compile(rb"[;,&][^\s\"'`\\&;,]++")
_PASSES = compile_bytes(r"(?i)pass|pwd|cookie|authorization")
_PLAIN_WORD = compile_bytes(r"[a-z][a-z.-]*")
_PATH, _NO_USER, _DIGIT = map(compile_bytes, (r"[/?#]", r"[/?#\[]", "[0-9]"))
_PORT = compile_bytes(r"[0-9]{1,5}(?:[/?#]|$)")
_LOGIN_LEAST, _PLAIN_LONG = 16, 16


def _is_value(value: bytes) -> bool:
    """Whether what is assigned may be a secret: no reference to a variable, no mark, no switch."""
    bare = value.strip(b"[]<>*").lower()
    return bare not in _NO_SECRETS and _REFERENCE.fullmatch(value.rstrip(b";,")) is None


def _found_in(text: bytes, nested: int) -> list[Span]:
    found: list[Span] = []
    for find in (*(_BY_PATTERN[index][1] for index in _PATTERNS.found(text)), *_OTHERS):
        for tried, span in enumerate(find(text)):
            if span is not None:
                found.append(span)
            if len(found) > MAX_SPANS or tried > _MAX_TRIED:
                return [(0, len(text))] * (MAX_SPANS + 1)
    if nested < _NESTED:
        found += _in_base64(text, nested)
    return found


def _assigned(text: bytes) -> Iterator[Found]:
    at = 0
    while (match := _ASSIGNED.search(text, at)) is not None:
        begin, at = match.start(2), _end_of(_VALUE_END.match(text, match.end()), match.end())
        # A sign that separates values belongs to this one unless another `name=` follows.
        while (more := _MORE.match(text, at)) is not None and _NEXT.match(text, at) is None:
            at = more.end()
        value, name, separator = text[begin:at], match[1], text[match.end(1) : begin]
        # "token: expired" is a sentence; a random text is no word.
        sentence = b":" in separator and separator[-1:].isspace() and not _PASSES.search(name)
        plain = sentence and len(value) < _PLAIN_LONG and _PLAIN_WORD.fullmatch(value.rstrip(b".!"))
        folder = name.lower().endswith(b"pwd") and value.startswith(b"/")
        yield None if plain or folder or not _is_value(value) else (begin, at)


def _quoted(text: bytes) -> Iterator[Found]:
    for match in _QUOTED_SPACES.finditer(text):
        begin, end = match.span(2) if match.span(2)[0] >= 0 else match.span(3)
        value = text[begin:end]
        yield (begin, end) if b" " in value and _is_value(value) else None


def _flagged(text: bytes) -> Iterator[Found]:
    for match in _FLAGGED.finditer(text):
        yield match.span(1) if _is_value(match[1]) else None


def _worded(text: bytes) -> Iterator[Found]:
    for index in _WORDED_SET.found(text):
        for match in _WORDED[index].finditer(text):
            yield match.span(1) if _is_value(match[1]) else None


def _provided(pattern: Pattern, characters: re.Pattern[bytes], text: bytes) -> Iterator[Found]:
    at = 0
    while (match := pattern.search(text, at)) is not None:
        begin = match.end(1)
        at = _end_of(characters.match(text, begin), begin)
        rest = text[begin:at]
        plain = len(rest) < _LEAST[match[1]] or (rest.isalpha() and rest.islower())
        yield None if plain else (match.start(1), at)


def _logins(text: bytes) -> Iterator[Found]:
    """Passwords of `scheme://user:password@host`, and logins without a user that are long enough for a token."""
    for match in _URL.finditer(text):
        login, begin = match[1], match.start(1)
        authority = _PATH.split(login, 1)[0]
        at = authority.rfind(b"@")
        login = login[:at] if at >= 0 else login
        user, colon, password = login.partition(b":")
        if colon and password and not _NO_USER.search(user) and not _PORT.match(password):
            yield begin + len(user) + 1, begin + len(login)
        elif not colon and len(login) >= _LOGIN_LEAST and _DIGIT.search(login) and b"/" not in login:
            yield begin, begin + len(login)
        else:
            yield None


def _options(text: bytes) -> Iterator[Found]:
    """Short options of programs that take a password: `mysql -pPASSWORD`."""
    options: dict[bytes, bool] = {}
    for match in _COMMAND.finditer(text):
        if match.span(1)[0] >= 0:
            options = next(found for name, found in _PROGRAMS.items() if match[1].startswith(name))
            yield None
            continue
        apart = options.get(match[2])
        given = apart is not None and (apart or not match[3]) and _is_value(match[4])
        yield match.span(4) if given else None


def _bearers(text: bytes) -> Iterator[Found]:
    at = 0
    while (match := _BEARER.search(text, at)) is not None:
        yield _end_of(_SCHEME.match(text, match.start()), match.start()), match.end()
        at = match.end() - len(b"bearer")  # what was found may end with the next one's scheme


def _web_tokens(text: bytes) -> Iterator[Found]:
    if text.find(b"eyJ") < 0:
        return
    for match in _JWT.finditer(text):
        yield match.span()
    for match in _COMPACT.finditer(text):
        yield text.index(b"eyJ", match.start()), match.end()


def _private_keys(text: bytes) -> Iterator[Found]:
    begun = _KEY_BEGIN.search(text)
    while begun is not None:
        ended = _KEY_END.search(text, begun.end())
        until = len(text) if ended is None else ended.end()
        yield begun.start(), until
        begun = _KEY_BEGIN.search(text, until)


def _in_base64(text: bytes, nested: int) -> Iterator[Span]:
    """Runs of base64 that decode to a text with a secret in it."""
    runs = [match.span() for match in _BASE64.finditer(text)]
    encoded = [text[begin : until - (until - begin) % 4] for begin, until in runs]
    # Whether there are signs at all, of all of them at once.
    if not runs or _signs_of_text(_from_base64(_LINE_FEEDS.join(encoded))) == []:
        return
    for (begin, until), run in zip(runs, encoded, strict=True):
        inner = _from_base64(run)
        if _signs_of_text(inner) != [] and secret_spans(inner, nested + 1):
            while text[until : until + 1] == b"=":
                until += 1
            yield begin, until


_STANDARD = bytes.maketrans(b"-_", b"+/")
_LINE_FEEDS = b"CgoK"  # in base64


def _from_base64(text: bytes) -> bytes:
    return binascii.a2b_base64(text.translate(_STANDARD))


#: What finds something only where its pattern stands in the text, which one pass says of all of them; and the others.
_BY_PATTERN: tuple[tuple[Pattern, Finder], ...] = (
    (_ASSIGNED, _assigned),
    (_QUOTED_SPACES, _quoted),
    (_FLAGGED, _flagged),
    *((pattern, partial(_provided, pattern, characters)) for pattern, characters in _PROVIDERS),
    (_URL, _logins),
    (_COMMAND, _options),
    (_BEARER, _bearers),
)
_PATTERNS = SearchSet(pattern for pattern, _ in _BY_PATTERN)
_OTHERS: tuple[Finder, ...] = (_worded, _web_tokens, _private_keys)


def _end_of(found: re.Match[bytes] | None, at: int) -> int:
    """Where a match ends that begins here; here if there is none."""
    return at if found is None else found.end()

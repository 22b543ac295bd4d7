# SPDX-License-Identifier: MIT
"""Secrets in command lines: what looks like one becomes `***` before any output sees it.

It goes by how programs are told secrets, so it is a net with holes, drawn tight: rather too much is hidden than too
little. Arguments come joined by spaces, so of a secret with a space in it only the first word is known to be one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from pyegress import plugin
from pyegress.record import Process

MASK = "***"
_CACHED = 1024

_VALUE = r"""(?:"[^"]*"|'[^']*'|\S)+"""
_NOT_A_FLAG = r"(?!--[a-z][a-z0-9-]*(?:[=\s]|$)|-[A-Za-z](?:\s|$))"
"""A secret may begin with a dash; what looks like the next option is one."""
_WORDS = (
    r"(?:password|passwd|passphrase|passcode|(?<![a-z])pass|(?<=[_-])pwd|(?<![a-z])psk|token|secret|bindpw"
    r"|(?-i:(?<=[a-z])P(?:ass|wd|sk|w))"
    r"|(?:api|secret|access|account|auth|encryption|master|signing|storage)[-_.]?key)"
)
"""What ends the name of a secret; `--password-file` and `--max-tokens` are none."""
_WORD_HINTS = ("pass", "pw", "psk", "token", "secret", "key")
"""One of them is in whatever _WORDS matches."""


class _Shape:
    """What is kept (group 1) and what is hidden, of one way to tell a program a secret."""

    def __init__(self, hints: Sequence[str], kept: str, hidden: str, flags: int = re.IGNORECASE) -> None:
        """`hints`: without one of them, in lower case, there is nothing to look for."""
        self._hints = hints
        self._pattern = re.compile(f"({kept}){hidden}", flags)

    def mask(self, text: str, lowered: str) -> str:
        """The text with all that has this shape hidden."""
        # A dozen plain searches cost less than one of a pattern.
        if any(hint in lowered for hint in self._hints):
            return self._pattern.sub(rf"\1{MASK}", text)
        return text


_USER_AND_SECRET = re.compile(
    r"\A([^\s:/?#@\[]*:)(?:[^\s/?#]+(?=@)|(?!\d{1,5}(?:[/?#,\s\"']|$))[^\s@]+(?=@))"
)
"""user:secret of scheme://user:secret@host; where there is a slash in it, it is no port."""


def _mask_addresses(text: str) -> str:
    # In pieces, each looked at once: searched for, it would take the square of the time where somebody wants it to.
    first, *rest = text.split("://")
    return "://".join([first, *(_USER_AND_SECRET.sub(rf"\1{MASK}", piece, count=1) for piece in rest)])


_SHAPES = (
    # A name of scheme://name@host may be a token.
    _Shape(("://",), r"https?://", r"[^\s:/?#@]{20,}(?=@)"),
    # All that follows, with a scheme and parts that commas separate; not the address that comes next.
    _Shape(
        ("authorization",),
        r"authorization[\"']?\s*[:=]\s*",
        rf"(?:[a-z][\w-]{{0,30}}\s+{_NOT_A_FLAG}(?![a-z]+://))?[^\s]+(?:(?<=,)\s+\S+)*",
    ),
    _Shape(("cookie",), r"(?:cookie[\"']?\s*:\s*|(?<!\S)--cookie[=\s]\s*)", r"\S+(?:(?<=;)\s+\S+)*"),
    _Shape(("bearer",), r"(?<![\w-])bearer\s+", rf"{_NOT_A_FLAG}\S+"),
    # In an address, between ? or & and the next &; in a connection string between semicolons.
    _Shape(
        (*_WORD_HINTS, "sig"),
        rf"[?&][\w.-]*(?:{_WORDS}|signature|(?<![a-z])sig|(?<![a-z])pw)=",
        r"[^\s&#\"']+",
    ),
    _Shape(_WORD_HINTS, rf";\s*[\w.\s-]{{0,32}}(?:{_WORDS}|(?<![a-z])pwd)\s*=\s*", r"[^;\s]+"),
    # name=value, also as an environment variable or in JSON; name: value as a header or in YAML.
    _Shape(_WORD_HINTS, rf"(?<![?&\w.-])[\w.-]*{_WORDS}\\?[\"']?=", _VALUE),
    _Shape(_WORD_HINTS, rf"{_WORDS}\\?[\"']?(?:\s=\s|\s?:\s+)", _NOT_A_FLAG + _VALUE),
    # Not the files of a mount: /etc/passwd:/etc/passwd:ro
    _Shape(_WORD_HINTS, rf"(?<!/){_WORDS}\\?[\"']?:", rf"(?![/\s]){_VALUE}"),
    _Shape(("pass:",), r"(?<![\w/])pass:", r"\S+"),
    # --name value; -pass is ffmpeg's, --auth-user-pass names a file.
    _Shape(
        _WORD_HINTS,
        rf"(?<!\S)-(?!-?no-|pass\s|-?auth-user-pass\s)-?[\w.-]*{_WORDS}\s+",
        _NOT_A_FLAG + _VALUE,
    ),
    _Shape(
        ("token", "secret_"),
        r"(?:secret_access_key|session_token|authtoken)\s+",
        _NOT_A_FLAG + _VALUE,
    ),
    _Shape(("creds",), r"(?<!\S)--[a-z-]*creds[=\s][^\s:]*:", r"\S+"),
    # Keys that show by themselves what they are.
    _Shape(
        (
            *("akia", "asia", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "sk-"),
            *("k_live_", "k_test_", "aiza", "hvs.", "hvb.", "npm_", "pypi-", "tskey-", "sg.", "age-", "eyj"),
        ),
        r"(?<![A-Za-z0-9])",
        r"(?:(?:AKIA|ASIA)[A-Z0-9]{16}[A-Za-z0-9]*|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
        r"|xox[a-z]-[\w-]{10,}|sk-[\w-]{20,}|[rs]k_(?:live|test)_\w{10,}|AIza[\w-]{35,}|hv[sb]\.[\w-]{20,}"
        r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{50,}|tskey-[\w-]{10,}|SG\.[\w-]{16,}\.[\w-]{16,}|AGE-SECRET-KEY-\w+"
        r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?)",
        flags=0,
    ),
    _Shape(
        ("hooks.slack.com", "api.telegram.org", "/api/webhooks/"),
        r"(?:hooks\.slack\.com/\w+/|api\.telegram\.org/bot|/api/webhooks/\d+/)",
        r"[^\s?#\"']+",
    ),
    _Shape(("private key",), r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----", r"[^-]+", flags=0),
)


class _Tool(NamedTuple):
    """Programs whose short options hold a secret."""

    names: str
    kept: str
    hidden: str = r"\S+"
    times: int = 0
    """How often at most; 0: wherever it stands."""


_TOOLS = (
    _Tool(r"mysql\w*|mariadb[\w-]*|mycli|mydumper|xtrabackup", r"-p"),
    _Tool(
        r"curl|https?|xh|ab|siege",
        r"(?:-[A-Za-z0-9#]*[aAuU]\s*|--(?:proxy-)?user[=\s]\s*|--auth[=\s]\s*)[^\s:]*:",
    ),
    _Tool(r"curl|wget|https?", r"(?:-x\s*|--proxy[=\s]\s*)[^\s:/]+:", r"[^\s/]+(?=@)"),
    _Tool(r"curl", r"-[A-Za-z0-9#]*b\s*", r"(?=\S*=)\S+(?:(?<=;)\s+\S+)*"),
    _Tool(r"sshpass", r"-p\s*", times=1),
    _Tool(r"redis-cli", r"-a\s+"),
    _Tool(r"mongo\w*|rdesktop|ncftp\w*|useradd|usermod|rabbitmqadmin", r"-p\s*"),
    _Tool(r"(?:docker|podman|buildah|nerdctl|helm|oc|az|skopeo)\s.{0,64}?login", r"-p\s*"),
    _Tool(r"smb\w+|rpcclient|net", r"(?:-U\s*|--user[=\s])[^\s%]*%"),
    _Tool(r"ldap\w+", r"-\w*w\s*"),
    _Tool(r"sqlcmd|bcp|osql|tsql|isql|ipmi\w+|zip|unzip|mosquitto_\w+", r"-P\s*"),
    _Tool(r"plink|pscp|psftp", r"-pw\s+"),
    _Tool(r"7z\w*|rar|unrar", r"-h?p"),
    _Tool(r"lftp", r"-u\s*[^\s,]*,"),
    _Tool(r"snmp\w+", r"-[AXc]\s*"),
    _Tool(r"\w+freerdp\d*", r"/p:"),
    _Tool(r"openssl", r"-[kK]\s+"),
    _Tool(r"nmcli", r"(?:password|\S*psk)\s+"),
    _Tool(r"wpa_passphrase", r"\S+\s+", times=1),
    _Tool(r"sqlplus|expdp|impdp|sqlldr", r"[^\s/@-]+/", r"[^\s@]+"),
    _Tool(r"mc|mcli", r"(?:alias\s+set|config\s+host\s+add)\s+\S+\s+\S+\s+\S+\s+"),
    _Tool(r"rabbitmqctl", r"(?:add_user|change_password|authenticate_user)\s+\S+\s+"),
)
_BEFORE_NAME = r"(?:^|(?<=[\s/;|&(]))"
_ANY_TOOL = re.compile(rf"{_BEFORE_NAME}(?:{'|'.join(tool.names for tool in _TOOLS)})(?=\s)")
_TOOL_PATTERNS = [
    (
        re.compile(rf"{_BEFORE_NAME}(?:{tool.names})(?=\s)"),
        re.compile(rf"(?<!\S)({tool.kept}){tool.hidden}"),
        tool.times,
    )
    for tool in _TOOLS
]


Redact = Annotated[
    bool,
    Meta(description="*** for what looks like a secret in arguments: passwords, tokens, keys, cookies"),
]


class RedactOptions(plugin.Options, frozen=True, kw_only=True):
    """What every output that shows arguments has."""

    redact: Redact = True


@lru_cache(1024)
def mask(text: str) -> str:
    """A command line without its secrets; itself where there are none."""
    lowered = text.lower()
    if "://" in text and "@" in text:
        text = _mask_addresses(text)
    for shape in _SHAPES:
        text = shape.mask(text, lowered)
    if _ANY_TOOL.search(text):
        for name, secret, times in _TOOL_PATTERNS:
            found = name.search(text)
            if found is not None:
                at = found.end()
                text = text[:at] + secret.sub(rf"\1{MASK}", text[at:], count=times)
    return text


class Redactor:
    """One output's choice; the same process gives the same object while it is remembered. For one thread."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        # The process is kept beside its twin, so that its id can't become another's while it is a key.
        self._twins: dict[int, tuple[Process, Process]] = {}

    def text(self, text: str | None) -> str | None:
        """A command line, or another text made of arguments."""
        return mask(text) if text and self._wanted else text

    def process(self, process: Process) -> Process:
        """It without secrets, and its parents; itself where there are none."""
        if not self._wanted:
            return process
        found = self._twins.get(id(process))
        if found is None:
            if len(self._twins) >= _CACHED:
                self._twins.clear()
            found = self._twins[id(process)] = process, self._twin(process)
        return found[1]

    def _twin(self, process: Process) -> Process:
        cmdline, script = self.text(process.cmdline), self.text(process.script)
        parent = None if process.parent is None else self.process(process.parent)
        if cmdline == process.cmdline and script == process.script and parent is process.parent:
            return process
        return msgspec.structs.replace(process, cmdline=cmdline, script=script, parent=parent)

"""Passwords, keys and tokens: how they are recognised in text, and how they are kept out of it.

Formats of common services come from detect-secrets; those of model providers, most of which it lacks, are listed here.
Its detectors that judge by entropy or by a keyword are not used, because commit hashes and file names would be refused,
nor are those whose short formats also occur in the names of models (Artifactory, Discord, Telegram, Twilio), nor those
that take quadratic time, which a server could use to stop a run.
"""

from __future__ import annotations

import os
import re
from functools import cache
from importlib import import_module
from typing import Any

MASK = "***"
SHORTEST = 8  # what is shorter (`EMPTY`, which some servers want as a key) is no secret, and may be an ordinary word

_NAME = re.compile(
    r"key(?!word)|token|secret|passw|passphrase|credential|cookie|bearer|signature"
    r"|(^|[._-])(auth(?!or(?!i[sz]))|(pw|pwd|pat|jwt|sig|sas)(?![a-z]))",
    re.IGNORECASE,
)
# Names in which a token is a unit of text: `tokenizer_revision`, `max_num_batched_tokens`, `image_token_id`.
_MODEL_WORDS = re.compile(
    r"tokeni[sz]e[rd]?|tokeni[sz]ation|(max|min|num|new|special|skip|batched|total)_(\w+_)?tokens|token_ids?\b"
    r"|(bos|eos|pad|unk|mask|image|prefix|think_start|think_end)_token\b",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_FORMATS = re.compile(
    # Without the name of a kind of key, a long part tells a key from the words and numbers of a model's name.
    r"\bsk-(?:(?:proj|ant|or|svcacct|admin)-[\w-]{20,}"
    r"|(?:[A-Za-z0-9]{1,40}[-_]{1,2}){0,8}(?:(?=[A-Za-z]{0,100}\d)[A-Za-z0-9]{16,}|[A-Za-z0-9]{20,})[\w-]*)"
    r"|\b(?:gsk|xai|pplx|jina)[-_][A-Za-z0-9]{20,}[\w-]*"
    r"|\b(?:hf|r8|gh[pousr]|api_org|fw|tgp_v1|pk|rk)_[A-Za-z0-9]{20,}"
    r"|\bnvapi-[\w-]{20,}"
    r"|\bgithub_pat_\w{20,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{35}|\bya29\.[\w-]{20,}"
    r"|\beyJ[A-Za-z0-9]{7}[\w-]*\.[\w-]{8,}(?:\.[\w-]*)?"
    r"|\b(?:Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{8,}"
)
_PLUGINS = {
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "mailchimp": "MailchimpDetector",
    "private_key": "PrivateKeyDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
}
_LONG = re.compile(r"[^\s/]{20,}|PRIVATE KEY")  # what a text contains if detect-secrets can find something in it
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>]+", re.IGNORECASE)
_USER = re.compile(r"(?<=://)(?!git@)[^/?#]*@(?!https?://)")  # `<model>@http://…` names a server
_PARAMETER = re.compile(r"([?&;#])([^=?&;#\s]+)=([^?&;#\s]*)")
_QUERY = re.compile(r"\?[^=?&;#\s]+=\S*")  # of an address without its beginning
# Parameters of a URL that are credentials, besides those whose names say so: signatures, and `code`.
_PARAMETER_NAME = re.compile(r"code|sig|hmac|assertion|x-(amz|goog|ms)-.*", re.IGNORECASE)
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/=~%]{16,}")

_ESCAPE = re.compile(r"((?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~])")

_hidden: set[str] = set()


def hide(secret: str) -> None:
    """Keep a secret, such as an API key, out of all messages and records from now on."""
    if len(secret.strip()) >= SHORTEST:
        _hidden.add(secret.strip())


def mask(text: str) -> str:
    """Return a text in which everything that is known or looks like a credential is replaced by `***`.

    Known are the secrets given to `hide`, and the values of environment variables that are named like a secret
    (`…_KEY`, `…_TOKEN`). The rest is found by its format, or by its place in a URL.
    """
    for secret in sorted({*_hidden, *_in_environment()}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    # The last letter of an escape sequence must not hide that a key begins after it.
    return "".join(part if _ESCAPE.match(part) else _mask_formats(part) for part in _ESCAPE.split(text))


def _mask_formats(text: str) -> str:
    for pattern in (_URL, _QUERY):
        text = pattern.sub(lambda url: _mask_url(url[0]), text)
    text = _FORMATS.sub(MASK, text)
    if _LONG.search(text):
        for detector in _detectors():
            for secret in set(detector.analyze_string(text)):
                text = text.replace(secret, MASK) if secret else text
    return text


def has_credential(text: str) -> bool:
    """Return whether a text contains a credential, known or by its looks."""
    return mask(text) != text


def is_secret_name(name: str) -> bool:
    """Return whether the name of an argument says that its value is a secret (`api_key`, `pw`, `header.Cookie`)."""
    return _NAME.search(_MODEL_WORDS.sub("", name)) is not None


def _mask_url(url: str) -> str:
    """Return a URL without whoever is named before its host, and without the parameters that give access."""

    def parameter(found: re.Match[str]) -> str:
        mark, name, value = found.groups()
        secret = is_secret_name(name) or _PARAMETER_NAME.fullmatch(name) or _RANDOM.fullmatch(value)
        return f"{mark}{name}={MASK}" if secret and value else found[0]

    return _PARAMETER.sub(parameter, _USER.sub(f"{MASK}@", url))


@cache
def _detectors() -> tuple[Any, ...]:
    found = ((import_module(f"detect_secrets.plugins.{module}"), name) for module, name in _PLUGINS.items())
    return tuple(getattr(module, name)() for module, name in found)


@cache
def _is_secret_variable(name: str) -> bool:
    return _VARIABLE.search(name) is not None


def _in_environment() -> list[str]:
    values = [os.environ.get(name, "").strip() for name in os.environ if _is_secret_variable(name)]
    # A path says where a secret is, and is none itself.
    return [value for value in values if len(value) >= SHORTEST and not value.startswith(("/", "~", "./"))]

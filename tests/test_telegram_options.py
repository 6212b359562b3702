"""What the bot is told at its start, and what it refuses with one line."""

from pathlib import Path

import pytest
from telegram_server import TOKEN

from stablediff import RequestError
from stablediff.telegram.options import read_options

WITH_TOKEN = {"TELEGRAM_BOT_TOKEN": TOKEN}


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        *((["--daily", text], "out of bounds") for text in ("nan", "-1", "0", "inf", "1e300")),
        (["--daily", "much"], "is not a number"),
        *((["--pending", text], "out of bounds") for text in ("0", "-3", "100000")),
        *((["--pending", text], "is not a whole number") for text in ("1.5", "nan", "9" * 50, "٣", "")),
        *((["--keep-days", text], "out of bounds") for text in ("nan", "0", "-1", "inf", "1e9")),
        *((["--progress-seconds", text], "out of bounds") for text in ("nan", "0", "-1", "inf", "86400")),
        (["--group-progress-seconds", "nan"], "out of bounds"),
        *((["--port", text], "out of bounds") for text in ("0", "-1", "65536")),
        *((["--api", text], "is not an address") for text in ("ftp://x", "x", "http://", "http://a:x", "http://a b")),
        (["--webhook-url", "example.org/hook"], "is not an address"),
        (["--webhook-url", "http://example.org:99999"], "is not an address"),
        *((["--admins", text], "not a list of ids") for text in ("me", "1;2", "9" * 30, "1.5")),
        (["--admins=-5"], "ids of groups are negative"),
        (["--groups=1001"], "ids of groups are negative"),
        (["--log-level", "LOUD"], "invalid choice"),
        (["--nonsense"], "unrecognized arguments"),
        (["--daily"], "expected one argument"),
    ],
)
def test_absurd_options_are_refused_with_one_line(arguments: list[str], answer: str) -> None:
    with pytest.raises(RequestError, match=answer) as caught:
        read_options(arguments, WITH_TOKEN)
    words = str(caught.value)
    assert "\n" not in words
    assert arguments[0].partition("=")[0] in words
    assert len(words) < 250


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TELEGRAM_ADMINS", "me"),
        ("TELEGRAM_GROUPS", "12"),
        ("TELEGRAM_API", "nowhere"),
        ("TELEGRAM_WEBHOOK_URL", "nowhere"),
        ("STABLEDIFF_MAX_STEPS", "-1"),
        ("STABLEDIFF_MAX_SIDE", "nan"),
    ],
)
def test_what_is_wrong_in_the_environment_is_refused_too(name: str, value: str) -> None:
    with pytest.raises(RequestError):
        read_options([], WITH_TOKEN | {name: value})


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_options([], WITH_TOKEN).token == TOKEN
    assert read_options(["--token-file", str(file)], {}).token == TOKEN
    assert read_options([], {"TELEGRAM_BOT_TOKEN_FILE": str(file)}).token == TOKEN


@pytest.mark.parametrize(
    "environment", [{}, {"TELEGRAM_BOT_TOKEN": "secret-typo"}, {"TELEGRAM_BOT_TOKEN_FILE": "/nil"}]
)
def test_without_a_token_it_says_where_to_get_one(environment: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=r"t\.me/BotFather|cannot read the token") as caught:
        read_options([], environment)
    assert "secret-typo" not in str(caught.value)


def test_good_options_are_taken_as_they_are() -> None:
    arguments = ["--admins", "1,2", "--groups=-5 -6", "--api", "http://127.0.0.1:8081/", "--daily", "0.5"]
    options = read_options(arguments, WITH_TOKEN | {"STABLEDIFF_MAX_STEPS": "40", "TELEGRAM_WEBHOOK_URL": ""})
    assert (options.admins, options.groups) == ({1, 2}, {-5, -6})
    assert (options.api, options.webhook_url) == ("http://127.0.0.1:8081", None)
    assert (options.daily, options.limits.max_steps) == (0.5, 40)


def test_the_bot_has_the_pages_limits() -> None:
    assert read_options([], WITH_TOKEN).limits.max_steps == 100


@pytest.mark.parametrize(
    "arguments", [["--token", TOKEN], ["--token-file", TOKEN], [TOKEN], ["--webhook-port", TOKEN]], ids=repr
)
def test_a_token_in_a_wrong_place_is_not_shown(arguments: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        read_options(arguments, {})
    assert TOKEN not in str(caught.value)

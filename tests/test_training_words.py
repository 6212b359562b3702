"""The little grammar of captions: plurals, articles, and names without their colour."""

import pytest

from stablediff.training.data.words import names_a_colour, plural, with_article, without_colour


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("red apple", "red apples"),
        ("mouse", "mice"),
        ("person running", "people running"),
        ("woman teacher", "women teachers"),
        ("man in tuxedo", "men in tuxedo"),
        ("face with tears of joy", "faces with tears of joy"),
        ("family: man, boy", "families: man, boy"),
        ("fox", "foxes"),
        ("scissors", "scissors"),
        ("octopus", "octopuses"),
        ("glass of milk", "glasses of milk"),
        ("toy", "toys"),
        ("women with bunny ears", "women with bunny ears"),
        ("people hugging", "people hugging"),
        ("ring", "rings"),
        ("snowman without snow", "snowmen without snow"),
        ("pregnant woman", "pregnant women"),
        ("face screaming in fear", "faces screaming in fear"),
        ("thumbs up", "thumbs up"),
        ("upside-down face", "upside-down faces"),
        ("sheaf of rice", "sheaves of rice"),
        ("rhinoceros", "rhinoceros"),
    ],
)
def test_plurals(name, many):
    assert plural(name) == many


def test_articles():
    phrases = ["apple", "unicorn", "umbrella", "ewe", "Santa Claus", "glasses", "bus", "hourglass", "eight o’clock"]
    phrases += ["rhinoceros", "people hugging", "men wrestling", "men’s room"]
    assert [with_article(phrase) for phrase in phrases] == [
        "an apple",
        "a unicorn",
        "an umbrella",
        "a ewe",
        "Santa Claus",
        "glasses",
        "a bus",
        "an hourglass",
        "an eight o’clock",
        "a rhinoceros",
        "people hugging",
        "men wrestling",
        "a men’s room",
    ]


def test_a_name_without_its_colour():
    assert [without_colour(name) for name in ("red apple", "light blue heart", "orange", "redhead")] == [
        "apple",
        "heart",
        "orange",
        "redhead",
    ]
    assert without_colour("красное яблоко", "ru") == "яблоко"
    assert without_colour("сердце", "ru") == "сердце"
    assert names_a_colour("large blue diamond")
    assert not names_a_colour("bluebell")

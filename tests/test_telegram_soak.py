"""The same under load and for long: `make soak`."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from telegram_people import BotProcess, Person, new_person, running_bot
from telegram_server import TelegramServer

pytestmark = pytest.mark.soak
MUCH = ["--daily", "1000000"]


def test_thirty_people_with_five_wishes_each(toy_folder: Path, tmp_path: Path) -> None:
    with running_bot(toy_folder, tmp_path, *MUCH, "--log-level", "INFO") as bot:
        people = [new_person(bot.server) for _ in range(30)]
        memory = _memory(bot)
        for wish in range(5):
            for person in people:
                person.say(f"wish {wish} --steps 100")
        waits = []
        while not all(len(person.pictures()) == 5 for person in people):
            asker = new_person(bot.server)
            start = time.monotonic()
            asker.say("/help")
            asker.wait_for_text("In groups")
            waits.append(time.monotonic() - start)
            time.sleep(0.2)
        shares = {share: sorted(waits)[int(share * (len(waits) - 1))] for share in (0.5, 0.9, 0.99, 1)}
        print(
            f"\n/help, {len(waits)} times while drawing: {', '.join(f'{s:.0%} {w:.2f} s' for s, w in shares.items())}"
        )
        print(f"memory {memory} MB, then {_memory(bot)} MB")
        for person in people:
            wishes = Counter(picture["caption"].split("\n")[0] for picture in person.pictures())
            assert wishes == {f"wish {wish}": 1 for wish in range(5)}


def test_twenty_kills_lose_nothing_and_bring_nothing_twice(toy_folder: Path, tmp_path: Path) -> None:
    server = TelegramServer()
    chance = random.Random(0)
    people = []
    try:
        for _ in range(20):
            bot = BotProcess(server, toy_folder, tmp_path, *MUCH).wait_until_up()
            people.append(new_person(server))
            for wish in range(3):
                people[-1].say(f"wish {wish} --steps {chance.randrange(1, 300)}")
            time.sleep(chance.uniform(0, 1.5))
            bot.kill()
        bot = BotProcess(server, toy_folder, tmp_path, *MUCH).wait_until_up()
        for person in people:
            server.wait(lambda person=person: len(person.pictures()) + _given_up(person) >= 3, seconds=600)
        assert bot.stop() == 0
        for person in people:
            wishes = Counter(picture["caption"].split("\n")[0] for picture in person.pictures())
            assert max(wishes.values(), default=1) == 1
            assert sum(wishes.values()) + _given_up(person) == 3
    finally:
        bot.kill()
        server.close()


def _given_up(person: Person) -> int:
    """Wishes over which the bot was killed so often that it says so."""
    return sum(
        "The program was stopped" in message.get("text", message.get("caption", "")) for message in person.heard()
    )


def _memory(bot: BotProcess) -> int:
    lines = Path(f"/proc/{bot.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:"))

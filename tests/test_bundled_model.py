"""What is shipped is what was trained, whole, and small enough."""

import hashlib

from toy import draw

from stablediff import Pipeline
from stablediff.checkpoints.locate import BUNDLED
from stablediff.evaluation.judge.files import BUNDLED_JUDGE, load_judge
from stablediff.evaluation.judge.verdict import judge_pictures

FOLDER = BUNDLED["sticker"]


def test_the_files_are_those_that_the_sums_name() -> None:
    named = dict(reversed(line.split("  ", 1)) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    found = {p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*") if p.is_file()} - {"README.md", "SHA256SUMS"}
    assert set(named) == found
    assert all(hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest for name, digest in named.items())


def test_the_weights_are_small_and_their_sources_named() -> None:
    sizes = [path.stat().st_size for path in FOLDER.rglob("*.safetensors")]
    assert max(sizes) < 95e6
    assert sum(sizes) < 100e6
    licences = (FOLDER / "LICENCES.md").read_text(encoding="utf-8")
    for licence in ("CC-BY-4.0", "Apache-2.0", "MIT"):
        assert licence in licences
    assert len((FOLDER / "known.txt").read_text(encoding="utf-8").splitlines()) == 499


def test_the_judge_sees_what_the_model_was_asked_for(sticker: Pipeline) -> None:
    judge = load_judge(BUNDLED_JUDGE)
    known = (FOLDER / "known.txt").read_text(encoding="utf-8").splitlines()
    assert len(judge.config.things) == 595
    assert list(judge.config.things)[:333] == known[:333]
    assert set(known) < set(judge.config.things)
    pictures = [draw(sticker, prompt=f"{thing}, flat style", seed=1).images[0] for thing in ("panda", "sunflower")]
    verdicts, _ = judge_pictures(judge, pictures)
    assert [[seen.thing for seen in verdict.seen] for verdict in verdicts] == [["panda"], ["sunflower"]]

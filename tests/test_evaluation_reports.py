"""The reports: kept pictures, admitted tasks, what they write; and that broken models lose where they should."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from sticker_world import STYLES, THINGS, Draughtsman, Oracle, blurred, make_data, world_of
from toy import count_calls, toy_pipeline

from stablediff import Pipeline
from stablediff.errors import EvaluationError
from stablediff.evaluation.artists import ModelArtist, Settings
from stablediff.evaluation.bootstrap import difference_interval, mean_interval, proportion_interval
from stablediff.evaluation.elsewhere import FolderArtist
from stablediff.evaluation.features import judge_features, random_features
from stablediff.evaluation.plot import Point, pareto_front, scatter
from stablediff.evaluation.prompts import World, make_prompts
from stablediff.evaluation.reports.cost import Grid, choose, report_cost
from stablediff.evaluation.reports.distribution import distances, report_distribution
from stablediff.evaluation.reports.memorisation import report_memorisation
from stablediff.evaluation.reports.others import report_others
from stablediff.evaluation.reports.prompts import Answers, admitted_tasks, answer, interval_of, report_prompts
from stablediff.evaluation.reports.things import ask_for_each, report_things
from stablediff.evaluation.retrieval import Paste, Retrieval
from stablediff.evaluation.setting import Setting, known_world
from stablediff.lexicon import Lexicon

TASKS = ("single object", "position", "style")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_of(make_data(tmp_path_factory.mktemp("world")))


def setting_of(world: World, out: Path, pipeline: Pipeline | None = None) -> Setting:
    return Setting(
        pipeline or toy_pipeline(), Oracle(), world, make_prompts(world, 2, tasks=TASKS), range(2), out
    )  # fmt: skip


def test_a_picture_is_drawn_once(tmp_path: Path, toy: Pipeline) -> None:
    artist = ModelArtist(toy, tmp_path, Settings(num_steps=1))
    with count_calls(toy.vae.decoder) as calls:
        first = artist.draw("disc, flat style", [0, 1])
        again = ModelArtist(toy, tmp_path, Settings(num_steps=1)).draw("disc, flat style", [0, 1, 2])
    assert sum(calls) == 3  # 0 and 1, and then 2
    assert [one.path for one in again[:2]] == [one.path for one in first]
    assert all(one.seconds > 0 for one in again)
    assert first[0].open().size == (64, 64)
    other = ModelArtist(toy, tmp_path, Settings(num_steps=2)).draw("disc, flat style", [0])
    assert other[0].path != first[0].path
    (tmp_path / "seconds.jsonl").write_text('{"file": "x')  # broken off
    assert ModelArtist(toy, tmp_path, Settings(num_steps=1)).draw("disc, flat style", [0])[0].seconds == 0


def test_the_mark_of_a_model_is_of_its_weights(toy: Pipeline) -> None:
    assert toy.fingerprint() == toy_pipeline().fingerprint()
    with torch.no_grad():
        next(toy.unet.parameters()).add_(0.01)
    assert toy.fingerprint() != toy_pipeline().fingerprint()


def test_no_room_is_said(tmp_path: Path, toy: Pipeline) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match=r"cannot keep pictures .*free some space"):
        ModelArtist(toy, tmp_path / "file", Settings(num_steps=1)).draw("disc", [0])


def test_broken_models_lose_on_the_metric_that_should_see_it(world: World, tmp_path: Path) -> None:
    prompts, judge = make_prompts(world, 3, tasks=("single object", "position", "counting")), Oracle()
    seeds, count = range(2), len(prompts)
    good, shuffled, blurry = (
        Draughtsman(world, prompts, tmp_path, name="good"),
        Draughtsman(world, prompts, tmp_path, name="shuffled", order=lambda i: (i + count // 2) % count),
        Draughtsman(world, prompts, tmp_path, name="blurry", spoil=blurred),
    )
    repeated = Draughtsman(world, prompts, tmp_path, name="repeated", order=lambda _: 0)
    answers = {one.name: answer(one, judge, prompts, seeds) for one in (good, shuffled, blurry, repeated)}
    assert answers["good"].right.mean() > 0.9
    groups = torch.arange(count).repeat_interleave(len(seeds))
    for name in ("shuffled", "repeated"):
        assert difference_interval(answers[name].right, answers["good"].right, groups).high < -0.3
    real = [Image.open(one.path) for text in [p.text for p in prompts] for one in good.draw(text, range(5, 7))]
    for embed in (judge_features(judge), random_features):
        features = {name: embed(one.open() for one in found.drawn) for name, found in answers.items()}
        reference = embed(real)
        found = {name: distances(reference, values) for name, values in features.items()}
        far, near = found["blurry"], found["good"]
        assert far["Fréchet distance"] > 1.5 * near["Fréchet distance"]
        # The same pictures in another order are as good a set.
        assert found["shuffled"]["Fréchet distance"] == pytest.approx(near["Fréchet distance"], rel=0.05, abs=1e-6)
        assert found["repeated"]["coverage"] < 0.5 * near["coverage"]
        assert found["repeated"]["recall"] < 0.5 * near["recall"]
    with pytest.raises(EvaluationError, match="18 real and 17 fake pictures"):
        distances(reference, features["good"][1:])


def test_prompts_report(world: World, tmp_path: Path) -> None:
    setting = setting_of(world, tmp_path)
    path = report_prompts(setting)
    with count_calls(setting.pipeline.vae.decoder) as calls:
        assert report_prompts(setting) == path
    assert calls == []  # everything was there
    text, found = path.read_text(), json.loads((tmp_path / "prompts.json").read_text())["figures"]
    assert set(found["tasks"]) == set(TASKS)
    assert found["pictures"] == 2 * len(setting.prompts)
    assert found["seconds"] > 0
    single = found["tasks"]["single object"]
    assert single["ceiling"] == 1
    assert single["admitted"]
    assert single["value"] <= 0.5  # random weights draw what may look like something, by chance
    assert "| single object | 2 | 100 % |" in text
    assert "![prompts](prompts.png)" in text
    assert Image.open(tmp_path / "prompts.png").width > 300


def test_which_things_are_drawn(world: World, tmp_path: Path) -> None:
    """A draughtsman who knows all of them but two, and a third in one of its styles alone."""
    prompts = ask_for_each(world, each=2)
    assert [(p.scene.items[0].thing, p.level) for p in prompts if p.scene.items[0].thing in ("bar", "cross")] == [
        ("bar", 0), ("bar", 1), ("cross", 0), ("cross", 1),
    ]  # fmt: skip
    wrong = {i for i, p in enumerate(prompts) if p.scene.items[0].thing in ("disc", "ring")}
    wrong.add(next(i for i, p in enumerate(prompts) if p.scene.items[0].thing == "box"))
    plate = next(i for i, p in enumerate(prompts) if p.scene.items[0].thing == "plate")
    setting = setting_of(world, tmp_path)
    setting.artist = Draughtsman(  # type: ignore[assignment]
        world, prompts, tmp_path / "drawn", order=lambda i: plate if i in wrong else i
    )
    text = report_things(setting, each=2).read_text()
    assert (tmp_path / "things.txt").read_text().splitlines() == ["bar", "cross", "frame", "plate"]
    assert "**4 of 7 things**" in text
    assert "| objects | 7 | 4 | 64 % |" in text
    figures = json.loads((tmp_path / "things.json").read_text())["figures"]
    assert (figures["things"], figures["drawn"], figures["pictures"], figures["ceiling"]) == (7, 4, 14, 1.0)
    of_each = torch.tensor([2 * (t in ("bar", "cross", "frame", "plate")) + (t == "box") for t in THINGS]).double() / 2
    over_things = mean_interval(of_each)  # the pictures of one thing depend on each other
    assert figures["right"]["value"] == pytest.approx(9 / 14, abs=1e-4)
    assert (figures["right"]["low"], figures["right"]["high"]) == pytest.approx(
        (over_things.low, over_things.high), abs=1e-4
    )
    assert Image.open(tmp_path / "things.png").height > 300
    assert len(ask_for_each(world, each=1)) == 7


def test_a_task_that_the_judge_cannot_tell_is_not_admitted(world: World, tmp_path: Path) -> None:
    setting = setting_of(world, tmp_path)
    forward = setting.judge.forward

    def no_style(pixels: torch.Tensor):  # type: ignore[no-untyped-def]
        reading = forward(pixels)
        return reading._replace(style=torch.zeros_like(reading.style))

    setting.judge.forward = no_style  # type: ignore[method-assign]
    assert admitted_tasks(setting)["style"] < 0.95
    text = report_prompts(setting).read_text()
    found = json.loads((tmp_path / "prompts.json").read_text())["figures"]
    assert not found["tasks"]["style"]["admitted"]
    assert found["tasks"]["single object"]["admitted"]
    assert text.count("% | (") == 1  # its score is in brackets


def test_other_reports_and_the_whole(world: World, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"7 pictures for each side, and 20 are needed"):
        report_distribution(setting_of(world, tmp_path))
    setting = setting_of(world, tmp_path)
    other = ModelArtist(setting.pipeline, tmp_path / "pictures", Settings(num_steps=1), "one step")
    report_others(setting, [other])
    path = report_cost(setting, Grid((1, 2), ("ddim",), (1.0,)), per_task=1)
    text = path.read_text()
    assert text.index("Is it better than others?") < text.index("What does quality cost?")
    found = json.loads((tmp_path / "others.json").read_text())["figures"]["groups"]["single object"]
    assert list(found) == ["toy", "one step", "nearest icon", "retrieve and paste"]
    assert found["retrieve and paste"]["score"]["value"] == 1  # random weights are worse, and it says by how much
    assert found["retrieve and paste"]["ours_minus_theirs"]["high"] < 0
    cost = json.loads((tmp_path / "cost.json").read_text())["figures"]
    assert [one["num_steps"] for one in cost["settings"]] == [1, 2]
    assert all(one["seconds"] > 0 for one in cost["settings"])
    with pytest.raises(EvaluationError, match="the grid is empty"):
        report_cost(setting, Grid((), ("ddim",), (1.0,)))


def test_what_another_program_drew(world: World, tmp_path: Path) -> None:
    setting, folder = setting_of(world, tmp_path / "out"), tmp_path / "theirs"
    with pytest.raises(EvaluationError, match=r"there is no .*theirs/pictures.jsonl: write a line"):
        FolderArtist(folder)
    folder.mkdir()
    (folder / "pictures.jsonl").write_text('{"prompt": "disc", "seed": 0, "file": "x.png"}\n{"seed": 1}\n')
    with pytest.raises(EvaluationError, match=r"cannot be read in line 2 \(KeyError\('file'\)\)"):
        FolderArtist(folder)
    (folder / "pictures.jsonl").write_text("")
    with pytest.raises(EvaluationError, match=r"theirs lacks 12 of 12 pictures, first '.*' with seed 0: draw those"):
        report_others(setting, [FolderArtist(folder)])
    perfect = Draughtsman(world, setting.prompts, folder)
    wishes = [json.loads(line) for line in (tmp_path / "out" / "wishes.jsonl").read_text().splitlines()]
    lines = [{**wish, "file": perfect.draw(wish["prompt"], [wish["seed"]])[0].path.name} for wish in wishes]
    (folder / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report_others(setting, [FolderArtist(folder)])
    found = json.loads((tmp_path / "out" / "others.json").read_text())["figures"]["groups"]["all admitted"]
    assert found["theirs"]["score"]["value"] > 0.9
    assert found["theirs"]["ours_minus_theirs"]["high"] < 0
    damaged = folder / lines[0]["file"]
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(EvaluationError, match="get it again from the program that drew it, or leave this --drawn away"):
        report_others(setting, [FolderArtist(folder)])


def test_lists_of_other_programs_may_begin_with_a_mark_and_hold_any_letter(tmp_path: Path) -> None:
    line = '\ufeff{"prompt": "a\u2028b", "seed": 0, "file": "x.png"}\r\n\r\n'
    (tmp_path / "pictures.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(EvaluationError, match="lacks 1 of 1 pictures"):
        FolderArtist(tmp_path).check(["a\u2028b"], [0])
    (tmp_path / "x.png").touch()
    FolderArtist(tmp_path).check(["a\u2028b"], [0])


def test_memorisation_needs_pictures_that_cannot_have_been_learnt(world: World, tmp_path: Path) -> None:
    setting = setting_of(world, tmp_path)
    with pytest.raises(EvaluationError, match=r"2 pictures were held out from training, and .* 19 are needed"):
        report_memorisation(setting)
    report_memorisation(setting, false_positives=0.4)
    found = json.loads((tmp_path / "memorisation.json").read_text())["figures"]
    assert found["pictures"] == 2 * len({p.text for p in setting.prompts if p.task in ("single object", "style")})
    assert found["by_heart"]["value"] == 0
    setting.prompts = make_prompts(world, 2, tasks=["position"])
    with pytest.raises(EvaluationError, match="leave --tasks away"):
        report_memorisation(setting, false_positives=0.4)


def test_looking_up(world: World, tmp_path: Path) -> None:
    lookup, paste = Retrieval(world, tmp_path), Paste(world, tmp_path)
    assert lookup.nearest("a box, soft style") == ("box", "soft")
    assert lookup.nearest("cross, soft style")[0] == "cross"
    assert lookup.nearest("cross, soft style")[1] == "flat"  # soft ones are held out
    scene = paste.scene("a disc below a plate, soft style")
    assert [(item.thing, item.y) for item in scene.items] == [("plate", 0.26), ("disc", 0.74)]
    assert len(paste.scene("three rings, flat style").items) == 3
    assert [item.thing for item in paste.scene("nothing known").items] == [lookup.nearest("nothing known")[0]]
    first, second = paste.draw("three rings, flat style", [0, 1])
    assert first == second
    assert first.path.is_file()


def test_what_a_model_knows(world: World, tmp_path: Path, toy: Pipeline) -> None:
    judge = Oracle()
    everything = known_world(toy, judge, world.icons, world.split, None, ())
    assert (everything.things, everything.styles) == (THINGS, STYLES)
    toy.lexicon = Lexicon(frozenset({"disc", "ring", "soft", "a"}))
    some = known_world(toy, judge, world.icons, world.split, None, ())
    assert (some.things, some.styles) == (("disc", "ring"), ("soft",))
    (tmp_path / "things.txt").write_text("bar\nunicorn\n")
    assert known_world(toy, judge, world.icons, world.split, tmp_path / "things.txt", ["flat"]).things == ("bar",)
    assert known_world(toy, judge, world.icons, world.split, None, ["flat", "soft", "flat"]).styles == STYLES
    with pytest.raises(EvaluationError, match="does not know the style 'baroque': choose among flat, soft"):
        known_world(toy, judge, world.icons, world.split, None, ["baroque"])
    (tmp_path / "things.txt").write_text("unicorn\n")
    with pytest.raises(EvaluationError, match="0 things"):
        known_world(toy, judge, world.icons, world.split, tmp_path / "things.txt", [])
    with pytest.raises(EvaluationError, match="a text file with a thing a line"):
        known_world(toy, judge, world.icons, world.split, tmp_path / "none.txt", [])


def test_things_that_are_left_out_are_named(
    world: World, tmp_path: Path, toy: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    def known(*lines: str) -> tuple[tuple[str, ...], str]:
        (tmp_path / "things.txt").write_text("\n".join(lines), encoding="utf-8-sig")
        things = known_world(toy, Oracle(), world.icons, world.split, tmp_path / "things.txt", ()).things
        return things, capsys.readouterr().err

    assert known("disc", "bar", "bar", "") == (("disc", "bar"), "")
    things, said = known("unicorn", "bar", *(f"thing {i}" for i in range(6)))
    assert things == ("bar",)
    assert "the icons or the judge do not have them: 'unicorn', 'thing 0', 'thing 1'" in said
    assert said.endswith("'thing 3' and 2 more\n")


def test_the_front_and_the_choice() -> None:
    points = [Point(1, 0.5, "a", "a"), Point(2, 0.4, "a", "b"), Point(3, 0.9, "a", "c"), Point(3, 0.8, "a", "d")]
    assert [point.label for point in pareto_front(points)] == ["a", "c"]
    assert scatter(points, "seconds", "right").size == (900, 560)
    right = torch.tensor([1.0, 1, 1, 0] * 10, dtype=torch.float64)

    def found(steps: int, values: torch.Tensor, cost: float) -> tuple[Settings, Answers, float]:
        return replace(Settings(), num_steps=steps), Answers([], values, torch.arange(len(values)), 0.0), cost

    best, bad, equal = found(50, right, 5.0), found(4, right * 0, 1.0), found(20, right.clone(), 2.0)
    assert choose([best, bad, equal]).num_steps == 20
    assert choose([best, bad]).num_steps == 50


def test_what_is_all_right_or_all_wrong_has_an_interval_too() -> None:
    """Drawing from equal answers would give no width, and certainty that nobody has."""
    for right in (0.0, 1.0):
        answers = Answers([], torch.full((20,), right, dtype=torch.float64), torch.arange(10), 0.0)
        interval = interval_of(answers, range(10), 2)
        assert interval == proportion_interval(int(10 * right), 10)
        assert 0.2 < interval.high - interval.low < 0.4
    values = torch.tensor([1.0, 0.0] * 10, dtype=torch.float64)
    mixed = Answers([], values, torch.arange(10), 0.0)
    assert interval_of(mixed, range(10), 2) == mean_interval(values, torch.arange(10).repeat_interleave(2))
    twice = Answers([], values, torch.arange(10) % 5, 0.0)  # five prompts that stand in two tasks
    assert interval_of(twice, range(10), 2) == mean_interval(values, (torch.arange(10) % 5).repeat_interleave(2))

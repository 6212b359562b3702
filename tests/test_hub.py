"""Models from the hub (one that runs on this machine): downloaded once, checked, and then used offline."""

import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import describe, download, download_settings, in_child
from fake_hub import FakeHub, running_hub
from toy import toy_pipeline

from stablediff.checkpoints.locate import locate_clip
from stablediff.checkpoints.progress import counting_bar
from stablediff.errors import CheckpointError

MODEL = "owner/toy-model"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def environment(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@pytest.fixture
def get(environment: dict[str, str]) -> Callable[..., Path]:
    """Downloads in a process of its own, because the hub's library reads its environment once."""

    def get(name: str = MODEL, **more: str) -> Path:
        return Path(in_child(download, name, environment=environment | more))

    return get


def refusal(get: Callable[..., Path], name: str = MODEL, **more: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        get(name, **more)
    return str(caught.value)


def safetensors(number: int, size: int = 1000) -> bytes:
    """A small file of this format, other for each number."""
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    return struct.pack("<Q", len(header)) + header + bytes([number]) * size


PARTS = ("text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model")


def small_model() -> dict[str, bytes]:
    """What is read from a diffusers folder, and what is not."""
    names = ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"]
    names += ["model_index.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"]
    names += [
        "defaults.json",
        "words.txt",
        "README.md",
        "feature_extractor/preprocessor_config.json",
        "unet/openvino_model.xml",
    ]
    names += ["unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors"]
    return {name: name.encode() for name in names} | {
        f"{part}.safetensors": safetensors(i) for i, part in enumerate(PARTS)
    }


def unread(name: str) -> bool:
    return name.startswith(("README", "safety", "feature")) or name.endswith((".bin", ".xml"))


def test_a_whole_model_is_downloaded_and_loaded(hub: FakeHub, environment: dict[str, str], tmp_path: Path) -> None:
    toy_pipeline().save(tmp_path / "toy")
    files = [path for path in (tmp_path / "toy").rglob("*") if path.is_file()]
    hub.models[MODEL] = {str(path.relative_to(tmp_path / "toy")): path.read_bytes() for path in files}
    line = in_child(describe, MODEL, environment=environment)
    assert line.startswith(f"{MODEL}: Stable Diffusion 1.x")
    asked = len(hub.requests)
    assert in_child(describe, MODEL, environment=environment | {"HF_HUB_OFFLINE": "1"}) == line
    assert len(hub.requests) == asked, "nothing is asked offline"


def test_only_what_is_needed_is_downloaded_and_only_once(hub: FakeHub, get: Callable[..., Path]) -> None:
    hub.models[MODEL] = small_model()
    folder = get()
    got = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert got == {name for name in small_model() if not unread(name)}
    assert {request.removeprefix("GET ") for request in hub.downloads("")} == got | {MODEL}
    for name in got:
        assert (folder / name).read_bytes() == small_model()[name]

    hub.requests.clear()
    assert get() == folder
    assert hub.downloads("") == [f"GET {MODEL}"], "once, to see whether there is a new version"


def test_a_clip_with_both_towers_is_downloaded_with_its_words(hub: FakeHub, environment: dict[str, str]) -> None:
    wanted = {"config.json", "model.safetensors", "vocab.json", "merges.txt"}
    hub.models["owner/clip"] = {name: name.encode() for name in wanted | {"README.md", "tf_model.h5"}}
    hub.models["owner/clip"]["model.safetensors"] = safetensors(1)
    place = in_child(locate_clip, "owner/clip", environment=environment)
    assert place.name == "owner/clip"
    assert {path.name for path in place.path.iterdir()} == wanted
    hub.requests.clear()
    assert in_child(locate_clip, "owner/clip", environment=environment | {"HF_HUB_OFFLINE": "1"}) == place
    assert not hub.requests
    hub.models["owner/one"] = {"model.safetensors": safetensors(1)}
    with pytest.raises(CheckpointError, match="owner/one on the hub is no CLIP"):
        in_child(locate_clip, "owner/one", environment=environment)


def test_a_new_version_is_downloaded_and_the_old_parts_kept(hub: FakeHub, get: Callable[..., Path]) -> None:
    hub.models[MODEL] = small_model()
    old = get()
    hub.requests.clear()
    hub.models[MODEL]["vae/diffusion_pytorch_model.safetensors"] = safetensors(77)
    new = get()
    assert new != old
    assert hub.downloads() == ["GET vae/diffusion_pytorch_model.safetensors"]
    assert get(HF_HUB_OFFLINE="1") == new


@pytest.mark.parametrize("how", ["offline", "unreachable", "broken", "forbidden"])
def test_without_the_hub_the_cache_is_used(how: str, hub: FakeHub, get: Callable[..., Path]) -> None:
    hub.models[MODEL] = small_model()
    hub.models["owner/one"] = {"model.safetensors": safetensors(1)}
    names = (MODEL, "owner/one", f"{MODEL}/unet/diffusion_pytorch_model.safetensors")
    paths = [get(name) for name in names]
    hub.requests.clear()
    hub.status = {"broken": 503, "forbidden": 403}.get(how)
    more = {"offline": {"HF_HUB_OFFLINE": "1"}, "unreachable": {"HF_ENDPOINT": closed_port()}}.get(how, {})
    assert [get(name, **more) for name in names] == paths
    assert bool(hub.requests) == (hub.status is not None)


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_without_the_hub_and_without_the_cache_it_says_so(hub: FakeHub, get: Callable[..., Path]) -> None:
    for more, why in (
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": closed_port()}, "the hub cannot be reached"),
    ):
        for name in (MODEL, f"{MODEL}/model.safetensors"):
            message = refusal(get, name, **more)
            assert "is not on this disk" in message
            assert why in message
    hub.status = 500
    assert "the hub cannot be reached" in refusal(get)


def test_what_another_program_left_in_the_cache_is_no_obstacle_offline(
    hub: FakeHub, get: Callable[..., Path], environment: dict[str, str]
) -> None:
    """The hub's library then keeps a list of all files, and calls incomplete what lacks one that we never read."""
    hub.models[MODEL] = small_model()
    in_child(download_settings, MODEL, environment=environment)
    folder = get()
    assert get(HF_HUB_OFFLINE="1") == folder


def test_a_model_that_is_only_half_here_is_not_taken_for_whole(hub: FakeHub, get: Callable[..., Path]) -> None:
    hub.models[MODEL] = small_model()
    hub.corrupted.add("vae/diffusion_pytorch_model.safetensors")  # the last file to come
    refusal(get)
    assert "is not on this disk" in refusal(get, HF_HUB_OFFLINE="1")


def test_a_connection_that_breaks_is_taken_up_again(hub: FakeHub, get: Callable[..., Path]) -> None:
    data = safetensors(3, size=12_000_000)
    hub.models["owner/one"] = {"model.safetensors": data}
    hub.cut_at["model.safetensors"] = 11_000_000
    assert get("owner/one").read_bytes() == data
    # The hub's library writes in pieces of 10 MiB, and forgets what came of the next.
    assert hub.downloads() == ["GET model.safetensors", f"GET model.safetensors from {10 * 2**20}"]


def test_a_damaged_download_is_noticed_and_deleted(hub: FakeHub, get: Callable[..., Path], tmp_path: Path) -> None:
    data = safetensors(3)
    hub.models["owner/one"] = {"model.safetensors": data}
    hub.corrupted.add("model.safetensors")
    assert "arrived damaged" in refusal(get, "owner/one")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == len(data)]
    assert "is not on this disk" in refusal(get, "owner/one", HF_HUB_OFFLINE="1")
    hub.corrupted.clear()
    assert get("owner/one").read_bytes() == data
    assert len(hub.downloads()) == 2


def test_half_precision_is_preferred_where_there_is_a_choice(hub: FakeHub, get: Callable[..., Path]) -> None:
    files = small_model()
    halves = {"text_encoder/model.fp16.safetensors": safetensors(21)}
    shards = [f"unet/diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    halves |= {name: safetensors(22) for name in shards}
    halves |= {"unet/diffusion_pytorch_model.safetensors.index.fp16.json": b"{ }"}
    files |= halves | {"unet/diffusion_pytorch_model.non_ema.safetensors": safetensors(23)}
    hub.models[MODEL] = files
    folder = get()
    weights = {str(path.relative_to(folder)) for path in folder.rglob("*.safetensors*")}
    assert weights == {*halves, "vae/diffusion_pytorch_model.safetensors"}


def test_single_files_of_a_repository(hub: FakeHub, get: Callable[..., Path]) -> None:
    hub.models["owner/one"] = {"README.md": b"#", "model.safetensors": safetensors(1), "x/other.safetensors": b"2"}
    hub.models["owner/two"] = {"a.safetensors": safetensors(1), "b.safetensors": safetensors(2)}
    hub.models["owner/none"] = {"README.md": b"#", "model.ckpt": b"pickle"}
    assert get("owner/one").read_bytes() == safetensors(1)
    assert get("owner/two/b.safetensors").read_bytes() == safetensors(2)
    assert get("owner/one/x/other.safetensors").read_bytes() == b"2"
    message = refusal(get, "owner/two")
    assert "owner/two/FILE.safetensors" in message
    assert "a.safetensors, b.safetensors" in message
    assert "it has a.safetensors, b.safetensors" in refusal(get, "owner/two/c.safetensors")
    assert "it has none" in refusal(get, "owner/none")
    assert not hub.downloads("README")


def test_a_lora_s_repository_gives_its_file(hub: FakeHub, get: Callable[..., Path]) -> None:
    name = "pytorch_lora_weights.safetensors"
    hub.models[MODEL] = {name: safetensors(1), "another.safetensors": safetensors(2), "README.md": b""}
    path = get()
    assert path.name == name
    assert [request.split()[1] for request in hub.downloads()] == [name]
    assert get(HF_HUB_OFFLINE="1") == path


def test_refusals_of_the_hub_are_explained(hub: FakeHub, get: Callable[..., Path]) -> None:
    assert "the hub has no model 'owner/missing'" in refusal(get, "owner/missing")
    hub.models[MODEL] = small_model()
    hub.gated.add(MODEL)
    message = refusal(get)
    assert "accept its terms" in message
    assert "hf auth login" in message


def test_a_model_without_safetensors_is_refused_before_downloading(hub: FakeHub, get: Callable[..., Path]) -> None:
    hub.models[MODEL] = {name: data for name, data in small_model().items() if name != f"{PARTS[1]}.safetensors"}
    assert "no safetensors weights in unet" in refusal(get)
    assert not hub.downloads()


def test_a_download_is_told_in_bytes_from_where_it_was_broken_off() -> None:
    there: list[int] = []
    with counting_bar(there.append)(total=10, initial=4, disable=True) as bar:
        bar.update(3)
        bar.update(3)
    assert there == [7, 10]

"""LoRA files of diffusers and kohya change our networks as they change the reference's; all others are refused."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from loras import (
    ATTENTION,
    EVERYTHING,
    TEXT,
    add_random_lora,
    copy_of,
    ldm_renamer,
    random_lora,
    save_by_diffusers,
    tensors_of,
    to_kohya,
    to_old_diffusers,
)
from reference import TOLERANCE, max_error, reference_prediction, unet_inputs
from safetensors.torch import load_file
from test_pipeline_parity import assert_alike, draw, draw_reference, scheduler_like
from tiny import TinyModel, save_tensors
from torch import Tensor
from toy import toy_pipeline

from stablediff import CheckpointError, Pipeline, load
from stablediff.checkpoints.lora import load_lora, save_lora
from stablediff.models.lora import ATTENTION as OUR_ATTENTION
from stablediff.models.lora import (
    CONVOLUTIONS,
    FEED_FORWARD,
    TEXT_ATTENTION,
    TEXT_FEED_FORWARD,
    attach_lora,
    attached,
    detach_lora,
    lora_state,
)

GetModel = Callable[[str], TinyModel]
Outputs = dict[str, Tensor]
NAME = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def lora(tiny_model: GetModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind -> a folder with a LoRA of all attention layers of that tiny model, saved by diffusers."""
    return cache(lambda kind: random_lora(tiny_model(kind), tmp_path_factory.mktemp("loras") / kind))


@pytest.fixture(scope="module")
def plain(tiny_model: GetModel) -> Callable[[str], Outputs]:
    """kind -> what its networks say without a LoRA."""
    return cache(lambda kind: outputs(load_f32(tiny_model(kind))))


def load_f32(model: TinyModel, *loras: tuple[str | Path, float]) -> Pipeline:
    return load(model.folder, device="cpu", dtype="float32", loras=loras, trainable=True)


@torch.no_grad()
def outputs(pipeline: Pipeline) -> Outputs:
    """What each network says, of about unit variance."""
    inputs = unet_inputs(pipeline.config.unet, batch=2, size=(8, 8))
    out = {"unet": pipeline.unet(**inputs)}
    for name, encoder in list(pipeline.networks.items())[1:]:
        encoding = encoder(ids())
        out |= {name: encoding.context, f"{name} pooled": encoding.pooled}
    return out


@torch.no_grad()
def reference_outputs(model: DiffusionPipeline, like: Pipeline) -> Outputs:
    out = {"unet": reference_prediction(model.unet, unet_inputs(like.config.unet, batch=2, size=(8, 8)))}
    for name, encoder in list(like.networks.items())[1:]:
        theirs = getattr(model, name)
        states = theirs(ids(), output_hidden_states=True)
        context = states.hidden_states[encoder.config.context_layer]
        if encoder.config.context_norm:
            context = getattr(theirs, "text_model", theirs).final_layer_norm(context)
        pooled = states.text_embeds if encoder.config.projection_size else states.pooler_output
        out |= {name: context, f"{name} pooled": pooled}
    return out


def ids() -> Tensor:
    return torch.tensor([[49406, 320, 2368, 5567, 49407, 49407], [49406, 64, 1000, 40000, 7, 49407]])


def assert_equal(ours: Outputs, theirs: Outputs, *, but_not: Outputs | None = None) -> None:
    """`but_not`: what it was without the LoRA."""
    assert ours.keys() == theirs.keys()
    for name, out in ours.items():
        assert max_error(out, theirs[name]) <= TOLERANCE, name
        if but_not is not None:
            assert max_error(out, but_not[name]) > 0.02, f"{name} is hardly changed"


def with_lora(model: TinyModel, file: Path, scale: float = 1.0) -> DiffusionPipeline:
    """The reference's way."""
    pipeline = copy_of(model)
    if file.is_dir():
        pipeline.load_lora_weights(str(file))
    else:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    if scale != 1:
        pipeline.set_adapters(pipeline.get_active_adapters(), [scale])
    return pipeline


# --- files of diffusers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "scale"), [("sd1", 0.5), ("sd1", -0.7), ("sd2", 1.0), ("sdxl", 1.0)])
def test_all_networks_are_the_reference_s(
    kind: str, scale: float, tiny_model: GetModel, plain: Callable[[str], Outputs], lora: Callable[[str], Path]
) -> None:
    model = tiny_model(kind)
    ours = load_f32(model, (lora(kind), scale))
    assert_equal(outputs(ours), reference_outputs(with_lora(model, lora(kind), scale), ours), but_not=plain(kind))
    assert ours.loras == ((kind, scale),)
    assert f" + {kind} ({scale:g})" in ours.describe()


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_whole_picture(kind: str, tiny_model: GetModel, lora: Callable[[str], Path]) -> None:
    model = tiny_model(kind)
    drawn = draw(load_f32(model, (lora(kind), 0.8)), sampler="ddim", num_steps=4, guidance_scale=3.0)
    wishes: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 64, "width": 64}
    theirs = draw_reference(with_lora(model, lora(kind), 0.8), scheduler_like(model, "ddim", None), **wishes)
    assert_alike(drawn, theirs)


@pytest.mark.parametrize(("kind", "metadata"), [("sd1", False), ("sd1", True), ("sd2", True)])
def test_every_kind_of_layer(
    kind: str, metadata: bool, tiny_model: GetModel, plain: Callable[[str], Outputs], tmp_path: Path
) -> None:
    """1x1 and 3x3 convolutions, linear layers, other ranks and alphas for some of them."""
    model = tiny_model(kind)
    trained = copy_of(model)
    patterns: dict[str, Any] = {}
    if metadata:
        rank = {"^down_blocks.0.resnets.0.conv1": 3, "attn2.to_k": 7}
        patterns = {"rank_pattern": rank, "alpha_pattern": {"^down_blocks.0.resnets.0.conv1": 1.5, "attn2.to_k": 20}}
    add_random_lora(trained.unet, EVERYTHING, **patterns)
    add_random_lora(trained.text_encoder, (*TEXT, "fc1", "fc2"), use_rslora=metadata)
    folder = save_by_diffusers(trained, tmp_path / "all", metadata=metadata)
    ours = load_f32(model, (folder, 1.0))
    assert_equal(outputs(ours), reference_outputs(with_lora(model, folder), ours), but_not=plain(kind))
    if metadata:
        assert_equal(outputs(ours), reference_outputs(trained, ours))


def test_two_at_once(tiny_model: GetModel, lora: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny_model("sd1")
    other = copy_of(model)
    add_random_lora(other.unet, ("conv1", "to_v"), rank=2, alpha=2)
    save_by_diffusers(other, tmp_path / "other")
    ours = load_f32(model, (lora("sd1"), 0.5), (tmp_path / "other", 1.5))
    theirs = copy_of(model)
    theirs.load_lora_weights(str(lora("sd1")), adapter_name="one")
    theirs.load_lora_weights(str(tmp_path / "other"), adapter_name="two")
    theirs.set_adapters(["one", "two"], [0.5, 1.5])
    assert_equal(outputs(ours), reference_outputs(theirs, ours))
    assert ours.loras == (("sd1", 0.5), ("other", 1.5))


@pytest.mark.parametrize("text", ["to_q_lora", "lora_linear_layer"])
def test_old_files_of_diffusers(text: str, tiny_model: GetModel, lora: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny_model("sd1")
    tensors = tensors_of(lora("sd1"))
    file = to_old_diffusers(tensors, tmp_path / "old.safetensors", text=text)
    ours = load_f32(model, (file, 1.0))
    assert_equal(outputs(ours), reference_outputs(with_lora(model, file), ours))
    assert_equal(outputs(ours), outputs(load_f32(model, (save_tensors(tensors, tmp_path / "new.safetensors"), 1.0))))


def test_the_oldest_files_name_no_network(tiny_model: GetModel, lora: Callable[[str], Path], tmp_path: Path) -> None:
    tensors = {key: t for key, t in tensors_of(lora("sd1")).items() if key.startswith("unet.")}
    old = to_old_diffusers(tensors, tmp_path / "old.safetensors", text="to_q_lora")
    bare = {key.removeprefix("unet."): tensor for key, tensor in load_file(old).items()}
    model = tiny_model("sd1")
    ours, theirs = (load_f32(model, (file, 1.0)) for file in (save_tensors(bare, tmp_path / "bare.safetensors"), old))
    assert_equal(outputs(ours), outputs(theirs))


def test_alphas_beside_the_tensors(tiny_model: GetModel, lora: Callable[[str], Path], tmp_path: Path) -> None:
    tensors = tensors_of(lora("sd1"))
    stems = {key.rsplit(".lora", 1)[0] for key in tensors}
    tensors |= {f"{stem}.alpha": torch.tensor([6.0]) for stem in stems}
    file = save_tensors(tensors, tmp_path / "a.safetensors")
    model = tiny_model("sd1")
    assert_equal(outputs(load_f32(model, (file, 1.0))), outputs(load_f32(model, (lora("sd1"), 1.0))))


def test_half_precision_files_and_models(tiny_model: GetModel, lora: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny_model("sd1")
    tensors = {key: tensor.half() for key, tensor in tensors_of(lora("sd1")).items()}
    file = save_tensors(tensors, tmp_path / "half.safetensors")
    wide = save_tensors({key: tensor.float() for key, tensor in tensors.items()}, tmp_path / "wide.safetensors")
    ours = load_f32(model, (file, 1.0))
    assert_equal(outputs(ours), outputs(load_f32(model, (wide, 1.0))))
    narrow = load(model.folder, device="cpu", dtype="bfloat16", loras=[(file, 1.0)]).unet.state_dict()
    base = load_f32(model).unet.state_dict()
    for key, weight in ours.unet.state_dict().items():
        rounded_twice = 2**-8 * (base[key].abs() + weight.abs()) + 1e-6
        assert narrow[key].dtype == torch.bfloat16
        assert ((narrow[key].float() - weight).abs() <= rounded_twice).all(), key


# --- files of kohya's scripts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "scale"), [("sd1", 1.0), ("sd1", 0.5), ("sd2", 1.0), ("sdxl", 1.0)])
def test_kohya(kind: str, scale: float, tiny_model: GetModel, lora: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny_model(kind)
    file = to_kohya(tensors_of(lora(kind)), tmp_path / "kohya.safetensors", alpha=6.0, sdxl=kind == "sdxl")
    ours = load_f32(model, (file, scale))
    assert_equal(outputs(ours), outputs(load_f32(model, (lora(kind), scale))))
    assert_equal(outputs(ours), reference_outputs(with_lora(model, file, scale), ours))
    assert ours.loras == (("kohya", scale),)


@pytest.mark.parametrize("targets", [ATTENTION, EVERYTHING])
def test_kohya_with_the_original_code_s_names(
    targets: tuple[str, ...], tiny_model: GetModel, plain: Callable[[str], Outputs], tmp_path: Path
) -> None:
    model = tiny_model("sdxl")
    targets = (
        (*targets, "time_emb_proj", "linear_1", "linear_2", "conv_in", "conv_out") if "conv" in targets else targets
    )
    folder = random_lora(model, tmp_path / "lora", targets)
    rename = ldm_renamer(model.reference.unet)
    file = to_kohya(tensors_of(folder), tmp_path / "ldm.safetensors", 6.0, rename, sdxl=True)
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in load_file(file)
    ours = load_f32(model, (file, 1.0))
    assert_equal(outputs(ours), outputs(load_f32(model, (folder, 1.0))), but_not=plain("sdxl"))
    if targets == ATTENTION:
        assert_equal(outputs(ours), reference_outputs(with_lora(model, file), ours))


# --- saved ------------------------------------------------------------------------------------------------------------


def randomize(pipeline: Pipeline) -> None:
    generator = torch.Generator().manual_seed(5)
    for network in pipeline.networks.values():
        for _, _, lora in attached(network):
            for parameter in lora.parameters():
                parameter.data.normal_(std=(0.2 / parameter[0].numel()) ** 0.5, generator=generator)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_the_reference_loads_what_is_saved(kind: str, tiny_model: GetModel, tmp_path: Path) -> None:
    model = tiny_model(kind)
    ours = load_f32(model)
    before = outputs(ours)
    for name, network in ours.networks.items():
        attach_lora(network, 4, 7.5, OUR_ATTENTION if name == "unet" else TEXT_ATTENTION)
    randomize(ours)
    file = save_lora(tmp_path / "lora", ours.networks)
    assert file == tmp_path / "lora" / NAME
    keys = load_file(file)
    assert all(key.split(".")[0] in ours.networks for key in keys)
    assert any(key.startswith("unet.") and key.endswith("to_out.0.lora_A.weight") for key in keys)
    assert_equal(outputs(ours), reference_outputs(with_lora(model, tmp_path / "lora"), ours), but_not=before)
    half = reference_outputs(with_lora(model, tmp_path / "lora", 0.5), ours)
    assert_equal(outputs(load_f32(model, (file, 0.5))), half)


@pytest.mark.parametrize("text", [TEXT_FEED_FORWARD, (*TEXT_ATTENTION, *TEXT_FEED_FORWARD)])
def test_layers_of_different_ranks_are_saved(text: tuple[str, ...], tiny_model: GetModel, tmp_path: Path) -> None:
    model = tiny_model("sd1")
    trained = copy_of(model)
    pattern = {"rank_pattern": {"attn2.to_k": 7, "conv1": 2}, "alpha_pattern": {"attn2.to_k": 20, "conv2": 3}}
    add_random_lora(trained.unet, EVERYTHING, **pattern)
    add_random_lora(trained.text_encoder, text, rank=3, alpha=3)
    folder = save_by_diffusers(trained, tmp_path / "first") if "q_proj" in text else None
    ours = load_f32(model)
    if folder is None:
        attach_lora(ours.unet, 3, 5, (*CONVOLUTIONS, *FEED_FORWARD))
        attach_lora(ours.text_encoders[0], 2, 5, text)
        randomize(ours)
    else:
        load_lora(folder, ours.networks)
    save_lora(tmp_path / "again.safetensors", ours.networks)
    theirs = with_lora(model, tmp_path / "again.safetensors")
    assert_equal(outputs(ours), reference_outputs(theirs, ours))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    attach_lora(pipeline.unet, 3, 2.0)
    randomize(pipeline)
    state = lora_state(pipeline.unet)
    file = save_lora(tmp_path / "new" / "x.safetensors", pipeline.networks)
    assert [path.name for path in file.parent.iterdir()] == ["x.safetensors"], "no drafts stay behind"
    assert file.stat().st_mode & 0o777 == 0o644
    detach_lora(pipeline.unet)
    assert load_lora(file, pipeline.networks, 0.5) == "x"
    again = lora_state(pipeline.unet)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())
    assert {(lora.rank, lora.alpha, lora.scale) for _, _, lora in attached(pipeline.unet)} == {(3, 2.0, 0.5)}
    assert all(p.requires_grad for _, _, lora in attached(pipeline.unet) for p in lora.parameters()), "to train on"


def test_saving_is_refused_or_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = toy_pipeline()
    with pytest.raises(CheckpointError, match="no LoRA is attached"):
        save_lora(tmp_path, pipeline.networks)
    attach_lora(pipeline.unet)
    file = save_lora(tmp_path, pipeline.networks)
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match="exists already: choose another name, or overwrite=True"):
        save_lora(tmp_path, pipeline.networks)
    randomize(pipeline)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stablediff.checkpoints.lora.save_file", full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*nothing that was there is lost"):
            save_lora(tmp_path, pipeline.networks, overwrite=True)
    assert file.read_bytes() == before
    save_lora(tmp_path, pipeline.networks, overwrite=True)
    assert file.read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot save .*choose another place"):
        save_lora(tmp_path / "file" / "x", pipeline.networks)

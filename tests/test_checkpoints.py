"""Checkpoints of every kind and layout, written by the reference libraries, are loaded to the last bit."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from children import in_child, memory_to_load
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from ldm import Tensors, ldm_unet
from safetensors.torch import load_file
from tiny import KINDS, TinyModel, save_tensors, write_old_tokenizer
from torch import nn

from stablediff import Pipeline, load
from stablediff.checkpoints.detect import detect_single_file
from stablediff.checkpoints.locate import locate
from stablediff.checkpoints.settings import read_model_config
from stablediff.checkpoints.tensors import SafetensorsSource
from stablediff.config import ModelConfig
from stablediff.errors import CheckpointError, DeviceError

GetModel = Callable[[str], TinyModel]


def load_f32(path: Path, **options: Any) -> Pipeline:
    return load(path, device="cpu", dtype="float32", **options)


def assert_equal(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key


def tensors_of(model: nn.Module) -> Tensors:
    """Without the prefix that transformers gives text towers with a projection, and no others."""
    return {key.removeprefix("text_model."): tensor for key, tensor in model.state_dict().items()}


def reference_parts(model: TinyModel) -> dict[str, nn.Module]:
    names = ("text_encoder", "text_encoder_2", "unet", "vae")
    return {name: getattr(model.reference, name) for name in names if hasattr(model.reference, name)}


def assert_loaded(pipeline: Pipeline, model: TinyModel, stored: torch.dtype = torch.float32) -> None:
    """Every tensor is the reference's, as far as `stored` keeps it."""
    ours = dict(zip(("text_encoder", "text_encoder_2"), pipeline.text_encoders, strict=False))
    ours |= {"unet": pipeline.unet, "vae": pipeline.vae}
    theirs = reference_parts(model)
    assert ours.keys() == theirs.keys()
    for name, part in ours.items():
        assert_equal(part.state_dict(), {key: t.to(stored).float() for key, t in tensors_of(theirs[name]).items()})


# --- single files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_names_in_our_single_files_are_those_that_the_reference_reads(kind: str, tiny_model: GetModel) -> None:
    parts = reference_parts(tiny_model(kind))
    unet, vae, text = parts["unet"], parts["vae"], parts["text_encoder"]
    file = load_file(tiny_model(kind).file)
    assert_equal(convert_ldm_unet_checkpoint(file, unet.config), unet.state_dict())
    assert_equal(convert_ldm_vae_checkpoint(file, vae.config), vae.state_dict())

    def without_prefix(tensors: Tensors) -> Tensors:
        return {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}

    if kind == "sd2":  # the reference leaves out the unused last layer by its number, which is 23
        converted = without_prefix(convert_open_clip_checkpoint(text, file))
        assert_equal({key: t for key, t in converted.items() if "layers.2." not in key}, tensors_of(text))
    else:
        converted = without_prefix(convert_ldm_clip_checkpoint(file))
        assert_equal({key: t for key, t in converted.items() if "position_ids" not in key}, tensors_of(text))
    if kind == "sdxl":
        second = parts["text_encoder_2"]
        converted = convert_open_clip_checkpoint(second, file, prefix="conditioner.embedders.1.model.")
        assert_equal(without_prefix(converted), tensors_of(second))


@pytest.mark.parametrize("kind", KINDS)
def test_single_file_gives_the_very_tensors_of_the_folder(kind: str, tiny_model: GetModel) -> None:
    pipeline = load_f32(tiny_model(kind).file)
    assert pipeline.config.kind == kind
    assert_loaded(pipeline, tiny_model(kind))


@pytest.mark.parametrize(("stored", "name"), [(torch.float16, "F16"), (torch.bfloat16, "BF16")])
def test_single_file_in_half_precision(stored: torch.dtype, name: str, tiny_model: GetModel, tmp_path: Path) -> None:
    model = tiny_model("sd2")
    file = {key: t.to(stored) if t.is_floating_point() else t for key, t in load_file(model.file).items()}
    pipeline = load_f32(save_tensors(file, tmp_path / "model.safetensors"))
    assert_loaded(pipeline, model, stored)
    assert pipeline.report.stored_dtype == name


@pytest.mark.parametrize("kind", KINDS)
def test_single_file_and_folder_are_configured_alike(kind: str, tiny_model: GetModel) -> None:
    def comparable(config: ModelConfig) -> ModelConfig:
        """Without what a file does not tell, and what changes nothing in float32."""
        return replace(
            config,
            unet=replace(config.unet, added_text_heads=0, upcast_attention=False),
            vae=replace(config.vae, force_upcast=False),
            schedule=replace(config.schedule, prediction_type="epsilon", spacing=None, set_alpha_to_one=False),
        )

    model = tiny_model(kind)
    single = detect_single_file(SafetensorsSource([model.file]))
    assert comparable(single) == comparable(read_model_config(model.folder))


@pytest.mark.parametrize("kind", KINDS)
def test_single_file_and_folder_read_prompts_alike(kind: str, tiny_model: GetModel) -> None:
    single, folder = load_f32(tiny_model(kind).file), load_f32(tiny_model(kind).folder)
    for ours, theirs in zip(single.tokenizers, folder.tokenizers, strict=True):
        assert ours.tokenize("A café's 3 cats — ネコ 🐈") == theirs.tokenize("A café's 3 cats — ネコ 🐈")
        assert ours.pad_id == theirs.pad_id


def test_what_a_single_file_holds_beyond_the_model_is_listed(tiny_model: GetModel) -> None:
    def dropped(kind: str) -> set[str]:
        return set(load_f32(tiny_model(kind).file).report.dropped)

    constants = {"alphas_cumprod", "betas", "sqrt_one_minus_alphas_cumprod", "posterior_mean_coef1"}
    constants |= {"model_ema.decay", "model_ema.num_updates", "model_ema.diffusion_modeltime_embed0weight"}
    assert dropped("sd1") == constants | {"cond_stage_model.transformer.text_model.embeddings.position_ids"}
    assert dropped("sdxl") == {
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
        "conditioner.embedders.1.model.logit_scale",
    }
    last_layer = "cond_stage_model.model.transformer.resblocks.2."
    sd2 = dropped("sd2")
    assert {key for key in sd2 if not key.startswith(last_layer)} == constants | {
        "cond_stage_model.model.text_projection",
        "cond_stage_model.model.logit_scale",
    }
    assert len({key for key in sd2 if key.startswith(last_layer)}) == 12


def test_leftovers_that_other_programs_write_are_no_obstacle(tiny_model: GetModel, tmp_path: Path) -> None:
    file = load_file(tiny_model("sd1").file)
    leftovers = {
        "cond_stage_model.logit_scale": torch.tensor(4.6),
        "cond_stage_model.text_projection": torch.zeros(64, 64),
        "cond_stage_model.transformer.text_projection.weight": torch.zeros(64, 64),
        "first_stage_model.loss.logvar": torch.zeros(1),
        "scale_factor": torch.tensor(0.18215),
    }
    pipeline = load_f32(save_tensors(file | leftovers, tmp_path / "merged.safetensors"))
    assert set(pipeline.report.dropped) >= leftovers.keys()
    assert_loaded(pipeline, tiny_model("sd1"))


def test_sd1_file_without_the_text_prefix(tiny_model: GetModel, tmp_path: Path) -> None:
    """Files from before transformers 4.20 or so have none, and many merges descend from them."""
    prefix = "cond_stage_model.transformer."
    file = {
        key.replace(f"{prefix}text_model.", prefix): tensor for key, tensor in load_file(tiny_model("sd1").file).items()
    }
    assert_loaded(load_f32(save_tensors(file, tmp_path / "old.safetensors")), tiny_model("sd1"))


@pytest.mark.parametrize(("spread", "prediction"), [(0.05, "epsilon"), (0.2, "v_prediction")])
def test_sd2_prediction_type_is_read_off_a_norm(
    spread: float, prediction: str, tiny_model: GetModel, tmp_path: Path
) -> None:
    key = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    file = load_file(tiny_model("sd2").file) | {key: torch.linspace(-1, 1, 64) * spread * 3**0.5}
    path = save_tensors(file, tmp_path / "model.safetensors")
    config = detect_single_file(SafetensorsSource([path]))
    assert config.schedule.prediction_type == prediction
    assert config.unet.upcast_attention  # SD 2.1's products overflow in float16


def test_prediction_type_can_be_told(tiny_model: GetModel, tmp_path: Path) -> None:
    flags = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    flagged = save_tensors(load_file(tiny_model("sdxl").file) | flags, tmp_path / "flagged.safetensors")
    schedule = load_f32(flagged).config.schedule
    assert (schedule.prediction_type, schedule.rescale_zero_snr) == ("v_prediction", True)
    told = load_f32(tiny_model("sd1").file, prediction_type="v_prediction")
    assert told.config.schedule.prediction_type == "v_prediction"


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "lcm", "inpaint"])
def test_folder_gives_the_references_tensors(kind: str, tiny_model: GetModel) -> None:
    pipeline = load_f32(tiny_model(kind).folder)
    assert pipeline.config.kind == (kind if kind in KINDS else "sd1")
    assert pipeline.report.dropped == ()
    assert_loaded(pipeline, tiny_model(kind))


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [None, "3MB"])
def test_folder_in_half_precision_and_in_shards(
    variant: str | None, shards: str | None, tiny_model: GetModel, tmp_path: Path
) -> None:
    model = tiny_model("sd1")
    options = {"max_shard_size": shards} if shards else {}
    for name, part in reference_parts(model).items():
        part.half()
        part.save_pretrained(tmp_path / name, variant=variant, **options)
        part.float()
        part.load_state_dict(load_f32_tensors(model.folder / name))
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(model.folder / name, tmp_path / name)
    shutil.copy(model.folder / "model_index.json", tmp_path)
    weights = list(tmp_path.glob("unet/*.safetensors"))
    assert (len(weights) > 1) == bool(shards)
    assert all(("fp16" in path.name) == (variant == "fp16") for path in weights)
    pipeline = load_f32(tmp_path)
    assert_loaded(pipeline, model, torch.float16)
    assert pipeline.report.stored_dtype == "F16"


def load_f32_tensors(folder: Path) -> Tensors:
    return load_file(next(folder.glob("*.safetensors")))


def test_full_precision_is_preferred_to_float16(copied: Path, tiny_model: GetModel) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    save_tensors({key: t.half() for key, t in load_file(weights).items()}, weights.with_suffix(".fp16.safetensors"))
    assert_loaded(load_f32(copied), tiny_model("sd1"))


def test_folder_as_old_libraries_wrote_it(copied: Path, tiny_model: GetModel) -> None:
    """Other names in the autoencoder's attention, a prefix on the text tower, and a tokenizer in two files."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = copied / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(vae)
    for ours, theirs in old.items():
        tensors = {key.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}."): t for key, t in tensors.items()}
    assert sum("proj_attn" in key for key in tensors) == 4
    save_tensors(tensors, vae)
    text = copied / "text_encoder" / "model.safetensors"
    position_ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_tensors({f"text_model.{key}": t for key, t in load_file(text).items()} | position_ids, text)
    write_old_tokenizer(copied / "tokenizer", pad_token={"content": "!", "lstrip": False})

    pipeline = load_f32(copied)
    assert_loaded(pipeline, tiny_model("sd1"))
    assert pipeline.report.dropped == ("text_model.embeddings.position_ids",)
    new = load_f32(tiny_model("sd1").folder)
    # "!" fills up, and still is a word where it was written.
    assert pipeline.tokenizers[0].tokenize("two cats!") == new.tokenizers[0].tokenize("two cats!")
    assert (pipeline.tokenizers[0].pad_id, new.tokenizers[0].pad_id) == (0, 49407)


def test_a_folder_is_found_by_its_index_file_and_by_a_former_name(copied: Path) -> None:
    assert locate(str(copied / "model_index.json")).path == copied
    former = copied.with_name("model.previous")
    copied.rename(former)
    assert locate(str(copied)).path == former


def test_models_of_ones_own_are_named_after_their_runs(copied: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for run, name in (("one", "one"), ("other", "other"), ("sticker", "model")):  # the bundled one's name is its own
        shutil.copytree(copied, runs / run / "model")
        assert locate(str(runs / run / "model")).name == name
        assert locate(str(runs / run)) == locate(str(runs / run / "model"))  # the run will do
    assert locate(str(runs / "one" / "model" / "model_index.json")).name == "one"
    (runs / "one" / "model").rename(runs / "one" / "model.previous")
    assert locate(str(runs / "one" / "model")).name == "one"
    assert locate(str(runs / "one")).path == runs / "one" / "model.previous"
    (runs / "other" / "model").rename(runs / "other" / "mine")
    assert locate(str(runs / "other" / "mine")).name == "mine"
    assert locate("sticker").name == "sticker"


# --- strictness -------------------------------------------------------------------------------------------------------


def test_missing_unexpected_and_misshapen_tensors_of_a_file_are_named(tiny_model: GetModel, tmp_path: Path) -> None:
    whole = load_file(tiny_model("sd1").file)
    path = tmp_path / "model.safetensors"
    key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"

    save_tensors({k: t for k, t in whole.items() if k != key}, path)
    with pytest.raises(CheckpointError, match=r"lacks mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"):
        load_f32(path)
    save_tensors(whole | {key: whole[key][:, :-1]}, path)
    with pytest.raises(CheckpointError, match=rf"wrong shape: {key} \[64, 63\], not \[64, 64\]"):
        load_f32(path)
    for extra in ("model.diffusion_model.middle_block.3.weight", "cond_stage_model.extra", "other"):
        save_tensors(whole | {extra: torch.zeros(2)}, path)
        with pytest.raises(CheckpointError, match=f"unknown: {extra}"):
            load_f32(path)
    save_tensors(whole | {key: whole[key].to(torch.int32)}, path)
    with pytest.raises(CheckpointError, match=f"{key} holds .*int32"):
        load_f32(path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_unexpected_and_misshapen_tensors_of_a_folder_are_named(part: str, copied: Path) -> None:
    path = next((copied / part).glob("*.safetensors"))
    whole = load_file(path)
    key = max(whole, key=len)

    save_tensors({k: t for k, t in whole.items() if k != key}, path)
    with pytest.raises(CheckpointError, match=f"{part} does not hold.*lacks {key}"):
        load_f32(copied)
    save_tensors(whole | {key: whole[key][:-1]}, path)
    with pytest.raises(CheckpointError, match=f"{part} .*wrong shape: {key}"):
        load_f32(copied)
    save_tensors(whole | {"extra": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=f"{part} .*unknown: extra"):
        load_f32(copied)


def test_a_transposed_matrix_is_not_taken_for_the_right_one(copied: Path) -> None:
    """The sizes agree as numbers of elements, and even as a set; the order must too."""
    path = copied / "unet" / "diffusion_pytorch_model.safetensors"
    whole = load_file(path)
    key = "time_embedding.linear_1.weight"
    save_tensors(whole | {key: whole[key].T}, path)
    with pytest.raises(CheckpointError, match=rf"{key} \[32, 128\], not \[128, 32\]"):
        load_f32(copied)


def test_index_of_shards_must_stay_in_its_folder(copied: Path) -> None:
    path = copied / "text_encoder" / "model.safetensors"
    outside = path.rename(copied.parent / "outside.safetensors")
    index = path.with_name("model.safetensors.index.json")
    for name in ("../../outside.safetensors", str(outside), "missing.safetensors", "", ".", "..", "config.json/.."):
        index.write_text(json.dumps({"weight_map": {"final_layer_norm.weight": name}}))
        with pytest.raises(CheckpointError, match=r"index.json names files that are not beside it"):
            load_f32(copied)
    for text in ('{"weight_map": {}}', '{"weight_map": []}', "{}"):
        index.write_text(text)
        with pytest.raises(CheckpointError):
            load_f32(copied)


# --- device, precision and memory -------------------------------------------------------------------------------------


def test_precision_is_what_was_asked_for(tiny_model: GetModel) -> None:
    pipeline = load(tiny_model("sd1").folder, device="cpu", dtype="bf16")
    for part in (*pipeline.text_encoders, pipeline.unet, pipeline.vae):
        assert {p.dtype for p in part.parameters()} == {torch.bfloat16}
    reference = tiny_model("sd1").reference.unet.state_dict()
    assert_equal(pipeline.unet.state_dict(), {key: t.bfloat16() for key, t in reference.items()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu", "dtype": "float16"}, "float16 is .* slower"),
        ({"device": "cpu", "dtype": "float8"}, "'float8' is not known: choose one of"),
        ({"device": "tpu"}, "'tpu' is not known"),
        ({"device": "meta"}, "'meta' is not supported"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
    ],
)
def test_what_cannot_be_computed_here_is_refused_before_loading(options: dict[str, str], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        load("/nowhere", **options)


def test_loading_takes_little_more_memory_than_the_model(tiny_model: GetModel, tmp_path: Path) -> None:
    """A float16 file of about 300 MB becomes float32: tensors are converted one at a time."""
    widths = (256, 448, 640)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=widths,
            cross_attention_dim=64,
            down_block_types=["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"],
            up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2,
        )
    file = load_file(tiny_model("sd1").file)
    file = {key: t for key, t in file.items() if not key.startswith("model.diffusion_model.")}
    for key, tensor in ldm_unet(unet.state_dict()).items():
        file[f"model.diffusion_model.{key}"] = torch.full(tensor.shape, 0.5, dtype=torch.float16)
    path = save_tensors({key: t.half() for key, t in file.items()}, tmp_path / "model.safetensors")
    assert 250e6 < path.stat().st_size < 350e6
    del file

    grown, loaded, largest = in_child(memory_to_load, str(path), str(tiny_model("sd1").file))
    margin = 80 * 2**20  # 64 MiB of the file are mapped at a time
    assert loaded <= grown + margin
    assert grown <= loaded + largest + margin

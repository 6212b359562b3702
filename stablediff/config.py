"""Sizes and constants of every part, as frozen dataclasses: a toy model and SDXL differ in nothing else."""

from dataclasses import dataclass, field
from typing import Literal, get_args

PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]
Quality = Literal["draft", "balanced", "best"]
QUALITIES: tuple[str, ...] = get_args(Quality)


@dataclass(frozen=True)
class CLIPConfig:
    """A CLIP text tower (Radford et al. 2021, arXiv:2103.00020). The defaults are CLIP ViT-L/14, used by SD 1.x."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    max_length: int = 77
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_size: int | None = None
    eos_token_id: int = 49407
    # Which layer's output conditions the U-Net: the last one (SD 1.x, 2.x) or the one before it (SDXL),
    # and whether the final layer norm is applied to it (not in SDXL).
    context_layer: int = -1
    context_norm: bool = True


@dataclass(frozen=True)
class UNetConfig:
    """The denoising U-Net (Rombach et al. 2022, arXiv:2112.10752). The defaults are SD 1.x.

    Tuples have one entry a resolution level, finest first. `transformer_depth` counts transformer blocks after each
    residual block; 0 means that the level has no attention.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    num_resnets: int = 2
    transformer_depth: tuple[int, ...] = (1, 1, 1, 0)
    mid_transformer_depth: int = 1
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    context_dim: int = 768
    linear_projection: bool = False
    upcast_attention: bool = False
    norm_groups: int = 32
    norm_eps: float = 1e-5
    # What joins the time embedding: nothing, the prompt pooled by attention ("text", the bundled model),
    # or the pooled prompt and the picture's sizes ("text_time", SDXL).
    added_conditioning: Literal["none", "text", "text_time"] = "none"
    added_text_heads: int = 4
    added_size_dim: int = 256
    added_input_dim: int = 2816
    # LCM checkpoints take the guidance scale as an input, embedded in this many numbers.
    guidance_embedding_dim: int | None = None


@dataclass(frozen=True)
class VAEConfig:
    """The KL-regularised autoencoder (Rombach et al. 2022, section 3.1). The defaults are SD 1.x and 2.x."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    num_resnets: int = 2
    norm_groups: int = 32
    mid_attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True
    scaling_factor: float = 0.18215
    # SDXL's stock autoencoder overflows in float16.
    force_upcast: bool = False
    # Pixels are folded into channels in blocks of this side before the first convolution.
    patch_size: int = 1

    @property
    def downscale(self) -> int:
        """Side in pixels of one latent cell."""
        return self.patch_size * 2 ** (len(self.channels) - 1)

    @property
    def image_channels(self) -> int:
        """Channels of a picture: 3 (RGB) or 4 (RGB over white, and alpha)."""
        return self.out_channels // self.patch_size**2


@dataclass(frozen=True)
class ScheduleConfig:
    """The forward process, and how a sampler walks back along it. The defaults are SD 1.x."""

    num_train_timesteps: int = 1000
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction_type: PredictionType = "epsilon"
    rescale_zero_snr: bool = False
    # None: each sampler's own habit.
    spacing: TimestepSpacing | None = None
    steps_offset: int = 1
    # DDIM ends at sigma = 0 if true, at the smallest training sigma if not.
    set_alpha_to_one: bool = False


@dataclass(frozen=True)
class Defaults:
    """What a request gets where it leaves the choice to the model."""

    num_steps: int = 20
    guidance_scale: float = 7.5
    sampler: str = "dpmpp_2m"
    width: int = 512
    height: int = 512
    strength: float = 0.75  # of the change, for a picture that starts from another one


Kind = Literal["sd1", "sd2", "sdxl", "custom"]


@dataclass(frozen=True)
class ModelConfig:
    """A whole model. `text_encoders` has two entries for SDXL, one otherwise."""

    kind: Kind = "sd1"
    text_encoders: tuple[CLIPConfig, ...] = (CLIPConfig(),)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    defaults: Defaults = field(default_factory=Defaults)
    # SDXL was trained with zeros, not with the encoding of "", as the empty negative prompt.
    zero_empty_negative: bool = False


OPENCLIP_H = CLIPConfig(
    hidden_size=1024, intermediate_size=4096, num_layers=23, num_heads=16, activation="gelu"
)  # SD 2.x conditions on the penultimate of 24 layers, so the last one is never built.

OPENCLIP_BIGG = CLIPConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_layers=32,
    num_heads=20,
    activation="gelu",
    projection_size=1280,
    context_layer=-2,
    context_norm=False,
)

SD1 = ModelConfig()

SD2 = ModelConfig(
    kind="sd2",
    text_encoders=(OPENCLIP_H,),
    unet=UNetConfig(num_heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True),
)

SDXL = ModelConfig(
    kind="sdxl",
    text_encoders=(CLIPConfig(context_layer=-2, context_norm=False), OPENCLIP_BIGG),
    unet=UNetConfig(
        channels=(320, 640, 1280),
        transformer_depth=(0, 2, 10),
        mid_transformer_depth=10,
        num_heads=(5, 10, 20),
        context_dim=2048,
        linear_projection=True,
        added_conditioning="text_time",
    ),
    vae=VAEConfig(scaling_factor=0.13025, force_upcast=True),
    defaults=Defaults(num_steps=25, guidance_scale=6.0, width=1024, height=1024),
    zero_empty_negative=True,
)

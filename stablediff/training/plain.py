"""What can be learnt from here: a model that draws from a prompt, and knows of guidance nothing but its scale."""

from stablediff.errors import ConfigError
from stablediff.pipeline import Pipeline


def check_plain(pipeline: Pipeline, done: str) -> None:
    """Raises ConfigError for any other; `done` is what is not done with it, as "trained"."""
    unet = pipeline.config.unet
    if unet.in_channels != pipeline.config.vae.latent_channels:
        what = "inpainting" if pipeline.takes_mask else "editing or scaling up"
        raise ConfigError(f"{pipeline.name} is made for {what}, which is not {done} here: choose its base model")
    if unet.guidance_embedding_dim is not None:
        raise ConfigError(
            f"{pipeline.name} takes its guidance scale as an input, so it is distilled already: choose its base model"
        )

"""A request as this model draws it: qualities and budgets become steps, and what is open is the model's choice."""

from stablediff.errors import OutOfMemoryError, RequestError
from stablediff.fallback import is_out_of_memory
from stablediff.pace.budget import fit
from stablediff.pace.presets import apply_preset, preset_for
from stablediff.pace.speed import Speed
from stablediff.pipeline import Pipeline
from stablediff.request import Request, ResolvedRequest


def resolve(request: Request, pipeline: Pipeline, speed: Speed | None) -> tuple[ResolvedRequest, list[str]]:
    """Fills in the model's choices (and a note about them), and refuses what this model cannot do."""
    config = pipeline.config
    if config.unet.in_channels != config.vae.latent_channels and not pipeline.takes_mask:
        raise RequestError(
            f"this model's U-Net takes {config.unet.in_channels} channels (it edits by instruction or scales up, "
            "perhaps): choose a text-to-image or inpainting model"
        )
    notes = []
    if request.quality is not None:
        request = apply_preset(request, preset_for(request.quality, pipeline))
    if request.time_budget_s is not None and speed is not None:
        try:
            choice = fit(request, pipeline, speed)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError("memory ran out while this machine was measured: choose a smaller size") from error
        request, notes = choice.request, [choice.note]
    return request.resolve(config.defaults, config.schedule.spacing), notes

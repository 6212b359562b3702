"""The page's one public call, for programs: docs/api.md."""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from stablediff.errors import StableDiffError
from stablediff.request import Request
from stablediff.web import lenient, wish
from stablediff.web.desk import Work
from stablediff.web.shelf import drawn, written
from stablediff.web.studio import Studio


def make_api(studio: Studio) -> None:
    """/generate, behind no control: its parameters stay when the page's controls change."""
    defaults = studio.models.current.config.defaults

    async def generate(
        visitor: gr.Request,
        prompt: str,
        negative_prompt: str = "",
        steps: float = defaults.num_steps,
        guidance: float = defaults.guidance_scale,
        sampler: str = defaults.sampler,
        schedule: str = "",
        size: str = f"{defaults.width}x{defaults.height}",
        seed: str = "",
        pictures: float = 1,
    ) -> AsyncIterator[tuple[list[str], list[str], list[str]]]:
        """Draw pictures of what a prompt says. A picture takes seconds to minutes, and jobs wait for their turn.

        Args:
            prompt: What to draw, in words that the model knows: the bundled one knows English and Russian, many
                others English alone. (word:1.3) and [word] weigh words.
            negative_prompt: What to steer away from.
            steps: Denoising steps: more take longer and draw finer.
            guidance: How closely to follow the prompt; 1 is not at all.
            sampler: One of euler, euler_ancestral, ddim, ddpm, heun, dpmpp_2m, dpmpp_sde, unipc and lcm.
            schedule: Noise schedule, such as karras or trailing; empty for the model's own.
            size: Width x height in pixels, multiples of 8, such as 512x768.
            seed: A whole number, as text; empty for chance. The same seed draws the same picture.
            pictures: How many.

        Returns:
            PNG files that carry their recipes, the recipes as texts, and notes: what was done otherwise than it was
            asked for, and words that the model has not learnt.
        """
        values: dict[str, Any] = {
            "prompt": prompt,
            "negative": negative_prompt,
            "steps": steps,
            "guidance": guidance,
            "sampler": sampler,
            "spacing": schedule,
            "size": size,
            "seed": seed,
            "count": pictures,
        }
        try:
            request: Request = wish.to_request(values, studio.models.current, studio.limits)
            job = studio.submit(visitor, Work(studio.models.name, (request,)))
            async for _ in studio.desk.watch(job):
                yield [], [], []  # whoever has gone asks for no more
            if job.error is not None:
                raise job.error
        except StableDiffError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finished = drawn(job.results)
        with written(finished) as paths:
            notes = dict.fromkeys(note for result in job.results for note in result.notes)
            yield paths, [picture.recipe for picture in finished], list(notes)

    texts = [gr.Textbox(value, visible=False) for value in ("", "")]
    numbers = [lenient.Number(value, visible=False) for value in (defaults.num_steps, defaults.guidance_scale)]
    size = f"{defaults.width}x{defaults.height}"
    more = [gr.Textbox(value, visible=False) for value in (defaults.sampler, "", size, "")]
    count = lenient.Number(1, visible=False)
    gr.Button(visible=False).click(
        generate,
        [*texts, *numbers, *more, count],
        [gr.File(file_count="multiple", visible=False), gr.JSON(visible=False), gr.JSON(visible=False)],
        api_name="generate",
        concurrency_limit=256,
    )

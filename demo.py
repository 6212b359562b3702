"""The page: `python demo.py` (or `make demo`), then open the address that it prints."""

import argparse
import os
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from stablediff import StableDiffError, load
from stablediff.checkpoints.locate import DEFAULT_MODEL
from stablediff.web.page import CSS, build_page


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve the stablediff page.")
    parser.add_argument("--model", default=os.environ.get("STABLEDIFF_MODEL", DEFAULT_MODEL), help="as in generate")
    parser.add_argument("--device", default=os.environ.get("STABLEDIFF_DEVICE"), help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--dtype", default=os.environ.get("STABLEDIFF_DTYPE"), help="auto, float32, bfloat16 or float16"
    )
    parser.add_argument("--host", default=None, help="address to listen at (GRADIO_SERVER_NAME; this machine only)")
    parser.add_argument("--port", type=int, default=None, help="port (GRADIO_SERVER_PORT; the first free from 7860)")
    arguments = parser.parse_args()
    try:
        pipeline = load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    except StableDiffError as error:
        print(f"stablediff: {error}", file=sys.stderr)
        return 2
    print(pipeline.describe())
    build_page(pipeline).queue(max_size=32).launch(
        server_name=arguments.host,
        server_port=arguments.port,
        css=CSS,
        strict_cors=True,
        ssr_mode=False,
        max_file_size="10mb",
        footer_links=[],
        run_history=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The page: `python demo.py` (or `make demo`), then open the address that it prints."""

import argparse
import os
import signal
import sys
from functools import partial

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever leaves while it loads needs no traceback
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from stablediff import StableDiffError, load
from stablediff.checkpoints.locate import DEFAULT_MODEL
from stablediff.errors import one_line
from stablediff.request import Limits
from stablediff.web.archive import Archive
from stablediff.web.lent import is_lent
from stablediff.web.page import build_page
from stablediff.web.serving import launch_options, read_repository


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve the stablediff page.")
    parser.add_argument("--model", default=os.environ.get("STABLEDIFF_MODEL", DEFAULT_MODEL), help="as in generate")
    parser.add_argument("--device", default=os.environ.get("STABLEDIFF_DEVICE"), help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--dtype", default=os.environ.get("STABLEDIFF_DTYPE"), help="auto, float32, bfloat16, float16 or int8"
    )
    parser.add_argument("--host", default=None, help="address to listen at (GRADIO_SERVER_NAME; this machine only)")
    parser.add_argument("--port", type=int, default=None, help="port (GRADIO_SERVER_PORT; the first free from 7860)")
    arguments = parser.parse_args()
    try:
        limits, archive, options = Limits.from_environment(), Archive.from_environment(), launch_options()
        repository = read_repository()
        loader = partial(load, device=arguments.device, dtype=arguments.dtype)
        pipeline = loader(arguments.model)
    except StableDiffError as error:
        print(f"stablediff: {one_line(str(error))}", file=sys.stderr)
        return 2
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        parser.error(f"--port is {arguments.port}: choose 1 to 65535")
    others = [name.strip() for name in os.environ.get("STABLEDIFF_MODELS", "").split(",")]
    models = [arguments.model, *filter(None, others)]
    if is_lent():  # a GPU that comes and goes has what was loaded before the page was served
        models = models[:1]
    print(pipeline.describe())
    page = build_page(
        pipeline, models=models, limits=limits, loader=loader, archive=archive, repository=repository
    ).queue()
    del pipeline  # when another model is chosen, nothing may hold on to this one
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 0
    try:
        page.launch(server_name=arguments.host, server_port=arguments.port, **options)
    except OSError as error:  # the port is taken, or there is no such address
        print(f"stablediff: {error}", file=sys.stderr, flush=True)
        code = 2
    sys.stdout.flush()
    os._exit(code)  # the page's worker may be in the middle of a picture, and would break an orderly end


if __name__ == "__main__":
    sys.exit(main())

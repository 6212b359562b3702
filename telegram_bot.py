"""The Telegram bot: `TELEGRAM_BOT_TOKEN=... python telegram_bot.py` (or `make bot`), then write to it."""

import signal
import sys
from contextlib import closing

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the bot listens: whoever leaves before needs no traceback

from stablediff.errors import StableDiffError
from stablediff.telegram.logs import start_log
from stablediff.telegram.options import read_options, without_tokens


def main() -> int:
    try:
        options = read_options()
        start_log((options.token, options.webhook_secret), options.log_level)

        # Only now, because these take their time.
        from telegram.error import InvalidToken

        from stablediff.pipeline import load
        from stablediff.telegram.bot import run
        from stablediff.telegram.desk import log
        from stablediff.telegram.store import Store

        try:
            with closing(Store(options.data)) as store:
                pipeline = load(options.model, device=options.device, dtype=options.dtype)
                log.info("%s", pipeline.describe())
                run(options, pipeline, store)
        except InvalidToken:  # whose text has the token in it
            print("stablediff: Telegram does not know this token: ask https://t.me/BotFather", file=sys.stderr)
            return 2
    except StableDiffError as error:
        print(f"stablediff: {without_tokens(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

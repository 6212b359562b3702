"""The Telegram bot: a chat in front of `stablediff.generate.generate`."""

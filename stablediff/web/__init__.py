"""The Gradio page that `demo.py` serves."""

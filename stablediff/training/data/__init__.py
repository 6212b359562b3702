"""What to learn from: open-licensed icons made into captioned scenes, or a folder of one's own pictures."""

from stablediff.training.data.captions import caption
from stablediff.training.data.folder import FolderPictures
from stablediff.training.data.icons import Icon, Icons
from stablediff.training.data.pictures import IconScenes, Pictures
from stablediff.training.data.scenes import Item, Sampler, Scene, SceneRecipe, render_scene, sample_scene
from stablediff.training.data.split import Split, make_split, read_split

__all__ = [
    "FolderPictures",
    "Icon",
    "IconScenes",
    "Icons",
    "Item",
    "Pictures",
    "Sampler",
    "Scene",
    "SceneRecipe",
    "Split",
    "caption",
    "make_split",
    "read_split",
    "render_scene",
    "sample_scene",
]

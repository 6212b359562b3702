"""The page's events, called as a program would that does not care what the controls allow."""

import io
import json
import re
import uuid
from html import unescape
from typing import Any

import httpx
from PIL import Image


class Raw:
    """Speaks to a served page. Controls are named by their ids."""

    def __init__(self, address: str) -> None:
        self.client = httpx.Client(base_url=address, timeout=300)
        config = self.client.get("config").json()
        self.components = {component["id"]: component for component in config["components"]}
        self.ids = {component["props"].get("elem_id"): number for number, component in self.components.items()}
        self.events = config["dependencies"]

    def press(self, button: str, **values: Any) -> str:
        """What the event answers, all of it, as JSON."""
        event = next(one for one in self.events if [self.ids[button], "click"] in one["targets"])
        while not event["backend_fn"]:  # the browser's own part
            event = next(one for one in self.events if one["trigger_after"] == event["id"])
        data = [self._value(number) for number in event["inputs"]]
        for name, value in values.items():
            data[event["inputs"].index(self.ids[name.replace("_", "-")])] = value
        session = uuid.uuid4().hex
        order = {"data": data, "fn_index": event["id"], "session_hash": session}
        self.client.post("gradio_api/queue/join", json=order).raise_for_status()
        answers = []
        with self.client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
                if message["msg"] in ("process_generating", "process_completed"):
                    answers.append(json.dumps(message["output"], ensure_ascii=False))
                if message["msg"] == "process_completed":
                    break
        return "".join(answers)

    def refusal(self, button: str, **values: Any) -> str:
        """The line beside the control, as it is read."""
        answer = self.press(button, **values)
        lines = re.findall(r'class=\\"wrong\\"[^>]*>([^<]*)<', answer)
        assert lines, answer
        return unescape(lines[0])

    def upload(self, data: bytes) -> dict[str, Any]:
        path = self.client.post("gradio_api/upload", files={"files": ("a.png", data)}).json()[0]
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def upload_image(self, image: Image.Image) -> dict[str, Any]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return self.upload(buffer.getvalue())

    def _value(self, number: int) -> Any:
        component = self.components[number]
        return None if component["type"] == "state" else component["props"].get("value")

"""Programs that speak the Model Context Protocol, where the environment lets them in."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from test_desk import apart
from toy import toy_pipeline

from stablediff import RequestError
from stablediff.web import serving
from stablediff.web.page import build_page


def test_nobody_is_let_in_unless_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("", "0", "false", "off"):
        assert serving.launch_options({"STABLEDIFF_MCP": words})["mcp_server"] is False
    monkeypatch.setattr(serving, "find_spec", lambda _name: None)
    with pytest.raises(RequestError, match="write 1 for an MCP server, or 0 for none"):
        serving.launch_options({"STABLEDIFF_MCP": "perhaps"})
    with pytest.raises(RequestError, match=r"pip install '\.\[mcp\]'"):
        serving.launch_options({"STABLEDIFF_MCP": "1"})
    monkeypatch.setattr(serving, "find_spec", lambda _name: True)
    assert serving.launch_options({"STABLEDIFF_MCP": "1"})["mcp_server"] is True
    with pytest.raises(RequestError, match="who has no password"):
        serving.launch_options({"STABLEDIFF_MCP": "1", "STABLEDIFF_AUTH": "ann:secret"})


@pytest.fixture
def address() -> Iterator[str]:
    pytest.importorskip("mcp", reason="needs the mcp extra: pip install '.[mcp]'")
    page = build_page(toy_pipeline()).queue()
    options = serving.launch_options({"STABLEDIFF_MCP": "1"})
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **options)
    yield f"{url}gradio_api/mcp/"
    page.close()


def test_a_client_finds_one_tool_and_draws_with_it(address: str) -> None:
    tools, drawn, refused = apart(talk(address))
    assert [tool.name for tool in tools] == ["generate"]
    assert tools[0].description.startswith("Draw pictures of what a prompt says")
    described = tools[0].inputSchema["properties"]
    assert "multiples of 8" in described["size"]["description"]
    assert set(described) == {
        *("prompt", "negative_prompt", "steps", "guidance", "sampler", "schedule", "size", "seed", "pictures")
    }
    assert not drawn.isError
    assert re.search(r"Seed: 7,", str(drawn.content))
    assert refused.isError
    assert "seed is -1" in str(refused.content)


async def talk(address: str) -> tuple[Any, Any, Any]:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(address) as (reading, writing, _),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        tools = (await session.list_tools()).tools
        drawn = await session.call_tool("generate", {"prompt": "a red cat", "steps": 2, "seed": "7"})
        refused = await session.call_tool("generate", {"prompt": "a red cat", "seed": "-1"})
    return tools, drawn, refused

"""The page as it is served: its styles and scripts as files, under any root path, and written once."""

import inspect
import re
from urllib.parse import urljoin

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI
from gradio import networking
from starlette.testclient import TestClient

from tabs.parts.blocks import StudioBlocks
from tabs.parts.page import PAGE, UI

FILE = re.compile(r'(?:href|src)=\\?"([^"\\]*studio-ui[^"\\]*)')


def bare_page() -> StudioBlocks:
    with StudioBlocks(title="Studio", analytics_enabled=False) as demo:
        gr.Markdown("hello")
    return demo


@pytest.fixture
def client():
    """The page as launch(**PAGE) serves it; `auth` is for the test to set."""
    demo = bare_page()
    app, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **PAGE)
    with TestClient(app, base_url=url.rstrip("/")) as client:
        yield client
    demo.close()


def files_of(page) -> list[str]:
    text = page.text.replace(r"\u003c", "<").replace(r"\u003e", ">").replace(r"\u0026", "&")
    return FILE.findall(text)


def test_a_page_that_is_slow_to_come_does_not_end_the_studio(monkeypatch):
    monkeypatch.setattr(networking, "url_ok", lambda url: False)  # what Gradio finds where the first page takes over three seconds
    demo = bare_page()
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **PAGE)
    assert httpx.get(url, timeout=60).status_code == 200
    demo.close()


def test_styles_come_before_scripts_and_each_in_the_order_of_names(client):
    names = [file.split("/")[-1].split("?")[0] for file in files_of(client.get("/"))]
    assert names == [path.name for suffix in ("css", "js") for path in sorted(UI.glob(f"*.{suffix}"))]


def test_every_file_is_served_whole_and_may_be_kept_for_good(client):
    for file in files_of(client.get("/")):
        answer = client.get(f"/{file}")
        assert answer.content == (UI / file.split("/")[-1].split("?")[0]).read_bytes()
        assert "immutable" in answer.headers["cache-control"] and "?v=" in file
        assert client.get(f"/{file}", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("path", ["../../app.py", "%2e%2e/%2e%2e/app.py", "..%2f..%2fapp.py", "/etc/passwd"])
def test_nothing_beside_the_files_of_the_page_is_served(client, path):
    assert client.get(f"/gradio_api/studio-ui/{path}").status_code == 404


def test_runs_are_those_of_the_tab_alone(client):
    page = client.get("/").text
    footer = re.search(r'\\?"footer_links\\?":\s*(\[[^\]]*\])', page)
    assert footer and "api" in footer[1] and "runs" not in footer[1]
    assert client.get("/gradio_api/runs").status_code in (403, 404) and client.post("/gradio_api/run-history/connect", json={}).status_code >= 403


def test_files_are_found_behind_a_root_path():
    app = gr.mount_gradio_app(FastAPI(), bare_page(), path="/studio", **PAGE)
    with TestClient(app) as client:
        files = files_of(client.get("/studio/"))
        assert files and all(client.get(urljoin("/studio/", file)).status_code == 200 for file in files)


def test_the_page_is_written_once_for_each_address(client, monkeypatch):
    written = []
    render = gr.routes.templates.TemplateResponse
    monkeypatch.setattr(gr.routes.templates, "TemplateResponse", lambda *args, **options: written.append(1) or render(*args, **options))
    first, again = client.get("/", headers={"Host": "one.test"}), client.get("/", headers={"Host": "one.test"})
    other = client.get("/", headers={"Host": "one.test", "X-Forwarded-Proto": "https"})
    assert first.text == again.text and first.headers["content-type"] == again.headers["content-type"]
    assert "https://one.test" in other.text and "https://one.test" not in first.text
    assert len(written) == 2
    client.get("/?view=api", headers={"Host": "one.test"})
    assert len(written) == 3


def test_pages_of_endless_addresses_are_not_hoarded(client):
    for i in range(40):
        assert f"http://host{i}.test" in client.get("/", headers={"Host": f"host{i}.test"}).text


def test_where_visitors_sign_in_nobody_gets_anothers_page(client):
    everyone = client.get("/").text
    client.app.auth = {"ada": "secret"}
    stranger = client.get("/").text
    assert "auth_required" in stranger and "auth_required" not in everyone


def test_components_say_their_signatures_at_once_and_rightly():
    def declared(kind):
        init = inspect.unwrap(kind.__init__)
        kept = vars(init).pop("__signature__", None)
        try:
            return kept, inspect.signature(init)
        finally:
            if kept is not None:
                init.__signature__ = kept

    StudioBlocks()
    for kind in (gr.Textbox, gr.Slider, gr.Row, gr.HTML, StudioBlocks.__mro__[1]):
        kept, worked_out = declared(kind)
        assert kept == worked_out == inspect.signature(kind.__init__), kind

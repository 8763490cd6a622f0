"""Ask a running webui, on this computer only, to read its list of LoRAs again."""

from __future__ import annotations

import http.client

from lora_core.webuis.detect import WebUI

REFRESH = "/sdapi/v1/refresh-loras"  # A1111 `modules/api/api.py`, Forge, SD.Next; there with --api only
PORTS = (7860, 7861, 7862)  # Gradio's default and what it takes when that is busy
TIMEOUT_S = 2.0


def refresh(webui: WebUI, ports: tuple[int, ...] = PORTS, timeout_s: float = TIMEOUT_S) -> str:
    """The address of the webui that refreshed its list; "" when none could be asked."""
    if not webui.api:
        return ""
    for port in (webui.port,) if webui.port else ports:
        if _ask(port, timeout_s):
            return f"http://127.0.0.1:{port}"
    return ""


def _ask(port: int, timeout_s: float) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("POST", REFRESH, body=b"", headers={"Content-Length": "0"})
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):  # nobody there, another program, or too slow to wait for
        return False
    finally:
        connection.close()

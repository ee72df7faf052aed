"""A search engine over HTTP, in the contracts that other frameworks' agents already speak."""

from __future__ import annotations

from importlib.util import find_spec

for _name in ("fastapi", "uvicorn", "prometheus_client", "msgpack"):
    if find_spec(_name) is None:
        raise ImportError(f"serving needs {_name}: pip install 'zs-env[serve]'")

"""An endpoint as a configuration of Ray Serve, for `serve deploy` and KubeRay's RayService."""

from __future__ import annotations

from typing import Any

import yaml

from manta import recipe as recipes
from manta.schema import ServeRecipe

HEAD = """\
# Made by `manta serve --yaml`, for `serve deploy FILE` or the serveConfigV2 of a RayService. The recipe is all of it: paths in it
# are those of the cluster's nodes. A Front on each node opens serve.port at serve.host; Serve's own proxies are not needed.
"""


def serve_config(recipe: ServeRecipe) -> dict[str, Any]:
    """What Serve's schema of a deployment file asks for, with the resolved recipe in it."""
    application = {
        "name": recipe.name,
        "route_prefix": None,
        "import_path": "serving.app:build",
        "args": {"recipe": recipes.resolved(recipe)},
    }
    return {"proxy_location": "Disabled", "applications": [application]}


def serve_yaml(recipe: ServeRecipe) -> str:
    """The same as the text of a file."""
    return HEAD + yaml.safe_dump(serve_config(recipe), sort_keys=False, allow_unicode=True)

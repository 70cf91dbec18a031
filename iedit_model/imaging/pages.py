"""Self-contained HTML pages from templates: one base, one style, every value escaped, no request elsewhere."""

import base64
import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render_page(package: str, template: str, *, script: str | None = None, images: str = "data:", **values: Any) -> str:
    """Return the page that a template makes.

    A content security policy forbids every request and every script but ours, should a text ever get past its escaping.

    Args:
        package: its ``templates`` folder holds the template, which extends ``base.html.j2``, and what it includes.
        template: name of the template.
        script: name of a script there, which becomes the page's only one.
        images: where images may come from, in the words of the policy.
        values: what the template shows; ``title`` at least.
    """
    from markupsafe import Markup

    environment = page_environment(package)
    sources = f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'"
    if script is not None:
        text = environment.get_template(script).render()
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        sources += f"; script-src 'sha256-{digest}'"
        values["script"] = Markup(text)  # noqa: S704 - our own file
    else:
        values["script"] = None
    # The policy holds our own words and a hash alone; escaped quotes would make it hard to read.
    return environment.get_template(template).render(policy=Markup(sources), **values)  # noqa: S704 - see above


@cache
def page_environment(package: str) -> "Environment":
    """Return the templates of a package, with the base of all pages."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(package), PackageLoader("iedit_model.imaging")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, auto_reload=False)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment

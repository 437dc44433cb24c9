"""Rendering: reports, traces and training runs as text, as plots and as one HTML page."""

from attention.parity.results.renderers import register

RENDERERS = {
    "report as text": "text:text",
    "report on a console": "text:show",
    "columns of a report": "text:columns",
    "report as a page": "html:page",
    "training as text": "training_text:text",
    "training as a plot": "training_plot:draw",
    "logits as text": "logits_text:text",
    "logits as a plot": "logits_plot:draw",
    "decoding as text": "decoding_text:text",
}


def install() -> None:
    """Let results be shown by the functions of this package."""
    for kind, path in RENDERERS.items():
        register(kind, f"{__name__}.{path}")

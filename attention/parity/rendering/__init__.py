"""Rendering: reports, traces and training runs as text, as plots and as one HTML page."""

from attention.parity.results.renderers import register

REGISTERED = {
    "report as text": "text:text",
    "report on a console": "text:show",
    "width of a report": "text:width",
    "report as a page": "html:page",
    "training as text": "training_text:text",
    "training as a plot": "training_plot:draw",
    "logits as text": "logits_text:text",
    "logits as a plot": "logits_plot:draw",
    "decoding as text": "decoding_text:text",
}
for _kind, _path in REGISTERED.items():
    register(_kind, f"{__name__}.{_path}")
